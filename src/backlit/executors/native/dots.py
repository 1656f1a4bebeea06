"""Products whose operands lie side by side along what is summed: tiles of dot products, in registers.

No axis of the result goes through an operand by neighbours, but a summed one goes through both: the gradient of weights
whose batch comes last, dw[i, c, k] = sum over y, x, n of x[y + i, x, c, n] g[y, x, k, n]; g wT for a few rows of g; a
matrix times a vector. A tile of some rows (an axis that moves through a alone) by some columns (through b alone) keeps
a vector of partial sums for each pair; a step loads rows + columns vectors for rows times columns multiply-adds. At the
end the lanes of each are added up, those of a row's columns together, which gives a vector of results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backlit.executors.native.balance import shared_axis
from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import Nest
from backlit.executors.native.nest import NestWriter, Point
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import crowded, is_product, pieces
from backlit.executors.native.value import Value
from backlit.executors.native.vectors import narrowed

_STEP = 0.5  # cycles of a step besides its loads and multiply-adds
_ACROSS = 6.0  # cycles until the lanes of a row's first sums are added up and stored
SUM = 1.4  # cycles of each sum for that, beside its multiply-adds
_MOST = 8  # rows, or columns, of a tile: what is gone through side by side in memory should be asked for ahead
SHORT = 4  # numbers in a sum, below which vectors are mostly empty
_LEAST = 4  # results of a matrix times a vector that are worth a tile: as many sums as can be made at once


@dataclass(frozen=True, kw_only=True)
class Dots(Schedule):
    """How such a product is cut. A tile has up to `rows` of the axis `across` and `columns` of the axis `vector`.

    `across` moves through the load a, `vector` through b. There are no more rows than columns; where a matrix is
    multiplied by a vector there are none, `across` is -1.
    """

    a: int
    b: int
    summed: int  # the axis whose partial sums are vectors
    across: int
    rows: int
    columns: int
    loops: tuple[int, ...]  # the other axes of the result, outermost first
    columns_first: bool  # they are more than the rows: each of them is read once, by all rows
    cycles: float  # of all tiles, by a simple model


def dots(nest: Nest, target: Target) -> Dots | None:
    """How to cut the nest; None where it is no product of this kind."""
    if not is_product(nest) or 0 in nest.space:
        return None
    outer, extents = range(len(nest.space)), nest.space + nest.reduced
    strides = [nest.prologue[k].at.strides for k in (0, 1)]
    size = nest.prologue[3].dtype.itemsize
    inner = [x for x in range(len(nest.space), len(extents)) if all(s[x] == 1 for s in strides)]
    vector = max(inner, key=lambda x: extents[x], default=-1)
    if vector < 0 or extents[vector] < SHORT:
        return None
    lanes = narrowed(target.lanes(size), extents[vector])
    vectors = nest.steps // extents[vector] * -(-extents[vector] // lanes)
    alone = [[x for x in outer if strides[k][x] and not strides[1 - k][x] and extents[x] > 1] for k in (0, 1)]
    best: tuple[tuple[float, bool], tuple[int, ...]] | None = None
    pairs = [(a, 1 - a, x, y) for a in (0, 1) for x in alone[a] or [-1] for y in alone[1 - a]]
    for a, b, x, y in pairs:
        if x < 0 and extents[y] < _LEAST:
            continue
        high, wide = extents[x] if x >= 0 else 1, extents[y]
        gaps = abs(strides[a][x]) * size if x >= 0 else 0, abs(strides[b][y]) * size
        apart = any(i.op == "store" and i.at.strides[y] != 1 for i in nest.epilogue)
        for rows in range(min(2, high), min(high, _MOST) + 1):
            for columns in range(max(2, rows), min(wide, _MOST) + 1):
                if rows * columns + rows + 1 > target.registers:
                    break
                cycles = sum(
                    n * m * _cycles(r, c, vectors, lanes, gaps)
                    for n, r in pieces(high, rows)
                    for m, c in pieces(wide, columns)
                )
                rank = cycles / (high * wide), apart
                if best is None or rank < best[0]:
                    best = rank, (a, b, x, y, rows, columns)
    if best is None:
        return None
    (cost, _), (a, b, x, y, rows, columns) = best
    loops = tuple(z for z in outer if z not in (x, y))
    columns_first = x < 0 or extents[y] > extents[x]
    split = shared_axis(nest, (*loops, y if columns_first else x), nest.space)
    return Dots(
        y, lanes, 1, split, a=a, b=b, summed=vector, across=x, rows=rows, columns=columns, loops=loops,
        columns_first=columns_first, cycles=cost * nest.points,
    )  # fmt: skip


def _cycles(rows: int, columns: int, vectors: int, lanes: int, gaps: tuple[int, int]) -> float:
    """Of a tile whose rows and columns lie so many bytes apart: a load and a multiply-add a cycle, four until a sum is
    ready again. A line that two steps share is read twice."""
    missed = sum(crowded(n, gap) for n, gap in zip((rows, columns), gaps, strict=True))
    step = max(rows * columns, rows + columns, 4.0) + _STEP + missed
    return vectors * step + _ACROSS * rows * -(-columns // lanes)


class DotWriter(NestWriter):
    """Writes such a product."""

    def __init__(self, f: Function, nest: Nest, cut: Dots, lengths: Sequence[int]) -> None:
        super().__init__(f, nest, cut, lengths)
        self.cut = cut
        self.dtype = nest.prologue[3].dtype
        self.inner.sort(key=lambda axis: axis == cut.summed)  # that one is the innermost

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)
        self._around(self.cut.loops, here, self._tiles)

    def _tiles(self, here: Point) -> None:
        """All tiles."""
        cut = self.cut
        if cut.across < 0:
            self._each(cut.vector, here, cut.columns, lambda at, columns: self._tile(at, 1, columns))
            return
        order = [(cut.across, cut.rows), (cut.vector, cut.columns)]
        (outer, many), (inner, most) = reversed(order) if cut.columns_first else order

        def line(at: Point, n: int) -> None:
            self._each(inner, at, most, lambda at, m: self._tile(at, *((m, n) if cut.columns_first else (n, m))))

        self._each(outer, here, many, line)

    def _each(self, axis: int, here: Point, most: int, body: Callable[[Point, int], None]) -> None:
        self._in_pieces(axis, here, most, body, f"i{axis}")

    def _tile(self, here: Point, rows: int, columns: int) -> None:
        """The sums of one tile, then the epilogue on vectors of them."""
        f, cut = self.f, self.cut
        f.comment(f"tile of {rows} x {columns} dot products")
        zero = f.const(0.0, self.dtype, cut.lanes)
        totals = self._sums(0, here, rows, columns, [zero] * (rows * columns))
        for r in range(rows):
            row = self._moved(here, cut.across, r) if cut.across >= 0 else here
            for first in range(0, columns, cut.lanes):
                n = min(cut.lanes, columns - first)
                with f.naming("sum"):
                    found = added_up(totals[r * columns + first : r * columns + first + n])
                at = self._moved(row, cut.vector, first)
                at.lanes, at.mask = found.lanes, f.first(found.lanes, n) if n < found.lanes else None
                at.values[3] = found
                self._evaluate_epilogue(at)

    def _moved(self, here: Point, axis: int, n: int) -> Point:
        """So much further on along an axis."""
        new = self._enter(here, axis, self.f.index(n))
        new.counters[axis] = here.counters[axis] + n
        return new

    def _sums(self, depth: int, here: Point, rows: int, columns: int, sums: Sequence[Value]) -> list[Value]:
        """The loops over the summed axes, from `depth` on; the one in vectors is the innermost."""
        axis = self.inner[depth]
        n, w = self.extents[axis], self.cut.lanes
        if axis != self.cut.summed:
            return self.f.loop(
                0, n, 1, lambda i, *s: self._sums(depth + 1, self._enter(here, axis, i), rows, columns, s), sums,
                f"k{axis}",
            )  # fmt: skip

        def step(i: Value, *s: Value, count: int = w) -> list[Value]:
            return self._step(self._enter(here, axis, i), rows, columns, s, count)

        found = self.f.loop(0, n - n % w, w, step, sums, f"k{axis}")
        return step(self.f.index(n - n % w), *found, count=n % w) if n % w else found

    def _step(self, here: Point, rows: int, columns: int, sums: Sequence[Value], count: int) -> list[Value]:
        """One vector of each row and column, of which the first `count` numbers are there; their products."""
        f, cut = self.f, self.cut
        mask = f.first(cut.lanes, count) if count < cut.lanes else None

        def loaded(k: int, axis: int, n: int) -> Value:
            step = self.everything[k].at.strides[axis] if axis >= 0 else 0
            return f.load(here.pointers[k].at(n * step, self.dtype), self.dtype, cut.lanes, mask)

        with f.naming("a"):
            a = [loaded(cut.a, cut.across, r) for r in range(rows)]
        made = list(sums)
        for c in range(columns):
            with f.naming("b"):
                b = loaded(cut.b, cut.vector, c)
            with f.naming("sum"):
                made[c::columns] = [f.fma(x, b, total) for x, total in zip(a, sums[c::columns], strict=True)]
        return made


def added_up(sums: Sequence[Value]) -> Value:
    """The lanes of each of some vectors added up, halves with halves: a vector with a lane for each sum, or more.

    Halves of two vectors fill one, then quarters of four, and so on, so that the additions of all are done at once.
    """
    vectors, size = list(sums), sums[0].lanes
    while size > 1:
        size //= 2
        many = len(vectors) > 1
        if many and len(vectors) % 2:
            vectors.append(vectors[-1])
        pairs = zip(vectors[::2], vectors[1::2], strict=True) if many else [(vectors[0], None)]
        low, high = ([k for k in range((1 + many) * vectors[0].lanes) if k // size % 2 == half] for half in (0, 1))
        vectors = [x.shuffled(low, y) + x.shuffled(high, y) for x, y in pairs]
    return vectors[0]
