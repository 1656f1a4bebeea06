"""A rewrite for convolutions: the gradient by the input becomes a convolution itself.

Differentiation gives it as `fold(contract(g, w))`: a product for every window and position, added back into place.
The same sums, taken where they arrive instead of where they come from, are a convolution of g with the weights
turned round:

    dx[y] = sum over p s + i d = y of g[p] w[i]  =  sum over i' of g'[y + i' d] w[k - 1 - i']

where g' is g with s - 1 zeros between its elements and (k - 1) d before them. Nothing of the size of all windows is
made. The same holds for the forward pass of a transposed convolution.

Of a convolution whose result is cut (the gradient by an input that was padded) only what is kept is computed: there
are fewer zeros around g' then.
"""

from __future__ import annotations

from collections import Counter

from backlit.executors.native.joined import joined
from backlit.executors.native.onehot import selected
from backlit.executors.native.pooling import spread_back
from backlit.executors.native.rectified import rectified
from backlit.executors.native.remade import remade
from backlit.ir import Graph, Node
from backlit.ops.contraction import contract, parts_of
from backlit.ops.movement import flip
from backlit.ops.record import OPS, Value
from backlit.ops.window import windows
from backlit.passes import simplify
from backlit.passes.rewrite import in_bodies, rewrite
from backlit.tracing import Traced


def prepared(graph: Graph) -> Graph:
    """The graph as this executor compiles it: after the passes that all may use, and its own."""
    return simplify(remade(joined(selected(rectified(spread_back(direct(simplify(graph))))))))


def direct(graph: Graph) -> Graph:
    """The graph with every fold of a product that can be one written as a convolution."""
    graph = in_bodies(graph, direct)
    if graph.ops.isdisjoint({"fold", "slice"}):
        return graph
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    readers.update(graph.outputs)

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "fold" and node.inputs[0].op == "contract":
            return _convolved(node)
        return _cut(node) if node.op == "slice" and readers[old.inputs[0]] == 1 else None

    return rewrite(graph, rule)


def _convolved(node: Node) -> Value | None:
    """fold(contract(g, w)) as contract(windows(g'), w')."""
    p = node.params
    (product,) = node.inputs
    left, right, result = parts_of(product.params["spec"])
    a, b = product.inputs
    size = p["size"]
    ndim = len(result) - len(size)
    counts = [result[axis] for axis in p["axes"]]
    inside = list(result[ndim:])
    if set(counts) & set(right):  # let the windows' values be the left operand
        left, right, a, b = right, left, b, a
    if set(counts) & set(right) or set(inside) & set(left) or not set(inside) <= set(right):
        return None
    if not set(counts) <= set(left):
        return None
    low, high, between = ([0] * len(left) for _ in range(3))
    for letter, axis, k, s, d in zip(counts, p["axes"], size, p["stride"], p["dilation"], strict=True):
        at = left.index(letter)
        reach = (product.type.shape[axis] - 1) * s + 1
        low[at], between[at] = (k - 1) * d, s - 1
        high[at] = p["extent"][p["axes"].index(axis)] - reach
    spread = Traced(a)
    if any(low) or any(high) or any(between):
        spread = OPS["pad"](spread, low=tuple(low), high=tuple(high), between=tuple(between), value=0.0)
    seen = windows(
        spread, axes=tuple(left.index(c) for c in counts), size=size, stride=(1,) * len(size), dilation=p["dilation"]
    )
    turned = flip(Traced(b), tuple(sorted(right.index(c) for c in inside)))
    return contract(seen, turned, spec=f"{left}{''.join(inside)},{right}->{result[:ndim]}")


def _cut(node: Node) -> Value | None:
    """slice(contract(windows(pad(x)), w)) with the part of the windows that is kept only."""
    (product,) = node.inputs
    if product.op != "contract" or any(k != 1 for k in node.params["step"]):
        return None
    left, right, result = parts_of(product.params["spec"])
    seen = product.inputs[0]
    if seen.op != "windows" or seen.inputs[0].op != "pad":
        return None
    p, spread = seen.params, seen.inputs[0]
    low, high, start = list(spread.params["low"]), list(spread.params["high"]), [0] * len(result)
    stop = list(product.type.shape)
    for k, letter in enumerate(result):
        first, last, n = node.params["start"][k], node.params["stop"][k], product.type.shape[k]
        axis = left.find(letter)
        if axis not in p["axes"] or letter in right:
            start[k], stop[k] = first, last
            continue
        i = p["axes"].index(axis)
        step = p["stride"][i]
        reach = (n - 1) * step + (p["size"][i] - 1) * p["dilation"][i] + 1
        low[axis] -= first * step
        high[axis] -= (n - last) * step + spread.type.shape[axis] - reach  # what no window reaches goes too
    if min(low + high) < 0 or (low, high) == (list(spread.params["low"]), list(spread.params["high"])):
        return None
    fewer = OPS["pad"](Traced(spread.inputs[0]), **{**spread.params, "low": tuple(low), "high": tuple(high)})
    found = contract(OPS["windows"](fewer, **p), Traced(product.inputs[1]), spec=product.params["spec"])
    return found[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
