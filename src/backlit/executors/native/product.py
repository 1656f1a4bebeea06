"""Code for a Nest that is a product of matrices: a sum of a times b whose partial sums stay in registers.

One axis of the result, `columns`, goes through b by neighbours and leaves a where it is; it is cut into vectors.
Others, the rows, move through a only. A tile of some rows by a few vectors is summed completely before anything is
stored: each step along the inner axes loads the vectors of b once and one number of a for each row, so that most of
the work is multiply-adds. The epilogue runs on the tile while it is in registers.

Every shape is known, so rows and columns are cut into tiles of nearly equal size and no tile needs a test; only the
last vector of a row may be partly outside, under a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import Nest
from backlit.executors.native.names import BOOL
from backlit.executors.native.nest import NestWriter, Point, Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value

_BUSY = 12  # multiply-adds that fill a step: a smaller tile takes several steps a round
_CACHE = 512 * 1024  # bytes of the second-level cache that a product may count on
_PANEL = 256 * 1024  # bytes of a block of b that is copied, and of the sums of all rows by its columns
_PAGE = 4096  # bytes; the first-level cache has a line for each address within a page, some times over
_MANY = 48  # rows that make such a copy worth its cost
_BLOCKS = 8  # blocks of columns that threads can share well
_HEAVY = 10_000_000  # multiply-adds that take far longer than a barrier
_LONG = 8  # an epilogue of more instructions is a loop over the rows of the tile, kept on the stack


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: the axis of columns, the axes of rows (inner ones last), and the tile.

    A tile has all of `whole` (the innermost row axes) and up to `rows` of the row axis `cut`.
    """

    a: int  # instructions: the load that is broadcast and the load that is a vector
    b: int
    columns: int
    cut: int  # -1: there are no rows
    whole: tuple[int, ...]
    rows: int
    vectors: int
    lanes: int
    loops: tuple[int, ...]  # the axes of the result that are plain loops, outermost first
    outside: bool  # the outermost inner axis is a loop around all tiles, since what the others read leaves the cache
    part: int = 0  # steps whose block of b is copied side by side before the tiles use it; 0: none are
    by_columns: bool = False  # threads share the columns, so that each reads only its own of a b that is large


def tiling(nest: Nest, target: Target) -> Tiling | None:
    """How to cut the nest; None where it is no product, or has no axis of columns."""
    ops = [i.op for i in nest.prologue]
    if ops != ["load", "load", "multiply", "sum"] or not nest.reduced or 0 in nest.reduced:
        return None
    total = nest.prologue[3]
    if total.dtype.kind != "f" or total.dtype.itemsize < 4:
        return None
    strides = [nest.prologue[k].at.strides for k in (0, 1)]
    outer = range(len(nest.space))
    stored = [i.place.strides for i in nest.epilogue if i.op == "store" and i.place is not None]
    choices = []
    for axis in outer:
        for b in (0, 1):
            if strides[b][axis] == 1 and strides[1 - b][axis] == 0 and nest.space[axis] > 2:
                neat = sum(s[axis] == 1 for s in stored) - sum(s[axis] > 1 for s in stored)
                choices.append((neat >= 0, min(nest.space[axis], 64), neat, b, axis))
    if not choices:
        return None
    neat, _, _, b, columns = max(choices)
    if not neat:
        return None
    a = 1 - b
    lanes = target.lanes(total.dtype.itemsize)
    while lanes > 1 and lanes // 2 >= nest.space[columns]:
        lanes //= 2
    rows = [x for x in outer if x != columns and strides[a][x] != 0 and strides[b][x] == 0]
    vectors_all = -(-nest.space[columns] // lanes)
    inside: list[int] = []
    fixed = 1
    limit = target.registers - 3
    while rows and fixed * nest.space[rows[-1]] <= 6:
        fixed *= nest.space[rows[-1]]
        inside.insert(0, rows.pop())
    cut = rows[-1] if rows else -1
    extent = nest.space[cut] if rows else 1
    best = (math.inf, -1, -1)
    for vectors in range(1, min(4, vectors_all) + 1):
        for count in range(1, extent + 1):
            r = count * fixed
            if r * vectors + vectors + 1 > limit + 2 and (count > 1 or vectors > 1):
                break
            best = min(best, (_cost(extent, count, fixed, vectors_all, vectors), -vectors, -count))
    _, vectors, count = best
    loops = tuple(x for x in outer if x != columns and x != cut and x not in inside)
    parts = _in_parts(nest, total.dtype.itemsize, columns)
    plain = not inside and not loops and cut >= 0
    part = _part(nest, b, cut, -vectors * lanes * total.dtype.itemsize) if plain else 0
    heavy = nest.points * nest.steps > _HEAVY and nest.space[columns] >= 2 * extent
    by_columns = plain and nest.space[columns] >= _BLOCKS * -vectors * lanes and (part > 0 or heavy)
    return Tiling(
        a,
        b,
        columns,
        cut,
        tuple(inside),
        -count,
        -vectors,
        lanes,
        loops,
        parts,
        part,
        by_columns,
    )


def _in_parts(nest: Nest, itemsize: int, columns: int) -> bool:
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


def _part(nest: Nest, b: int, cut: int, width: int) -> int:
    """How many steps' rows of a block of b, `width` bytes each, are copied side by side before they are used; 0: none.

    Rows whose distance is a multiple of a page all fall on the same few lines of a cache, which drop one another. The
    copy is worth it where many tiles use it. A long sum is cut into parts whose copies stay in the cache.
    """
    if len(nest.reduced) != 1 or nest.space[cut] < _MANY:
        return 0
    load = nest.prologue[b]
    step = abs(load.at.strides[len(nest.space)]) * load.dtype.itemsize
    if step % _PAGE or step * nest.steps <= 2 * _CACHE:
        return 0
    parts = -(-nest.steps * width // _PANEL)
    size = -(-nest.steps // (4 * parts)) * 4
    return size if parts == 1 or nest.space[cut] * width <= _PANEL else 0


def _cost(extent: int, rows: int, fixed: int, vectors_all: int, vectors: int) -> float:
    """Cycles for one step along the inner axes over all tiles, by a simple model.

    Two multiply-adds and two loads a cycle, four cycles until a sum is ready again; tiles of one size only are better
    than of several by a little, since each size has code of its own.
    """
    total = 0.0
    for n, v in pieces(vectors_all, vectors):
        for m, r in pieces(extent, rows):
            tile = r * fixed
            total += n * m * (max(tile * v / 2, (tile + v) / 2, 4.0) + 0.3)
    return total * (1 + 0.02 * len(pieces(extent, rows)) * len(pieces(vectors_all, vectors)))


def pieces(n: int, most: int) -> list[tuple[int, int]]:
    """n cut into as few nearly equal pieces of at most `most` as possible: pairs (how many, size)."""
    if n == 0:
        return []
    count = -(-n // most)
    small, more = divmod(n, count)
    return [(c, s) for c, s in ((more, small + 1), (count - more, small)) if c]


class ProductWriter(NestWriter):
    """Writes a product."""

    def __init__(self, f: Function, nest: Nest, cut: Tiling, lengths: Sequence[int]) -> None:
        split = split_axis(nest, cut)
        super().__init__(f, nest, Schedule(cut.columns, cut.lanes, 1, split), lengths)
        self.cut, self.split = cut, split
        self.dtype = nest.prologue[3].dtype
        self.total = 3
        self.inner_start = len(nest.space)  # the first of the inner axes that a tile goes through
        self.first_part: Value | None = None
        self.last_part = True
        self.steps = self.extents[-1]  # of the innermost loop
        self.low: Value = f.index(0)  # the first row of this share
        self.stride_b = nest.prologue[cut.b].at.strides[-1]  # from one step's row of b to the next
        if cut.part:
            width = cut.vectors * cut.lanes
            self.panel = f.slot(self.dtype, min(cut.part, self.steps) * width, "panel")
            if cut.part < self.steps:
                rows = self.extents[cut.cut] if cut.by_columns else max(lengths)
                self.sums = f.slot(self.dtype, rows * width, "sums")
        tail = nest.space[cut.columns] % cut.lanes
        self.tail_mask = f.constants([i < tail for i in range(cut.lanes)], BOOL) if tail else None

    def _level(self, depth: int, here: Point) -> None:
        if depth == len(self.cut.loops):
            if self.cut.outside:
                self._in_parts(here)
            else:
                self._columns(here)
            return
        axis = self.cut.loops[depth]
        low, high = self.f.index(0), self.f.index(self.extents[axis])
        if axis == self.split:
            low, high = self.begin, self.end
        self.f.loop(low, high, 1, lambda i: self._level(depth + 1, self._enter(here, axis, i)), name=f"i{axis}")

    def _in_parts(self, here: Point) -> None:
        """The outermost inner axis as a loop around all tiles: each adds its part to what is in memory already."""
        axis = len(self.nest.space)
        self.inner_start = axis + 1

        def part(i: Value) -> None:
            self.first_part = i == 0
            self._columns(self._enter(here, axis, i))

        self.f.loop(0, self.extents[axis], 1, part, name="part")

    # --- tiles

    def _columns(self, here: Point) -> None:
        """All tiles: blocks of columns outside, so that a block of b is used by all rows while it is near."""
        axis = self.cut.columns
        if axis != self.split:
            self._blocks(here, self.f.index(0), self.extents[axis])
        else:
            self._of_any(self.lengths, lambda length: self._blocks(here, self.begin, length))

    def _of_any(self, lengths: Sequence[int], write: Callable[[int], None]) -> None:
        """Code for each length that a share may have."""
        if len(lengths) == 1:
            write(lengths[0])
            return
        for length in lengths:
            self.f.when((self.end - self.begin) == length, lambda n=length: write(n), f"share{length}")  # type: ignore[misc]

    def _blocks(self, here: Point, low: Value, n: int) -> None:
        """Blocks of n columns from `low` on."""
        axis, lanes = self.cut.columns, self.cut.lanes
        total = -(-n // lanes)
        partial = bool(n % lanes)
        first = 0
        for count, vectors in pieces(total, self.cut.vectors):
            plain = count - 1 if partial and first + count * vectors == total else count
            start = first

            def block(i: Value, vectors: int = vectors, start: int = start) -> None:
                self._block(self._enter(here, axis, low + (i * vectors + start) * lanes), vectors, False)

            if plain:
                self.f.loop(0, plain, 1, block, name="column")
            if plain < count:
                at = low + (first + plain * vectors) * lanes
                self._block(self._enter(here, axis, at), vectors, True)
            first += count * vectors

    def _block(self, here: Point, vectors: int, partial: bool) -> None:
        """All tiles of one block of columns, which may be copied side by side first, part by part."""
        size, axis, n = self.cut.part, self.inner_start, self.extents[-1]
        if not size:
            self._rows(here, vectors, partial)
            return

        def part(start: Value, length: int, first: Value | None, last: bool) -> None:
            at = self._enter(here, axis, start)
            self._pack(at, length, vectors, partial)
            at.pointers[self.cut.b] = self.panel
            self.steps, self.stride_b = length, vectors * self.cut.lanes
            self.first_part, self.last_part = first, last
            self._rows(at, vectors, partial)

        whole = (n - 1) // size * size
        self.f.loop(0, whole, size, lambda k: part(k, size, k == 0, False), name="part")
        part(self.f.index(whole), n - whole, self.f.const(False, BOOL) if whole else None, True)

    def _pack(self, here: Point, length: int, vectors: int, partial: bool) -> None:
        """The rows of a block of b, side by side; what is outside of b becomes 0."""
        f, lanes, b = self.f, self.cut.lanes, self.cut.b
        step = self.everything[b].at.strides[self.inner_start]

        def row(k: Value) -> None:
            for v in range(vectors):
                mask = self.tail_mask if partial and v == vectors - 1 else None
                value = f.load(here.pointers[b].at(k * step + v * lanes, self.dtype), self.dtype, lanes, mask)
                f.store(value, self.panel.at(k * (vectors * lanes) + v * lanes, self.dtype))

        f.loop(0, length, 1, row, name="pack")

    def _rows(self, here: Point, vectors: int, partial: bool) -> None:
        """All tiles of one block of columns."""
        axis = self.cut.cut
        if axis < 0:
            self._tile(here, 1, vectors, partial)
            return
        if axis != self.split:
            self._row_blocks(here, self.f.index(0), self.extents[axis], vectors, partial)
            return
        self._of_any(self.lengths, lambda length: self._row_blocks(here, self.begin, length, vectors, partial))

    def _row_blocks(self, here: Point, low: Value, length: int, vectors: int, partial: bool) -> None:
        self.low = low
        start = 0
        for count, rows in pieces(length, self.cut.rows):
            first = start

            def block(i: Value, rows: int = rows, first: int = first) -> None:
                self._tile(self._enter(here, self.cut.cut, low + (i * rows + first)), rows, vectors, partial)

            self.f.loop(0, count, 1, block, name="row")
            start += count * rows

    def _places_of_rows(self, rows: int) -> list[tuple[int, ...]]:
        """For each row of a tile its counters along `cut` and `whole`, from the tile's first."""
        axes = ([self.cut.cut] if self.cut.cut >= 0 else []) + list(self.cut.whole)
        sizes = ([rows] if self.cut.cut >= 0 else []) + [self.extents[a] for a in self.cut.whole]
        return list(_counters(sizes)) if axes else [()]

    def _offset(self, k: int, counters: Sequence[int]) -> int:
        """How far instruction k's place moves for these counters of a row."""
        place = self.everything[k].at
        axes = ([self.cut.cut] if self.cut.cut >= 0 else []) + list(self.cut.whole)
        return sum(place.strides[a] * c for a, c in zip(axes, counters, strict=True))

    def _tile(self, here: Point, rows: int, vectors: int, partial: bool) -> None:
        """The sums of one tile, then the epilogue on them."""
        f, lanes = self.f, self.cut.lanes
        places = self._places_of_rows(rows)
        zero = f.const(0.0, self.dtype, lanes)
        start = [zero] * (len(places) * vectors)
        if self.first_part is not None:
            start = self._so_far(here, places, vectors, partial, zero)
        f.comment(f"tile of {len(places)} x {vectors} vectors{', the last under a mask' if partial else ''}")
        sums = self._sum(0, here, places, vectors, partial, start)
        if not self.last_part:
            for k, total in enumerate(sums):
                f.store(total, self._sum_so_far(here, k, vectors))
            return
        work = [i for i in self.nest.epilogue if i.op not in ("number",)]
        if len(work) > _LONG and len(places) > 1 and not self.cut.whole:
            self._looped_epilogue(here, places, vectors, partial, sums)
            return
        shared: dict[int, dict[int, Value]] = {}
        for r, counters in enumerate(places):
            for v in range(vectors):
                point = self._point(here, counters, v, partial and v == vectors - 1)
                point.values.update(shared.get(v, {}))
                point.values[self.total] = sums[r * vectors + v]
                self._evaluate_epilogue(point)
                if r == 0:
                    shared[v] = {k: x for k, x in point.values.items() if self._is_of_columns(k)}

    def _so_far(
        self, here: Point, places: Sequence[tuple[int, ...]], vectors: int, partial: bool, zero: Value
    ) -> list[Value]:
        """The sums of the parts before this one."""
        store, found = len(self.everything) - 1, []
        assert self.first_part is not None
        if self.cut.part:
            kept = [self.f.load(self._sum_so_far(here, k, vectors), self.dtype, self.cut.lanes)
                   for k in range(len(places) * vectors)]  # fmt: skip
            return [self.first_part.select(zero, x) for x in kept]
        for counters in places:
            for v in range(vectors):
                point = self._point(here, counters, v, partial and v == vectors - 1)
                old = self.f.load(point.pointers[store], self.dtype, self.cut.lanes, point.mask)
                found.append(self.first_part.select(zero, old))
        return found

    def _sum_so_far(self, here: Point, k: int, vectors: int) -> Value:
        """Where sum k of a tile is kept between two parts."""
        row = here.counters[self.cut.cut] - self.low
        return self.sums.at((row * vectors + k) * self.cut.lanes, self.dtype)

    def _is_of_columns(self, k: int) -> bool:
        """Whether the value is the same for all rows of a tile (a bias): it is made once."""
        i = self.everything[k]
        moves = ([self.cut.cut] if self.cut.cut >= 0 else []) + list(self.cut.whole)
        return i.op == "load" and i.place is not None and not any(i.place.strides[a] for a in moves)

    def _looped_epilogue(
        self, here: Point, places: Sequence[tuple[int, ...]], vectors: int, partial: bool, sums: Sequence[Value]
    ) -> None:
        f, lanes = self.f, self.cut.lanes
        tile = f.slot(self.dtype, len(sums) * lanes, "tile")
        for n, s in enumerate(sums):
            f.store(s, tile.at(n * lanes, self.dtype))

        def one(r: Value) -> None:
            low = here.counters[self.cut.cut]
            row = self._enter(here, self.cut.cut, r)
            row.counters[self.cut.cut] = low + r
            for v in range(vectors):
                point = self._point(row, (0,) * len(places[0]), v, partial and v == vectors - 1)
                point.values[self.total] = f.load(tile.at((r * vectors + v) * lanes, self.dtype), self.dtype, lanes)
                self._evaluate_epilogue(point)

        f.loop(0, len(places), 1, one, name="tile_row")

    def _point(self, here: Point, counters: Sequence[int], vector: int, masked: bool) -> Point:
        """The place of one vector of one row of the tile."""
        new = here.copy()
        new.lanes = self.cut.lanes
        new.mask = self.tail_mask if masked else None
        axes = ([self.cut.cut] if self.cut.cut >= 0 else []) + list(self.cut.whole)
        for a, c in zip(axes, counters, strict=True):
            new.counters[a] = new.counters.get(a, self.f.index(0)) + c
        new.counters[self.cut.columns] = new.counters[self.cut.columns] + vector * self.cut.lanes
        first = len(self.nest.prologue)
        for k, p in here.pointers.items():
            i = self.everything[k]
            if k < first or i.place is None:
                continue
            step = self._offset(k, counters) + i.place.strides[self.cut.columns] * vector * self.cut.lanes
            new.pointers[k] = p.at(step, self.nest.arguments[i.argument])
        return new

    def _evaluate_epilogue(self, point: Point) -> None:
        for k in range(len(self.nest.prologue), len(self.everything)):
            if k not in point.values:
                i = self.everything[k]
                with self.f.naming(i.hint or i.op):
                    point.values[k] = self.value(k, i, point)

    # --- sums

    def _sum(
        self, depth: int, here: Point, places: Sequence[tuple[int, ...]], vectors: int, partial: bool, sums: list[Value]
    ) -> list[Value]:
        """The loops over the inner axes, from `depth` on."""
        axes = list(range(self.inner_start, len(self.extents)))
        axis = axes[depth]
        n = self.extents[axis] if depth < len(axes) - 1 else self.steps
        if depth < len(axes) - 1:
            return self.f.loop(
                0, n, 1,
                lambda i, *s: self._sum(depth + 1, self._enter(here, axis, i), places, vectors, partial, list(s)),
                sums, f"k{axis}",
            )  # fmt: skip
        unroll = min(n, 2 if len(places) * vectors >= _BUSY else 4)
        whole = n - n % unroll

        def steps(i: Value, *s: Value, count: int = unroll) -> list[Value]:
            point = self._enter(here, axis, i)
            if self.cut.part:
                point.pointers[self.cut.b] = here.pointers[self.cut.b].at(i * self.stride_b, self.dtype)
            now = list(s)
            for u in range(count):
                now = self._step(point, u, axis, places, vectors, partial, now)
            return now

        if whole:
            sums = self.f.loop(0, whole, unroll, steps, sums, f"k{axis}")
        return steps(self.f.index(whole), *sums, count=n % unroll) if n % unroll else sums

    def _step(
        self, point: Point, u: int, axis: int, places: Sequence[tuple[int, ...]], vectors: int, partial: bool,
        sums: list[Value],
    ) -> list[Value]:  # fmt: skip
        """One step along the innermost axis: the outer product of a column of a and a row of b."""
        f, lanes, a, b = self.f, self.cut.lanes, self.cut.a, self.cut.b
        place_a = self.everything[a].at
        row = []
        for v in range(vectors):
            with f.naming("b"):
                pointer = point.pointers[b].at(u * self.stride_b + v * lanes, self.dtype)
                mask = self.tail_mask if partial and v == vectors - 1 and not self.cut.part else None
                row.append(f.load(pointer, self.dtype, lanes, mask))
        made = []
        for r, counters in enumerate(places):
            with f.naming("a"):
                offset = u * place_a.strides[axis] + self._offset(a, counters)
                number = f.load(point.pointers[a].at(offset, self.dtype), self.dtype).splat(lanes)
            with f.naming("sum"):
                made += [f.fma(number, row[v], sums[r * vectors + v]) for v in range(vectors)]
        return made


def split_axis(nest: Nest, cut: Tiling) -> int:
    """The axis that threads share: the outermost plain loop, else the rows, or the columns."""
    if cut.by_columns:
        return cut.columns
    if cut.loops:
        return cut.loops[0]
    return cut.cut


def _counters(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not sizes:
        yield ()
        return
    for i in range(sizes[0]):
        for rest in _counters(sizes[1:]):
            yield (i, *rest)
