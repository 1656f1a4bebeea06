"""Which elements enter an element: the graph read one number at a time.

For one element of one node, `Reader.at` gives the formula by which it comes from the elements of other nodes: the
terms of a sum along the summed axes, the products of a contraction, the place that a movement took the element from.
It stops at quantities (the nodes that have a name in the derivation) and reads through everything between them. The
same reading serves the forward graph, its gradient and an optimiser's step, because all three are ordinary nodes.

One rule an op, in `RULES`; elementwise ops share one. Sums of many terms are folded here: the largest stay, the rest
becomes one number. So a sum of a thousand products costs a handful of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from backlit.errors import UnsupportedError
from backlit.explanation.expressions import ONE, ZERO, apply, bracket, extreme, opposite, product, total
from backlit.explanation.steps import Apply, Element, Expression, Number, Rest
from backlit.ir import Node
from backlit.ops.contraction import parts_of
from backlit.ops.record import OPS

Array = np.ndarray[Any, np.dtype[Any]]

# What these composites give is drawn, not derived: their bits are shown as numbers.
_DRAWS = frozenset({"bits", "split", "fold_in", "uniform", "normal", "bernoulli", "permutation"})


@dataclass
class Reader:
    """Reads the elements of a graph that has been run.

    values   node -> its array in the run
    leaf     (node, element, who reads it, `of`) -> the operand where reading stops there, else None
    terms    how many terms of a sum are shown (one more than that is never folded to one)
    closed   node -> how to write an element of it where a closed form is known
    marked   node -> which of its elements must not be folded away
    """

    values: Mapping[Node, Array]
    leaf: Callable[[Node, Element, Node | None, Node | None], Expression | None]
    terms: int
    closed: Mapping[Node, Callable[[Reader, Element], Expression]] = field(default_factory=dict)
    marked: Mapping[Node, Array] = field(default_factory=dict)
    user: Node | None = None  # whose inputs are being read

    def at(self, node: Node, element: Element, of: Node | None = None) -> Expression:
        """One element of a node, in terms of quantities; `of` is the forward node whose gradient it is, if that is
        known.
        """
        found = self.leaf(node, element, self.user, of)
        return found if found is not None else self.definition(node, element)

    def definition(self, node: Node, element: Element) -> Expression:
        """The same, looking into the node even if it is a quantity itself."""
        before, self.user = self.user, node
        try:
            return self._definition(node, element)
        finally:
            self.user = before

    def _definition(self, node: Node, element: Element) -> Expression:
        if node in self.closed:
            return self.closed[node](self, element)
        if node.op == "constant" or opaque(node):
            return Number(self.value(node, element))
        rule = RULES.get(node.op)
        if rule is not None:
            return rule(self, node, element)
        if node.op in OPS and OPS[node.op].family == "elementwise":
            args = [self.at(i, unbroadcast(element, i.type.shape)) for i in node.inputs]
            return apply(node.op, args, tuple(sorted(node.params.items())))
        raise UnsupportedError("the explainer has no rule for this op", op=node.op, site=node.site)

    def value(self, node: Node, element: Element) -> Any:
        """The number at an element, as a Python number."""
        return self.values[node][element].item()

    def fold(self, op: str, values: Array, make: Callable[[int], Expression], keep: Array | None = None) -> Expression:
        """The "sum", "max" or "min" of many terms: the largest few written out, the rest as one number."""
        many = values.size
        combine: Callable[..., Expression] = total if op == "sum" else partial(extreme, op)
        if many <= self.terms + 1:
            return combine([make(k) for k in range(many)])
        numbers = values.astype(np.float64).ravel()
        size = np.abs(numbers) if op == "sum" else numbers if op == "max" else -numbers
        order = np.argsort(-np.where(np.isnan(size), np.inf, size), kind="stable")
        shown = set(order[: self.terms].tolist())
        if keep is not None:
            shown |= set(np.flatnonzero(keep.ravel())[: self.terms].tolist())
        if len(shown) >= many - 1:
            return combine([make(k) for k in range(many)])
        hidden = np.delete(numbers, sorted(shown))
        come_to = hidden.sum() if op == "sum" else hidden.max() if op == "max" else hidden.min()
        what = "terms" if op == "sum" else "elements"
        return combine([make(k) for k in sorted(shown)], Rest(hidden.size, float(come_to), what))

    def marks(self, node: Node) -> Array | None:
        """Which elements of a node are, or come by movement and arithmetic alone from, marked elements."""
        if node in self.marked:
            return self.marked[node]
        if node.op in ("input", "constant") or node.op not in OPS or self._stops(node):
            return None
        if OPS[node.op].family == "elementwise":
            found = [m for m in map(self.marks, node.inputs) if m is not None]
            return np.logical_or.reduce([np.broadcast_to(m, node.type.shape) for m in found]) if found else None
        if OPS[node.op].family == "movement" or node.op == "windows":
            found = [m for m in map(self.marks, node.inputs) if m is not None]
            if not found or len(node.inputs) > 1:
                return None
            return np.asarray(OPS[node.op].numpy(*found, **node.params))
        return None

    def _stops(self, node: Node) -> bool:
        return bool(node.type.size) and self.leaf(node, (0,) * node.type.ndim, None, None) is not None


def opaque(node: Node) -> bool:
    """Whether a node holds bits and counts that are shown as they are: random draws, positions, integer arithmetic."""
    if node.op == "argsort" or any(s.kind == "composite" and s.name in _DRAWS for s in scopes(node)):
        return True
    if node.types[0].dtype.kind in "iu":
        return node.op not in ("input", *_MOVES)
    # how many elements tie for the largest
    return node.op == "sum" and node.origin is not None and node.origin.op in ("max", "min")


def scopes(node: Node) -> tuple[Any, ...]:
    """The scopes that a node stands in, outermost first."""
    return node.scope.path() if node.scope is not None else ()


def unbroadcast(element: Element, shape: tuple[int, ...]) -> Element:
    """The element of an input that broadcasting puts at an element of the result."""
    tail = element[len(element) - len(shape) :]
    return tuple(0 if n == 1 else i for i, n in zip(tail, shape, strict=True))


# --- movement ---------------------------------------------------------------------------------------------------------


def _reshape(r: Reader, node: Node, element: Element) -> Expression:
    x = node.inputs[0]
    flat = int(np.ravel_multi_index(element, node.type.shape)) if element else 0
    return r.at(x, tuple(int(i) for i in np.unravel_index(flat, x.type.shape)) if x.type.shape else ())


def _permute(r: Reader, node: Node, element: Element) -> Expression:
    source = [0] * len(element)
    for i, a in zip(element, node.params["axes"], strict=True):
        source[a] = i
    return r.at(node.inputs[0], tuple(source))


def _broadcast(r: Reader, node: Node, element: Element) -> Expression:
    return r.at(node.inputs[0], unbroadcast(element, node.inputs[0].type.shape))


def _slice(r: Reader, node: Node, element: Element) -> Expression:
    p = node.params
    return r.at(node.inputs[0], tuple(a + i * k for i, a, k in zip(element, p["start"], p["step"], strict=True)))


def _pad(r: Reader, node: Node, element: Element) -> Expression:
    x, p = node.inputs[0], node.params
    source = []
    for i, low, between, n in zip(element, p["low"], p["between"], x.type.shape, strict=True):
        place, off = divmod(i - low, between + 1)
        if i < low or off or place >= n:
            return Number(r.value(node, element))
        source.append(place)
    return r.at(x, tuple(source))


def _flip(r: Reader, node: Node, element: Element) -> Expression:
    axes, shape = node.params["axis"], node.type.shape
    return r.at(node.inputs[0], tuple(shape[a] - 1 - i if a in axes else i for a, i in enumerate(element)))


def _concat(r: Reader, node: Node, element: Element) -> Expression:
    axis = node.params["axis"]
    place = element[axis]
    for x in node.inputs:
        if place < x.type.shape[axis]:
            return r.at(x, (*element[:axis], place, *element[axis + 1 :]))
        place -= x.type.shape[axis]
    raise AssertionError("the element lies in one of the parts")


def _windows(r: Reader, node: Node, element: Element) -> Expression:
    p = node.params
    source = list(element[: len(element) - len(p["size"])])
    for a, i, s, d in zip(p["axes"], element[len(source) :], p["stride"], p["dilation"], strict=True):
        source[a] = source[a] * s + i * d
    return r.at(node.inputs[0], tuple(source))


def _fold(r: Reader, node: Node, element: Element) -> Expression:
    """The windows that cover the element: along each axis, the pairs (window, place in it) that fall on it."""
    w, p = node.inputs[0], node.params
    found: list[tuple[Element, Element]] = [(element, ())]
    for a, k, s, d in zip(p["axes"], p["size"], p["stride"], p["dilation"], strict=True):
        wider = []
        for places, inside in found:
            for i in range(k):
                window, off = divmod(element[a] - i * d, s)
                if not off and 0 <= window < w.type.shape[a]:
                    wider.append(((*places[:a], window, *places[a + 1 :]), (*inside, i)))
        found = wider
    sources = [(*places, *inside) for places, inside in found]
    values = np.array([r.values[w][s] for s in sources])
    return r.fold("sum", values, lambda k: r.at(w, sources[k])) if sources else ZERO


# --- indexing ---------------------------------------------------------------------------------------------------------


def _gather(r: Reader, node: Node, element: Element) -> Expression:
    x, *indices = node.inputs
    depth = len(element) - (x.type.ndim - len(indices))
    places = [int(r.values[i][unbroadcast(element[:depth], i.type.shape)]) for i in indices]
    source = tuple(p % n for p, n in zip(places, x.type.shape, strict=False))
    return r.at(x, (*source, *element[depth:]))


def _scatter_add(r: Reader, node: Node, element: Element) -> Expression:
    x, updates, *indices = node.inputs
    arrays = np.broadcast_arrays(*(r.values[i] for i in indices))
    hit = np.ones(arrays[0].shape, bool)
    for n, i, array in zip(x.type.shape, element, arrays, strict=False):
        hit &= array % n == i
    tail = element[len(indices) :]
    sources = [(*map(int, place), *tail) for place in np.argwhere(hit)]
    values = np.array([r.values[updates][s] for s in sources])
    added = r.fold("sum", values, lambda k: r.at(updates, sources[k])) if sources else ZERO
    return total([r.at(x, element), added])


# --- sums and products ------------------------------------------------------------------------------------------------


def _along(node: Node, element: Element) -> tuple[tuple[int, ...], Callable[[tuple[int, ...]], Element], Any]:
    """For a reduction: the sizes of the reduced axes, where a place along them lies in x, and the index of all."""
    x, axes, kept = node.inputs[0], node.params["axis"], iter(element)
    if node.params["keepdims"]:
        kept = iter([i for a, i in enumerate(element) if a not in axes])
    fixed = [None if a in axes else next(kept) for a in range(x.type.ndim)]

    def source(place: tuple[int, ...]) -> Element:
        inner = iter(place)
        return tuple(int(next(inner)) if i is None else i for i in fixed)

    return tuple(x.type.shape[a] for a in axes), source, tuple(slice(None) if i is None else i for i in fixed)


def _reduction(op: str) -> Callable[[Reader, Node, Element], Expression]:
    def rule(r: Reader, node: Node, element: Element) -> Expression:
        x = node.inputs[0]
        sizes, source, index = _along(node, element)
        values, marks = r.values[x][index], r.marks(x)
        return r.fold(
            op,
            np.asarray(values),
            lambda k: r.at(x, source(tuple(map(int, np.unravel_index(k, sizes))))),
            marks[index] if marks is not None else None,
        )

    return rule


def _cumulative(r: Reader, node: Node, element: Element) -> Expression:
    x, a = node.inputs[0], node.params["axis"]
    index: tuple[Any, ...] = (*element[:a], slice(0, element[a] + 1), *element[a + 1 :])
    values = r.values[x][index]
    return r.fold("sum", values, lambda k: r.at(x, (*element[:a], k, *element[a + 1 :])))


def _contract(r: Reader, node: Node, element: Element) -> Expression:
    a, b = node.inputs
    left, right, result = parts_of(node.params["spec"])
    place = dict(zip(result, element, strict=True))
    inner = [c for c in left if c not in result]
    sizes = tuple(a.type.shape[left.index(c)] for c in inner)

    def view(array: Array, letters: str) -> Array:
        """The summed axes alone, in the order of `inner`."""
        found = array[tuple(place[c] if c in place else slice(None) for c in letters)]
        return np.transpose(found, [[c for c in letters if c in inner].index(c) for c in inner])

    def make(k: int) -> Expression:
        at = place | dict(zip(inner, map(int, np.unravel_index(k, sizes)), strict=True)) if inner else place
        return product([r.at(a, tuple(at[c] for c in left)), r.at(b, tuple(at[c] for c in right))])

    values = view(r.values[a], left).astype(np.float64) * view(r.values[b], right)
    keep = None
    for n, letters in ((a, left), (b, right)):
        marks = r.marks(n)
        if marks is not None and values.size > r.terms + 1:
            own = view(marks, letters)
            keep = own if keep is None else keep | own
    return r.fold("sum", np.asarray(values), make, keep)


# --- conditions -------------------------------------------------------------------------------------------------------


def _where(r: Reader, node: Node, element: Element) -> Expression:
    """The branch that was taken, times the condition; both branches where both are short."""
    condition, a, b = node.inputs
    places = [unbroadcast(element, i.type.shape) for i in node.inputs]
    holds = bool(r.values[condition][places[0]])
    if node.origin is not None and node.origin.op in ("maximum", "minimum"):  # the share of a winner, or of a tie
        if holds or b.op != "where":
            return _guarded(r.at(a, places[1]), r.at(condition, places[0]), r.value(a, places[1]))
        inner = r.at(b, places[2])
        if r.values[b.inputs[0]][unbroadcast(places[2], b.inputs[0].type.shape)]:
            return inner
        return _guarded(r.at(a, places[1]), r.at(condition, places[0]), r.value(a, places[1]))
    test = r.at(condition, places[0])
    if _zero(r, b, places[2]):
        return _guarded(r.at(a, places[1]), test, r.value(a, places[1]))
    if _zero(r, a, places[1]):
        return _guarded(r.at(b, places[2]), opposite(test), r.value(b, places[2]))
    return Apply("where", (test, r.at(a, places[1]), r.at(b, places[2])))


def _zero(r: Reader, node: Node, element: Element) -> bool:
    while node.op == "broadcast_to":
        node, element = node.inputs[0], unbroadcast(element, node.inputs[0].type.shape)
    return node.op == "constant" and r.value(node, element) == 0


def _guarded(e: Expression, test: Expression, value: Any) -> Expression:
    """e where the test holds, else 0; as a product unless e is no finite number (0 times inf is not 0)."""
    if np.isfinite(value):
        return product([e, bracket(test)])
    return Apply("where", (test, e, ZERO))


def _cast(r: Reader, node: Node, element: Element) -> Expression:
    x = node.inputs[0]
    if x.type.dtype.kind == "b" and node.type.dtype.kind == "f":
        found = r.at(x, element)
        return (
            ONE if isinstance(found, Number) and found.value else ZERO if isinstance(found, Number) else bracket(found)
        )
    if x.type.dtype.kind == "f" and node.type.dtype.kind != "f":
        return Number(r.value(node, element))
    return r.at(x, element)


def _same(r: Reader, node: Node, element: Element) -> Expression:
    return r.at(node.inputs[0], element)


_MOVES = {
    "reshape": _reshape,
    "permute_dims": _permute,
    "broadcast_to": _broadcast,
    "slice": _slice,
    "flip": _flip,
    "concat": _concat,
    "windows": _windows,
    "gather": _gather,
    "pad": _pad,
    "stop_gradient": _same,
}

RULES: dict[str, Callable[[Reader, Node, Element], Expression]] = _MOVES | {
    "fold": _fold,
    "scatter_add": _scatter_add,
    "sum": _reduction("sum"),
    "max": _reduction("max"),
    "min": _reduction("min"),
    "cumulative_sum": _cumulative,
    "contract": _contract,
    "where": _where,
    "cast": _cast,
    "iota": lambda r, node, element: Number(r.value(node, element)),
}
"""How an element of each op is read; elementwise ops without an entry share one way."""


def moves(node: Node) -> bool:
    """Whether a node only puts elements in other places."""
    return node.op in _MOVES


def sources(node: Node) -> Sequence[Node]:
    """The inputs whose elements enter the result (not the indices that say which)."""
    return node.inputs[:1] if node.op == "gather" else node.inputs[:2] if node.op == "scatter_add" else node.inputs
