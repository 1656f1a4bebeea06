"""Products of channels in groups: several groups side by side in a vector, tiles of neighbouring places in registers.

In a convolution whose channels meet in groups only, down to one channel a group, an axis goes through both operands:

    y[p, q, g, o] = sum over i, j, c of x[p + i, q + j, g, c] w[i, j, c, g, o]

A vector holds whole groups, as many as fit. What an operand has for its lanes lies within a short stretch of memory,
which is read as it lies; its numbers are then put into the order of the lanes, once for each c. A tile has some places
(rows, an axis that moves through a alone) by a few vectors. It takes several steps of the sum at once and goes through
what it reads in order, so that what is read for one place serves all places and steps whose windows have it: where the
channels do not meet at all, that leaves fewer loads than multiply-adds. So it is with the gradients, by the input and
by the weights, of which the places in a window are the rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from backlit.executors.native.balance import shared_axis
from backlit.executors.native.kernels import Nest
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.threads import SHARES
from backlit.executors.native.tiling import is_product, pieces

_WIDE = 4  # vectors at most that the stretch of memory takes from which a vector is made
_ROUND = 16  # steps at once at most
_MOST = 26  # sums in a tile at most
_PART = 16  # bytes of a vector within which numbers are put into order by an instruction that knows it
_NEAR = 32 * 1024  # bytes of the first-level cache
_FAR = 2.2  # times as long as from there takes a load from the second-level one
_CODE = 200  # multiply-adds of a round at most, which are all written out
_STEP = 2.0  # cycles of a round besides,
_RUN = 0.25  # for each place where it begins to read,
_TILE = 6.0  # of a tile besides, and for each of its sums
_SUM = 2.0


@dataclass(frozen=True, kw_only=True)
class Groups(Schedule):
    """How such a product is cut. A tile has up to `rows` of the row axis `cut`, all of `whole`, and a few vectors.

    A vector has `groups` neighbours of the axis `vector`, and for each all `width` of the axis `inside`. A round of the
    sum takes `round` steps of the summed axis `along`, and all of those that come after it.
    """

    a: int  # instructions: the load that rows move through, and the other one
    b: int
    inside: int  # -1: a group has one number of the result
    width: int
    groups: int
    cut: int
    whole: tuple[int, ...]
    rows: int
    vectors: int
    along: int
    round: int
    loops: tuple[int, ...]  # the other axes of the result, outermost first

    @property
    def row_axes(self) -> tuple[int, ...]:
        """The axes of a tile's rows."""
        return (self.cut, *self.whole)


class _Across(NamedTuple):
    """What goes across a vector: so many groups, and all of an axis inside of them."""

    axis: int
    inside: int
    width: int
    groups: int


def groups(nest: Nest, target: Target) -> Groups | None:
    """How to cut the nest; None where it is no product of this kind, or others are as quick."""
    if not is_product(nest) or 0 in nest.space:
        return None
    found = (cut for across in _columns(nest, target) for a in (0, 1) for cut in _cuts(nest, target, across, a))
    best = min(found, key=lambda cut: cut[0], default=None)
    return None if best is None else best[1]


def _columns(nest: Nest, target: Target) -> Iterator[_Across]:
    """Axes of groups: they go through both operands, and in what is stored groups are neighbours."""
    itemsize = nest.prologue[3].dtype.itemsize
    operands = [nest.prologue[k].at.strides for k in (0, 1)]
    stored = [i.at.strides for i in nest.epilogue if i.op == "store"]
    for axis, n in enumerate(nest.space):
        if n < 2 or not all(s[axis] > 0 for s in operands):
            continue
        if all(s[axis] == 1 for s in stored):
            yield _Across(axis, -1, 1, min(target.lanes(itemsize), n))
        for inside, width in enumerate(nest.space):
            steps, count = [s[inside] for s in operands], min(target.lanes(itemsize) // width, n)
            if count < 2 or (count == 2 and width * itemsize > _PART):
                continue
            near = all(0 <= s * (width - 1) < t[axis] for s, t in zip(steps, operands, strict=True))
            if near and 0 in steps and any(steps) and all((s[axis], s[inside]) == (width, 1) for s in stored):
                yield _Across(axis, inside, width, count)


def _cuts(nest: Nest, target: Target, across: _Across, a: int) -> Iterator[tuple[float, Groups]]:
    """All ways to cut the product that come into question, with the cycles for each vector of results and step."""
    axis, inside, width, count = across
    outer, vectors_all, itemsize = len(nest.space), -(-nest.space[axis] // count), nest.prologue[3].dtype.itemsize
    p, q = nest.prologue[a].at.strides, nest.prologue[1 - a].at.strides
    moving = [x for x in range(outer) if x not in (axis, inside) and p[x] and not q[x]]
    extents = [vectors_all if x == axis else n for x, n in enumerate(nest.space)]
    for n, cut in enumerate(moving):
        whole = tuple(moving[n + 1 :])
        fixed = math.prod(nest.space[x] for x in whole)
        if fixed > _MOST:
            continue
        loops = tuple(x for x in range(outer) if x not in (axis, inside, cut, *whole))
        split = shared_axis(nest, (*loops, axis, cut), extents)
        extent = -(-nest.space[cut] // SHARES) if split == cut else nest.space[cut]
        sizes = {pieces(extent, n)[0][1] for n in range(1, min(extent, _MOST // fixed) + 1)}
        for (along, steps), rows in itertools.product(_rounds(nest), sizes):
            own = Groups(
                axis, 1 << (count * width - 1).bit_length(), 1, split, a=a, b=1 - a, inside=inside, width=width,
                groups=count, cut=cut, whole=whole, rows=rows, vectors=1, along=along, round=steps, loops=loops,
            )  # fmt: skip
            stretches = [Stretch.of(nest, own, x) for x in (a, 1 - a)]
            lie = all(x.holds(nest, own, k, target.lanes(itemsize)) for k, x in zip((a, 1 - a), stretches, strict=True))
            if 3 * rows < max(sizes) or not lie:
                continue
            orders, many = sum(x.orders(itemsize) for x in stretches), math.prod(n for n, _ in inner_axes(nest, own))
            down = [(n, r * fixed, _reads(nest, replace(own, rows=r), target)) for n, r in pieces(extent, rows)]
            for vectors in (1, 2, 4):
                sums = rows * fixed * vectors
                held = sums + (many + 2) * vectors + orders + 1
                if vectors > vectors_all or sums * many > _CODE or (held > target.registers and sums * many > 1):
                    break
                far = 2 * nest.steps * vectors * target.vector_bytes > _NEAR
                cycles = sum(
                    n * m * _cycles(r * v, many, nest.steps, reads, v, far)
                    for n, r, reads in down
                    for m, v in pieces(vectors_all, vectors)
                )
                grain = vectors * count if split == axis else 1
                yield cycles / (extent * fixed * vectors_all), replace(own, vectors=vectors, grain=grain)


def _rounds(nest: Nest) -> list[tuple[int, int]]:
    """Axes and how many of their steps make a round."""
    inner, found = 1, list[tuple[int, int]]()
    for x in range(len(nest.space) + len(nest.reduced) - 1, len(nest.space) - 1, -1):
        n = nest.reduced[x - len(nest.space)]
        most = _ROUND // inner
        found += dict.fromkeys((x, pieces(n, m)[0][1]) for m in (most, most // 2, most // 4) if m)
        if n > most:
            break
        inner *= n
    return found


class _Reads(NamedTuple):
    """What a round reads for a column of vectors: runs of memory, their vectors, and those that are put into order."""

    runs: int
    loads: int
    moved: int


def _reads(nest: Nest, cut: Groups, target: Target) -> _Reads:
    full, runs, loads, moved = target.lanes(nest.prologue[3].dtype.itemsize), 0, 0, 0
    for k in (cut.a, cut.b):
        strides, stretch = nest.prologue[k].at.strides, Stretch.of(nest, cut, k)
        rows, steps = ([(n, strides[x]) for n, x in axes] for axes in (outer_axes(nest, cut), inner_axes(nest, cut)))
        starts = found = _distinct(rows, steps)
        if not stretch.is_plain:
            starts = _distinct(*([(n, s) for n, s in axes if abs(s) >= stretch.apart] for axes in (rows, steps)))
            moved += found * stretch.vectors(cut.groups, full)
        runs += starts
        loads += starts * stretch.vectors(cut.groups, full)
    return _Reads(runs, loads, moved)


def _distinct(rows: Sequence[tuple[int, int]], steps: Sequence[tuple[int, int]]) -> int:
    """How many places some rows and steps have together; extents and strides of each."""
    left, found = [(n, abs(s)) for n, s in rows if s], 1
    for n, s in steps:
        if not s:
            continue
        for m, t in left:
            if t % s == 0 and t // abs(s) < n:  # the next row has places of this one
                n += (m - 1) * (t // abs(s))
                left.remove((m, t))
                break
        found *= n
    return found * math.prod(n for n, _ in left)


def _cycles(sums: int, steps: int, all_steps: int, reads: _Reads, vectors: int, far: bool) -> float:
    """Of a tile of so many sums, for each step, by a simple model.

    A load and a multiply-add of a vector a cycle, and a cycle and a half for both a multiply-add and a vector that is
    put into order; four until a sum is ready again.
    """
    many, loads, moved = sums * steps, reads.loads * vectors * (_FAR if far else 1.0), reads.moved * vectors
    cycles = max(many, loads, (2 * many + 2 * moved) / 3, 4 * steps) + _RUN * reads.runs + _STEP
    return cycles / steps + (_TILE + _SUM * sums) / all_steps


def outer_axes(nest: Nest, cut: Groups) -> list[tuple[int, int]]:
    """The axes of a tile's rows, and how many of each."""
    return [(cut.rows, cut.cut), *((nest.space[x], x) for x in cut.whole)]


def inner_axes(nest: Nest, cut: Groups) -> list[tuple[int, int]]:
    """The axes of a round's steps, and how many of each."""
    extents = nest.space + nest.reduced
    return [(cut.round, cut.along), *((extents[x], x) for x in range(cut.along + 1, len(extents)))]


def offsets(nest: Nest, k: int, axes: Sequence[tuple[int, int]]) -> list[int]:
    """How far the place of a load moves for all counters of some axes."""
    strides = (*nest.prologue[k].at.strides, 0)
    return [sum(moves) for moves in itertools.product(*([strides[x] * c for c in range(n)] for n, x in axes))]


@dataclass(frozen=True)
class Stretch:
    """Where the numbers for the lanes of an operand lie: `apart` from group to group, `step` within a group.

    What is asked for lies up to `top` beyond the start of a group, so that it comes from the same stretch of memory.
    """

    apart: int
    step: int
    width: int
    top: int

    @classmethod
    def of(cls, nest: Nest, cut: Groups, k: int) -> Stretch:
        strides = nest.prologue[k].at.strides
        apart, step = strides[cut.vector], strides[cut.inside] if cut.inside >= 0 else 0
        moves = [(n - 1, strides[x]) for n, x in (*outer_axes(nest, cut), *inner_axes(nest, cut))]
        within = sum(n * s for n, s in moves if abs(s) < apart)
        return cls(apart, step, cut.width, within + step * (cut.width - 1))

    @property
    def is_plain(self) -> bool:
        """Whether lanes lie side by side."""
        return self.apart == self.width and (self.width == 1 or self.step == 1)

    def holds(self, nest: Nest, cut: Groups, k: int, full: int) -> bool:
        """Whether all that a round reads lies as is said here, in a few vectors."""
        moves = [nest.prologue[k].at.strides[x] for n, x in (*outer_axes(nest, cut), *inner_axes(nest, cut)) if n > 1]
        if self.is_plain:
            return True
        fits = all(s >= 0 if abs(s) < self.apart else s % self.apart == 0 for s in moves)
        return fits and self.top < self.apart and self.vectors(cut.groups, full) <= _WIDE

    def vectors(self, count: int, full: int) -> int:
        """How many vectors the stretch for so many groups takes."""
        return 1 if self.is_plain else -(-self.length(count) // full)

    def orders(self, itemsize: int) -> int:
        """How many registers say in which order a vector's numbers are."""
        return 0 if self.is_plain or self.apart * itemsize == _PART == self.width * itemsize else self.top + 1

    def start(self, offset: int) -> int:
        """Where the stretch begins from which a vector at this offset is made."""
        return offset - offset % self.apart

    def length(self, count: int) -> int:
        """Of the stretch for so many groups."""
        return self.apart * (count - 1) + self.top + 1

    def order(self, offset: int, count: int) -> list[int]:
        """For each lane of so many groups its place in the stretch."""
        return [offset % self.apart + self.apart * g + self.step * o for g in range(count) for o in range(self.width)]
