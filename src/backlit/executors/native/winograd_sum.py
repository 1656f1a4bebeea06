"""The gradient of a convolution's 3x3 weights by Winograd's transforms: 16 products instead of 36.

The gradient of Y = A^T [(G w G^T) . (B^T d B)] A, F(2x2, 3x3) of Lavin & Gray (2015), by w is

    dW = G^T [sum over all tiles of (B^T d B) . (A dY A^T)] G

where d is a tile of 4x4 places of the image and dY the 2x2 places of the result's gradient that were computed from it.
At each of the 16 places of a transformed tile that is a product of matrices, channels of the one by channels of the
other, summed over the tiles. A few tiles at a time are transformed into memory that stays in the caches, as do the 16
matrices of sums. All sums are taken in parts, which threads share; what follows (`parts`) adds the parts.

One or two columns that are left over by vectors, which run along the channels of the second operand, would cost half
a vector in each row. Their sums are the rows of a product of their own, in which vectors run along the first operand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from backlit.executors.native.builder import Function, Module, invoke_kernel, kernel_function
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Instruction, Nest, WinogradSum
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.nest import Point
from backlit.executors.native.product import Ahead, ProductWriter, emit_product
from backlit.executors.native.tiling import Tiling, tiling
from backlit.executors.native.value import Value
from backlit.executors.native.vectors import in_line, left_over, rounded_up
from backlit.executors.native.winograd import IMAGE, RESULTS, WEIGHTS, transformed, transposed

_NEAR = 24 * 1024  # bytes of transformed tiles at one place that stay in the first-level cache
_PLACES = 16  # of a transformed tile


def emit_winograd_sum(module: Module, name: str, kernel: WinogradSum) -> None:
    """Write the function of a kernel, whose pointers are operand 0, operand 1 and the result."""
    _Writer(module, name, kernel).write()


class _Writer:
    """Writes one kernel. A line of tiles is taken whole or in `pieces` of `wide` tiles; `some` of them at a time."""

    def __init__(self, module: Module, name: str, kernel: WinogradSum) -> None:
        self.kernel, self.dtype = kernel, kernel.dtype
        itemsize = self.dtype.itemsize
        self.lanes = module.target.lanes(itemsize)
        self.pitch = [rounded_up(c, self.lanes) for c in kernel.channels]  # from one tile to the next
        self.down, self.across = kernel.tiles
        most = max(1, _NEAR // (sum(self.pitch) * itemsize))
        self.pieces = -(-self.across // most)
        self.wide = -(-self.across // self.pieces)
        self.count = math.prod(kernel.batch) * self.down * self.pieces
        longest = -(-self.count // kernel.parts)
        self.some = -(-longest // -(-longest // max(1, most // self.wide)))
        self.tiles = self.some * self.wide
        apart = in_line(itemsize)  # so that the places of a tile do not fall on the same lines of the caches
        self.step = [self.tiles * p + apart for p in self.pitch]
        self.f = f = kernel_function(module, name, ["x", "y", "result"])
        self.product = f"{name}_product"
        self.rest = left_over(kernel.channels[1], in_line(itemsize))
        self.columns = kernel.channels[1] - self.rest  # of the product
        self._write_product()
        self.next = f.slot(I64, 2 * self.tiles, "next")
        self.near = [f.slot(self.dtype, _PLACES * s, "near") for s in self.step]
        self.sums = f.slot(self.dtype, _PLACES * kernel.channels[0] * self.pitch[1], "sums")
        if self.rest:
            self.rest_sums = f.slot(self.dtype, _PLACES * self.rest * self.pitch[0], "rest_sums")
            emit_product(module, f"{name}_rest", self._nest((1, 0), self.rest, kernel.channels[0]), [_PLACES])
        self.odd = [n % 2 == 1 for n in kernel.size]
        self.zeros = f.slot(self.dtype, max(self.pitch), "zeros")

    def _write_product(self) -> None:
        """The function of the products: `(tiles of operands 0 and 1, sums, first and last place, next tiles)`."""
        parameters = [(POINTER, p) for p in ("x", "y", "sums")] + [(I64, "begin"), (I64, "end"), (POINTER, "next")]
        module, nest = self.f.module, self._nest((0, 1), self.kernel.channels[0], self.columns)
        cut = tiling(nest, module.target)
        assert cut is not None
        _Product(Function(module, self.product, parameters), nest, cut, self.kernel).write()

    def _nest(self, operands: tuple[int, int], rows: int, columns: int) -> Nest:
        """At each place the sums over a few tiles, added to those before them: rows of one operand by columns."""
        (a, b), t = operands, self.dtype
        place = Affine(0, (rows * self.pitch[b], self.pitch[b], 1, 0))
        prologue = (
            Instruction("load", (), t, argument=0, place=Affine(0, (self.step[a], 1, 0, self.pitch[a]))),
            Instruction("load", (), t, argument=1, place=Affine(0, (self.step[b], 0, 1, self.pitch[b]))),
            Instruction("multiply", (0, 1), t),
            Instruction("sum", (2,), t),
        )
        epilogue = (
            Instruction("load", (), t, argument=2, place=place),
            Instruction("add", (4, 3), t),
            Instruction("store", (5,), t, argument=2, place=place),
        )
        return Nest((_PLACES, rows, columns), (self.tiles,), prologue, epilogue, (t, t, t))

    def write(self) -> None:
        f = self.f
        begin, end = f.arguments[3:5]
        if any(self.odd):
            self._clear(self.zeros, max(self.pitch))
        f.loop(begin, end, 1, self._unit, name="unit")

    def _clear(self, pointer: Value, count: int) -> None:
        nothing = self.f.const(0.0, self.dtype, self.lanes)
        self.f.loop(0, count, self.lanes, lambda i: self.f.store(nothing, pointer.at(i, self.dtype)), name="clear")

    def _unit(self, unit: Value) -> None:
        """One block of channels, summed over one part of the tiles."""
        f, kernel = self.f, self.kernel
        block, part = unit // kernel.parts, unit % kernel.parts
        numbers = [block // kernel.blocks[1], block % kernel.blocks[1]]
        channels = [n * c for n, c in zip(numbers, kernel.channels, strict=True)]
        sources = [p.at(c, self.dtype) for p, c in zip(f.arguments[:2], channels, strict=True)]
        self._clear(self.sums, _PLACES * kernel.channels[0] * self.pitch[1])
        if self.rest:
            self._clear(self.rest_sums, _PLACES * self.rest * self.pitch[0])
        low, high = (p * self.count // kernel.parts for p in (part, part + 1))

        def some(first: Value) -> None:
            f.loop(0, self.some, 1, lambda i: self._piece(sources, first + i, high, i * self.wide), name="piece")
            f.loop(0, self.some, 1, lambda i: self._note(sources, first + i + self.some, i * self.wide), name="next")
            f.invoke(self.product, [*self.near, self.sums, f.index(0), f.index(_PLACES), self.next])
            if self.rest:
                rest = self.near[1].at(self.columns, self.dtype), self.near[0], self.rest_sums
                invoke_kernel(f, f"{f.name}_rest", rest, [f.index(0), f.index(_PLACES), *f.arguments[-2:]])

        f.loop(low, high, self.some, some, name="some")
        if self.rest:
            f.loop(0, _PLACES * kernel.channels[0], 1, self._join, name="join")
        step, *_, row = kernel.result
        self._store(f.arguments[2].at(part * step + channels[0] * row + channels[1], self.dtype))

    def _piece(self, sources: Sequence[Value], piece: Value, high: Value, first: Value) -> None:
        """The tiles of one piece of a line, transformed; zeros where there are none any more."""
        f = self.f
        start, y, lines = self._start(sources, piece)
        left = self.across - start
        count = ((left < self.wide) & (piece < high)).select(left, (piece < high).select(f.index(self.wide), 0))

        def tile(t: Value) -> None:
            for operand, line in enumerate(lines):
                self._tile(operand, self._corner(operand, line, t), y, start + t, first + t)

        def nothing(t: Value) -> None:
            zeros = [f.const(0.0, self.dtype, self.lanes)] * _PLACES
            for operand, pitch in enumerate(self.pitch):
                f.loop(0, pitch, self.lanes, partial(self._put, operand, first + t, values=zeros), name="c")

        f.loop(0, count, 1, tile, name="tile")
        f.loop(count, self.wide, 1, nothing, name="no_tile")

    def _start(self, sources: Sequence[Value], piece: Value) -> tuple[Value, Value, list[Value]]:
        """The first tile of a piece, the number of its line within the image, and where it is in both operands."""
        line, start = piece // self.pieces, piece % self.pieces * self.wide
        y = line % self.down
        counters, rest = [start * 2, y * 2], line // self.down
        for n in reversed(self.kernel.batch):
            counters.append(rest % n)
            rest = rest // n
        found = []
        for source, strides in zip(sources, self.kernel.strides, strict=True):
            for c, s in zip(counters, reversed(strides), strict=True):
                source = source.at(c * s, self.dtype)
            found.append(source)
        return start, y, found

    def _corner(self, operand: int, line: Value, tile: Value) -> Value:
        return line.at(tile * 2 * self.kernel.strides[operand][-1], self.dtype)

    def _note(self, sources: Sequence[Value], piece: Value, first: Value) -> None:
        """Where the tiles of a piece will be read, for the product before it to ask for them."""
        _, _, lines = self._start(sources, piece)

        def tile(t: Value) -> None:
            for operand, line in enumerate(lines):
                corner = self._corner(operand, line, t).convert("ptrtoint", I64)
                self.f.store(corner, self.next.at((first + t) * 2 + operand, I64))

        self.f.loop(0, self.wide, 1, tile, name="next_tile")

    def _each_vector(self, operand: int, body: Callable[[Value, int, Value | None], None]) -> None:
        """body(channel, lanes, mask) for the vectors of an operand's channels."""
        f, n, lanes = self.f, self.kernel.channels[operand], self.lanes
        whole = n - n % lanes
        f.loop(0, whole, lanes, lambda c: body(c, lanes, None), name="c")
        if n % lanes:
            body(f.index(whole), *f.last(n % lanes))

    def _tile(self, operand: int, corner: Value, down: Value, right: Value, number: Value) -> None:
        """One tile of an operand, transformed."""
        f, kernel = self.f, self.kernel
        transform = IMAGE if operand == kernel.image else transposed(RESULTS)
        width = len(transform[0])
        *_, y, x = kernel.strides[operand]
        pixels = [[corner.at(i * y + j * x, self.dtype) for j in range(width)] for i in range(width)]
        ends = [at == n - 1 for at, n in ((down, self.down), (right, self.across))]
        for i, j in product(range(width), repeat=2):  # without a last row or column it goes on with zeros
            for end, odd, k in zip(ends, self.odd, (i, j), strict=True):
                if odd and k == width - 1:
                    pixels[i][j] = end.select(self.zeros, pixels[i][j])

        def vector(c: Value, lanes: int, mask: Value | None) -> None:
            grid = [[f.load(p.at(c, self.dtype), self.dtype, lanes, mask) for p in row] for row in pixels]
            self._put(operand, number, c, [v for row in transformed(transform, grid) for v in row])

        self._each_vector(operand, vector)

    def _put(self, operand: int, tile: Value, channel: Value, values: Sequence[Value]) -> None:
        """A vector of a transformed tile to each of the places."""
        pointer = self.near[operand].at(tile * self.pitch[operand] + channel, self.dtype)
        for k, v in enumerate(values):
            self.f.store(v, pointer.at(k * self.step[operand], self.dtype))

    def _join(self, row: Value) -> None:
        """The sums of the columns that are left over to those of a row of the others."""
        place, i = row // self.kernel.channels[0], row % self.kernel.channels[0]
        for k in range(self.rest):
            source = self.rest_sums.at(place * (self.rest * self.pitch[0]) + i + k * self.pitch[0], self.dtype)
            target = self.sums.at(row * self.pitch[1] + (self.columns + k), self.dtype)
            self.f.store(self.f.load(source, self.dtype), target)

    def _store(self, target: Value) -> None:
        """The sums of a unit, transformed back."""
        f, kernel, pitch = self.f, self.kernel, self.pitch[1]
        rows = kernel.channels[0]

        def row(r: Value) -> None:
            def vector(c: Value, lanes: int, mask: Value | None) -> None:
                source = self.sums.at(r * pitch + c, self.dtype)
                place = target.at(r * kernel.result[3] + c, self.dtype)
                at = [[source.at((4 * i + j) * rows * pitch, self.dtype) for j in range(4)] for i in range(4)]
                grid = [[f.load(p, self.dtype, lanes) for p in line] for line in at]
                for i, line in enumerate(transformed(transposed(WEIGHTS), grid)):
                    for j, v in enumerate(line):
                        to = place.at(i * kernel.result[1] + j * kernel.result[2], self.dtype)
                        f.store(v, to, mask)

            self._each_vector(1, vector)

        f.loop(0, rows, 1, row, name="row")


class _Product(ProductWriter):
    """The products of a few tiles at each place, which ask for the next tiles meanwhile.

    Each place asks, of all those tiles, for half of the channels of one operand at one of the 2 x 2 pixels that the
    tiles before it and above it do not have.
    """

    def __init__(self, f: Function, nest: Nest, cut: Tiling, kernel: WinogradSum) -> None:
        super().__init__(f, nest, cut, [_PLACES])
        self.kernel, self.next = kernel, f.arguments[-1]

    def _panel_ahead(self, vectors: int) -> list[Ahead]:
        tile, tiles = self.part_of_panel
        return [Ahead(-(-self.steps // tiles), lambda i: self._ask(tile + i * tiles))]

    def _row_blocks(self, here: Point, low: Value, length: int, tile: Callable[[Point, int], None]) -> None:
        place, numbers, offsets = here.counters[0], in_line(self.dtype.itemsize), []
        self.operand = place // 8
        self.lines = [-(-c // (2 * numbers)) for c in self.kernel.channels]
        for operand, (*_, y, x) in enumerate(self.kernel.strides):
            first = 2 * (y + x) if operand == self.kernel.image else 0
            half = place // 4 % 2 * (self.lines[operand] * numbers)
            offsets.append(place // 2 % 2 * y + place % 2 * x + half + first)
        self.offset = (self.operand == 0).select(*offsets)
        super()._row_blocks(here, low, length, tile)

    def _ask(self, tile: Value) -> None:
        """For a part of a tile."""
        f, known = self.f, (tile < self.steps).select(tile, 0)
        corner = f.load(self.next.at(known * 2 + self.operand, I64), I64).convert("inttoptr", POINTER)
        for line in range(max(self.lines)):
            f.prefetch(corner.at(self.offset + line * in_line(self.dtype.itemsize), self.dtype))
