"""Winograd's convolution with windows of 3 x 3 places, two by two results at a time (Lavin & Gray 2015).

Four results that make a square depend on 4 x 4 numbers d of the image and 3 x 3 weights w:

    Y = A^T [(G w G^T) . (B^T d B)] A                  by element: 16 multiplications instead of 36

The gradient by the weights, of four gradients g of results, is the same in reverse:

    dw = G^T [(A g A^T) . (B^T d B)] G

Channels are summed within the brackets, so the 16 numbers are 16 products of matrices. The rest is additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from backlit.executors.native.index import Affine

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

IMAGE: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
"""B^T: of the image."""
WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
"""G: of the weights."""
RESULTS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
"""A^T: of the results."""

SIZE = 3  # places in a window along each axis


def transposed(matrix: Matrix) -> Matrix:
    """M^T."""
    return tuple(zip(*matrix, strict=True))


def transformed(matrix: Matrix, grid: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """M X M^T of a grid of values that can be added, subtracted and multiplied by numbers."""
    across = [[_combined(row, column) for column in zip(*grid, strict=True)] for row in matrix]
    return [[_combined(row, line) for row in matrix] for line in across]


def _combined(row: Sequence[float], values: Sequence[Any]) -> Any:
    """The sum of row[i] values[i], without multiplying by 0 or 1."""
    total: Any = None
    for size in sorted({abs(r) for r in row if r}, reverse=True):
        part: Any = None
        for v in (v for r, v in zip(row, values, strict=True) if r == size):
            part = v if part is None else part + v
        for v in (v for r, v in zip(row, values, strict=True) if r == -size):
            part = -v if part is None else part - v
        part = part if size == 1 else part * size
        total = part if total is None else total + part
    return total


def window_axes(
    strides: Sequence[int], extents: Sequence[int], places: Sequence[int], inside: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The two axes of places and the axes of size 3 in their windows: pairs through which a load goes by equal steps.

    The pair with the longer steps comes first. None where there are not exactly two: other windows, a stride or a
    dilation.
    """
    found = [
        (p, k) for p in places for k in inside if extents[k] == SIZE and strides[p] == strides[k] > 0 and extents[p] > 1
    ]
    axes = {axis for pair in found for axis in pair}
    if len(found) != 2 or len(axes) != 4:
        return None
    first, second = sorted(found, key=lambda pair: -strides[pair[0]])
    return first, second


@dataclass(frozen=True)
class Convolution:
    """Of a product that is a convolution the number of the load of the images, and its axes."""

    image: int  # 0 or 1; the other load is that of the weights
    places: tuple[int, int]  # down and across
    inside: tuple[int, int]  # the window
    channels: int
    columns: int  # the channels of the result


@cache
def convolution(space: tuple[int, ...], reduced: tuple[int, ...], p: Affine, q: Affine) -> Convolution | None:
    """The axes of a product of two loads; None where it is no convolution with windows of 3 x 3 neighbouring places."""
    outer, inner = range(len(space)), range(len(space), len(space) + len(reduced))
    if len(inner) != 3:
        return None
    for image, (a, b) in enumerate(((p.strides, q.strides), (q.strides, p.strides))):
        found = window_axes(a, space + reduced, outer, inner)
        columns = [axis for axis in outer if a[axis] == 0 and b[axis]]
        if found is None or len(columns) != 1 or any(b[axis] for axis in outer if axis != columns[0]):
            continue
        places, inside = zip(*found, strict=True)
        (channels,) = set(inner) - set(inside)
        if a[channels] == 1 and b[channels]:
            return Convolution(image, places, inside, channels, columns[0])
    return None
