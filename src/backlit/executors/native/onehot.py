"""A rewrite for the gradient of picking one element of each row, as a classifier's loss does.

Differentiation gives `scatter_add(x, g, (row, label))`, which goes from row to row and needs a kernel of its own. Where
every row is named just once, each element of the result knows whether it is meant:

    y[i, j] = x[i, j] + (g[i] if label[i] == j else 0)

and that is elementwise, so it joins the kernels around it. It is done only where a `gather` of the same graph checks
the same labels against the same size, since nothing checks them here.
"""

from __future__ import annotations

import numpy as np

from backlit.ir import Graph, Node
from backlit.ops.elementwise import add, equal, where
from backlit.ops.movement import iota
from backlit.ops.record import Value
from backlit.passes.rewrite import in_bodies, rewrite
from backlit.tracing import Traced


def selected(graph: Graph) -> Graph:
    """The graph with such additions written as a choice."""
    graph = in_bodies(graph, selected)
    checked = {
        (node.inputs[-1], node.inputs[0].type.shape[len(node.inputs) - 2])
        for node in graph.nodes
        if node.op == "gather" and len(node.inputs) - 1 == node.inputs[0].type.ndim
    }

    def rule(node: Node, old: Node) -> Value | None:
        if node.op != "scatter_add" or node.type.dtype.kind != "f":
            return None
        *rows, label = node.inputs[2:]
        shape = node.type.shape
        if len(rows) + 1 != len(shape) or (old.inputs[-1], shape[-1]) not in checked:
            return None
        if label.type.shape != (*shape[:-1], 1) or not all(_counts(r, a, shape) for a, r in enumerate(rows)):
            return None
        x, g = Traced(node.inputs[0]), Traced(node.inputs[1])
        index: Value = Traced(label)
        if label.type.dtype.kind == "i":
            index = where(index < 0, index + shape[-1], index)
        meant = equal(index, iota(shape[-1], index, label.type.dtype))
        return add(x, where(meant, g, 0.0))

    return rewrite(graph, rule, ("scatter_add",))


def _counts(node: Node, axis: int, shape: tuple[int, ...]) -> bool:
    """Whether an index runs along `axis` from 0 to the end, the same for all other axes."""
    wanted = tuple(n if a == axis else 1 for a, n in enumerate(shape))
    if node.type.shape != wanted:
        return False
    while node.op == "reshape":
        (node,) = node.inputs
    if node.op == "constant":
        value = node.params["value"]
        return bool(np.array_equal(value.ravel(), np.arange(value.size)))
    return node.op == "iota"
