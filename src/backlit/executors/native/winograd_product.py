"""Code for a convolution by Winograd's method: blocks of squares of 2 x 2 results.

Each thread takes its squares block by block. The 4 x 4 numbers of the image under each square are transformed, channel
by channel in vectors; then come 16 products of matrices, squares by channels times channels by columns, a block of
columns at a time; and what they give is transformed back and goes through the epilogue. All that a block needs lies on
the thread's stack and stays in its second-level cache.

Where the results are odd in number, the last square of a row or column is only partly there: what lies outside of the
image is not read, and what belongs to results outside is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backlit.executors.native.builder import Function, invoke_kernel
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Instruction, Nest, Winograd
from backlit.executors.native.nest import NestWriter, Point, Schedule, emit_nest
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value
from backlit.executors.native.winograd import IMAGE, RESULTS, transformed

_ROOM = 768 * 1024  # bytes of what a block needs on the stack
_MOST = 64  # squares in a block
_WIDE = 8  # vectors in a block of columns
_LONG = 8  # an epilogue of more instructions is written once for the four results of a square


def split_of(nest: Winograd) -> int:
    """The axis that threads share: the first one but the columns."""
    return next(axis for axis in range(len(nest.space)) if axis != nest.convolution.columns)


@dataclass(frozen=True)
class Blocks:
    """How the work is cut: squares in a block, vectors in a block of columns and how many such blocks there are.

    The transformed image is 16 matrices of `image` elements, a row for each square; so are the sums, of `sums`.
    """

    squares: int
    vectors: int
    count: int
    lanes: int
    deep: int  # elements of a row of the transformed image: its channels in whole vectors
    image: int
    sums: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes


def blocks(nest: Winograd, target: Target, lengths: Sequence[int]) -> Blocks:
    """The blocks of a nest whose shares have these lengths."""
    found, extents, itemsize = nest.convolution, nest.space + nest.reduced, nest.prologue[3].dtype.itemsize
    lanes = target.lanes(itemsize)
    deep = -(-extents[found.channels] // lanes) * lanes
    wide = -(-extents[found.columns] // lanes)
    vectors = min(range(min(3, wide), min(_WIDE, wide) + 1), key=lambda v: (-(-wide // v) * v, v < 4, v))
    inner = math.prod(squares_along(nest, axis) for axis in range(len(nest.space)) if axis != found.columns)
    split = split_of(nest)
    longest = inner // squares_along(nest, split) * _squares(nest, split, max(lengths))
    most = max(1, min(_MOST, _ROOM // (16 * itemsize * (deep + vectors * lanes)), longest))
    squares = -(-longest // -(-longest // most))
    return Blocks(
        squares, vectors, -(-wide // vectors), lanes, deep, squares * deep + lanes, squares * vectors * lanes + lanes
    )


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
    width = cut.width if cut.count > 1 else nest.space[found.columns]
    channels = (nest.space + nest.reduced)[found.channels]
    return Nest((16, cut.squares, width), (channels,), code, (store,), (dtype,) * 3)


class WinogradWriter(NestWriter):
    """Writes a convolution, and a function for the products of a block."""

    def __init__(self, f: Function, nest: Winograd, lengths: Sequence[int]) -> None:
        self.cut = blocks(nest, f.module.target, lengths)
        self.found, self.split, self.products = nest.convolution, split_of(nest), f"{f.name}_products"
        super().__init__(f, nest, Schedule(self.found.columns, self.cut.lanes, 1, self.split), lengths)
        self.squares = {a: squares_along(nest, a) for a in range(len(nest.space)) if a != self.found.columns}
        self.dtype = nest.prologue[3].dtype
        self.image = f.slot(self.dtype, 16 * self.cut.image, "image")
        self.sums = f.slot(self.dtype, 16 * self.cut.sums, "sums")
        self.looped = sum(i.op != "number" for i in nest.epilogue) > _LONG
        if self.looped:
            self.square = f.slot(self.dtype, 4 * self.cut.lanes, "square")
        emit_nest(f.module, self.products, products(nest, self.cut), [16])

    def _level(self, depth: int, here: Point) -> None:
        self._evaluate(here, 0, prologue_too=True)  # numbers that the epilogue divides by, ...
        f, size = self.f, self.cut.squares
        begin, end = self.begin, self.end
        if self.split in self.found.places:
            begin, end = begin // 2, (end + 1) // 2
        each = math.prod(n for axis, n in self.squares.items() if axis != self.split)
        last = end * each

        def block(first: Value) -> None:
            left = last - first
            count = (left < size).select(left, size)
            f.loop(0, count, 1, lambda i: self._transform(self._square(here, first + i), i), name="square")
            f.loop(0, self.cut.count, 1, lambda c: self._columns(here, first, count, c), name="column")

        f.loop(begin * each, last, size, block, name="block")

    def _square(self, here: Point, number: Value) -> Point:
        """The first result of a square."""
        for axis in reversed(self.squares):
            n = self.squares[axis]
            at = number if axis == self.split else number % n
            number = number // n
            here = self._enter(here, axis, at * 2 if axis in self.found.places else at)
        return here

    # --- the image

    def _transform(self, here: Point, row: Value) -> None:
        """The 4 x 4 numbers of all channels under one square."""
        f, cut, image = self.f, self.cut, self.everything[self.found.image]
        channels = self.extents[self.found.channels]
        down, across = (self._steps(here, n, image) for n in (0, 1))

        def vector(c: Value, mask: Value | None = None) -> None:
            start = here.pointers[self.found.image].at(c, self.dtype)
            grid = [[f.load(start.at(i + j, self.dtype), self.dtype, cut.lanes, mask) for j in across] for i in down]
            target = self.image.at(row * cut.deep + c, self.dtype)
            for n, value in enumerate(v for line in transformed(IMAGE, grid) for v in line):
                f.store(value, target.at(n * cut.image, self.dtype))

        whole = channels - channels % cut.lanes
        f.loop(0, whole, cut.lanes, vector, name="channel")
        if whole < channels:
            vector(f.index(whole), f.first(cut.lanes, channels - whole))

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
        columns = self.extents[self.found.columns]
        left = columns // cut.lanes - block * cut.vectors  # whole vectors
        whole = (left < cut.vectors).select(left, cut.vectors) if cut.count > 1 else left
        tail = columns % cut.lanes

        def square(i: Value) -> None:
            at = self._square(here, first + i)
            sums = self.sums.at(i * cut.width, self.dtype)

            def vector(v: Value, mask: Value | None = None) -> None:
                new = self._enter(at, self.found.columns, block * cut.width + v * cut.lanes)
                new.lanes, new.mask = cut.lanes, mask
                self._results(new, sums.at(v * cut.lanes, self.dtype))

            f.loop(0, whole, 1, vector, name="vector")
            if tail:
                f.when(whole < cut.vectors, lambda: vector(whole, f.first(cut.lanes, tail)), "rest")

        f.loop(0, count, 1, square, name="square")

    def _results(self, here: Point, sums: Value) -> None:
        """A vector of columns of the four results of a square."""
        f, cut = self.f, self.cut
        grid = [
            [f.load(sums.at((4 * i + j) * cut.sums, self.dtype), self.dtype, cut.lanes) for j in range(4)]
            for i in range(4)
        ]
        results = transformed(RESULTS, grid)
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
            point.values[3] = f.load(self.square.at((i * 2 + j) * cut.lanes, self.dtype), self.dtype, cut.lanes)
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
