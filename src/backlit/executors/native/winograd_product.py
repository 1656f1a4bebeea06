"""Code for a convolution by Winograd's method: blocks of squares of 2 x 2 results.

Each thread takes its squares block by block. The 4 x 4 numbers of the image under each square are transformed, channel
by channel in vectors; then come 16 products of matrices, squares by channels times channels by columns, a block of
columns at a time; and what they give is transformed back and goes through the epilogue. All that a block needs lies on
the thread's stack and stays in its second-level cache.

Where the results are odd in number, the last square of a row or column is only partly there: what lies outside of the
image is not read, and what belongs to results outside is not used.

One or two columns that are left over by the vectors would cost half a vector in all 16 products. They are summed
directly instead, channels in vectors, while the image under a square is near.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backlit.executors.native.balance import shared_axis
from backlit.executors.native.builder import Function, invoke_kernel
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Instruction, Nest, Winograd
from backlit.executors.native.nest import NestWriter, Point
from backlit.executors.native.product import emit_product
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value
from backlit.executors.native.vectors import in_line, left_over, rounded_up
from backlit.executors.native.winograd import IMAGE, RESULTS, SIZE, transformed

_ROOM = 768 * 1024  # bytes of what a block needs on the stack
_MOST = 64  # squares in a block
_WIDE = 8  # vectors in a block of columns
_LONG = 8  # an epilogue of more instructions is written once for the four results of a square


def by_squares(nest: Winograd, target: Target) -> Schedule:
    """How a nest is run: columns in vectors, another axis but that along lines shared by threads, squares not cut."""
    found = nest.convolution
    axes = [axis for axis in range(len(nest.space)) if axis not in (found.columns, found.places[1])]
    split = shared_axis(nest, axes, [squares_along(nest, axis) for axis in range(len(nest.space))])
    lanes = target.lanes(nest.prologue[3].dtype.itemsize)
    return Schedule(found.columns, lanes, 1, split, 2 if split in found.places else 1)


@dataclass(frozen=True)
class Blocks:
    """How the work is cut: squares in a block, vectors in a block of columns and how many such blocks there are.

    The transformed image is 16 matrices of `image` elements, a row for each square; so are the sums, of `sums`.
    The products have `columns`; those after them are summed directly.
    """

    squares: int
    vectors: int
    count: int
    lanes: int
    deep: int  # elements of a row of the transformed image: its channels in whole vectors
    image: int
    sums: int
    columns: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes


def blocks(nest: Winograd, target: Target, lengths: Sequence[int]) -> Blocks:
    """The blocks of a nest whose shares have these lengths."""
    found, extents, itemsize = nest.convolution, nest.space + nest.reduced, nest.prologue[3].dtype.itemsize
    lanes = target.lanes(itemsize)
    deep = rounded_up(extents[found.channels], lanes)
    columns = extents[found.columns] - left_over(extents[found.columns], in_line(itemsize))
    wide = -(-columns // lanes)
    vectors = min(range(min(3, wide), min(_WIDE, wide) + 1), key=lambda v: (-(-wide // v) * v, v < 4, v))
    inner = math.prod(squares_along(nest, axis) for axis in range(len(nest.space)) if axis != found.columns)
    split = by_squares(nest, target).split
    longest = inner // squares_along(nest, split) * _squares(nest, split, max(lengths))
    most = max(1, min(_MOST, _ROOM // (16 * itemsize * (deep + vectors * lanes)), longest))
    squares = -(-longest // -(-longest // most))
    image, sums = squares * deep + lanes, squares * vectors * lanes + lanes
    return Blocks(squares, vectors, -(-wide // vectors), lanes, deep, image, sums, columns)


def squares_along(nest: Winograd, axis: int) -> int:
    """Squares along an axis of the images, or the images along another one."""
    return _squares(nest, axis, nest.space[axis])


def _squares(nest: Winograd, axis: int, length: int) -> int:
    return -(-length // 2) if axis in nest.convolution.places else length


def products(nest: Winograd, cut: Blocks) -> Nest:
    """The 16 products of a block: of the transformed image with a block of columns of the weights."""
    found, weights = nest.convolution, nest.prologue[1 - nest.convolution.image]
    dtype, strides = weights.dtype, weights.at.strides
    image = Affine(0, (cut.image, cut.deep, 0, 1))
    columns = Affine(0, (strides[found.inside[1]], 0, 1, strides[found.channels]))
    sums = Affine(0, (cut.sums, cut.width, 1, 0))
    code = (
        Instruction("load", (), dtype, argument=0, place=image, hint="image"),
        Instruction("load", (), dtype, argument=1, place=columns, hint="weights"),
        Instruction("multiply", (0, 1), dtype),
        Instruction("sum", (2,), dtype),
    )
    store = Instruction("store", (3,), dtype, argument=2, place=sums)
    width = cut.width if cut.count > 1 else cut.columns
    channels = (nest.space + nest.reduced)[found.channels]
    return Nest((16, cut.squares, width), (channels,), code, (store,), (dtype,) * 3)


class WinogradWriter(NestWriter):
    """Writes a convolution, and a function for the products of a block."""

    def __init__(self, f: Function, nest: Winograd, plan: Schedule, lengths: Sequence[int]) -> None:
        self.cut = blocks(nest, f.module.target, lengths)
        self.found, self.split, self.products = nest.convolution, plan.split, f"{f.name}_products"
        super().__init__(f, nest, plan, lengths)
        self.squares = {a: squares_along(nest, a) for a in range(len(nest.space)) if a != self.found.columns}
        self.dtype, self.channels = nest.prologue[3].dtype, self.extents[self.found.channels]
        self.image = f.slot(self.dtype, 16 * self.cut.image, "image")
        self.sums = f.slot(self.dtype, 16 * self.cut.sums, "sums")
        self.looped = sum(i.op != "number" for i in nest.epilogue) > _LONG
        if self.looped:
            self.square = f.slot(self.dtype, 4 * self.cut.lanes, "square")
        emit_product(f.module, self.products, products(nest, self.cut), [16])

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)  # numbers that the epilogue divides by, ...
        f, size = self.f, self.cut.squares
        begin, end = self.begin, self.end
        if self.split in self.found.places:
            begin, end = begin // 2, (end + 1) // 2
        self.first, self.share = begin, end - begin
        last = self.share * math.prod(n for axis, n in self.squares.items() if axis != self.split)

        def block(first: Value) -> None:
            left = last - first
            count = (left < size).select(left, size)
            f.loop(0, count, 1, lambda i: self._image(self._square(here, first + i), i), name="square")
            f.loop(0, self.cut.count, 1, lambda c: self._columns(here, first, count, c), name="column")

        f.loop(0, last, size, block, name="block")

    def _square(self, here: Point, number: Value) -> Point:
        """The first result of a square of this share."""
        for axis in reversed(self.squares):
            n = self.share if axis == self.split else self.f.index(self.squares[axis])
            at = number % n + self.first if axis == self.split else number % n
            number = number // n
            here = self._enter(here, axis, at * 2 if axis in self.found.places else at)
        return here

    # --- the image

    def _image(self, here: Point, row: Value) -> None:
        """All that is done while the image under one square is near."""
        image = self.everything[self.found.image]
        down, across = (self._steps(here, n, image) for n in (0, 1))
        places = [[here.pointers[self.found.image].at(i + j, self.dtype) for j in across] for i in down]
        self._transform(places, row)
        first, columns = self.cut.columns, self.extents[self.found.columns]
        self.f.loop(first, columns, 1, lambda c: self._directly(here, places, c, c - first), name="rest")

    def _transform(self, places: Sequence[Sequence[Value]], row: Value) -> None:
        """The 4 x 4 numbers of all channels under one square."""
        f, cut = self.f, self.cut

        def vector(c: Value, lanes: int, mask: Value | None) -> None:
            grid = [[f.load(p.at(c, self.dtype), self.dtype, lanes, mask) for p in line] for line in places]
            target = self.image.at(row * cut.deep + c, self.dtype)
            for n, value in enumerate(v for line in transformed(IMAGE, grid) for v in line):
                f.store(value, target.at(n * cut.image, self.dtype))

        whole = self.channels - self.channels % cut.lanes
        f.loop(0, whole, cut.lanes, lambda c: vector(c, cut.lanes, None), name="channel")
        if whole < self.channels:
            vector(f.index(whole), *f.last(self.channels - whole))

    def _directly(self, here: Point, places: Sequence[Sequence[Value]], column: Value, number: Value) -> None:
        """The four results of a square in one column, as sums of products."""
        f, cut = self.f, self.cut
        step = self.everything[1 - self.found.image].at.strides[self.found.inside[1]]
        pitch = rounded_up(self.channels, in_line(self.dtype.itemsize))
        weights = here.pointers[1 - self.found.image].at(number * (SIZE**2 * pitch) + 16 * step, self.dtype)

        def added(c: Value, *sums: Value, lanes: int = cut.lanes, mask: Value | None = None) -> list[Value]:
            grid = [[f.load(p.at(c, self.dtype), self.dtype, lanes, mask) for p in line] for line in places]
            found = list(sums)
            for k in range(SIZE**2):
                w = f.load(weights.at(c + k * pitch, self.dtype), self.dtype, lanes, mask)
                for n in range(4):
                    found[n] = f.fma(grid[n // 2 + k // SIZE][n % 2 + k % SIZE], w, found[n])
            return found

        whole = self.channels - self.channels % cut.lanes
        nothing = [f.const(0.0, self.dtype, cut.lanes)] * 4
        totals = [self._across("sum", s) for s in f.loop(0, whole, cut.lanes, added, nothing, "channel")]
        if whole < self.channels:
            lanes, mask = f.last(self.channels - whole)
            nothing = [f.const(0.0, self.dtype, lanes)] * 4
            rest = added(f.index(whole), *nothing, lanes=lanes, mask=mask)
            totals = [a + self._across("sum", b) for a, b in zip(totals, rest, strict=True)]
        new = self._enter(here, self.found.columns, column)
        self._results(new, [totals[:2], totals[2:]])

    def _steps(self, here: Point, n: int, image: Instruction) -> list[Value]:
        """From a square's first place to its four places down or across; the last may be outside: then another one."""
        axis = self.found.places[n]
        step, steps = image.at.strides[axis], []
        for i in range(4):
            steps.append(self.f.index(i * step))
        if self.extents[axis] % 2:
            whole = here.counters[axis] + 1 < self.extents[axis]
            steps[3] = whole.select(steps[3], steps[2])
        return steps

    # --- the results

    def _columns(self, here: Point, first: Value, count: Value, block: Value) -> None:
        """The results of a block of squares in a block of columns."""
        f, cut = self.f, self.cut
        weights = here.pointers[1 - self.found.image].at(block * cut.width, self.dtype)
        others = f.index(0), f.index(16), *f.arguments[-2:]
        invoke_kernel(f, self.products, (self.image, weights, self.sums), others)
        left = cut.columns // cut.lanes - block * cut.vectors  # whole vectors
        whole = (left < cut.vectors).select(left, cut.vectors) if cut.count > 1 else left
        tail = cut.columns % cut.lanes

        def square(i: Value) -> None:
            at = self._square(here, first + i)
            sums = self.sums.at(i * cut.width, self.dtype)

            def vector(v: Value, lanes: int = cut.lanes, mask: Value | None = None) -> None:
                new = self._enter(at, self.found.columns, block * cut.width + v * cut.lanes)
                new.lanes, new.mask = lanes, mask
                self._results(new, self._transformed_back(sums.at(v * cut.lanes, self.dtype), lanes))

            f.loop(0, whole, 1, vector, name="vector")
            if tail:
                f.when(whole < cut.vectors, lambda: vector(whole, *f.last(tail)), "rest")

        f.loop(0, count, 1, square, name="square")

    def _transformed_back(self, sums: Value, lanes: int) -> list[list[Value]]:
        """A vector of columns of the four results of a square, from its 4 x 4 sums."""
        places = [[sums.at((4 * i + j) * self.cut.sums, self.dtype) for j in range(4)] for i in range(4)]
        return transformed(RESULTS, [[self.f.load(p, self.dtype, lanes) for p in line] for line in places])

    def _results(self, here: Point, results: Sequence[Sequence[Value]]) -> None:
        """What follows the four results of a square, in a vector of columns or a single one."""
        f, cut = self.f, self.cut
        down, across = (self._inside(here, axis) for axis in self.found.places)
        if not self.looped:
            shared: dict[int, Value] = {}

            def single(i: int, j: int) -> None:
                point = self._moved(here, f.index(i), f.index(j))
                point.values |= shared | {3: results[i][j]}
                self._evaluate_epilogue(point)
                shared.update({k: x for k, x in point.values.items() if self._is_of_columns(k)} if i == j == 0 else {})

            def line(i: int) -> None:
                single(i, 0)
                self._if(across, lambda: single(i, 1))

            line(0)
            self._if(down, lambda: line(1))
            return
        for n, value in enumerate(v for line in results for v in line):
            f.store(value, self.square.at(n * cut.lanes, self.dtype))

        def one(i: Value, j: Value) -> None:
            point = self._moved(here, i, j)
            point.values[3] = f.load(self.square.at((i * 2 + j) * cut.lanes, self.dtype), self.dtype, here.lanes)
            self._evaluate_epilogue(point)

        f.loop(0, down, 1, lambda i: f.loop(0, across, 1, lambda j: one(i, j), name="x") and None, name="y")

    def _if(self, count: Value, body: Callable[[], None]) -> None:
        """The second of two places, if it is there."""
        if count.const == 2:
            body()
        else:
            self.f.when(count > 1, body, "inside")

    def _inside(self, here: Point, axis: int) -> Value:
        """How many of a square's two places along an axis there are."""
        if self.extents[axis] % 2 == 0:
            return self.f.index(2)
        return (here.counters[axis] + 1 < self.extents[axis]).select(self.f.index(2), 1)

    def _moved(self, here: Point, *steps: Value) -> Point:
        """Another result of the square."""
        for axis, i in zip(self.found.places, steps, strict=True):
            before = here.counters[axis]
            here = self._enter(here, axis, i)
            here.counters[axis] = before + i
        return here

    def _is_of_columns(self, k: int) -> bool:
        """Whether the value is the same for the four results (a bias): it is loaded once."""
        i = self.everything[k]
        return i.op == "load" and not any(i.at.strides[a] for a in self.found.places)
