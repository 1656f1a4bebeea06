"""A rewrite for the gradients of pooling: every element takes what its windows send it, in one pass.

Differentiation gives them as `fold(w)`, windows added back into place, where w is

    mean or sum     g, the same at every place of a window
    maximum         g / count where x equals the maximum, else 0

Where windows lie side by side each element is in one window, y = p s + i, so the result is w itself, read by (p, i)
instead of by y. The elementwise ops after it (the activation before the pooling) are computed by (p, i) as well, up to
the first value that is read twice; there the two axes are made one again, which costs nothing.

Where windows overlap the terms are added where they arrive: the sum over the windows that element y is in runs through
g with s - 1 zeros between its elements, as in the gradient of a convolution (`convolution`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from backlit.executors.native.fusion import is_pointwise
from backlit.executors.native.index import split_axes
from backlit.ir import Graph, Node
from backlit.ops.elementwise import equal, where
from backlit.ops.movement import broadcast_to, pad, reshape
from backlit.ops.record import OPS, Value
from backlit.ops.reduction import sum
from backlit.ops.window import windows
from backlit.passes.rewrite import in_bodies, number, rewrite
from backlit.tracing import Traced


def spread_back(graph: Graph) -> Graph:
    """The graph with the gradients of pooling written so."""
    graph = in_bodies(graph, spread_back)
    if "fold" not in graph.ops:
        return graph
    split: set[Node] = set()  # values by (p, i) of which a reshape makes values by y
    readers = Counter(i for node in graph.nodes for i in node.inputs)

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "fold":
            return _unpooled(node, split)
        alone = is_pointwise(node) and all(
            readers[j] == 1 for i, j in zip(node.inputs, old.inputs, strict=True) if _is_split(i, split)
        )
        return _elementwise(node, split) if alone else None

    return rewrite(graph, rule)


def _unpooled(node: Node, split: set[Node]) -> Value | None:
    p, (w,) = node.params, node.inputs
    axes, ndim = p["axes"], node.type.ndim
    parts = _parts(w, p, ndim)
    if parts is None:
        return None
    x, top, g = parts
    if p["size"] == p["stride"] and all(d == 1 for d in p["dilation"]):
        return _side_by_side(node, x, top, g, split)
    low, high, between = ([0] * ndim for _ in range(3))
    for axis, k, s, d, n in zip(axes, p["size"], p["stride"], p["dilation"], p["extent"], strict=True):
        low[axis], between[axis] = (k - 1) * d, s - 1
        high[axis] = n - ((w.type.shape[axis] - 1) * s + 1)

    def seen(value: Node) -> Value:
        flat = reshape(Traced(value), value.type.shape[:ndim])
        spread = OPS["pad"](flat, low=tuple(low), high=tuple(high), between=tuple(between), value=0.0)
        return windows(spread, axes=axes, size=p["size"], stride=(1,) * len(axes), dilation=p["dilation"])

    sent = seen(g)
    if x is not None and top is not None:
        own = reshape(Traced(x), (*x.type.shape, *(1,) * len(axes)))
        sent = where(equal(own, seen(top)), sent, 0.0)
    return sum(sent, tuple(range(ndim, ndim + len(axes))))


def _parts(w: Node, p: Mapping[str, Any], ndim: int) -> tuple[Node | None, Node | None, Node] | None:
    """(x, maximum, g) of what is folded, of which the last two are the same all over a window."""
    if w.op == "broadcast_to":
        (g,) = w.inputs
        return (None, None, g) if _of_windows(g, w, ndim) else None
    if w.op != "where" or number(w.inputs[2]) != 0 or w.inputs[0].op != "equal":
        return None
    (seen, top), g = w.inputs[0].inputs, w.inputs[1]
    if seen.op != "windows" or any(seen.params[k] != p[k] for k in ("axes", "size", "stride", "dilation")):
        return None
    if seen.type.shape != w.type.shape or not _of_windows(g, w, ndim) or not _of_windows(top, w, ndim):
        return None
    return seen.inputs[0], top, g


def _of_windows(value: Node, w: Node, ndim: int) -> bool:
    """Whether the value has one element for each window."""
    return value.type.shape == (*w.type.shape[:ndim], *(1,) * (w.type.ndim - ndim)) and w.type.size > 0


def _side_by_side(node: Node, x: Node | None, top: Node | None, g: Node, split: set[Node]) -> Value:
    p, shape = node.params, node.type.shape
    covered = list(shape)
    for axis, k in zip(p["axes"], p["size"], strict=True):
        covered[axis] = g.type.shape[axis] * k
    sizes = dict(zip(p["axes"], p["size"], strict=True))
    by_window = tuple(n for a, c in enumerate(covered) for n in ((c // sizes[a], sizes[a]) if a in sizes else (c,)))
    alike = tuple(n for a, c in enumerate(covered) for n in ((c // sizes[a], 1) if a in sizes else (c,)))
    sent = reshape(Traced(g), alike)
    if x is not None and top is not None:
        inside: Value = Traced(x)
        if tuple(covered) != shape:
            inside = inside[tuple(slice(0, c) for c in covered)]
        sent = where(equal(reshape(inside, by_window), reshape(Traced(top), alike)), sent, 0.0)
    else:
        sent = broadcast_to(sent, by_window)
    split.add(sent.node)
    found = reshape(sent, tuple(covered))
    if tuple(covered) == shape:
        return found
    return pad(found, [(0, n - c) for n, c in zip(shape, covered, strict=True)])


def _is_split(node: Node, split: set[Node]) -> bool:
    """Whether the node makes one by y of a value by (p, i)."""
    return node.op == "reshape" and node.inputs[0] in split


def _elementwise(node: Node, split: set[Node]) -> Value | None:
    """The op applied by (p, i)."""
    like = next((i.inputs[0] for i in node.inputs if _is_split(i, split)), None)
    if like is None or node.op == "gather":
        return None
    shape, fine = node.type.shape, like.type.shape
    groups = split_axes(shape, fine)
    assert groups is not None
    operands: list[Value] = []
    for i in node.inputs:
        if _is_split(i, split) and i.inputs[0].type.shape == fine:
            operands.append(Traced(i.inputs[0]))
            continue
        sizes = (1,) * (len(shape) - i.type.ndim) + i.type.shape
        if any(n not in (1, m) for n, m in zip(sizes, shape, strict=True)):
            return None
        parts = [(1,) * len(g) if n == 1 else g for n, g in zip(sizes, groups, strict=True)]
        operands.append(reshape(Traced(i), tuple(n for g in parts for n in g)) if i.type.ndim else Traced(i))
    found = OPS[node.op](*operands, **node.params)
    if found.shape != fine:
        return None
    split.add(found.node)
    return reshape(found, shape)
