"""A rewrite for what is computed around convolutions in groups, where channels are two axes: groups, and those of each.

The convolution's result is reshaped to one axis of channels, and what it reads from that. A reshape stands between two
kernels that could be one: the product with its bias and activation, a value and the zeros around it. So it moves away
from the product:

    f(reshape(product), b)  =  reshape(f(product, reshape(b)))        pad(reshape(x))  =  reshape(pad(x))
"""

from __future__ import annotations

from collections.abc import Sequence

from backlit.executors.native.fusion import is_pointwise
from backlit.executors.native.index import split_axes
from backlit.ir import Graph, Node
from backlit.ops.movement import reshape
from backlit.ops.record import OPS, Value
from backlit.passes.rewrite import count_readers, in_bodies, rewrite
from backlit.tracing import Traced


def grouped(graph: Graph) -> Graph:
    """The graph in which elementwise ops follow products in groups, and zeros go around values, before reshapes."""
    graph = in_bodies(graph, grouped)
    if graph.ops.isdisjoint({"windows", "reshape"}):
        return graph
    readers = count_readers(graph)
    moved: set[Node] = set()  # the elementwise nodes that follow a product

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "pad" and node.inputs[0].op == "reshape":
            return _around(node)
        if not is_pointwise(node) or node.op == "gather":
            return None
        for i, o in zip(node.inputs, old.inputs, strict=True):
            if i.op != "reshape" or i.type.shape != node.type.shape:
                continue
            (x,) = i.inputs
            if (x in moved or x.op == "contract") and readers[o] == 1 and _joins(i.type.shape, x.type.shape):
                made = _followed(node, x.type.shape)
                moved.add(made.node)
                return reshape(made, node.type.shape)
        return None

    return rewrite(graph, rule)


def _joins(shape: Sequence[int], fine: Sequence[int]) -> bool:
    """Whether axes of a finer shape are made one; those of a single element do not stand between kernels."""
    groups = split_axes(shape, fine)
    return groups is not None and any(sum(n > 1 for n in group) > 1 for group in groups)


def _followed(node: Node, fine: Sequence[int]) -> Value:
    """An elementwise op on operands whose axes are split to a finer shape."""
    groups = split_axes(node.type.shape, fine)
    assert groups is not None

    def operand(x: Node) -> Value:
        if x.type.ndim == 0:
            return Traced(x)
        shape = (1,) * (node.type.ndim - x.type.ndim) + x.type.shape
        sizes = [m if n != 1 else 1 for n, group in zip(shape, groups, strict=True) for m in group]
        return reshape(Traced(x), sizes)

    return OPS[node.op](*map(operand, node.inputs), **node.params)


def _around(node: Node) -> Value | None:
    """Zeros around a value whose channels are split: around it as it was. So it is written within them."""
    (apart,) = node.inputs
    (x,) = apart.inputs
    fine = apart.type.shape
    groups = split_axes((*x.type.shape, 1), (*fine, 1))  # also where axes of size 1 are added at the end
    if groups is None or len(fine) <= x.type.ndim:
        return None
    sides = list(zip(node.params["low"], node.params["high"], node.params["between"], strict=True))
    of_x, at = [], 0
    for group in groups[: x.type.ndim]:
        own = sides[at : at + len(group)]
        if len(group) > 1 and any(map(any, own)):
            return None
        of_x.append(own[0])
        at += len(group)
    if any(map(any, sides[at:])):
        return None
    low, high, between = zip(*of_x, strict=True)
    spread = OPS["pad"](Traced(x), **{**node.params, "low": low, "high": high, "between": between})
    return reshape(spread, node.type.shape)
