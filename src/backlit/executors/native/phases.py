"""The gradient by the input of a convolution with strides, phase by phase.

Of places y = s q + r with the same r, each is reached by the same positions i = r + s j of the window, from places
q - j of the result:

    dx[s q + r] = sum over j of g[q - j] w[r + s j]

which is a convolution without strides for each phase r. Nothing is multiplied by zeros, as it would be in one
convolution of g with s - 1 zeros between its elements, and nothing is added up in memory. What the phases give is
joined, place by place. Where s divides the size of the window all phases have as many terms, from the same places if
the first place that is wanted is a multiple of s: then one convolution makes them all.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from backlit.ir import Node
from backlit.ops.contraction import contract, parts_of
from backlit.ops.movement import concat, flip, pad, permute_dims, reshape
from backlit.ops.record import Value, constant_like
from backlit.ops.window import windows
from backlit.tracing import Traced

Kept: TypeAlias = tuple[tuple[int, int], ...]
"""The range along each axis of what is read of a value."""

_MOST = 16  # convolutions that one is cut into
_FULL = 16  # columns that fill a vector,
_ENOUGH = 8  # and that fill a narrower one


class Folded(NamedTuple):
    """A fold of a product: values for the places of windows (`a`) times weights (`b`), and the letters of each.

    `counts` are the letters of the places and `inside` those within a window, one for each axis that is folded.
    """

    a: Node
    b: Node
    left: str
    right: str
    result: str
    counts: str
    inside: str


def folded(node: Node) -> Folded | None:
    """A fold as such a product; None where it is none."""
    p, (product,) = node.params, node.inputs
    left, right, result = parts_of(product.params["spec"])
    a, b = product.inputs
    counts, inside = "".join(result[axis] for axis in p["axes"]), result[len(result) - len(p["size"]) :]
    if set(counts) & set(right):  # let the places' values be the left operand
        left, right, a, b = right, left, b, a
    if set(counts) & set(right) or set(inside) & set(left) or not set(inside) <= set(right):
        return None
    if not set(counts) <= set(left):
        return None
    last = result[node.type.ndim - 1]
    if last in left and last not in counts and left[-1] != last:  # so comes the batch: vectors run along it
        order = [*(k for k, c in enumerate(left) if c != last), left.index(last)]
        a, left = permute_dims(Traced(a), order).node, "".join(left[k] for k in order)
    return Folded(a, b, left, right, result, counts, inside)


@dataclass(frozen=True)
class _Phase:
    """Some phases along an axis that one convolution makes: of positions `first`, first + `step`, ... of the window."""

    first: int
    step: int
    terms: int
    shift: int  # of the last term's place beyond that of the result
    together: int  # neighbouring phases that have the same places


@dataclass(frozen=True)
class _Axis:
    """An axis that is folded: of the result the places from `low` to `high`, of each phase `count`.

    The phases begin `before` places earlier.
    """

    low: int
    high: int
    before: int
    count: int
    dilation: int
    phases: tuple[_Phase, ...]


def by_phases(node: Node, fold: Folded, kept: Kept | None, columns: int) -> Value | None:
    """A fold with strides in phases, of `kept` alone with zeros around it; None where it is left to other ways.

    `columns` are what each phase has for vectors.
    """
    p = node.params
    if not any(s > 1 for s in p["stride"]) or node.type.size == 0:
        return None
    if any(s > 1 and d > 1 for s, d in zip(p["stride"], p["dilation"], strict=True)):
        return None
    axes = [_axis(node, n, kept, columns >= _FULL) for n in range(len(p["axes"]))]
    pieces = math.prod(len(x.phases) for x in axes)
    if pieces > _MOST or (pieces > 1 and columns < _ENOUGH) or any(x.high <= x.low for x in axes):
        return None
    return _Writer(node, fold, axes).write()


def _axis(node: Node, n: int, kept: Kept | None, full: bool) -> _Axis:
    """`full`: a phase fills vectors alone."""
    p = node.params
    k, s, d, extent = p["size"][n], p["stride"][n], p["dilation"][n], p["extent"][n]
    low, high = kept[p["axes"][n]] if kept is not None else (0, extent)
    if s == 1:
        return _Axis(low, high, 0, high - low, d, (_Phase(0, 1, k, low, 1),))
    if k % s == 0 and (low % s == 0 or not full):
        before = low % s
        phase = _Phase(0, s, k // s, low // s, s)
        return _Axis(low, high, before, -(-(high - low + before) // s), 1, (phase,))
    found = []
    for at in range(low, low + s):
        shift, first = divmod(at, s)
        found.append(_Phase(first, s, max(0, -(-(k - first) // s)), shift, 1))
    return _Axis(low, high, 0, -(-(high - low) // s), 1, tuple(found))


def _reach(axis: _Axis, phase: _Phase) -> int:
    """How many places before the first one of g the terms of the first place of the result begin."""
    return (phase.terms - 1) * axis.dilation - phase.shift


class _Writer:
    """Writes the convolutions of all phases as nodes."""

    def __init__(self, node: Node, fold: Folded, axes: Sequence[_Axis]) -> None:
        self.node, self.fold, self.axes = node, fold, axes
        ndim = node.type.ndim
        free = iter(sorted(set(string.ascii_letters) - set(fold.left + fold.right)))
        self.letters = {n: next(free) for n, s in enumerate(node.params["stride"]) if s > 1}
        by_count = {fold.counts[n]: letter for n, letter in self.letters.items()}
        self.low, high = [0] * fold.a.type.ndim, [0] * fold.a.type.ndim  # zeros around g that some phase reaches
        for n, x in enumerate(axes):
            at = fold.left.index(fold.counts[n])
            found = [phase for phase in x.phases if phase.terms]
            self.low[at] = max(0, *(_reach(x, phase) for phase in found))
            high[at] = max(0, *(x.count + phase.shift - fold.a.type.shape[at] for phase in found))
        self.seen = pad(Traced(fold.a), list(zip(self.low, high, strict=True)))
        self.result = "".join(c + by_count.get(c, "") for c in fold.result[:ndim])

    def write(self) -> Value:
        """The places of all phases, and zeros around them where nobody reads."""
        p, t = self.node.params, self.node.type
        places, start, stop, low, high = list(t.shape), [0] * t.ndim, list(t.shape), [0] * t.ndim, [0] * t.ndim
        for a, s, extent, x in zip(p["axes"], p["stride"], p["extent"], self.axes, strict=True):
            places[a] = x.count * s
            start[a], stop[a] = x.before, x.before + x.high - x.low
            low[a], high[a] = x.low, extent - x.high
        found = reshape(self._joined(()), tuple(places))[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        return pad(found, list(zip(low, high, strict=True)))

    def _joined(self, chosen: tuple[_Phase, ...]) -> Value:
        """What the phases chosen along the first axes give, with all phases along the others."""
        n = len(chosen)
        if n == len(self.axes):
            return self._convolution(chosen)
        made = [self._joined((*chosen, phase)) for phase in self.axes[n].phases]
        return concat(made, self.result.index(self.letters[n])) if len(made) > 1 else made[0]

    def _convolution(self, chosen: Sequence[_Phase]) -> Value:
        """One convolution without strides: of g as far as its windows reach, with the weights of these positions."""
        fold = self.fold
        w: Value = Traced(fold.b)
        letters, within = fold.right, [slice(None)] * self.seen.ndim
        for n, (x, phase) in enumerate(zip(self.axes, chosen, strict=True)):
            at, axis = fold.left.index(fold.counts[n]), letters.index(fold.inside[n])
            first = self.low[at] - _reach(x, phase)
            within[at] = slice(first, first + x.count + (phase.terms - 1) * x.dilation)
            if n in self.letters:
                w, letters = self._of_phase(w, letters, axis, phase, self.letters[n])
        if not w.size:
            counts = dict(zip(fold.counts, (x.count for x in self.axes), strict=True))
            sizes = dict(zip(fold.left + letters, fold.a.type.shape + w.shape, strict=True)) | counts
            return constant_like(w, 0.0, tuple(sizes[c] for c in self.result))
        seen = windows(
            self.seen[tuple(within)], axes=tuple(fold.left.index(c) for c in fold.counts),
            size=tuple(x.terms for x in chosen), stride=(1,) * len(chosen),
            dilation=tuple(x.dilation for x in self.axes),
        )  # fmt: skip
        turned = flip(w, tuple(sorted(letters.index(c) for c in fold.inside)))
        return contract(seen, turned, spec=f"{fold.left}{fold.inside},{letters}->{self.result}")

    def _of_phase(self, w: Value, letters: str, axis: int, phase: _Phase, letter: str) -> tuple[Value, str]:
        """The weights of some phases along an axis, which becomes two: the terms, and the phases that are together."""
        shape, n = w.shape, phase.terms
        if phase.together == 1:
            stop = phase.first + (n - 1) * phase.step + 1 if n else phase.first
            w = w[(slice(None),) * axis + (slice(min(phase.first, stop), stop, phase.step),)]
        w = reshape(w, (*shape[:axis], n, phase.together, *shape[axis + 1 :]))
        return w, letters[: axis + 1] + letter + letters[axis + 1 :]
