"""Where a convolution is done by Winograd's method, and its weights, transformed before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backlit.executors.native.body import Body
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Buffer, Call, Instruction, Winograd
from backlit.executors.native.vectors import filled, in_line, left_over, rounded_up
from backlit.executors.native.winograd import SIZE, WEIGHTS, Convolution, convolution, transformed
from backlit.ir import Type

if TYPE_CHECKING:
    from backlit.executors.native.fusion import Group

# Cycles of a processor that multiplies and adds one vector of 64 bytes a cycle:
_IMAGE = 60  # for 16 vectors of an image, which are loaded, transformed and stored
_RESULTS = 60  # for 16 vectors of sums, which are loaded, transformed and used
_REST = 60  # for the four direct sums of a column that is left over, besides their products
_WEIGHTS = 350  # for 9 vectors of weights, and until all threads have read the 16 that they become
_CALL = 20_000  # for one more kernel that all threads wait for
_GAIN = 1.2  # times faster that it has to be
_COLUMNS = 3  # that make a product: of fewer, channels are summed in an order that the size of a thread's share decides
_DEEP = 32 * 1024  # bytes of an image's channels at a place: sixteen times as many lie on a thread's stack
SLACK = 512  # bytes after the weights that may be read, to no effect


def transformed_weights(
    body: Body, operands: tuple[int, int], group: Group, before: list[Call]
) -> tuple[Buffer, tuple[int, Affine]] | None:
    """Memory for the weights of a convolution and the load that they replace; None where the product stays one.

    The call that transforms them is added to `before`: they are 16 matrices of channels by columns. After them come, as
    they are, the weights of the columns that are left over, 9 rows of channels for each.
    """
    p, q = (body.code[k] for k in operands)
    if p is q or p.op != "load" or q.op != "load" or p.dtype.kind != "f" or p.dtype.itemsize < 4 or p.dtype != q.dtype:
        return None
    found = convolution(body.space, body.reduced, p.at, q.at)
    if found is None or gain(found, body.space, body.reduced, p.dtype.itemsize) * _needed(body) < _GAIN:
        return None
    extents = body.space + body.reduced
    channels, columns = extents[found.channels], extents[found.columns]
    if channels * p.dtype.itemsize > _DEEP or columns < _COLUMNS:
        return None
    k = operands[1 - found.image]
    load = body.code[k]
    source, itemsize = body.arguments[load.argument], load.dtype.itemsize
    line = in_line(itemsize)
    rest = left_over(columns, line)
    width, pitch = rounded_up(columns - rest, line), rounded_up(channels, line)
    size = channels * width + line  # of a matrix: its rows never lie evenly with those of the next one
    room = 16 * size + SIZE**2 * rest * pitch + SLACK // itemsize
    to = body.lowering.scratch(Type(load.dtype, (room,)), f"{source.name} 4x4")
    step, across = (load.at.strides[axis] for axis in (found.channels, found.columns))
    places = [
        load.at.offset + i * load.at.strides[found.inside[0]] + j * load.at.strides[found.inside[1]]
        for i in range(SIZE)
        for j in range(SIZE)
    ]
    work = Body(body.lowering, (channels, columns - rest), ())
    terms = [_Term(work, work.load(source, Affine(place, (step, across)))) for place in places]
    grid = [terms[k : k + SIZE] for k in range(0, SIZE**2, SIZE)]
    for n, term in enumerate(t for row in transformed(WEIGHTS, grid) for t in row):
        work.store_into(to, term.number, Affine(n * size, (width, 1)))
    plain = Body(body.lowering, (rest, channels), ())
    for n, place in enumerate(places):
        value = plain.load(source, Affine(place + (columns - rest) * across, (across, step)))
        plain.store_into(to, value, Affine(16 * size + n * pitch, (SIZE**2 * pitch, 1)))
    calls = [w.call_of(tuple(group.roots), to.name) for w in (work, plain)]
    before += [call for call in calls if call is not None]
    body.kind, body.limits = Winograd, ()
    body.apart = (*found.places, *found.inside, found.channels, found.columns)
    strides = [0] * len(extents)
    for axis, stride in zip((*found.inside, found.channels, found.columns), (4 * size, size, width, 1), strict=True):
        strides[axis] = stride
    return to, (k, Affine(0, tuple(strides)))


def gain(found: Convolution, space: tuple[int, ...], reduced: tuple[int, ...], itemsize: int) -> float:
    """How many times faster it is than the sum of products, by a simple model of the cycles that both take."""
    extents = space + reduced
    channels, columns = extents[found.channels], extents[found.columns]
    places = [extents[axis] for axis in found.places]
    images = math.prod(space) // (columns * math.prod(places))
    squares = images * math.prod(-(-n // 2) for n in places)
    lanes = in_line(itemsize)
    rest = left_over(columns, lanes)
    deep, wide, all_wide = (filled(n, lanes) for n in (channels, columns - rest, columns))
    square = 16 * channels * wide + _IMAGE * deep + _RESULTS * wide + rest * (36 * deep + _REST)
    own = squares * square + _WEIGHTS * channels * wide + _CALL
    return images * math.prod(places) * 9 * channels * all_wide / own


def _needed(body: Body) -> float:
    """The part of the products that a sum takes: it may leave zeros out."""
    extents = body.space + body.reduced
    return math.prod(n.steps(extents) / (extents[n.outer] * extents[n.inner]) for n in body.limits)


@dataclass(frozen=True)
class _Term:
    """A value of a Nest while it is collected, with Python's operators."""

    body: Body
    number: int

    def _with(self, op: str, *others: int) -> _Term:
        dtype = self.body.code[self.number].dtype
        return _Term(self.body, self.body.emit(Instruction(op, (self.number, *others), dtype)))

    def __add__(self, other: _Term) -> _Term:
        return self._with("add", other.number)

    def __sub__(self, other: _Term) -> _Term:
        return self._with("subtract", other.number)

    def __neg__(self) -> _Term:
        return self._with("negative")

    def __mul__(self, number: float) -> _Term:
        dtype = self.body.code[self.number].dtype
        by = self.body.emit(Instruction("number", (), dtype, (float(number).hex(),)))
        return self._with("multiply", by)
