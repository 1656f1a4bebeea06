"""Code for a Nest that is a product of channels in groups (`groups`): tiles whose sums stay in registers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from backlit.executors.native.builder import Function
from backlit.executors.native.groups import Groups, Stretch, inner_axes, offsets, outer_axes
from backlit.executors.native.kernels import Instruction, Nest
from backlit.executors.native.nest import NestWriter, Point
from backlit.executors.native.tiling import pieces
from backlit.executors.native.value import Value


class GroupWriter(NestWriter):
    """Writes such a product."""

    def __init__(self, f: Function, nest: Nest, cut: Groups, lengths: Sequence[int]) -> None:
        super().__init__(f, nest, cut, lengths)
        self.cut = cut
        self.dtype = nest.prologue[3].dtype
        self.full = f.module.target.lanes(self.dtype.itemsize)
        self.looped = self._is_long()
        if self.looped:
            sums = math.prod(n for n, _ in outer_axes(nest, cut)) * cut.vectors
            self.slot = f.slot(self.dtype, sums * cut.lanes, "tile")

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)
        self._around(self.cut.loops, here, self._columns)

    def _lane_steps(self, i: Instruction, lanes: int) -> list[int]:
        cut, strides = self.cut, i.at.strides
        inside = strides[cut.inside] if cut.inside >= 0 else 0
        return [strides[cut.vector] * (n // cut.width) + inside * (n % cut.width) for n in range(lanes)]

    # --- tiles

    def _columns(self, here: Point) -> None:
        """All blocks of vectors."""
        self._along(self.cut.vector, lambda low, n: self._blocks(here, low, n))

    def _blocks(self, here: Point, low: Value, n: int) -> None:
        """Blocks of n groups from `low` on; of the last one the last vector may have fewer."""
        count, first = self.cut.groups, 0
        total, rest = -(-n // count), n % count
        for many, vectors in pieces(total, self.cut.vectors):
            whole = many - 1 if rest and first + many * vectors == total else many

            def block(i: Value, vectors: int = vectors, start: int = first, last: int = count) -> None:
                self._rows(self._enter(here, self.cut.vector, low + (i * vectors + start) * count), vectors, last)

            self.f.loop(0, whole, 1, block, name="column")
            if whole < many:
                block(self.f.index(whole), last=rest)
            first += many * vectors

    def _rows(self, here: Point, vectors: int, last: int) -> None:
        """All tiles of a block."""
        cut = self.cut
        self._in_pieces(cut.cut, here, cut.rows, lambda at, rows: self._tile(at, rows, vectors, last), "row")

    def _vector(self, groups: int) -> tuple[int, Value | None]:
        """Lanes and mask of a vector of so many groups."""
        return self.f.last(groups * self.cut.width)

    def _tile(self, here: Point, rows: int, vectors: int, last: int) -> None:
        """The sums of a tile, of which the last vectors have so many groups, then the epilogue on them."""
        f = self.f
        have = [self.cut.groups] * (vectors - 1) + [last]
        cut = replace(self.cut, rows=rows)
        places = list(itertools.product(*(range(n) for n, _ in outer_axes(self.nest, cut))))
        f.comment(f"tile of {len(places)} x {vectors} vectors of groups")
        zero = [f.const(0.0, self.dtype, self._vector(n)[0]) for n in have]
        sums = self._sums(len(self.nest.space), here, cut, have, zero * len(places))
        if self.looped and len(places) > 1:
            self._looped_epilogue(here, rows, have, sums)
            return
        shared: dict[int, dict[int, Value]] = {}
        for r, counters in enumerate(places):
            for v, n in enumerate(have):
                point = self._point(here, counters, v, n)
                point.values |= shared.get(v, {}) | {3: sums[r * vectors + v]}
                self._evaluate_epilogue(point)
                if r == 0:
                    shared[v] = {k: x for k, x in point.values.items() if self._is_same(k, self.cut.row_axes)}

    def _looped_epilogue(self, here: Point, rows: int, have: Sequence[int], sums: Sequence[Value]) -> None:
        """The epilogue row by row, on sums that are stored first: code for each of them would be long."""
        f, cut = self.f, self.cut
        for n, s in enumerate(sums):
            f.store(s, self.slot.at(n * cut.lanes, self.dtype))

        def line(axes: Sequence[tuple[int, int]], counters: Sequence[Value], place: Value) -> None:
            if axes:
                (_, n), *rest = axes
                f.loop(0, n, 1, lambda i: line(rest, [*counters, i], place * n + i), name="tile_row")
                return
            for v, n in enumerate(have):
                point = self._point(here, counters, v, n)
                total = self.slot.at((place * len(have) + v) * cut.lanes, self.dtype)
                point.values[3] = f.load(total, self.dtype, point.lanes)
                self._evaluate_epilogue(point)

        line([(cut.cut, rows), *((x, self.extents[x]) for x in cut.whole)], [], f.index(0))

    def _point(self, here: Point, counters: Sequence[int | Value], vector: int, groups: int) -> Point:
        """The place of one vector of one row of the tile."""
        cut, new = self.cut, here.copy()
        new.lanes, new.mask = self._vector(groups)
        moves = [*zip(cut.row_axes, counters, strict=True), (cut.vector, vector * cut.groups)]
        for axis, c in moves:
            new.counters[axis] = new.counters.get(axis, self.f.index(0)) + c
        if cut.inside >= 0:
            new.counters[cut.inside] = self.f.index(0)
        for k in range(len(self.nest.prologue), len(self.everything)):
            i = self.everything[k]
            if k in here.pointers:
                for axis, c in moves:
                    new.pointers[k] = new.pointers[k].at(c * i.at.strides[axis], self.nest.arguments[i.argument])
        return new

    # --- sums

    def _sums(self, axis: int, here: Point, cut: Groups, have: Sequence[int], sums: Sequence[Value]) -> list[Value]:
        """The loops over the summed axes, from this one on."""
        n, f = self.extents[axis], self.f
        if axis != cut.along:
            return f.loop(
                0, n, 1, lambda i, *s: self._sums(axis + 1, self._enter(here, axis, i), cut, have, s), sums,
                f"k{axis}",
            )  # fmt: skip
        start = 0
        for count, size in pieces(n, cut.round):

            def turn(i: Value, *s: Value, size: int = size, first: int = start) -> list[Value]:
                return self._round(self._enter(here, axis, i * size + first), replace(cut, round=size), have, s)

            sums = f.loop(0, count, 1, turn, sums, f"k{axis}")
            start += count * size
        return list(sums)

    def _round(self, here: Point, cut: Groups, have: Sequence[int], sums: Sequence[Value]) -> list[Value]:
        """Some steps, in the order in which a is read.

        Rows that read nothing in common take turns, since their sums need not wait for one another.
        """
        f, nest, made = self.f, self.nest, list(sums)
        rows, steps = outer_axes(nest, cut), inner_axes(nest, cut)
        reach, strides = max(offsets(nest, cut.a, steps)), nest.prologue[cut.a].at.strides
        near = offsets(nest, cut.a, [(n, x) if abs(strides[x]) <= reach else (n, -1) for n, x in rows])
        moves = offsets(nest, cut.a, steps)
        order = sorted((r + u, k, n) for n, r in enumerate(near) for k, u in enumerate(moves))
        by_row = [offsets(nest, k, rows) for k in (cut.a, cut.b)]
        by_step = [offsets(nest, k, steps) for k in (cut.a, cut.b)]
        first, second = (self._reader(here, k, cut, have) for k in (cut.a, cut.b))
        for _, u, r in order:
            for v in range(len(have)):
                with f.naming("a"):
                    x = first(by_row[0][r] + by_step[0][u], v)
                with f.naming("b"):
                    y = second(by_row[1][r] + by_step[1][u], v)
                with f.naming("sum"):
                    made[r * len(have) + v] = f.fma(x, y, made[r * len(have) + v])
        return made

    def _reader(self, here: Point, k: int, cut: Groups, have: Sequence[int]) -> Callable[[int, int], Value]:
        """What gives the vector of an operand at an offset, each number read once."""
        f, stretch = self.f, Stretch.of(self.nest, cut, k)
        read: dict[tuple[int, int], list[Value]] = {}
        ordered: dict[tuple[int, int], Value] = {}

        def place(offset: int, v: int) -> Value:
            return here.pointers[k].at(offset + v * cut.groups * stretch.apart, self.dtype)

        def memory(start: int, v: int) -> list[Value]:
            """The stretch from `start` on, in vectors."""
            if (start, v) not in read:
                length = stretch.length(have[v])
                many = range(0, length, self.full)
                read[start, v] = [
                    f.load(place(start + n, v), self.dtype, *self._part(length - n, len(many) > 1)) for n in many
                ]
            return read[start, v]

        def vector(offset: int, v: int) -> Value:
            if (offset, v) not in ordered:
                if stretch.is_plain:
                    ordered[offset, v] = f.load(place(offset, v), self.dtype, *self._vector(have[v]))
                else:
                    lanes = self._vector(have[v])[0]
                    order = stretch.order(offset, have[v])
                    order += [order[-1]] * (lanes - len(order))
                    ordered[offset, v] = picked(memory(stretch.start(offset), v), order)
            return ordered[offset, v]

        return vector

    def _part(self, count: int, wide: bool) -> tuple[int, Value | None]:
        """Lanes and mask of a load of what is left of a stretch; `wide`: of one that takes several vectors."""
        if count >= self.full:
            return self.full, None
        return (self.full, self.f.first(self.full, count)) if wide else self.f.last(count)


def picked(vectors: Sequence[Value], order: Sequence[int]) -> Value:
    """These numbers of some vectors of equal length, counted through all of them."""
    size, lanes = vectors[0].lanes, len(order)
    if lanes == 1 or size == 1:
        return vectors[order[0] // size].lane(order[0] % size).splat(lanes)
    while len(vectors) > 2:
        pairs = []
        for n in range(0, len(vectors), 2):
            first, *other = vectors[n : n + 2]
            inside = [k - n * size if 0 <= k - n * size < (1 + len(other)) * size else 0 for k in order]
            pairs.append(first.shuffled(inside, *other))
        order = [k // (2 * size) * lanes + lane for lane, k in enumerate(order)]
        vectors, size = pairs, lanes
    return vectors[0].shuffled(order, *vectors[1:])
