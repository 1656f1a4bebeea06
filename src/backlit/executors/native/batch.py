"""A rewrite for convolutions of few channels: the axis of the batch goes behind the channels.

Channels come last, and vectors run along the last axis: with 6 of them most of a vector is empty, in the products as in
pooling and activations between them. The rows of a batch are many, and all of them undergo the same. With their axis
last every vector is full:

    y[p, q, k, n] = sum over i, j, c of x[p + i, q + j, c, n] w[i, j, c, k]

So an image is transposed once where it comes in, and everything that is made of it, up to the first layer that is no
window's, is computed in the other order, and so is the gradient on its way back; a gradient by the input, or a
transposed convolution, may begin a chain as well. Where the batch meets others, as in the gradient of weights, the
result is as it was; who else asks for a value of the chain gets it transposed back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from backlit.executors.native.dots import SHORT
from backlit.executors.native.fusion import is_pointwise
from backlit.executors.native.kernels import COMBINERS
from backlit.executors.native.vectors import filled, in_line, left_over
from backlit.ir import Graph, Node
from backlit.ops.contraction import contract, parts_of
from backlit.ops.movement import permute_dims, reshape
from backlit.ops.record import OPS, Value
from backlit.passes import simplify
from backlit.passes.rewrite import count_readers, in_bodies, rewrite
from backlit.tracing import Traced

_MOVED = 8.0  # multiply-adds in the time in which a number is transposed
_FASTER = 0.5  # of the time of a 3x3 convolution of many channels, which other ways than a product may take less
_APART = 3  # columns in whose time one is summed that vectors leave over
_SIDE_BY_SIDE = 16  # numbers at least that lie so where columns are summed apart
_LANES = in_line(4)  # of float32, for all dtypes alike
_ADDED = 400  # multiply-adds in the time in which a number of a product is added up with others of its line
_DOTS = 1.2  # of the time of a product, what dot products take
_AT_ONCE = 4  # sums that can be made at once, each of a vector
_FAR = 2048  # bytes from one place of an image to the next, of which the caches hold few


def batch_innermost(graph: Graph) -> Graph:
    """The graph with its chains of convolutions of few channels computed with the batch behind the channels."""
    graph = in_bodies(graph, batch_innermost)
    if graph.ops.isdisjoint({"windows", "fold"}):
        return graph
    for n in _sizes(graph):
        chain = _Chain(graph, n)
        if chain.gain() > 0:
            graph = chain.rewritten()
    return graph


def _sizes(graph: Graph) -> list[int]:
    """The sizes of the batches of images that products are made of through windows, or made to by adding windows up."""
    found = {}
    for node in graph.nodes:
        image = node.inputs[0] if node.op == "contract" else node
        if _goes_back(node) or (image is not node and image.op == "windows" and 0 not in image.params["axes"]):
            found[image.type.shape[0]] = node
    return [n for n in found if n > 1]


def _goes_back(node: Node) -> bool:
    """Whether products are made for all places of windows, which are added up where they overlap."""
    if node.op != "fold" or node.inputs[0].op != "contract" or 0 in node.params["axes"]:
        return False
    return all(s == 1 for s in node.params["stride"])


class _Chain:
    """The values of a graph whose first axis is the batch of `n` and can go behind the channels.

    `place[v]` is where that axis is in v when it has moved: behind the channels, before the axes within a window.
    """

    def __init__(self, graph: Graph, n: int) -> None:
        self.graph, self.n = graph, n
        self.place: dict[Node, int] = {}
        self.entering: set[Node] = set()  # from outside, transposed
        self.readers = count_readers(graph)
        self.folded: dict[Node, tuple[int, ...]] = {
            node.inputs[0]: node.params["size"] for node in graph.nodes if _goes_back(node)
        }
        for node in graph.nodes:
            for image in self._images(node):
                if self._is_image(image) and image not in self.place and image.op not in ("constant", "pad", "windows"):
                    self.entering.add(image)
                    self.place[image] = image.type.ndim - 1
            at = self._placed(node)
            if at is not None:
                self.place[node] = at
                for i in node.inputs if is_pointwise(node) else ():
                    if i not in self.place and self._has_batch(i, node):
                        self.entering.add(i)
                        self.place[i] = self.place[node]

    def _images(self, node: Node) -> Sequence[Node]:
        """The operands of a node that may be images with which a chain begins."""
        if node not in self.folded:
            return node.inputs if node.op in ("pad", "windows") else ()
        left, right, result = parts_of(node.params["spec"])
        terms = zip(node.inputs, (left, right), (right, left), strict=True)
        return [x for x, mine, other in terms if mine[:1] == result[:1] and mine[0] not in other]

    def _is_image(self, node: Node) -> bool:
        t = node.type
        return t.ndim >= 3 and t.shape[0] == self.n and t.size > 0 and self.n * t.dtype.itemsize <= _FAR

    def _has_batch(self, node: Node, like: Node) -> bool:
        """Whether an operand of an elementwise op has rows of its own for the batch."""
        return node.type.ndim == like.type.ndim and node.type.shape[0] != 1

    # --- what moves

    def _placed(self, node: Node) -> int | None:
        """Where the batch goes in the result of a node; None: it stays."""
        own = [i for i in node.inputs if i in self.place]
        if not own or len(node.types) != 1 or node.type.ndim < 2 or node.type.size == 0:
            return None
        if node.type.shape[0] != self.n:
            return None
        x, p = node.inputs[0], node.params
        at: int = self.place[own[0]]
        if node.op == "contract":
            return self._of_product(node)
        if node.op == "windows":
            return at if 0 not in p["axes"] and max(p["axes"]) <= at else None
        if node.op == "fold":
            return at if 0 not in p["axes"] and at == node.type.ndim - 1 else None
        if node.op == "pad":
            return None if p["low"][0] or p["high"][0] or p["between"][0] else at
        if node.op == "slice":
            return at if (p["start"][0], p["stop"][0], p["step"][0]) == (0, self.n, 1) else None
        if node.op == "flip":
            return None if 0 in p["axis"] else at
        if node.op in COMBINERS:
            if 0 in p["axis"] or p["keepdims"]:
                return None
            return at - len([a for a in p["axis"] if a <= at])
        if node.op == "reshape":
            return self._reshaped(node)
        if node.op == "broadcast_to":
            return at if x.type.ndim == node.type.ndim else None
        if not is_pointwise(node) or node.op == "gather":
            return None
        places = {self.place[i] for i in own if i.type.ndim == node.type.ndim}
        if len(places) != 1 or any(i.type.ndim != node.type.ndim for i in own):
            return None
        return places.pop()

    def _of_product(self, node: Node) -> int | None:
        """Of a convolution, or of the products for all places of its windows on the way back."""
        left, right, result = parts_of(node.params["spec"])
        for x, mine, other in ((node.inputs[0], left, right), (node.inputs[1], right, left)):
            if x in self.place and mine[0] == result[0] and mine[0] not in other and node.type.ndim > 2:
                inside = node.type.ndim - (x.type.ndim - self._windowed(x))
                return node.type.ndim - 1 - max(0, inside)
        return None

    def _windowed(self, x: Node) -> int:
        """How many axes come after the channels."""
        return x.type.ndim - 1 - self.place[x]

    def _reshaped(self, node: Node) -> int | None:
        """Of a reshape that leaves the batch alone: axes of size 1 that are added at the end are a window's."""
        (x,) = node.inputs
        new, old = node.type.shape, x.type.shape
        if old[0] != self.n or self._windowed(x):
            return None
        if new[: len(old)] == old and math.prod(new[len(old) :]) == 1:
            return len(old) - 1
        return len(new) - 1

    # --- whether it pays

    def gain(self) -> float:
        """Multiply-adds in the time that is saved."""
        saved = 0.0
        for node in self.graph.nodes:
            if node.op == "contract" and any(i in self.place for i in node.inputs):
                left, right, result = parts_of(node.params["spec"])
                sizes = dict(zip(left + right, (n for i in node.inputs for n in i.type.shape), strict=True))
                work = math.prod(sizes.values())
                if node in self.place or (result[0] != left[0] and all(i in self.place for i in node.inputs)):
                    columns = sizes[right[-1] if right[-1] in result else result[self.place.get(node, -1)]]
                    saved += work * (self._waste_so_far(node, columns) - _waste_moved(self.n, columns))
                    weights = node if result[0] != left[0] else node.inputs[1]
                    saved -= work * _FASTER * (weights.type.shape[:-2] == (3, 3) and min(weights.type.shape[-2:]) >= 16)
        crossing = [*self.entering, *(v for v in self.place if v in self.graph.outputs)]
        for node in self.graph.nodes:
            if node not in self.place and not self._takes(node):
                crossing += [i for i in node.inputs if i in self.place and i not in self.entering]
        return saved - _MOVED * sum(v.type.size for v in dict.fromkeys(crossing))

    def _waste_so_far(self, node: Node, columns: int) -> float:
        """Time that a product takes as it is beyond its own, in parts of that."""
        beside, size = _beside(node), self.folded.get(node)
        if columns <= 2 and beside >= SHORT:
            return _DOTS * filled(beside, _LANES) * _LANES / beside - 1
        found = _waste(columns, beside)
        if size is None:
            return found
        steps = beside * math.prod(size[:-1])
        return min(found, _waste(columns * size[-1]) + _ADDED / (steps * columns))

    def _takes(self, node: Node) -> bool:
        """Whether a node of another order can read a value of the chain as it lies."""
        return node.op == "contract" or (node.op in COMBINERS and 0 in node.params["axis"])

    # --- the graph

    def rewritten(self) -> Graph:
        """The graph in which the values of the chain are computed moved and read moved back, so that pairs cancel."""
        seen: set[Node] = set()

        def rule(node: Node, old: Node) -> Value | None:
            if old in seen:  # this is the answer
                return None
            seen.add(old)
            if old in self.entering or old not in self.place:
                return self._outside(node, old) if any(i in self.place for i in old.inputs) else None
            found = replace(self._applied(node, old).node, name=old.name)
            return permute_dims(Traced(found), _back(self.place[old], node.type.ndim))

        return simplify(rewrite(self.graph, rule))

    def _in_place(self, node: Node, old: Node, at: int) -> Value:
        """A value with its batch moved to `at`."""
        ndim = node.type.ndim
        if old in self.entering and self.readers[old] == 1:
            if old.op == "contract":
                left, right, result = parts_of(node.params["spec"])
                result = "".join(result[a] for a in _order(at, ndim))
                return contract(*map(Traced, node.inputs), spec=f"{left},{right}->{result}")
            shape = tuple(node.type.shape[a] for a in _order(at, ndim))
            if old.op == "reshape" and math.prod(shape[at + 1 :]) == 1 and old.inputs[0].op == "contract":
                inner = old.inputs[0]
                if inner.type.shape[0] == self.n and self.readers[inner] == 1:
                    self.entering.add(inner)
                    return reshape(self._in_place(node.inputs[0], inner, inner.type.ndim - 1), shape)
        return permute_dims(Traced(node), _order(at, ndim))

    def _applied(self, node: Node, old: Node) -> Value:
        """The op on moved operands."""
        at, p = self.place[old], dict(node.params)
        if node.op == "contract":
            return self._product(node, old)
        if is_pointwise(old):
            pairs = zip(node.inputs, old.inputs, strict=True)
            return OPS[node.op](*(self._operand(i, o, old) for i, o in pairs), **p)
        (own,) = old.inputs
        x, order = self._in_place(node.inputs[0], own, self.place[own]), _order(self.place[own], own.type.ndim)
        if node.op in ("reshape", "broadcast_to"):
            return OPS[node.op](x, shape=tuple(node.type.shape[a] for a in _order(at, node.type.ndim)))
        if node.op in ("pad", "slice"):
            return OPS[node.op](x, **{k: tuple(v[a] for a in order) if type(v) is tuple else v for k, v in p.items()})
        key = "axes" if "axes" in p else "axis"
        return OPS[node.op](x, **{**p, key: tuple(order.index(a) for a in p[key])})

    def _operand(self, i: Node, old: Node, result: Node) -> Value:
        """An operand of an elementwise op: of the chain, or one that is stretched."""
        at, ndim = self.place[result], result.type.ndim
        if old in self.place:
            return self._in_place(i, old, at)
        if i.type.ndim == 0:
            return Traced(i)
        shape = (1,) * (ndim - i.type.ndim) + i.type.shape
        return reshape(Traced(i), tuple(shape[a] for a in _order(at, ndim)))

    def _product(self, node: Node, old: Node) -> Value:
        left, right, result = parts_of(node.params["spec"])
        terms, values = [], []
        for i, o, term in zip(node.inputs, old.inputs, (left, right), strict=True):
            inside = o in self.place
            values.append(self._in_place(i, o, self.place[o]) if inside else Traced(i))
            terms.append("".join(term[a] for a in _order(self.place[o], len(term))) if inside else term)
        if old in self.place:
            result = "".join(result[a] for a in _order(self.place[old], len(result)))
        return contract(*values, spec=f"{terms[0]},{terms[1]}->{result}")

    def _outside(self, node: Node, old: Node) -> Value | None:
        """A node outside of the chain that can read it as it lies."""
        if node.op == "contract":
            return self._product(node, old)
        if not self._takes(old):
            return None
        (own,) = old.inputs
        order = _order(self.place[own], own.type.ndim)
        axes = tuple(sorted(order.index(a) for a in node.params["axis"]))
        return OPS[node.op](self._in_place(node.inputs[0], own, self.place[own]), axis=axes, keepdims=False)


def _order(at: int, ndim: int) -> tuple[int, ...]:
    """The axes in the order that has the first one at `at`."""
    return (*range(1, at + 1), 0, *range(at + 1, ndim))


def _back(at: int, ndim: int) -> tuple[int, ...]:
    """The axes of that order as they were."""
    order = _order(at, ndim)
    return tuple(order.index(a) for a in range(ndim))


def _beside(node: Node) -> int:
    """How many numbers lie side by side in what a product sums: channels, and the places of a window in a line."""
    seen = next((i for i in node.inputs if i.op == "windows"), None)
    if seen is None:
        return node.inputs[0].type.shape[-1]
    line = seen.params["size"][-1] if seen.params["dilation"][-1] == 1 else 1
    return line * seen.inputs[0].type.shape[-1]


def _waste(n: int, beside: int = 0) -> float:
    """Time that n columns take beyond their own, in parts of theirs: half a vector is the least that counts."""
    rest = left_over(n, _LANES) if beside >= _SIDE_BY_SIDE else 0
    return (filled(n - rest, _LANES) * _LANES + _APART * rest) / n - 1


def _waste_moved(n: int, rows: int) -> float:
    """The same of a product whose columns are the batch: few sums at once have to wait for themselves."""
    sums = rows * -(-n // _LANES)
    return (1 + _waste(n)) * max(1.0, _AT_ONCE / sums) - 1
