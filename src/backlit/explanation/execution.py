"""The run that a derivation is read from: the forward graph and its gradient, executed together, every value kept.

Loops are written out first: each step of a `scan` becomes nodes of its own, so that a gradient through time is a sum
with one term a step. That is a rewriting of the same graph (the same ops in the same order on the same numbers), and
the gradient is checked against that of the graph as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from backlit.autodiff import reverse
from backlit.explanation.composites import Closed, Composite, closed_forms
from backlit.explanation.composites import found as find
from backlit.explanation.numbers import roughness
from backlit.ir import Graph, Node, Type, make_node, reachable, rebuilt
from backlit.ops.elementwise import exp
from backlit.ops.interpret import interpreter
from backlit.ops.movement import _slice, reshape, stack
from backlit.ops.record import Value, constant_like
from backlit.tracing import Traced, lift

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Unrolled:
    """A graph without loops; `times` says for each node of a loop's body which step it belongs to, `names` its name."""

    graph: Graph
    names: dict[Node, str]
    times: dict[Node, int]


def unrolled(graph: Graph) -> Unrolled:
    """The graph with every loop written out."""
    names = {n: name for n, name in graph.names().items() if not name.startswith("%")}
    times: dict[Node, int] = {}
    new: dict[Node, Node] = {}
    results: dict[Node, tuple[Node, ...]] = {}  # a scan -> its results
    for node in graph.nodes:
        if node.op == "item" and node.inputs[0] in results:
            new[node] = results[node.inputs[0]][node.params["index"]]
            if node in names:  # the user's name of a final state stays, as a name of the last step's
                names.setdefault(new[node], names[node])
            continue
        inputs = [new.get(i, i) for i in node.inputs]
        if node.op == "scan":
            results[node] = _steps(node, inputs, names, times)
            if len(node.types) == 1:
                new[node] = results[node][0]
        elif any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new[node] = rebuilt(node, inputs)
            if node in names:
                names[new[node]] = names[node]
    outputs = tuple(new.get(o, o) for o in graph.outputs)
    return Unrolled(Graph(graph.inputs, outputs, graph.name), names, times)


def _steps(scan: Node, inputs: Sequence[Node], names: dict[Node, str], times: dict[Node, int]) -> tuple[Node, ...]:
    """The results of a loop as nodes without a loop."""
    body: Graph = scan.params["body"]
    carry, outside, length = (scan.params[k] for k in ("carry", "outside", "length"))
    inner = unrolled(body)  # a loop within a loop
    body = inner.graph
    fixed, state = list(inputs[:outside]), list(inputs[outside : outside + carry])
    rows: dict[int, list[Node]] = {}
    for t in reversed(range(length)) if scan.params["reverse"] else range(length):
        taken = [_row(s, t) for s in inputs[outside + carry :]]
        own = dict(zip(body.inputs, [*fixed, *state, *taken], strict=True))
        copies = _copied(body, own)
        for old, copy in copies.items():
            if copy in own.values():
                continue
            times[copy] = inner.times.get(old, t)
            if old in inner.names:
                names[copy] = inner.names[old]
        found = [copies[o] for o in body.outputs]
        state, rows[t] = found[:carry], found[carry:]
    stacked = [
        stack([Traced(rows[t][j]) for t in range(length)]).node if length else _empty(scan.types[carry + j])
        for j in range(len(body.outputs) - carry)
    ]
    return (*state, *stacked)


def _copied(body: Graph, own: dict[Node, Node]) -> dict[Node, Node]:
    """Each node of a body -> its copy over these inputs; what depends on no input is shared by the steps."""
    copies: dict[Node, Node] = dict(own)
    for node in reachable(body.outputs):
        if node not in copies:
            inputs = [copies[i] for i in node.inputs]
            copies[node] = rebuilt(node, inputs) if node.inputs else node
    return copies


def _row(sequence: Node, t: int) -> Node:
    """Element t of a sequence."""
    shape = sequence.type.shape
    start, stop = (t, *(0 for _ in shape[1:])), (t + 1, *shape[1:])
    row: Node = reshape(_slice(Traced(sequence), start=start, stop=stop, step=(1,) * len(shape)), shape[1:]).node
    return row


def _empty(type: Type) -> Node:
    return make_node("constant", (), (type,), {"value": np.empty(type.shape, type.dtype)})


@dataclass(frozen=True)
class Execution:
    """One run: the graph of everything, and every value.

    graph      inputs -> (loss, gradients of the parameters, gradients of everything between)
    loss       the number that is differentiated
    gradients  parameter -> the node of its gradient (absent where nothing flows)
    arriving   forward node -> the node of the gradient of the loss with respect to it
    values     node -> its array
    names      node -> what the user or a layer called it
    times      node of a loop's body -> which step of the loop
    composites, closed, probabilities   the calls of softmax and its kin, and how they are written (see `composites`)
    """

    graph: Graph
    loss: Node
    gradients: dict[Node, Node]
    arriving: dict[Node, Node]
    values: dict[Node, Array]
    names: dict[Node, str]
    times: dict[Node, int]
    composites: list[Composite]
    closed: dict[Node, Closed]
    probabilities: dict[Node, Node]

    def gradient(self, leaf: Node) -> Array:
        """The gradient by a parameter: 1 for the loss itself, 0 for what does not enter it."""
        if leaf in self.gradients:
            return self.values[self.gradients[leaf]]
        return np.full(leaf.type.shape, 1.0 if leaf is self.loss else 0.0, leaf.type.dtype)

    @cached_property
    def rough(self) -> float:
        """How far rounding may have taken the values of this run."""
        return roughness(v.dtype for v in self.values.values())

    @cached_property
    def numbers(self) -> dict[Node, int]:
        """The place of each node in the graph's own listing."""
        return {n: i for i, n in enumerate(self.graph.nodes)}


def execute(
    graph: Graph,
    arrays: Sequence[Array],
    wrt: Sequence[Node],
    more: Callable[[Sequence[Value]], Sequence[Value]] = lambda gradients: (),
    folded: bool = True,
) -> Execution:
    """Run a graph and its gradient with respect to some of its inputs, keeping every value.

    `more` may add to the graph: called with the gradients (one for each of `wrt`), it gives further outputs (an
    update).
    """
    flat = unrolled(graph)
    loss = flat.graph.outputs[0]
    found = reverse([loss], [constant_like(Traced(loss), 1.0)], wrt)
    gradients = {n: g.node for n, g in zip(wrt, found.gradients, strict=True) if g is not None}
    arriving = {n: g.node for n, g in found.arriving.items()}
    further = [lift(v).node for v in more(found.gradients)]
    used = set(reachable([loss, *gradients.values()]))
    arriving = {n: g for n, g in arriving.items() if g in used}
    calls = find([n for n in flat.graph.nodes if n in used]) if folded else []
    probabilities = {c.y: exp(Traced(c.y)).node for c in calls if c.kind == "log_softmax" and c.y in arriving}
    names = flat.names | _names(further, flat)
    further += probabilities.values()
    whole = Graph(flat.graph.inputs, (loss, *gradients.values(), *arriving.values(), *further), graph.name)
    nodes = [n for n in whole.nodes if len(n.types) == 1]
    values = dict(zip(nodes, interpreter(Graph(whole.inputs, tuple(nodes)))(arrays), strict=True))
    closed = closed_forms(calls, values, arriving, probabilities)
    return Execution(whole, loss, gradients, arriving, values, names, flat.times, calls, closed, probabilities)


def _names(outputs: Sequence[Node], flat: Unrolled) -> dict[Node, str]:
    """What the code of an optimiser calls the values of its step."""
    known = {*flat.graph.nodes, *flat.graph.inputs}
    found = Graph(flat.graph.inputs, tuple(outputs)).names() if outputs else {}
    return {n: name for n, name in found.items() if n not in known and n.origin is None and not name.startswith("%")}
