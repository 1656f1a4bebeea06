"""How a Nest that is a product of matrices is cut into tiles: a choice made of shapes and strides alone, as data.

One axis of the result, `columns`, goes through b by neighbours and leaves a where it is; it is cut into vectors. It is
the one that fills them best, although its numbers may be stored apart from one another, if the sum is long.
Others, the rows, move through a only. Every shape is known, so the columns, and the rows of a thread's share, are cut
into tiles of nearly equal size and no tile needs a test; only the last vector of a row may be partly outside, under a
mask.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, TypeAlias

from backlit.executors.native.balance import shared_axis
from backlit.executors.native.kernels import Nest, Winograd
from backlit.executors.native.panel import PAGE, steps_of_panel, turned_operand
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.threads import SHARES
from backlit.executors.native.vectors import LINE, filled, narrowed

_CACHE = 512 * 1024  # bytes of the second-level cache that a product may count on
_WAYS = 7  # times over that it has one, but for one that is left to b's vectors
_MISS = 1.5  # cycles that a line which was dropped from the first-level cache costs
_FEW = 4  # rows that have as many vectors in a tile as there is room for: memory is gone through in long runs
_BLOCKS = 8  # blocks of columns that threads can share well
_SCATTERED = 1.3  # cycles for each number of a vector that does not lie side by side in memory
_BESIDE = 4  # vectors that more rows have
_WHOLE = 6  # rows that an inner axis has at most, all of which are in a tile with those of another one
_BETTER = 0.9  # of the time by the axis that is stored side by side, for which another one is taken
_HEAVY = 10_000_000  # multiply-adds that take far longer than a barrier,
_SHARED = 1 << 16  # and those of a few rows, which wait for b's memory, that take longer than one
_NEAR = 16 * 1024  # bytes of b that stay in the first-level cache with what else a tile needs

Pieces: TypeAlias = tuple[tuple[int, int], ...]
"""How many of which size."""


@dataclass(frozen=True, kw_only=True)
class Tiling(Schedule):
    """How a product is cut: the axis of columns, the axes of rows (inner ones last), and the tile.

    A tile has all of `whole` (the innermost row axes) and up to `rows` of the row axis `cut`.
    """

    a: int  # instructions: the load that is broadcast and the load that is a vector
    b: int
    cut: int  # -1: there are no rows
    whole: tuple[int, ...]
    rows: int
    vectors: int
    loops: tuple[int, ...]  # the axes of the result that are plain loops, outermost first
    outside: bool  # the outermost inner axis is a loop around all tiles, since what the others read leaves the cache
    part: int  # steps of b's panels; 0: there are none
    row_by_row: bool  # a tile's rows go through all columns before the next ones: all of b stays near

    @property
    def columns(self) -> int:
        """The axis that is cut into vectors."""
        return self.vector

    @property
    def row_axes(self) -> tuple[int, ...]:
        """The axes of a tile's rows."""
        return (self.cut, *self.whole) if self.cut >= 0 else self.whole

    @property
    def by_columns(self) -> bool:
        """Whether threads share the columns, so that each reads only its part of b."""
        return self.split == self.columns


def is_product(nest: Nest) -> bool:
    """Whether the nest is a sum, not an empty one, of products of two values that lie in memory."""
    if isinstance(nest, Winograd) or not nest.reduced or 0 in nest.reduced:
        return False
    if [i.op for i in nest.prologue] != ["load", "load", "multiply", "sum"]:
        return False
    dtype = nest.prologue[3].dtype
    return dtype.kind == "f" and dtype.itemsize >= 4


def tiling(nest: Nest, target: Target) -> Tiling | None:
    """How to cut the nest; None where it is no product, or has no axis of columns."""
    if not is_product(nest):
        return None
    itemsize = nest.prologue[3].dtype.itemsize
    chosen = _columns(nest, target.lanes(itemsize))
    if chosen is None:
        return None
    b, columns = chosen.b, chosen.axis
    lanes = narrowed(target.lanes(itemsize), nest.space[columns])
    tile = _tile(nest, chosen, lanes, target.registers)
    extent, width = nest.space[tile.cut] if tile.cut >= 0 else 1, tile.vectors * lanes
    matrices = not tile.whole and not tile.loops and tile.cut >= 0  # rows by columns, no other axis
    part = 0
    if (matrices and len(nest.reduced) == 1) or chosen.turned:
        apart = abs(nest.prologue[b].at.strides[len(nest.space)]) * itemsize
        part = steps_of_panel(nest.steps, extent, apart, width * itemsize, chosen.turned)
    heavy = nest.points * nest.steps > _HEAVY and nest.space[columns] >= 2 * extent
    large = matrices and (heavy or (part > 0 and not chosen.turned))  # b is: each thread reads its own part only
    split, grain = (columns, width) if large and nest.space[columns] >= _BLOCKS * width else (tile.split, 1)
    if split < 0 and nest.points * nest.steps >= _SHARED and nest.space[columns] >= SHARES * lanes:
        split, grain = columns, lanes
    outside = _outside(nest, itemsize, columns)
    near = nest.steps * nest.space[columns] * itemsize <= _NEAR and not part and not outside
    return Tiling(
        columns, lanes, 1, split, grain,
        a=1 - b, b=b, cut=tile.cut, whole=tile.whole, rows=tile.rows, vectors=tile.vectors, loops=tile.loops,
        outside=outside, part=part,
        row_by_row=near and tile.cut >= 0 and width < nest.space[columns],
    )  # fmt: skip


class _Columns(NamedTuple):
    """An axis of the result that can be cut into vectors. The greatest is the best, unless another one is quicker."""

    together: bool  # as many results at least lie side by side along it as lie apart
    numbers: int  # along it; more than enough are 64
    neat: int  # results that lie side by side, less those that lie apart
    b: int
    axis: int
    time: float  # cycles of a number's sum, and of its reading and writing where numbers lie apart
    turned: bool = False  # b's numbers lie apart, and come side by side in panels


def _columns(nest: Nest, full: int) -> _Columns | None:
    """The axis to cut into vectors of so many lanes, if there is one."""
    strides = [nest.prologue[k].at.strides for k in (0, 1)]
    stored = [i.place.strides for i in nest.epilogue if i.op == "store" and i.place is not None]
    found = []
    for axis, n in enumerate(nest.space):
        neat = sum(s[axis] == 1 for s in stored) - sum(s[axis] > 1 for s in stored)
        far = sum(i.place.strides[axis] not in (0, 1) for i in nest.epilogue if i.place is not None)
        time = nest.steps * filled(n, full) * full / n + far * _SCATTERED * full
        for b in (0, 1):
            steps = strides[b][axis], strides[1 - b][axis]
            if steps == (1, 0) and n > 1:
                found.append(_Columns(neat >= 0, min(n, 64), neat, b, axis, time))
    if not found:
        places = [nest.prologue[k].at for k in (0, 1)]
        turned = turned_operand(nest.space, nest.reduced, places, nest.prologue[3].dtype)
        return None if turned is None else _Columns(True, 0, 0, turned, len(nest.space) - 1, 0.0, turned=True)
    best = max(found)
    usual = best.time if best.together else 2 * nest.steps
    quicker = [c for c in found if _rows(nest, c.b) and c.time < _BETTER * usual]
    if quicker:
        return min(quicker, key=lambda c: c.time)
    return best if best.together else None


def _rows(nest: Nest, b: int) -> list[int]:
    """The axes of the result that move through the other operand only."""
    p, q = nest.prologue[b].at.strides, nest.prologue[1 - b].at.strides
    return [x for x in range(len(nest.space)) if q[x] != 0 and p[x] == 0]


def _outside(nest: Nest, itemsize: int, columns: int) -> bool:
    """Whether the tiles would read more than the cache holds, each of them anew, unless the sum is cut into parts."""
    if len(nest.reduced) < 2 or len(nest.epilogue) != 1 or nest.epilogue[0].at.strides[columns] != 1:
        return False
    inner = range(len(nest.space), len(nest.space) + len(nest.reduced))
    extents = nest.space + nest.reduced
    read = 0
    for k in (0, 1):
        strides = nest.prologue[k].at.strides
        span = sum(abs(strides[x]) * (extents[x] - 1) for x in inner) + 1
        read += min(span, nest.steps * 64) * itemsize
    part = nest.steps // nest.reduced[0]
    return read > _CACHE and part >= 32


class _Tile(NamedTuple):
    """The axes of the result and the size of a tile, as in `Tiling`."""

    cut: int
    whole: tuple[int, ...]
    rows: int
    vectors: int
    loops: tuple[int, ...]
    split: int


def _tile(nest: Nest, chosen: _Columns, lanes: int, registers: int) -> _Tile:
    """The cheapest tile: as many rows as fit, of the innermost axis of rows or of several."""
    a, itemsize = nest.prologue[1 - chosen.b].at.strides, nest.prologue[3].dtype.itemsize
    rows = [x for x in _rows(nest, chosen.b) if x != chosen.axis]
    across = -(-nest.space[chosen.axis] // lanes)
    limit = registers - 3
    whole: list[int] = []
    fixed = 1
    while not chosen.turned and rows and fixed * nest.space[rows[-1]] <= _WHOLE:
        fixed *= nest.space[rows[-1]]
        whole.insert(0, rows.pop())
    while True:
        cut = rows[-1] if rows else -1
        extent = nest.space[cut] if rows else 1
        loops = tuple(x for x in range(len(nest.space)) if x not in (chosen.axis, cut, *whole))
        most = across if extent * fixed <= _FEW else min(_BESIDE, across)
        step = abs(a[cut]) * itemsize if rows else 0
        split = shared_axis(nest, (*loops, cut) if rows else loops, nest.space)
        share = -(-extent // SHARES) if split == cut else extent
        count, vectors = _cheapest(share, fixed, across, most, limit + 2, step)
        if len(rows) < 2 or chosen.turned or count < extent or 2 * vectors * count * fixed > limit:
            return _Tile(cut, tuple(whole), count, vectors, loops, split)
        fixed *= extent  # all of them are half a tile: the next axis is cut instead
        whole.insert(0, rows.pop())


@lru_cache(4096)
def _cheapest(extent: int, fixed: int, across: int, most: int, registers: int, step: int) -> tuple[int, int]:
    """How many rows, each of them `fixed` ones, and how many vectors, `most` at most, make the cheapest tile."""
    best = (math.inf, -1, -1)
    for vectors in range(1, most + 1):
        blocks = pieces(across, vectors)
        for count in range(1, extent + 1):
            held = vectors if count * fixed > 1 else 0  # of b: a single row takes them from memory
            if count * fixed * vectors + held + 1 > registers and (count > 1 or vectors > 1):
                break
            best = min(best, (_cost(pieces(extent, count), fixed, blocks, step), -vectors, -count))
    return -best[2], -best[1]


def _cost(down: Pieces, fixed: int, across: Pieces, step: int) -> float:
    """Cycles for one step along the inner axes over all tiles, by a simple model; `fixed` rows for each one of `down`.

    Two multiply-adds and two loads a cycle, four cycles until a sum is ready again; tiles of one size only are better
    than of several by a little, since each size has code of its own. Rows are `step` bytes apart.
    """
    total = 0.0
    for n, v in across:
        for m, r in down:
            tile = r * fixed
            total += n * m * (max(tile * v / 2, (tile + v) / 2, 4.0) + 0.3 + crowded(r, step))
    return total * (1 + 0.02 * len(down) * len(across))


@cache
def crowded(rows: int, step: int) -> float:
    """Cycles for the lines with the rows' numbers, `step` bytes apart, that have no place in the first-level cache."""
    lines = {i * step // LINE for i in range(rows)}
    return _MISS * sum(max(0, n - _WAYS) for n in Counter(line % (PAGE // LINE) for line in lines).values())


@lru_cache(4096)
def pieces(n: int, most: int) -> Pieces:
    """n cut into as few nearly equal pieces of at most `most` as possible."""
    if n == 0:
        return ()
    count = -(-n // most)
    small, more = divmod(n, count)
    return tuple((c, s) for c, s in ((more, small + 1), (count - more, small)) if c)
