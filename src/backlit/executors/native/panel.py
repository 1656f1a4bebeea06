"""Panels: blocks of columns of a product's operand b, a part of its steps long, copied side by side before all rows use
them.

There are two reasons. Rows of b whose distance is a multiple of a page all fall on the same few lines of a cache, which
drop one another. And where no axis of the result goes through b by neighbours, as in g wT, whose columns are the rows
of w, there are no vectors to load until b is turned: squares are turned in registers on their way into the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backlit.executors.native.builder import Function
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Dtype
from backlit.executors.native.transpose import turn
from backlit.executors.native.value import Value

PAGE = 4096  # bytes; the first-level cache has a line for each address within a page, some times over
_CACHE = 1024 * 1024  # bytes that rows lie apart in, in all, until they drop one another
_PANEL = 256 * 1024  # bytes of a panel, and of the sums of all rows by its columns
_WIDTH = 256  # bytes of a panel's row at most
_MANY = 48  # rows that make such a copy worth its cost
_FEW = 16  # columns, and steps, below which squares are mostly empty


def turned_operand(space: Sequence[int], reduced: Sequence[int], places: Sequence[Affine], dtype: Dtype) -> int | None:
    """Which operand of a product is turned on its way into panels, if one is.

    The last axis of the result must be its columns, and the steps of the sum its neighbours.
    """
    if dtype.kind != "f" or dtype.itemsize < 4 or len(reduced) != 1 or len(space) < 2:
        return None
    if min(space[-1], reduced[0]) < _FEW:
        return None
    column, inner = len(space) - 1, len(space)
    for b in (0, 1):
        mine, other = places[b].strides, places[1 - b].strides
        if other[column] or mine[column] <= 1 or mine[inner] != 1:
            continue
        rows = [x for x in range(column) if not mine[x]]
        if not rows or not all(other[x] for x in rows):
            continue
        many = space[rows[-1]]
        for x, y in zip(rows[-2::-1], rows[:0:-1], strict=True):  # axes that will be one
            if y != x + 1 or other[x] != other[y] * space[y]:
                break
            many *= space[x]
        if many >= _MANY and min(many, reduced[0]) * _WIDTH <= _PANEL:
            return b
    return None


def steps_of_panel(steps: int, rows: int, apart: int, width: int, turned: bool) -> int:
    """How many steps' rows of a block of b, `width` bytes each and `apart` in memory, make a panel; 0: there are none.

    The copy is worth it where many tiles use it. A long sum is cut into parts whose panels stay in the cache.
    """
    if not turned and (rows < _MANY or apart % PAGE or apart * steps <= _CACHE):
        return 0
    parts = -(-steps * width // _PANEL)
    grain = _FEW if turned else 4
    size = -(-steps // (grain * parts)) * grain
    return size if turned or parts == 1 or rows * width <= _PANEL else 0


@dataclass(frozen=True)
class Panel:
    """Room for a panel at `place`. In b, a step leads `step` elements on, a column `column`: one of them is 1."""

    f: Function
    place: Value
    dtype: Dtype
    lanes: int
    step: int
    column: int

    def pack(self, source: Value, steps: int, vectors: int, columns: int) -> None:
        """Copy so many columns of b; what is outside of them becomes 0."""
        f, lanes, width = self.f, self.lanes, vectors * self.lanes
        counts = [min(lanes, columns - v * lanes) for v in range(vectors)]

        def row(k: Value) -> None:
            for v, n in enumerate(counts):
                mask = f.first(lanes, n) if n < lanes else None
                value = f.load(source.at(k * self.step + v * lanes, self.dtype), self.dtype, lanes, mask)
                f.store(value, self.place.at(k * width + v * lanes, self.dtype))

        def squares(k: Value, high: int = lanes) -> None:
            for v, n in enumerate(counts):
                name = turn(f.module, self.dtype, lanes, n, high)
                there = self.place.at(k * width + v * lanes, self.dtype)
                here = source.at(k + v * lanes * self.column, self.dtype)
                f.invoke(name, [here, f.index(self.column), there, f.index(width)])

        if self.column == 1:
            f.loop(0, steps, 1, row, name="pack")
            return
        whole = steps - steps % lanes
        f.loop(0, whole, lanes, squares, name="pack")
        if whole < steps:
            squares(f.index(whole), steps - whole)

    def runs(self, steps: int, vectors: int) -> int:
        """How many runs of `vectors` vectors of neighbours a panel consists of in b."""
        width = vectors * self.lanes
        return steps if self.column == 1 else width * -(-steps // width)

    def run(self, source: Value, n: Value, steps: int, vectors: int) -> Value:
        """Where run n of a panel starts in b."""
        if self.column == 1:
            return source.at(n * self.step, self.dtype)
        width = vectors * self.lanes
        each = -(-steps // width)
        return source.at(n // each * self.column + n % each * width, self.dtype)
