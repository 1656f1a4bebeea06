"""A rewrite for convolutions: the gradient by the input becomes a convolution itself.

Differentiation gives it as `fold(contract(g, w))`: a product for every window and position, added back into place.
The same sums, taken where they arrive instead of where they come from, are a convolution of g with the weights
turned round:

    dx[y] = sum over p s + i d = y of g[p] w[i]  =  sum over i' of g'[y + i' d] w[k - 1 - i']

where g' is g with s - 1 zeros between its elements and (k - 1) d before them. Nothing of the size of all windows is
made. The same holds for the forward pass of a transposed convolution.

With a stride it is a few convolutions without one (`phases`). Along an axis where that would multiply many zeros, or
where few channels fill vectors badly, the product is made for every place in a window and added back into place along
this axis alone.

Of a convolution whose result is cut (the gradient by an input that was padded) only what is kept is computed: there
are fewer zeros around g' then.
"""

from __future__ import annotations

import math

from backlit.executors.native.index import split_axes
from backlit.executors.native.phases import Folded, Kept, by_phases, folded
from backlit.executors.native.vectors import filled, in_line
from backlit.ir import Graph, Node
from backlit.ops.contraction import contract, parts_of
from backlit.ops.movement import flip, permute_dims, reshape
from backlit.ops.record import OPS, Value
from backlit.ops.window import windows
from backlit.passes.rewrite import count_readers, in_bodies, rewrite
from backlit.tracing import Traced

_LANES = in_line(4)  # of float32, for all dtypes alike
_PLACES = 9  # in a window that are added back one after the other: all of them take memory
_WORK = 1 << 16  # a product that is worth more kernels than one


def direct(graph: Graph) -> Graph:
    """The graph with every fold of a product that can be one written as a convolution."""
    graph = in_bodies(graph, direct)
    if graph.ops.isdisjoint({"fold", "slice"}):
        return graph
    readers = count_readers(graph)
    kept: dict[Node, Kept] = {}  # what is read of a value that is cut
    for node in graph.nodes:
        if node.op == "slice" and readers[node.inputs[0]] == 1 and all(k == 1 for k in node.params["step"]):
            kept[node.inputs[0]] = tuple(zip(node.params["start"], node.params["stop"], strict=True))

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "fold" and node.inputs[0].op == "reshape" and node.inputs[0].inputs[0].op == "contract":
            return _by_groups(node, kept.get(old))
        if node.op == "fold" and node.inputs[0].op == "contract":
            return _convolved(node, kept.get(old))
        return _cut(node) if node.op == "slice" and readers[old.inputs[0]] == 1 else None

    return rewrite(graph, rule)


def _by_groups(node: Node, kept: Kept | None) -> Value | None:
    """fold(reshape(v)), where the reshape only makes groups of channels one axis, as reshape(fold(v))."""
    (merged,) = node.inputs
    (apart,) = merged.inputs
    p, ndim = node.params, node.type.ndim
    groups = split_axes(merged.type.shape, apart.type.shape)
    if groups is None:
        return None
    for a in reversed(range(1, len(groups))):  # one channel a group: its axis belongs to the channels
        while len(groups[a]) > 1 and groups[a][0] == 1:
            groups[a - 1], groups[a] = (*groups[a - 1], 1), groups[a][1:]
    if any(len(groups[a]) != 1 for a in (*p["axes"], *range(ndim, merged.type.ndim))):
        return None
    axes = tuple(sum(len(g) for g in groups[:a]) for a in p["axes"])
    apart_fold = OPS["fold"](Traced(apart), **{**p, "axes": axes})
    if kept is not None:
        if any(len(g) > 1 and k != (0, n) for g, k, n in zip(groups, kept, node.type.shape, strict=False)):
            return None
        pairs = zip(groups, kept, strict=False)
        kept = tuple(k for group, own in pairs for k in ([own] if len(group) == 1 else [(0, n) for n in group]))
    made = _convolved(apart_fold.node, kept)
    return reshape(apart_fold if made is None else made, node.type.shape)


def _convolved(node: Node, kept: Kept | None) -> Value | None:
    """fold(contract(g, w)) as contract(windows(g'), w'); or of `kept` alone, with zeros around it."""
    fold = folded(node)
    if fold is None:
        return None
    a, b, left, right, result, _, _ = fold
    ndim = node.type.ndim
    sizes = dict(zip(left + right, a.type.shape + b.type.shape, strict=True))
    last = result[ndim - 1 : ndim] if result[ndim - 1] not in right else ""  # the batch, if it comes after the channels
    channels = math.prod(sizes[c] for c in result[:ndim] if c in right and c not in left)
    wide = last != "" or any(c in left and c in right for c in result[:ndim])
    phased = by_phases(node, fold, kept, max(channels, _LANES if wide else 0))
    return _in_one(node, fold, last, *_ways(node, channels, wide)) if phased is None else phased


def _in_one(node: Node, fold: Folded, last: str, direct: list[int], back: list[int]) -> Value:
    """One convolution along the axes `direct`; what it gives is added back along the others."""
    p, (product,), ndim = node.params, node.inputs, node.type.ndim
    a, b, left, right, result, counts, inside = fold
    size = p["size"]
    low, high, between = ([0] * len(left) for _ in range(3))
    for n in direct:
        axis, k, s, d = p["axes"][n], size[n], p["stride"][n], p["dilation"][n]
        at = left.index(counts[n])
        reach = (product.type.shape[axis] - 1) * s + 1
        low[at], between[at] = (k - 1) * d, s - 1
        high[at] = p["extent"][n] - reach
    seen = spread = Traced(a)
    if any(low) or any(high) or any(between):
        seen = spread = OPS["pad"](spread, low=tuple(low), high=tuple(high), between=tuple(between), value=0.0)
    if direct:
        seen = windows(
            spread, axes=tuple(left.index(counts[n]) for n in direct), size=tuple(size[n] for n in direct),
            stride=(1,) * len(direct), dilation=tuple(p["dilation"][n] for n in direct),
        )  # fmt: skip
    turned = Traced(b)
    if direct:
        turned = flip(turned, tuple(sorted(right.index(inside[n]) for n in direct)))
    near, far = "".join(inside[n] for n in direct), "".join(inside[n] for n in back)
    outer = "".join(c for c in result[:ndim] if c not in right + last)
    made = outer + far + "".join(c for c in result[:ndim] if c in right) + last  # channels as weights have them
    found = contract(seen, turned, spec=f"{left}{near},{right}->{made}")
    wanted = result[:ndim] + far
    if made != wanted:
        found = permute_dims(found, tuple(made.index(c) for c in wanted))
    if not back:
        return found
    along = {key: tuple(p[key][n] for n in back) for key in ("axes", "size", "stride", "dilation", "extent")}
    return OPS["fold"](found, **along)


def _ways(node: Node, channels: int, wide: bool) -> tuple[list[int], list[int]]:
    """The axes of a fold that become a convolution, and those along which is added back; by number.

    `wide`: vectors are full however few channels there are.
    """
    p, (product,) = node.params, node.inputs
    back: list[int] = []
    places = 1
    for n in reversed(range(len(p["axes"]))):
        axis, k = p["axes"][n], p["size"][n]
        own = p["extent"][n] * k * filled(channels, _LANES)
        other = product.type.shape[axis] * filled(channels * k, _LANES)
        narrow = not wide and channels < _LANES and n == len(p["axes"]) - 1
        worth = product.type.size * channels > _WORK and k > 1 and other < 0.7 * own and places * k <= _PLACES
        if worth and (narrow or p["stride"][n] > 1):
            back.insert(0, n)
            places *= k
    direct = [n for n in range(len(p["axes"])) if n not in back]
    return direct, back


def _cut(node: Node) -> Value | None:
    """slice(contract(windows(pad(x)), w)) with the part of the windows that is kept only."""
    (product,) = node.inputs
    if any(k != 1 for k in node.params["step"]):
        return None
    if product.op == "pad":
        return _unpadded(node, product)
    if product.op == "reshape" and product.inputs[0].op in ("contract", "pad"):
        return _cut_by_groups(node)
    if product.op != "contract":
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


def _unpadded(node: Node, padded: Node) -> Value | None:
    """slice(pad(x)) that keeps x and nothing else."""
    (x,) = padded.inputs
    low, stop = padded.params["low"], tuple(a + n for a, n in zip(padded.params["low"], x.type.shape, strict=True))
    exact = not any(padded.params["between"]) and node.params["start"] == low and node.params["stop"] == stop
    return Traced(x) if exact else None


def _cut_by_groups(node: Node) -> Value | None:
    """slice(reshape(v)), where the reshape makes an axis of groups and their channels, as reshape(slice(v))."""
    (merged,) = node.inputs
    (apart,) = merged.inputs
    groups = split_axes(merged.type.shape, apart.type.shape)
    if groups is None:
        return None
    start: list[int] = []
    stop: list[int] = []
    for first, last, n, group in zip(node.params["start"], node.params["stop"], merged.type.shape, groups, strict=True):
        if len(group) > 1 and (first, last) != (0, n):
            return None
        start += [first] if len(group) == 1 else [0] * len(group)
        stop += [last] if len(group) == 1 else group
    cut = OPS["slice"](Traced(apart), start=tuple(start), stop=tuple(stop), step=(1,) * len(start))
    made = _cut(cut.node) if cut.node.op == "slice" else None
    return None if made is None else reshape(made, node.type.shape)
