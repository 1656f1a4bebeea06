"""A traced function with its numbers, as the mal-rules look at it: a scene of its quantities, or of its gradients.

Loops are written out step by step, so that a slip in one step, or between two, is an edit like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.audit.bench import NOTHING, Bench
from backlit.audit.scene import Scene
from backlit.autodiff import Reverse, reverse, zeros_if_none
from backlit.errors import GradientError
from backlit.ir import Graph, Node, rebuilt, substitute
from backlit.ops.movement import stack
from backlit.ops.record import constant_like
from backlit.pytree import as_array, flatten, unflatten
from backlit.tracing import Traced, in_place_of, refuse_leaks, trace_function


@dataclass(frozen=True)
class Program:
    """The graph of `function(*arguments)` with the arguments in float64; `names` are its quantities by name."""

    graph: Graph
    arrays: tuple[np.ndarray[Any, Any], ...]
    paths: tuple[str, ...]
    names: dict[str, Node]

    @property
    def inputs(self) -> dict[Node, Any]:
        return dict(zip(self.graph.inputs, self.arrays, strict=True))

    @property
    def loss(self) -> Node:
        """The first result, which has to be one number."""
        loss = self.graph.outputs[0]
        if loss.type.shape or loss.type.dtype.kind != "f":
            raise GradientError(f"the function gives {loss.type}, not one floating-point number")
        return loss

    def way_back(self, of: Node) -> Reverse:
        """The reverse pass from a quantity of one number to every quantity."""
        floats = [n for n in (*self.names.values(), *self.graph.inputs) if n.type.dtype.kind == "f"]
        return reverse([of], [constant_like(Traced(of), 1.0)], floats)

    def slope(self, of: Node, by: Node) -> Node:
        """The node of a derivative."""
        return zeros_if_none(self.way_back(of).arriving.get(by), by).node

    def scene(self, targets: Sequence[Node]) -> Scene:
        """What the mal-rules may change in the computation of these nodes."""
        bench = Bench(self.inputs, [*targets, *self.names.values()])
        floats = {n for n in self.graph.inputs if n.type.dtype.kind == "f"}
        return Scene(
            bench,
            tuple(bench.same[t] for t in targets),
            NOTHING,
            {name: bench.same[node] for name, node in self.names.items()},
            frozenset(name for name, node in self.names.items() if node in floats),
            frozenset({bench.same.get(self.graph.outputs[0], self.graph.outputs[0])}),
        )


def program(function: Callable[..., Any], arguments: Sequence[Any]) -> Program:
    """Trace a function on its arguments, taken to float64."""
    leaves, _, structure = flatten(tuple(arguments))
    arrays = [np.asarray(leaf) if isinstance(leaf, float) else as_array(leaf) for leaf in leaves]
    wide = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    trace = trace_function(function, *unflatten(structure, wide))
    refuse_leaks(trace.graph)
    graph = unrolled(trace.graph)
    given = dict(zip(graph.inputs, trace.paths, strict=True))
    names: dict[str, Node] = {}
    for node, name in graph.names().items():
        if node in given or (not name.startswith("%") and len(node.types) == 1 and node.op != "constant"):
            names[given.get(node, name)] = node
    return Program(graph, tuple(wide), tuple(trace.paths), names)


MOST_STEPS = 64  # of a loop that is written out


def unrolled(graph: Graph) -> Graph:
    """The graph with its loops written out step by step; longer ones than MOST_STEPS stay loops."""
    if not any(n.op == "scan" for n in graph.nodes):
        return graph
    new: dict[Node, Node] = {}
    results: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "item" and node.inputs[0] in results:
            new[node] = results[node.inputs[0]][node.params["index"]]
            continue
        inputs = [new.get(i, i) for i in node.inputs]
        if node.op == "scan" and node.params["length"] <= MOST_STEPS:
            with in_place_of(node):
                found = _written_out(node, inputs)
            results[node] = found
            new[node] = found[0]
        elif any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new[node] = rebuilt(node, inputs)
    return Graph(graph.inputs, tuple(new.get(o, o) for o in graph.outputs), graph.name)


def _written_out(node: Node, inputs: Sequence[Node]) -> list[Node]:
    body: Graph = unrolled(node.params["body"])
    outside, carry, length = node.params["outside"], node.params["carry"], node.params["length"]
    state, rows = list(inputs[outside : outside + carry]), inputs[outside + carry :]
    collected: dict[int, list[Node]] = {}
    for t in reversed(range(length)) if node.params["reverse"] else range(length):
        here = [Traced(r)[t].node for r in rows]  # type: ignore[index]
        step = dict(zip(body.inputs, [*inputs[:outside], *state, *here], strict=True))
        outputs = substitute(body.outputs, step)
        state = outputs[:carry]
        collected[t] = outputs[carry:]
    each = [[collected[t][k] for t in range(length)] for k in range(len(body.outputs) - carry)]
    return [*state, *(stack([Traced(n) for n in column]).node for column in each)]
