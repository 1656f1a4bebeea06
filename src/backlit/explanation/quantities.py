"""Which nodes of a graph are quantities of the derivation, and what they are called.

A quantity is what a person would give a letter: an input, a value that the user (or a layer) assigned to a name, the
loss, and the derivative of the loss by each of these. All other nodes are read through. Where an expression without a
name would have to be written out again and again, or grows too long to read, its value is given a letter of its own
(u1, u2, ...), as one does on paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from backlit.explanation.elements import moves, opaque, scopes, sources
from backlit.explanation.execution import Execution
from backlit.explanation.steps import Symbol
from backlit.ir import Node, reachable
from backlit.ops.contraction import parts_of
from backlit.ops.record import OPS

_LONG = 16  # leaves of an expression that is written in one line
_SHORT = 3  # leaves of an expression that may be written out twice
_DEEP = 12  # operations within operations in one line
_ARITHMETIC = {"add", "subtract", "multiply", "divide", "negative", "pow", "where", "cast", "stop_gradient"}
_REPLICATING = {"contract", "sum", "max", "min", "fold", "cumulative_sum", "scatter_add"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """An array of the run with a name.

    key      names it within the derivation
    kind     "input", "forward", "loss", "gradient" or "helper" (a part of a gradient that is no derivative itself)
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
    loss: str
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
    names = {n: name for n, name in run.names.items() if n in run.values}
    for node in run.graph.nodes:
        if node.op == "constant" and node.type.shape and node.origin is None:
            name = next((name for name, array in outside if np.array_equal(array, run.values[node])), None)
            if name is not None:
                names[node] = name
    if updated is not None:
        names[updated[1]] = names[updated[0]]
    if run.loss not in names:
        names[run.loss] = loss if loss is not None else _identifier(run.graph.name)
    names |= {n: _free(_RESULTS[n_kind], names) for n, n_kind in _results(run) if n not in names}
    cut = _auxiliary(run, set(names))
    letters = _letters({*names.values()})
    symbols: dict[Node, Symbol] = {}
    layers = _numbered(run, cut & forward)
    short = _shortened(set(names.values()))
    for node in sorted(cut, key=lambda n: n.serial):
        if node in names and node not in forward and node.op != "input" and node.origin is None:
            symbols[node] = _update_symbol(names[node], run)
        elif node in names:
            symbols[node] = _symbol(names[node], node, short, layers)
        else:
            symbols[node] = _symbol(next(letters), node, {}, layers)
        if node in run.times:
            symbols[node] = Symbol(symbols[node].name, symbols[node].layer, step=run.times[node])
    if updated is not None:
        symbols[updated[1]] = replace(symbols[updated[0]], new=True)
    of: dict[Node, Quantity] = {}
    for node, symbol in _distinct(symbols).items():
        kind = "loss" if node is run.loss else "input" if node.op in ("input", "constant") else "forward"
        if node not in forward and kind != "input":
            kind = "helper" if node.origin is not None else "update"
        of[node] = Quantity(f"n{run.numbers[node]}", kind, symbol, node)
    root = of[run.loss].symbol
    gradients = {}
    for node, arriving in run.arriving.items():
        if node in of and node is not run.loss:
            gradients[node] = Quantity(
                f"g{run.numbers[node]}", "gradient", _derivative(root, of[node].symbol), arriving, node
            )
    return Quantities(run, root.name, of, gradients, {number: name for name, number in layers.items()})


def _derivative(loss: Symbol, by: Symbol) -> Symbol:
    """dL/d(by); the derivative by a layer's z has a letter of its own, delta."""
    if by.layer and by.name == "z":
        return Symbol("delta", by.layer, step=by.step)
    return Symbol(by.name, by.layer, step=by.step, over=loss)


_RESULTS = {"softmax": "p", "logsumexp": "lse", "log_softmax": "logp"}


def _results(run: Execution) -> list[tuple[Node, str]]:
    """The results of composites that are read as one, and the probabilities of a log_softmax: each has a letter."""
    inner = {n for c in run.composites for n in c.inside}
    found = [(c.y, c.kind) for c in run.composites if c.y not in inner]
    return found + [(p, "softmax") for p in run.probabilities.values()]


def _free(name: str, taken: Mapping[Node, str]) -> str:
    return (
        name
        if name not in taken.values()
        else next(f"{name}_{i}" for i in range(2, 10**6) if f"{name}_{i}" not in taken.values())
    )


# --- names ------------------------------------------------------------------------------------------------------------


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "f"


def _letters(taken: set[str]) -> Iterator[str]:
    """u1, u2, ...: those that nothing else is called."""
    i = 0
    while True:
        i += 1
        if f"u{i}" not in taken:
            yield f"u{i}"


def _shortened(names: Iterable[str]) -> dict[str, str]:
    """`p.w1` -> `w1`, where nothing else would then be called w1."""
    last = {name: re.split(r"\.", name)[-1] for name in set(names)}
    count: dict[str, int] = {}
    for short in last.values():
        count[short] = count.get(short, 0) + 1
    return {name: short if count[short] == 1 and short else name for name, short in last.items()}


# what layers call their parameters, and what the field calls them
_FIELD = {"weight": "W", "bias": "b", "recurrent_weight": "U", "recurrent_bias": "c", "scale": "gamma", "shift": "beta"}


def _layer(node: Node) -> str:
    """The layer that a node belongs to, with those around it: `residual_1.dense_1`."""
    return ".".join(s.name for s in scopes(node) if s.kind == "layer")


def _numbered(run: Execution, cut: set[Node]) -> dict[str, str]:
    """The layers that quantities belong to -> their numbers, in the order in which they are applied."""
    found: dict[str, str] = {}
    for node in sorted(cut, key=lambda n: n.serial):
        if node.origin is None and _layer(node):
            found.setdefault(_layer(node), str(len(found) + 1))
    return found


def _symbol(name: str, node: Node, short: Mapping[str, str], layers: Mapping[str, str]) -> Symbol:
    """The symbol of a name; what belongs to a layer carries the layer's number."""
    *path, last = name.split(".")
    layer = _layer(node)
    if node.op == "input":  # params.dense_1.weight belongs to dense_1
        layer = next((".".join(path[i:]) for i in range(len(path)) if ".".join(path[i:]) in layers), "")
    if layer in layers:
        return Symbol(_FIELD.get(last, last), layers[layer])
    return Symbol(short.get(name, name))


def _update_symbol(name: str, run: Execution) -> Symbol:
    """The symbol of a quantity of an optimiser's step: m' is the new value of the m that the state holds."""
    last = name.split(".")[-1]
    held = any(n.op == "input" and run.names.get(n) == last for n in run.graph.inputs)
    return Symbol(re.sub(r"_\d+$", "", last), new=held or re.sub(r"_\d+$", "", last) != last)


def _distinct(symbols: dict[Node, Symbol]) -> dict[Node, Symbol]:
    """No two quantities with the same symbol: later ones are numbered."""
    used: dict[Symbol, int] = {}
    found = {}
    for node, symbol in symbols.items():
        used[symbol] = used.get(symbol, 0) + 1
        if used[symbol] > 1:
            symbol = Symbol(f"{symbol.name}_{used[symbol]}", symbol.layer, step=symbol.step)
        found[node] = symbol
    return found


# --- what is given a letter -------------------------------------------------------------------------------------------


def _auxiliary(run: Execution, named: set[Node]) -> set[Node]:
    """The named nodes, and those that deserve a letter."""
    forward_of: dict[Node, Node] = {}
    for n, g in run.arriving.items():
        if not moves(n) and n.op not in ("constant",):
            forward_of.setdefault(g, n)
    nodes = [n for n in run.graph.nodes if n in run.values]
    users: dict[Node, int] = {}
    for n in nodes:
        for i in set(sources(n)):
            if n.op in OPS:
                users[i] = users.get(i, 0) + 1
    cut = set(named) | {n for n in nodes if n.op == "input"}
    stops = cut | {run.arriving[n] for n in cut if n in run.arriving}
    # what is read as one has no letters inside
    inside = {n for c in run.composites for n in c.inside} if run.closed else set()
    leaves: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    clever: dict[Node, bool] = {}  # a function is applied, or a long sum taken, somewhere in the expression

    def letter(n: Node) -> None:
        owner = forward_of.get(n)
        if owner is not None and owner.type.dtype.kind == "f":  # a gradient: give what it is the gradient by a letter
            cut.add(owner)
            leaves[owner], depth[owner], clever[owner] = 1, 0, False
        else:
            cut.add(n)
        stops.add(n)
        leaves[n], depth[n], clever[n] = 1, 0, False

    for n in nodes:
        if n in stops or n.op == "constant" or opaque(n) or n in inside or (n.origin in inside and n not in run.closed):
            bare = n not in cut and (n.op == "constant" or opaque(n))
            leaves[n], depth[n], clever[n] = (0 if bare else 1), 0, False
            continue
        inner = sources(n)
        times = _terms(n)
        for i in inner:
            long = n.op in _REPLICATING and times > 1 and leaves[i] > _SHORT + 1
            nested = _function(n) and clever[i] and leaves[i] > 2
            if (long or nested or depth[i] >= _DEEP) and n.type.dtype.kind == "f":
                letter(i)
        count = sum(leaves[i] for i in inner)
        if count > _LONG:
            letter(max(inner, key=lambda i: leaves[i]))
            count = sum(leaves[i] for i in inner)
        leaves[n] = min(times, 6) * count if n.op in _REPLICATING else count
        depth[n] = max((depth[i] for i in inner), default=0) + (not moves(n))
        clever[n] = _function(n) or times > _SHORT or any(clever[i] for i in inner)
        shared = users.get(n, 0) > 1 and not moves(n) and n.type.dtype.kind == "f"
        if shared and (leaves[n] > _SHORT or (clever[n] and leaves[n])):
            letter(n)
    return cut


def _function(n: Node) -> bool:
    return n.op in OPS and OPS[n.op].family == "elementwise" and n.op not in _ARITHMETIC and n.type.dtype.kind == "f"


def _terms(n: Node) -> int:
    """How many terms a sum has."""
    if n.op == "contract":
        left, _, result = parts_of(n.params["spec"])
        sizes = dict(zip(left, n.inputs[0].type.shape, strict=True))
        found = 1
        for c in left:
            found *= 1 if c in result else sizes[c]
        return found
    if n.op in _REPLICATING:
        return max(1, n.inputs[0].type.size // max(1, n.type.size))
    return 1
