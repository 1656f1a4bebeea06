"""Products whose operands lie side by side along what is summed: tiles of dot products, in registers.

No axis of the result goes through an operand by neighbours, but a summed one goes through both: the gradient of weights
whose batch comes last, dw[i, c, k] = sum over y, x, n of x[y + i, x, c, n] g[y, x, k, n]. A tile of some rows (an axis
that moves through a alone) by some columns (through b alone) keeps a vector of partial sums for each pair; a step loads
rows + columns vectors for rows times columns multiply-adds. At the end the lanes of each are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import Nest
from backlit.executors.native.nest import NestWriter, Point, Schedule, schedule
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import is_product, pieces, tiling
from backlit.executors.native.value import Value

_STEP = 0.5  # cycles of a step besides its loads and multiply-adds
_ACROSS = 8.0  # cycles that the lanes of one sum take to be added up


@dataclass(frozen=True)
class Dots:
    """How such a product is cut. A tile has up to `rows` of the axis `across` and `columns` of `down`.

    `across` moves through a, the first load, `down` through b, the second one.
    """

    vector: int  # the summed axis that is cut into vectors
    lanes: int
    across: int
    down: int
    rows: int
    columns: int
    loops: tuple[int, ...]  # the other axes of the result, outermost first

    @property
    def split(self) -> int:
        """The axis that threads share: the outermost plain loop, else the rows."""
        return self.loops[0] if self.loops else self.across


@lru_cache(maxsize=4096)
def dots(nest: Nest, target: Target) -> Dots | None:
    """How to cut the nest; None where it is no product of this kind."""
    if not is_product(nest) or 0 in nest.space or tiling(nest, target) is not None:
        return None
    outer, extents = range(len(nest.space)), nest.space + nest.reduced
    a, b = (nest.prologue[k].at.strides for k in (0, 1))
    plan = schedule(nest, target)
    if plan.vector not in range(len(nest.space), len(extents)) or (a[plan.vector], b[plan.vector]) != (1, 1):
        return None
    vectors = nest.steps // extents[plan.vector] * -(-extents[plan.vector] // plan.lanes)
    best: tuple[float, int, int, int, int] | None = None
    for x in (x for x in outer if a[x] and not b[x] and extents[x] > 1):
        for y in (y for y in outer if b[y] and not a[y] and extents[y] > 1):
            for rows in range(2, extents[x] + 1):
                for columns in range(2, extents[y] + 1):
                    if rows * columns + min(rows, columns) + 1 > target.registers:
                        break
                    cost = sum(
                        n * m * _cycles(r, c, vectors)
                        for n, r in pieces(extents[x], rows)
                        for m, c in pieces(extents[y], columns)
                    )
                    found = (cost / (extents[x] * extents[y]), x, y, rows, columns)
                    best = found if best is None else min(best, found)
    if best is None:
        return None
    _, x, y, rows, columns = best
    loops = tuple(z for z in outer if z not in (x, y))
    return Dots(plan.vector, plan.lanes, x, y, rows, columns, loops)


def _cycles(rows: int, columns: int, vectors: int) -> float:
    """Of a tile: a load and a multiply-add a cycle, four until a sum is ready again."""
    return vectors * (max(rows * columns, rows + columns, 4.0) + _STEP) + _ACROSS * rows * columns


class DotWriter(NestWriter):
    """Writes such a product."""

    def __init__(self, f: Function, nest: Nest, cut: Dots, lengths: Sequence[int]) -> None:
        super().__init__(f, nest, Schedule(cut.vector, cut.lanes, 1, cut.split), lengths)
        self.cut = cut
        self.dtype = nest.prologue[3].dtype

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)
        self._around(self.cut.loops, here, self._rows)

    def _rows(self, here: Point) -> None:
        """All tiles; of each length that a share may have."""
        cut = self.cut
        if cut.across != cut.split:
            self._tiles(here, self.f.index(0), self.extents[cut.across])
        else:
            self._of_any(lambda length: self._tiles(here, self.begin, length))

    def _tiles(self, here: Point, low: Value, length: int) -> None:
        cut = self.cut

        def each(axis: int, low: Value, n: int, most: int, here: Point, body: Callable[[Point, int], None]) -> None:
            start = 0
            for count, size in pieces(n, most):

                def one(i: Value, size: int = size, first: int = start) -> None:
                    body(self._enter(here, axis, low + (i * size + first)), size)

                self.f.loop(0, count, 1, one, name=f"i{axis}")
                start += count * size

        def row(here: Point, rows: int) -> None:
            zero, n = self.f.index(0), self.extents[cut.down]
            each(cut.down, zero, n, cut.columns, here, lambda at, columns: self._tile(at, rows, columns))

        each(cut.across, low, length, cut.rows, here, row)

    def _tile(self, here: Point, rows: int, columns: int) -> None:
        """The sums of one tile, then the epilogue on each of them."""
        self.f.comment(f"tile of {rows} x {columns} dot products")
        zero = self.f.const(0.0, self.dtype, self.cut.lanes)
        totals = self._sums(len(self.outer), here, rows, columns, [zero] * (rows * columns))
        for k, total in enumerate(totals):
            r, c = divmod(k, columns)
            at = self._enter(self._moved(here, self.cut.across, r), self.cut.down, self.f.index(c))
            at.counters = dict(here.counters)
            at.counters[self.cut.across] = here.counters[self.cut.across] + r
            at.counters[self.cut.down] = here.counters[self.cut.down] + c
            at.values[3] = self._across("sum", total)
            self._evaluate(at, len(self.outer), prologue_too=False, last=True)

    def _moved(self, here: Point, axis: int, n: int) -> Point:
        return self._enter(here, axis, self.f.index(n))

    def _sums(self, depth: int, here: Point, rows: int, columns: int, sums: Sequence[Value]) -> list[Value]:
        """The loops over the summed axes, from `depth` on; the one in vectors is the innermost."""
        axis = self.order[depth]
        n, w = self.extents[axis], self.cut.lanes
        if axis != self.cut.vector:
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

        def loaded(k: int, axis: int, n: int) -> list[Value]:
            step = self.everything[k].at.strides[axis]
            return [f.load(here.pointers[k].at(i * step, self.dtype), self.dtype, cut.lanes, mask) for i in range(n)]

        with f.naming("a"):
            a = loaded(0, cut.across, rows)
        with f.naming("b"):
            b = loaded(1, cut.down, columns)
        with f.naming("sum"):
            return [f.fma(x, y, sums[r * columns + c]) for r, x in enumerate(a) for c, y in enumerate(b)]
