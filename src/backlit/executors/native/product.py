"""Code for a Nest that is a product of matrices: a sum of a times b whose partial sums stay in registers.

A tile (`Tiling`) of some rows by a few vectors is summed completely before anything is stored: each step along the
inner axes loads the vectors of b once and one number of a for each row, so that most of the work is multiply-adds. The
epilogue runs on the tile while it is in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from backlit.executors.native.builder import Function, Module, kernel_function
from backlit.executors.native.kernels import Nest
from backlit.executors.native.names import BOOL, I64, POINTER
from backlit.executors.native.nest import NestWriter, Point
from backlit.executors.native.panel import Panel
from backlit.executors.native.tiling import Tiling, pieces, tiling
from backlit.executors.native.value import Value
from backlit.executors.native.vectors import LINE, in_line

_UNROLL = 32  # multiply-adds of a round: a small tile takes several steps in one
_RUN = 1024  # bytes of a row that are asked for at once
_NEAR = 512 * 1024  # bytes that are in a core's caches anyway


@dataclass(frozen=True)
class Ahead:
    """Memory that is asked for while a tile is summed, so that it is near when it is needed: `fetch(i)`, i < count."""

    count: int
    fetch: Callable[[Value], None]

    def fetch_within(self, i: Value) -> None:
        """Fetch i, if there is one of this number."""
        i.f.when(i.compare("ult", self.count), lambda: self.fetch(i), "fetch")


def emit_product(module: Module, name: str, nest: Nest, lengths: Sequence[int]) -> None:
    """Write the function of a product that has an axis of columns, for ranges of these lengths."""
    cut = tiling(nest, module.target)
    assert cut is not None
    ProductWriter(
        kernel_function(module, name, [f"p{k}" for k in range(len(nest.arguments))]), nest, cut, lengths
    ).write()


class ProductWriter(NestWriter):
    """Writes a product."""

    def __init__(self, f: Function, nest: Nest, cut: Tiling, lengths: Sequence[int]) -> None:
        super().__init__(f, nest, cut, lengths)
        self.cut = cut
        self.dtype = nest.prologue[3].dtype
        self.total = 3
        self.inner_start = len(nest.space)  # the first of the inner axes that a tile goes through
        self.first_part: Value | None = None
        self.last_part: Value | bool = True  # whether the sums are whole now, if that is known
        self.steps = self.extents[-1]  # of the innermost loop
        self.low: Value = f.index(0)  # the first row of this share
        self.next_panel: Value | None = None  # where the next block of b lies,
        self.part_of_panel: tuple[Value, int] = (f.index(0), 1)  # and which of how many tiles' share is asked for
        self.ahead: list[Ahead] = []
        self.read = self._read_by_epilogue()
        self.counting = any(i.op == "index" for i in nest.epilogue)  # whether it asks for places as numbers
        self.looped = self._is_long() and cut.cut >= 0 and not cut.whole
        self.epilogue = ""  # the function of a looped epilogue, when it is written
        if self.looped:
            self.tile = f.slot(self.dtype, cut.rows * cut.vectors * cut.lanes, "tile")
        self.stride_b = nest.prologue[cut.b].at.strides[-1]  # from one step's row of b to the next
        if cut.part:
            width = cut.vectors * cut.lanes
            place = f.slot(self.dtype, min(cut.part, self.steps) * width, "panel")
            steps = nest.prologue[cut.b].at.strides
            self.panel = Panel(f, place, self.dtype, cut.lanes, steps[-1], steps[cut.columns])
            if cut.part < self.steps:
                rows = self.extents[cut.cut] if cut.by_columns else max(lengths)
                self.sums = f.slot(self.dtype, rows * width, "sums")
        self.tail = nest.space[cut.columns] % cut.lanes  # columns of the last vector, if it is partial
        self.narrow = 1 << (self.tail - 1).bit_length() if self.tail else cut.lanes  # its lanes

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)  # numbers that the epilogue divides by, ...
        self._around(self.cut.loops, here, self._in_parts if self.cut.outside else self._tiles)

    def _in_parts(self, here: Point) -> None:
        """The outermost inner axis as a loop around all tiles: each adds its part to what is in memory already."""
        axis = len(self.nest.space)
        self.inner_start = axis + 1

        def part(i: Value) -> None:
            self.first_part = i == 0
            self._tiles(self._enter(here, axis, i))

        self.f.loop(0, self.extents[axis], 1, part, name="part")

    # --- tiles

    def _tiles(self, here: Point) -> None:
        """All tiles. Blocks of columns are outside, so that a block of b is used by all rows while it is near; inside
        where all of b is near."""
        if self.cut.row_by_row:
            self._rows(here, lambda at, rows: self._columns(at, lambda at, *block: self._tile(at, rows, *block)))
        else:
            self._columns(here, self._block)

    def _columns(self, here: Point, block: Callable[[Point, int, bool], None]) -> None:
        """Blocks of columns, each of so many vectors, of which the last may be partial."""
        axis = self.cut.columns
        self._along(axis, lambda low, n: self._blocks(here, low, n, block))

    def _blocks(self, here: Point, low: Value, n: int, block: Callable[[Point, int, bool], None]) -> None:
        """Blocks of n columns from `low` on."""
        axis, lanes = self.cut.columns, self.cut.lanes
        total = -(-n // lanes)
        partial = bool(n % lanes)
        first = 0
        for count, vectors in pieces(total, self.cut.vectors):
            plain = count - 1 if partial and first + count * vectors == total else count
            start = first

            def whole(i: Value, vectors: int = vectors, start: int = start) -> None:
                block(self._enter(here, axis, low + (i * vectors + start) * lanes), vectors, False)

            if plain:
                self.f.loop(0, plain, 1, whole, name="column")
            if plain < count:
                at = low + (first + plain * vectors) * lanes
                block(self._enter(here, axis, at), vectors, True)
            first += count * vectors

    def _block(self, here: Point, vectors: int, partial: bool) -> None:
        """All tiles of one block of columns, which may be copied side by side first, part by part."""
        size, axis, n = self.cut.part, self.inner_start, self.extents[-1]

        def tiles(at: Point) -> None:
            self._rows(at, lambda at, rows: self._tile(at, rows, vectors, partial))

        if not size:
            tiles(here)
            return

        panel, width = self.panel, vectors * self.cut.lanes
        columns = width - self.cut.lanes + self.tail if partial else width
        source = here.pointers[self.cut.b]

        def part(start: Value, length: int, first: Value | None, last: Value | bool) -> None:
            at = self._enter(here, axis, start)
            panel.pack(at.pointers[self.cut.b], length, vectors, columns)
            more, other = (start + length) * panel.step, self.f.index(width * panel.column)
            ahead = last.select(other, more) if isinstance(last, Value) else other if last else more
            self.next_panel = source.at(ahead, self.dtype)
            at.pointers[self.cut.b] = panel.place
            self.steps, self.stride_b = length, width
            self.first_part, self.last_part = first, last
            tiles(at)

        whole = (n - 1) // size * size
        if 0 < whole == n - size:
            self.f.loop(0, n, size, lambda k: part(k, size, k == 0, k == whole), name="part")
            return
        self.f.loop(0, whole, size, lambda k: part(k, size, k == 0, False), name="part")
        part(self.f.index(whole), n - whole, self.f.const(False, BOOL) if whole else None, True)

    def _rows(self, here: Point, tile: Callable[[Point, int], None]) -> None:
        """Blocks of so many rows."""
        axis = self.cut.cut
        if axis < 0:
            tile(here, 1)
        else:
            self._along(axis, lambda low, n: self._row_blocks(here, low, n, tile))

    def _row_blocks(self, here: Point, low: Value, length: int, tile: Callable[[Point, int], None]) -> None:
        self.low = low
        start, before = 0, 0
        made = pieces(length, self.cut.rows)
        for count, rows in made:

            def block(i: Value, rows: int = rows, first: int = start, before: int = before) -> None:
                self.part_of_panel = before + i, sum(n for n, _ in made)
                tile(self._enter(here, self.cut.cut, low + (i * rows + first)), rows)

            self.f.loop(0, count, 1, block, name="row")
            start, before = start + count * rows, before + count

    # --- what is asked for ahead

    def _asked_for(self, here: Point, rows: int, vectors: int) -> list[Ahead]:
        """All that is asked for while a tile is summed."""
        if self.cut.cut < 0:
            return []
        return [
            *self._panel_ahead(vectors), *self._epilogue_ahead(here, rows, vectors),
            *self._rows_ahead(here, rows, vectors),
        ]  # fmt: skip

    def _panel_ahead(self, vectors: int) -> list[Ahead]:
        """This tile's share of the next panel, as it lies in b."""
        if self.next_panel is None:
            return []
        source, panel, steps = self.next_panel, self.panel, self.steps
        tile, tiles = self.part_of_panel
        count = -(-panel.runs(steps, vectors) // tiles)
        first = tile * count
        return [Ahead(count, lambda i: self._fetch(panel.run(source, first + i, steps, vectors), vectors))]

    def _read_by_epilogue(self) -> list[int]:
        """The loads of the epilogue from matrices as large as the result, if those are not in the caches."""
        cut, first = self.cut, len(self.nest.prologue)
        if cut.cut < 0 or cut.whole:
            return []
        found = []
        for k, i in enumerate(self.nest.epilogue):
            if i.op == "load" and i.at.strides[cut.columns] == 1 and i.at.strides[cut.cut]:
                found.append(first + k)
        return found if len(found) * self.nest.points * self.dtype.itemsize > _NEAR else []

    def _epilogue_ahead(self, here: Point, rows: int, vectors: int) -> list[Ahead]:
        """What the epilogue reads for this tile, row by row."""
        if not self.read or len(self.extents) - self.inner_start > 1:
            return []

        def fetch(r: Value) -> None:
            for k in self.read:
                step = self.everything[k].at.strides[self.cut.cut]
                self._fetch(here.pointers[k].at(r * step, self.dtype), vectors)

        return [Ahead(rows, fetch)]

    def _rows_ahead(self, here: Point, rows: int, vectors: int) -> list[Ahead]:
        """The next tile's rows of an a that comes from memory and is read once, by the only block of columns."""
        cut, place = self.cut, self.everything[self.cut.a].at
        run, row = self.steps * self.dtype.itemsize, place.strides[cut.cut]
        near = self.nest.space[cut.cut] * run <= _NEAR or run > _RUN
        if near or self.nest.space[cut.columns] > vectors * cut.lanes or len(self.extents) - self.inner_start > 1:
            return []
        if place.strides[-1] != 1 or row != self.steps:
            return []

        def fetch(r: Value) -> None:
            for n in range(0, run, LINE):
                self.f.prefetch(here.pointers[cut.a].at((r + rows) * row + n // self.dtype.itemsize, self.dtype))

        return [Ahead(rows, fetch)]

    def _fetch_one(self, i: Value) -> None:
        """Ask for number i of all that is asked for ahead, one after the other."""
        if len(self.ahead) == 1:
            self.ahead[0].fetch(i)
            return
        for ahead in self.ahead:
            ahead.fetch_within(i)
            i = i - ahead.count

    def _fetch(self, pointer: Value, vectors: int) -> None:
        for n in range(0, vectors * self.cut.lanes, in_line(self.dtype.itemsize)):
            self.f.prefetch(pointer.at(n, self.dtype))

    # --- one tile

    def _lanes(self, vector: int, vectors: int, partial: bool) -> tuple[int, Value | None]:
        """Lanes and mask of a vector of a tile: the last one of a row is as narrow as what is left for it."""
        if not partial or vector < vectors - 1:
            return self.cut.lanes, None
        return self.narrow, self.f.first(self.narrow, self.tail) if self.tail < self.narrow else None

    def _places_of_rows(self, rows: int) -> list[tuple[int, ...]]:
        """For each row of a tile its counters along `cut` and `whole`, from the tile's first."""
        sizes = ([rows] if self.cut.cut >= 0 else []) + [self.extents[a] for a in self.cut.whole]
        return list(product(*map(range, sizes)))

    def _offset(self, k: int, counters: Sequence[int]) -> int:
        """How far instruction k's place moves for these counters of a row."""
        place = self.everything[k].at
        return sum(place.strides[a] * c for a, c in zip(self.cut.row_axes, counters, strict=True))

    def _tile(self, here: Point, rows: int, vectors: int, partial: bool) -> None:
        """The sums of one tile, then the epilogue on them."""
        f = self.f
        places = self._places_of_rows(rows)
        self.ahead = self._asked_for(here, rows, vectors)
        start = [f.const(0.0, self.dtype, self._lanes(v, vectors, partial)[0]) for v in range(vectors)] * len(places)
        if self.first_part is not None:
            start = self._so_far(here, places, vectors, partial, start)
        f.comment(f"tile of {len(places)} x {vectors} vectors{f', the last of {self.narrow}' if partial else ''}")
        sums = self._sum(0, here, places, vectors, partial, start)
        if self.last_part is not True:
            kept = self._kept(here, vectors)
            for k, total in enumerate(sums):
                f.store(total, kept.at(k * self.cut.lanes, self.dtype))
        if isinstance(self.last_part, Value):
            f.when(self.last_part, lambda: self._finish(here, rows, places, vectors, partial, sums), "last")
        elif self.last_part:
            self._finish(here, rows, places, vectors, partial, sums)

    def _finish(
        self, here: Point, rows: int, places: Sequence[tuple[int, ...]], vectors: int, partial: bool,
        sums: Sequence[Value],
    ) -> None:  # fmt: skip
        """The epilogue on the sums of a tile."""
        if self.looped and len(sums) > 1:
            self._looped_epilogue(here, rows, vectors, partial, sums)
            return
        shared: dict[int, dict[int, Value]] = {}
        for r, counters in enumerate(places):
            for v in range(vectors):
                point = self._point(here, counters, v, vectors, partial)
                point.values.update(shared.get(v, {}))
                point.values[self.total] = sums[r * vectors + v]
                self._evaluate_epilogue(point)
                if r == 0:
                    shared[v] = {k: x for k, x in point.values.items() if self._is_same(k, self.cut.row_axes)}

    def _so_far(
        self, here: Point, places: Sequence[tuple[int, ...]], vectors: int, partial: bool, zero: Sequence[Value]
    ) -> list[Value]:
        """The sums of the parts before this one."""
        store, found = len(self.everything) - 1, []
        assert self.first_part is not None
        kept = self._kept(here, vectors) if self.cut.part else None
        for k, nothing in enumerate(zero):
            v = k % vectors
            if kept is not None:
                old = self.f.load(kept.at(k * self.cut.lanes, self.dtype), self.dtype, nothing.lanes)
            else:
                point = self._point(here, places[k // vectors], v, vectors, partial)
                old = self.f.load(point.pointers[store], self.dtype, point.lanes, point.mask)
            found.append(self.first_part.select(nothing, old))
        return found

    def _kept(self, here: Point, vectors: int) -> Value:
        """Where the sums of a tile are kept between two parts."""
        row = here.counters[self.cut.cut] - self.low
        return self.sums.at(row * (vectors * self.cut.lanes), self.dtype)

    def _looped_epilogue(self, here: Point, rows: int, vectors: int, partial: bool, sums: Sequence[Value]) -> None:
        """The epilogue vector by vector, in a function that all tiles share, and products with the same one.

        Of its own it is because LLVM would keep its constants in registers while a tile is summed.
        """
        f, cut = self.f, self.cut
        for n, s in enumerate(sums):
            f.store(s, self.tile.at(n * cut.lanes, self.dtype))
        if not self.epilogue:
            self.epilogue = f.module.shared(self._write_epilogue(f"{f.name}_tile"))
        low, others = here.counters[cut.cut], (here.counters[a] for a in (cut.columns, *cut.loops))
        tile = self.tile, f.index(vectors), f.index(partial)
        f.invoke(self.epilogue, [*f.given, low, low + rows, *f.arguments[-2:], *tile, *others])

    def _write_epilogue(self, name: str) -> Function:
        """The function of a looped epilogue: for a range of rows, and so many vectors, the last of which is partial."""
        cut, kernel, count = self.cut, self.f, len(self.nest.arguments)
        axes = cut.columns, *cut.loops
        more = [(POINTER, "tile"), (I64, "vectors"), (I64, "partial"), *((I64, f"i{a}") for a in axes)]
        f = kernel_function(kernel.module, name, [f"p{k}" for k in range(count)], more)
        self.f = f
        begin, end, _, _, tile, vectors, partial, *counters = f.arguments[count:]
        here = self._start(f.arguments)
        del here.pointers[cut.a], here.pointers[cut.b]  # what was summed
        self._evaluate(here, 0, prologue_too=False)
        for axis, i in zip(axes, counters, strict=True):
            here = self._enter(here, axis, i)
        whole = vectors - partial

        def one(row: Point, i: Value, v: Value, partial: bool) -> None:
            at = self._enter(row, cut.columns, v * cut.lanes)
            at.counters[cut.columns] = counters[0] + v * cut.lanes
            point = self._point(at, (0,), 0, 1, partial)
            total = tile.at(((i - begin) * vectors + v) * cut.lanes, self.dtype)
            point.values[self.total] = f.load(total, self.dtype, point.lanes)
            self._evaluate_epilogue(point)

        def line(i: Value) -> None:
            row = self._enter(here, cut.cut, i)
            f.loop(0, whole, 1, lambda v: one(row, i, v, False), name="tile_vector")
            if self.tail:
                f.when(partial != 0, lambda: one(row, i, whole, True), "partial")

        f.loop(begin, end, 1, line, name="tile_row")
        self.f = kernel
        return f

    def _point(self, here: Point, counters: Sequence[int], vector: int, vectors: int, partial: bool) -> Point:
        """The place of one vector of one row of the tile."""
        new = here.copy()
        new.lanes, new.mask = self._lanes(vector, vectors, partial)
        if self.counting:
            for a, c in zip(self.cut.row_axes, counters, strict=True):
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

    # --- sums

    def _sum(
        self, depth: int, here: Point, places: Sequence[tuple[int, ...]], vectors: int, partial: bool, sums: list[Value]
    ) -> list[Value]:
        """The loops over the inner axes, from `depth` on."""
        axes = list(range(self.inner_start, len(self.extents)))
        axis = axes[depth]
        n = self.extents[axis] if depth < len(axes) - 1 else self.steps
        if depth < len(axes) - 1:
            low, high = self._range(axis, here)
            return self.f.loop(
                low, high, 1,
                lambda i, *s: self._sum(depth + 1, self._enter(here, axis, i), places, vectors, partial, list(s)),
                sums, f"k{axis}",
            )  # fmt: skip
        unroll = min(n, max(1, _UNROLL // (len(places) * vectors)))
        whole = n - n % unroll

        def steps(i: Value, *s: Value, count: int = unroll) -> list[Value]:
            point = self._enter(here, axis, i)
            if self.cut.part:
                point.pointers[self.cut.b] = here.pointers[self.cut.b].at(i * self.stride_b, self.dtype)
            now = list(s)
            for u in range(count):
                now = self._step(point, u, axis, places, vectors, partial, now)
            return now

        if self.ahead and whole >= sum(a.count for a in self.ahead) * unroll:
            sums = self._sum_and_fetch(steps, whole, unroll, sums, f"k{axis}")
        elif whole:
            sums = self.f.loop(0, whole, unroll, steps, sums, f"k{axis}")
        return steps(self.f.index(whole), *sums, count=n % unroll) if n % unroll else sums

    def _range(self, axis: int, here: Point) -> tuple[Value, Value]:
        """The steps along an inner axis that are not all zeros."""
        low, high = self.f.index(0), self.f.index(self.extents[axis])
        for limit in self.nest.limits:
            if limit.inner == axis and limit.outer in self.cut.loops:
                first = here.counters[limit.outer] * limit.step
                start, end = self.f.index(limit.low) - first, self.f.index(limit.high) - first
                low, high = (low < start).select(start, low), (end < high).select(end, high)
        return low, high

    def _sum_and_fetch(
        self, steps: Callable[..., list[Value]], n: int, unroll: int, sums: list[Value], name: str
    ) -> list[Value]:
        """`n` steps, with what is asked for ahead spread evenly over them."""
        count = sum(a.count for a in self.ahead)
        size = -(-n // (count * unroll)) * unroll

        def some(i: Value, *s: Value) -> list[Value]:
            self._fetch_one(i)
            low = i * size
            high = low + size
            high = (high < n).select(high, n) if size * count > n else high
            return self.f.loop(low, high, unroll, steps, list(s), name, entered=size * (count - 1) < n)

        return self.f.loop(0, count, 1, some, sums, "ahead")

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
                n, mask = self._lanes(v, vectors, partial)
                row.append(f.load(pointer, self.dtype, n, None if self.cut.part else mask))
        made = []
        for r, counters in enumerate(places):
            with f.naming("a"):
                offset = u * place_a.strides[axis] + self._offset(a, counters)
                number = f.load(point.pointers[a].at(offset, self.dtype), self.dtype)
            with f.naming("sum"):
                made += [f.fma(number.splat(b.lanes), b, sums[r * vectors + v]) for v, b in enumerate(row)]
        return made
