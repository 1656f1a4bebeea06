"""Which nodes of a graph are quantities of the derivation.

A quantity is what a person would give a letter: an input, a value that the user (or a layer) assigned to a name, the
loss, and the derivative of the loss by each of these. All other nodes are read through. Where an expression without a
name would have to be written out again and again, or grows too long to read, its value is given a letter of its own
(u1, u2, ...), as one does on paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from backlit.explanation.elements import sources
from backlit.explanation.execution import Execution
from backlit.explanation.letters import lettered
from backlit.explanation.steps import Symbol
from backlit.explanation.symbols import derivative, names_of, symbols_of
from backlit.ir import Node, reachable


@dataclass(frozen=True, slots=True)
class Quantity:
    """An array of the run with a name.

    key      names it within the derivation
    kind     "input", "forward", "loss", "gradient", "update" (a part of an optimiser's step) or "helper" (a part
             of a gradient that is no derivative itself)
    node     the node that holds it
    forward  for a gradient: the node that it is the derivative by
    """

    key: str
    kind: str
    symbol: Symbol
    node: Node
    forward: Node | None = None


@dataclass(frozen=True)
class Quantities:
    """All quantities of a run: `of` for forward values and helpers, `gradients` by the forward node."""

    run: Execution
    of: Mapping[Node, Quantity]
    gradients: Mapping[Node, Quantity]
    layers: Mapping[str, str] = field(default_factory=dict)  # number of a layer -> its name

    @cached_property
    def fixed(self) -> set[Node]:
        """Nodes made of the numbers of the graph alone: they are written out, not named."""
        found: set[Node] = set()
        for n in self.run.graph.nodes:
            inner = sources(n)
            if n.op in ("constant", "iota") or (inner and n.op != "input" and all(i in found for i in inner)):
                found.add(n)
        return found

    @cached_property
    def by_key(self) -> dict[str, Quantity]:
        return {q.key: q for q in (*self.of.values(), *self.gradients.values())}

    def gradient_at(self, node: Node, user: Node | None, of: Node | None = None) -> Quantity | None:
        """The named gradient that a reverse node is where another one, `user`, reads it; `of` says by what, if it is
        known.

        One node may be the gradient by several values (adding passes it on unchanged), so who reads it decides: a node
        that the rule of a forward node made reads the gradient by that forward node; a sum of shares reads what each of
        the values that use the summed one passed on.
        """
        if node in self.fixed:
            return None
        arriving = self.run.arriving
        if of is not None:
            return self._named(of, node) if arriving.get(of) is node else None
        if user is None or user.origin is None:
            return None
        if user in self._sums and not (node is user.inputs[1] and arriving.get(user.origin) is node):
            return self.passed_on(self._sums[user], node)
        return self._named(user.origin, node) if arriving.get(user.origin) is node else None

    def passed_on(self, to: Node, node: Node) -> Quantity | None:
        """The named gradient that reached a forward node unchanged, as this reverse node."""
        for user in self._users.get(to, ()):
            if self.run.arriving.get(user) is node:
                return self._named(user, node)
        return None

    def _named(self, by: Node, node: Node) -> Quantity | None:
        """The gradient by a forward node, or by the first named one that passed it on."""
        return self.gradients[by] if by in self.gradients else self.passed_on(by, node)

    @cached_property
    def _users(self) -> dict[Node, list[Node]]:
        """Forward node -> the forward nodes that use it, last first: the order in which gradient reaches it."""
        found: dict[Node, list[Node]] = {}
        for n in sorted(reachable([self.run.loss]), key=lambda n: -n.serial):
            for i in n.inputs:
                found.setdefault(i, []).append(n)
        return found

    @cached_property
    def _sums(self) -> dict[Node, Node]:
        """Reverse nodes that add the shares of a forward node up -> that forward node."""
        found: dict[Node, Node] = {}
        for n, g in self.run.arriving.items():
            while g.op == "add" and g.origin is not None and n in g.origin.inputs:
                found[g] = n
                g = g.inputs[0]
        return found

    def gradient_of_parameter(self, node: Node) -> Quantity | None:
        """The gradient by a parameter, where an optimiser's step meets it."""
        if node in self.fixed:
            return None
        return next((self.gradients[w] for w, g in self.run.gradients.items() if g is node), None)


def chosen(
    run: Execution,
    loss: str | None = None,
    updated: tuple[Node, Node] | None = None,
    outside: Sequence[tuple[str, Any]] = (),
) -> Quantities:
    """The quantities of a run.

    `loss` is what the result is called where the user's code gave it no name, `updated` a parameter and the node of its
    new value, `outside` arrays that are constants of the graph and have names.
    """
    forward = {*reachable([run.loss]), *run.probabilities.values()}
    names = names_of(run, loss, outside)
    if updated is not None:
        names[updated[1]] = names[updated[0]]
    symbols, layers = symbols_of(run, lettered(run, set(names)), names, forward, updated)
    of = {n: Quantity(f"n{run.numbers[n]}", _kind(n, run, forward), symbol, n) for n, symbol in symbols.items()}
    root = of[run.loss].symbol
    gradients = {
        n: Quantity(f"g{run.numbers[n]}", "gradient", derivative(root, of[n].symbol), arriving, n)
        for n, arriving in run.arriving.items()
        if n in of and n is not run.loss
    }
    return Quantities(run, of, gradients, layers)


def _kind(node: Node, run: Execution, forward: set[Node]) -> str:
    """What sort of quantity a node with a name is."""
    if node is run.loss:
        return "loss"
    if node.op in ("input", "constant"):
        return "input"
    if node in forward:
        return "forward"
    return "helper" if node.origin is not None else "update"
