"""Where an element lies: affine functions of the loop counters of a kernel.

An `Affine` is offset + sum of stride_i times counter_i. The index of a value in a kernel is one Affine for each of its
axes; a movement op turns the index of its result into the index of its operand, so that reading through a transpose, a
slice or a window costs other strides and nothing else. Only a reshape can fail to stay affine; the operand is then
stored first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from backlit.ir import Node


class Affine(NamedTuple):
    """offset + sum of strides[i] * counter i. A tuple, since places are compared and looked up all the time."""

    offset: int
    strides: tuple[int, ...]

    def __add__(self, other: Affine) -> Affine:  # type: ignore[override]
        return Affine(self.offset + other.offset, tuple(map(operator.add, self.strides, other.strides)))

    def __mul__(self, k: int) -> Affine:  # type: ignore[override]
        return Affine(self.offset * k, tuple([k * s for s in self.strides]))

    def plus(self, k: int) -> Affine:
        return Affine(self.offset + k, self.strides)

    def bounds(self, extents: Sequence[int]) -> tuple[int, int]:
        """The smallest and the largest value."""
        reach = [s * (n - 1) for s, n in zip(self.strides, extents, strict=True)]
        return self.offset + sum(r for r in reach if r < 0), self.offset + sum(r for r in reach if r > 0)


Index: TypeAlias = tuple[Affine, ...]


@cache
def zero(axes: int) -> Affine:
    """0 everywhere."""
    return Affine(0, (0,) * axes)


@cache
def counter(axis: int, axes: int) -> Affine:
    """The counter of one axis."""
    return Affine(0, tuple(int(i == axis) for i in range(axes)))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous array, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def flat(index: Index, shape: Sequence[int], axes: int) -> Affine:
    """The place in a contiguous array."""
    offset, strides, step = 0, [0] * axes, 1
    for i, n in zip(reversed(index), reversed(shape), strict=True):
        if n != 1:
            offset += i.offset * step
            for axis, s in enumerate(i.strides):
                strides[axis] += s * step
            step *= n
    return Affine(offset, tuple(strides))


def unflat(place: Affine, shape: Sequence[int], extents: Sequence[int]) -> Index | None:
    """The index whose place in row-major order this is; None where it is not affine."""
    found = []
    for n in reversed(shape):
        if n <= 1:  # in an array without elements any index will do
            found.append(zero(len(extents)))
            continue
        inner = Affine(place.offset % n, tuple(s if s % n else 0 for s in place.strides))
        low, high = inner.bounds(extents)
        if low < 0 or high >= n:
            return None
        found.append(inner)
        place = Affine(place.offset // n, tuple(0 if s % n else s // n for s in place.strides))
    return tuple(reversed(found))


def split_axes(shape: Sequence[int], fine: Sequence[int]) -> list[tuple[int, ...]] | None:
    """For each axis of `shape` the sizes in `fine` that make it up, in order; None where axes are not only split."""
    rest, found = list(fine), []
    for n in shape:
        group: list[int] = []
        while not group or math.prod(group) < n:
            if not rest:
                return None
            group.append(rest.pop(0))
        if math.prod(group) != n:
            return None
        found.append(tuple(group))
    if found and math.prod(rest) == 1:
        found[-1] += tuple(rest)
        return found
    return None


def broadcast(index: Index, shape: Sequence[int], axes: int) -> Index:
    """The index of an operand that is stretched to the value that `index` is for."""
    lead = len(index) - len(shape)
    return tuple([zero(axes) if n == 1 else i for i, n in zip(index[lead:], shape, strict=True)])


def through(node: Node, index: Index, axes: int) -> Index:
    """The index of the operand of a movement op (any but reshape), from the index of its result."""
    p: Mapping[str, Any] = node.params
    shape = node.inputs[0].type.shape
    match node.op:
        case "permute_dims":
            where = {a: i for i, a in enumerate(p["axes"])}
            return tuple(index[where[a]] for a in range(len(shape)))
        case "broadcast_to":
            return broadcast(index, shape, axes)
        case "slice":
            return tuple((i * k).plus(a) for i, a, k in zip(index, p["start"], p["step"], strict=True))
        case "flip":
            return tuple(
                (i * -1).plus(n - 1) if a in p["axis"] else i for a, (i, n) in enumerate(zip(index, shape, strict=True))
            )
        case "windows":
            moved = list(index[: len(shape)])
            for k, (a, s, d) in enumerate(zip(p["axes"], p["stride"], p["dilation"], strict=True)):
                moved[a] = moved[a] * s + index[len(shape) + k] * d
            return tuple(moved)
        case _:  # stop_gradient
            return index
