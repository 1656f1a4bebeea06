"""What a mal-rule looks at: the part of the graph between the author's numbers and the quantity that went wrong.

A slip on a line was made in what that line computes, so only the nodes between the quantity and the numbers that the
author had on paper (its `cone`) can be at fault. An `Edit` is a rewrite of that graph: one node replaced by another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from backlit.audit.checker import Bench
from backlit.audit.printed import Values
from backlit.ir import Node, reachable, rebuilt, substitute
from backlit.tracing import lift

ACTIVATIONS = ("sigmoid", "tanh", "relu", "softplus")


@dataclass(frozen=True, slots=True)
class Edit:
    """One way to go wrong: `node` is computed as `replacement`. `text` says it in words, for a reader."""

    node: Node
    replacement: Node
    text: str


@dataclass(frozen=True)
class Scene:
    """A quantity, the values it is computed from, and the names that the author may have mixed up.

    `held` are the author's numbers; `names` the quantities that stand above the line; `trainable` the params among
    them; `rate` the learning rate of the step that the quantity belongs to, if it does.
    """

    bench: Bench
    target: Node
    held: Mapping[Node, Values]
    names: Mapping[str, Node]
    trainable: frozenset[str]
    rate: float | None = None
    labels: dict[Node, str] = field(default_factory=dict)

    @cached_property
    def cone(self) -> list[Node]:
        """The nodes that the line computes, inputs first."""
        found: set[Node] = {self.target}
        stack = [self.target]
        while stack:
            for i in stack.pop().inputs:
                if i not in found and i not in self.held and i.op not in ("input", "constant"):
                    found.add(i)
                    stack.append(i)
        return [n for n in reachable([self.target]) if n in found]

    @cached_property
    def backward(self) -> list[Node]:
        """The nodes of the cone that gradient rules made."""
        return [n for n in self.cone if n.origin is not None]

    @cached_property
    def forward(self) -> list[Node]:
        """The nodes of the cone that the author's own formulas made."""
        return [n for n in self.cone if n.origin is None]

    @cached_property
    def by_node(self) -> dict[Node, str]:
        """The author's name of each named node."""
        return {node: name for name, node in self.names.items()}

    def label(self, node: Node) -> str:
        """What to call a node: the author's name, a number, or the formula in a few symbols."""
        return self.by_node.get(node) or node.name or _formula(node, self.by_node, 2)

    def value(self, node: Node) -> Values:
        """The value of a node, from the author's numbers."""
        return self.bench.value(node, self.held)

    def result(self, *edits: Edit) -> Values:
        """The value of the target after these edits."""
        (target,) = substitute([self.target], {e.node: e.replacement for e in edits})
        return self.bench.value(target, self.held)

    def alike(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Other quantities of the same kind: the same letters in the name, the same shape."""
        name = self.by_node.get(node)
        if name is None:
            return
        for other, candidate in self.names.items():
            if other != name and kind_of(other) == kind_of(name) and candidate.type.shape == node.type.shape:
                yield other, candidate

    def with_input(self, node: Node, place: int, value: Node) -> Node:
        """The same application with another input at one place."""
        return rebuilt(node, [value if k == place else i for k, i in enumerate(node.inputs)])

    def number(self, value: Any) -> Node:
        """A number that the author wrote in place of a quantity."""
        return lift(np.asarray(value, np.float64)).node

    def quantity_behind(self, node: Node) -> str:
        """The named quantity that a backward node's gradient comes through: the nearest above its forward node."""
        origin = node.origin
        if origin is None:
            return self.label(node)
        users: dict[Node, list[Node]] = {}
        for named_node in self.names.values():
            for n in reachable([named_node]):
                for i in n.inputs:
                    users.setdefault(i, []).append(n)
        seen, queue = {origin}, [origin]
        for current in queue:
            if current in self.by_node:
                return self.by_node[current]
            for user in users.get(current, ()):
                if user not in seen:
                    seen.add(user)
                    queue.append(user)
        return self.label(origin)


def kind_of(name: str) -> str:
    """`w` for w7, `out_h` for out_h2: the name without its numbers."""
    return re.sub(r"[\d₀-₉]+", "", name)


_GLYPHS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "^"}


def _formula(node: Node, names: Mapping[Node, str], depth: int) -> str:
    if node in names:
        return names[node]
    if node.name is not None:
        return node.name
    if node.op == "constant" and not node.type.shape:
        return f"{float(node.params['value']):g}"
    if depth == 0:
        return "..."
    inner = [_formula(i, names, depth - 1) for i in node.inputs]
    if node.op in _GLYPHS and len(inner) == 2:
        return f"({inner[0]} {_GLYPHS[node.op]} {inner[1]})"
    return f"{node.op}({', '.join(inner)})"
