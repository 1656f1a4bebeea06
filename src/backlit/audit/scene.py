"""What a mal-rule looks at: the part of the graph between the author's numbers and the quantity that went wrong.

A slip on a line was made in what that line computes, so only the nodes between the quantity and the numbers that the
author had on paper (its `cone`) can be at fault. An `Edit` is a rewrite of that graph: nodes replaced by others of the
same types. What an edit gives is found by computing again only what comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from backlit.audit.bench import Bench
from backlit.audit.printed import Values
from backlit.ir import Node, reachable, rebuilt
from backlit.tracing import lift

ACTIVATIONS = ("sigmoid", "tanh", "relu", "softplus")
_BIAS = re.compile(r"(b|bias|β)[\W\d_]*|.*(bias|_b)[\W\d_]*")


@dataclass(frozen=True, slots=True)
class Edit:
    """One way to go wrong: nodes, and what is computed in their place. `text` says it in words; edits of one rule with
    the same `how` are the same slip in different places, which someone may make in all of them.
    """

    replacements: tuple[tuple[Node, Node], ...]
    text: str
    how: str = ""

    @property
    def nodes(self) -> frozenset[Node]:
        return frozenset(node for node, _ in self.replacements)


def edit(node: Node, replacement: Node, text: str, how: str = "") -> Edit:
    """An edit of a single node."""
    return Edit(((node, replacement),), text, how)


@dataclass(frozen=True)
class Scene:
    """The quantities `targets` (one on paper; all the gradients of a program), the values they are computed from, and
    the names that may have been mixed up.

    `held` are the author's numbers; `names` the quantities that may be used; `trainable` the params among them;
    `losses` the nodes that are a loss; `gradients` the gradients that an update may use, by their param's name.
    """

    bench: Bench
    targets: tuple[Node, ...]
    held: Mapping[Node, Values]
    names: Mapping[str, Node]
    trainable: frozenset[str]
    losses: frozenset[Node] = frozenset()
    gradients: Mapping[str, Node] = field(default_factory=dict)
    _after: dict[Node, list[Node]] = field(default_factory=dict, repr=False)
    _needs: dict[Node, set[Node]] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> Node:
        """The quantity, where it is one."""
        return self.targets[0]

    # --- the nodes in question ---

    @cached_property
    def cone(self) -> list[Node]:
        """The nodes that are computed for the targets, inputs first."""
        found: set[Node] = set(self.targets)
        stack = list(self.targets)
        while stack:
            for i in stack.pop().inputs:
                if i not in found and i not in self.held and i.op not in ("input", "constant"):
                    found.add(i)
                    stack.append(i)
        return [n for n in reachable(self.targets) if n in found]

    @cached_property
    def backward(self) -> list[Node]:
        """The nodes of the cone that gradient rules made."""
        return [n for n in self.cone if n.origin is not None]

    @cached_property
    def forward(self) -> list[Node]:
        """The nodes of the cone that the author's own formulas made."""
        return [n for n in self.cone if n.origin is None]

    @cached_property
    def all_forward(self) -> list[Node]:
        """The author's own nodes that the targets depend on, in the cone or not."""
        found = dict.fromkeys(n for n in reachable(self.targets) if n.origin is None)
        return list(found)

    @cached_property
    def by_node(self) -> dict[Node, str]:
        """The author's name of each named node."""
        return {node: name for name, node in reversed(list(self.names.items()))}

    def is_weight(self, node: Node) -> bool:
        return self.by_node.get(node) in self.trainable

    def is_bias(self, node: Node) -> bool:
        name = self.by_node.get(node, "")
        return node.op == "input" and _BIAS.fullmatch(name.rsplit(".", 1)[-1]) is not None

    def is_number(self, node: Node) -> bool:
        """Whether a node is a number times a number: nothing that anyone would write down."""
        return all(i.op == "constant" for i in node.inputs)

    def by_node_gradient(self, node: Node) -> str:
        """The param whose gradient a target is."""
        return next((name for name, g in self.gradients.items() if g is node), self.label(node))

    def is_weight_of_gradient(self, node: Node) -> bool:
        """Whether a gradient is taken by this input."""
        return self.by_node.get(node) in self.gradients

    def constant(self, node: Node) -> float | None:
        """The number that a scalar constant is."""
        return float(node.params["value"]) if node.op == "constant" and not node.type.shape else None

    def needs(self, node: Node, other: Node) -> bool:
        """Whether a node is computed from another."""
        if node not in self._needs:
            self._needs[node] = set(reachable([node]))
        return other in self._needs[node]

    @cached_property
    def update(self) -> tuple[Node, Node, Node] | None:
        """Of a target w - rate * g: itself, w and g."""
        node = self.target
        if len(self.targets) == 1 and node.op == "subtract" and node.origin is None:
            w, change = node.inputs
            if self.is_weight(w) and change.op == "multiply" and self._is_rate(change.inputs[0]):
                return node, w, change.inputs[1]
        return None

    @cached_property
    def rate(self) -> float | None:
        """The learning rate of the update."""
        return None if self.update is None else float(self.value(self.target.inputs[1].inputs[0]))

    def _is_rate(self, node: Node) -> bool:
        named = self.by_node.get(node, "") in ("lr", "eta", "η", "alpha", "α", "rate", "learning_rate")
        return node.op == "constant" or named

    @cached_property
    def has_loss(self) -> bool:
        """Whether the target is a loss, or a derivative, or an update, so that the loss's own factors enter it."""
        if self.update is not None or self.target.origin is not None or self.target in self.losses:
            return True
        return self.target not in self.held and any(
            n.op == "pow" and self.constant(n.inputs[1]) == 2.0 for n in self.forward
        )

    @cached_property
    def counts(self) -> set[int]:
        """The numbers that something may have been averaged over: divisors, and lengths of reductions."""
        found: set[int] = set()
        for n in self.all_forward:
            by = self.constant(n.inputs[1]) if n.op == "divide" else None
            if by is not None and by == int(by) and 2 <= by <= 1000:
                found.add(int(by))
            if n.op in ("sum", "contract") and n.type.size:
                found.add(n.inputs[0].type.size // n.type.size)
        return found - {0, 1}

    @cached_property
    def term_counts(self) -> set[int]:
        """The numbers of terms of the author's sums."""
        length: dict[Node, int] = {}
        for n in self.all_forward:
            if n.op == "add":
                length[n] = sum(length.get(i, 1) if i.name is None else 1 for i in n.inputs)
        return set(length.values())

    # --- words ---

    def label(self, node: Node) -> str:
        """What to call a node: the author's name, a number, or the formula in a few symbols."""
        if node.origin is not None and node not in self.by_node:
            return f"the gradient at {self.quantity_behind(node)}"
        return self.by_node.get(node) or node.name or _formula(node, self.by_node, 3)

    @cached_property
    def _users(self) -> dict[Node, list[Node]]:
        users: dict[Node, list[Node]] = {}
        for n in reachable([*self.names.values(), *self.all_forward]):
            for i in n.inputs:
                users.setdefault(i, []).append(n)
        return users

    def quantity_of(self, node: Node) -> str:
        """The named quantity that one of the author's nodes is a part of; empty where there is none."""
        seen, queue = {node}, [node]
        for current in queue:
            if current.origin is None and current in self.by_node:
                return self.by_node[current]
            for user in self._users.get(current, ()):
                if user not in seen and user.origin is None:
                    seen.add(user)
                    queue.append(user)
        return ""

    def quantity_behind(self, node: Node) -> str:
        """The named quantity that a backward node's gradient comes through: the nearest above its forward node."""
        origin = node.origin if node.origin is not None else node
        return self.quantity_of(origin) or _formula(origin, self.by_node, 2)

    def of(self, node: Node) -> str:
        """Where an edit is made, for a sentence: ` in h1`; nothing where it is the target itself."""
        if node.origin is not None:
            return f" in the path through {self.quantity_behind(node)}"
        name = self.quantity_of(node)
        return f" in {name}" if name and name != self.by_node.get(self.target) else ""

    def at(self, activation: Node) -> str:
        """Which activation, for a sentence: ` for H1`."""
        name = self.by_node.get(activation) or activation.name
        return f" for {name}" if name else ""

    # --- parts of edits ---

    def alike(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Other quantities of the same kind: the same letters in the name, the same shape."""
        name = self.by_node.get(node)
        if name is None:
            return
        for other, candidate in self.names.items():
            if other != name and kind_of(other) == kind_of(name) and candidate.type == node.type:
                yield other, candidate

    def with_input(self, node: Node, place: int, value: Node) -> Node:
        """The same application with another input at one place."""
        return rebuilt(node, [value if k == place else i for k, i in enumerate(node.inputs)])

    def number(self, value: Any) -> Node:
        """A number that the author wrote in place of a quantity."""
        return lift(np.asarray(value, np.float64)).node

    # --- numbers ---

    @cached_property
    def values(self) -> dict[Node, Any]:
        """The values that the targets are computed with, from the author's numbers; grows as more are asked for."""
        known = {n: v for n, v in self.held.items() if n not in self.targets}
        inside = set(self.cone)
        for node in self.cone:
            for i in node.inputs:
                if i not in known and i not in inside:
                    known[i] = self.bench.value(i, self.held)
        for target in self.targets:
            if target.op == "input":  # a given, asked about itself
                known[target] = self.bench.value(target, {})
            else:
                self.bench.compute(target, known)
        return known

    def value(self, node: Node) -> Values:
        """The value of a node, from the author's numbers."""
        if node not in self.values:
            self.values[node] = self.bench.value(node, self.held)
        return np.asarray(self.values[node])

    def results(self, edits: Sequence[Edit]) -> list[Values]:
        """The values of the targets after these edits: what does not depend on them is not computed again.

        Inside a replacement the edited node means its own value before the edit, everything else its value after.
        """
        here: dict[Node, list[Node]] = {}
        for e in edits:
            for node, replacement in e.replacements:
                here.setdefault(node, []).append(replacement)
        if len(here) == 1:
            order = self.after(next(iter(here)))
        else:
            touched = {n for node in here for n in self.after(node)}
            order = [n for n in self.cone if n in touched]
        changed: dict[Node, Any] = {}
        values, apply = self.values, self.bench.apply
        with np.errstate(all="ignore"):
            for node in order:
                if node not in here or any(i in changed for i in node.inputs):
                    changed[node] = apply(node, [changed[i] if i in changed else values[i] for i in node.inputs])
                for replacement in here.get(node, ()):
                    changed[node] = self._now(replacement, changed)
        return [np.asarray(changed.get(t, values[t])) for t in self.targets]

    def result(self, *edits: Edit) -> Values:
        """The value of the one target after these edits."""
        return self.results(edits)[0]

    def _now(self, node: Node, changed: Mapping[Node, Any]) -> Any:
        """A node's value after edits; a node that is new to the graph is computed."""
        if node in changed:
            return changed[node]
        if node in self.values:
            return self.values[node]
        if node.op == "constant" or node in self.old:
            return self.value(node)
        return self.bench.apply(node, [self._now(i, changed) for i in node.inputs])  # as deep as a rule wrote it

    @cached_property
    def old(self) -> set[Node]:
        """The nodes that the program has without any edit."""
        return {*self.bench.order, *self.bench.truth, *self.cone}

    def after(self, node: Node) -> list[Node]:
        """A node of the cone and what is computed from it, inputs first."""
        if node not in self._after:
            found = {node}
            for n in self.cone:
                if n not in found and any(i in found for i in n.inputs):
                    found.add(n)
            self._after[node] = [n for n in self.cone if n in found]
        return self._after[node]


def kind_of(name: str) -> str:
    """`w` for w7, `out_h` for out_h2: the name without its numbers."""
    return re.sub(r"[\d₀-₉]+", "", name)


_GLYPHS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "^"}


def _formula(node: Node, names: Mapping[Node, str], depth: int, inside: bool = False) -> str:
    if node in names:
        return names[node]
    if node.name is not None:
        return node.name
    if node.op == "constant" and not node.type.shape:
        return f"{float(node.params['value']):g}"
    if depth == 0:
        return "..."
    inner = [_formula(i, names, depth - 1, True) for i in node.inputs]
    if node.op in _GLYPHS and len(inner) == 2:
        text = f"{inner[0]} {_GLYPHS[node.op]} {inner[1]}" if node.op in ("add", "subtract") else None
        text = text or f"{inner[0]}{_GLYPHS[node.op]}{inner[1]}"
        return f"({text})" if inside else text
    return f"{node.op}({', '.join(inner)})"
