"""The gradient of a convolution's 3x3 weights, found among products.

It is a product summed over the places of an image, in whose result the window's axes go through the image by the same
steps as places do. It is made by Winograd's transforms (`winograd_sum`) where that takes less time. All is decided from
sizes, so results have the same bits for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from backlit.executors.native.index import row_major
from backlit.executors.native.kernels import Buffer, Call, Nest, WinogradSum
from backlit.executors.native.names import F32, F64
from backlit.executors.native.tiling import is_product, pieces
from backlit.executors.native.vectors import filled, in_line, left_over
from backlit.executors.native.winograd import SIZE, window_axes
from backlit.ir import Type

_ROWS, _WIDTH = 64, 512  # channels of the first operand, and bytes of the second's, whose sums stay in the caches
_UNITS = 8  # equal pieces of work at least, for threads to share
_FEW = 8  # channels of which products take less time, however many places there are
_GAIN = 1.2  # times faster that it has to be
# Cycles of a processor that multiplies and adds one vector of 64 bytes a cycle:
_TILE = 60  # for a vector of a tile's channels, which is loaded, transformed and stored
_SUM = 110  # for a vector of a part's sums at all places, which is cleared, added to and transformed back


@dataclass(frozen=True)
class Operand:
    """A load of the product: its channels, their step in the result, its strides along what is summed."""

    load: int
    channels: int
    step: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Gradient:
    """Of a product that is such a gradient the operands, that whose channels are neighbours in the result last.

    What is summed are the axes of `batch`, then `size` places down and across; `window` are the steps in the result.
    """

    image: int  # which operand it is
    operands: tuple[Operand, Operand]
    window: tuple[int, int]
    batch: tuple[int, ...]
    size: tuple[int, int]

    def is_quick(self, parts: int, itemsize: int) -> bool:
        """Whether it takes less time than products, by a simple model of the cycles of both."""
        rows, columns = (o.channels for o in self.operands)
        images, lanes = math.prod(self.batch), in_line(itemsize)
        rest = left_over(columns, lanes)
        tiles = images * math.prod(-(-n // 2) for n in self.size)
        high, wide = (filled(n, lanes) for n in (rows, columns))
        product = rows * filled(columns - rest, lanes) + rest * high
        own = tiles * ((SIZE + 1) ** 2 * product + _TILE * (high + wide)) + _SUM * parts * rows * wide
        gain = images * math.prod(self.size) * SIZE**2 * rows * wide / own
        return min(rows, columns) >= _FEW and gain >= _GAIN


def by_winograd(call: Call, scratch: Callable[[Type, str], Buffer]) -> tuple[list[Call], Buffer] | None:
    """The kernels that sum a product in parts by Winograd's transforms, and the memory of the parts; None: none do.

    It is one kernel, or a few where blocks of channels differ in size.
    """
    nest = call.kernel
    assert isinstance(nest, Nest)
    found = gradient(nest)
    if found is None:
        return None
    dtype, (x, y) = nest.prologue[3].dtype, found.operands
    rows, columns = pieces(x.channels, _ROWS), pieces(y.channels, _WIDTH // dtype.itemsize)
    parts = max(2, -(-_UNITS // (sum(n for n, _ in rows) * sum(n for n, _ in columns))))
    if not found.is_quick(parts, dtype.itemsize):
        return None
    memory = scratch(Type(dtype, (parts, *nest.space)), f"{call.label} part")
    made, loads = [], [nest.prologue[o.load] for o in found.operands]
    (p, begin), (q, start) = ((b, at + i.at.offset) for i in loads for b, at in [call.arguments[i.argument]])
    first = 0
    for down, height in rows:
        second = 0
        for across, width in columns:
            kernel = WinogradSum(
                parts, found.batch, found.size, (height, width), (down, across), found.image,
                (x.strides, y.strides), (nest.points, *found.window, x.step), dtype,
            )  # fmt: skip
            places = (p, begin + first), (q, start + second), (memory, first * x.step + second)
            made.append(Call(kernel, places, (2,), call.nodes, (), f"{call.label} in parts"))
            second += across * width
        first += down * height
    return made, memory


def gradient(nest: Nest) -> Gradient | None:
    """The gradient that a product is; None if it is none."""
    if not is_product(nest) or len(nest.reduced) < 2 or any(i.dtype not in (F32, F64) for i in nest.prologue):
        return None
    return _with_image(nest, 0) or _with_image(nest, 1)


def _with_image(nest: Nest, image: int) -> Gradient | None:
    """The same where the image is this load."""
    outer = len(nest.space)
    d, g = (nest.prologue[k].at.strides for k in (image, 1 - image))
    axes = list(zip(nest.space, row_major(nest.space), d, g, strict=False))
    inner = list(zip(nest.reduced, (0,) * len(nest.reduced), d[outer:], g[outer:], strict=True))
    for k, (n, step, mine, other) in enumerate(axes):  # the window's last axis and the channels may be one
        if mine == 1 and other == 0 and any(n == SIZE * s for _, _, s, _ in inner):
            axes[k : k + 1] = [(SIZE, step * (n // SIZE), n // SIZE, 0), (n // SIZE, step, 1, 0)]
            break
    outer = len(axes)
    if outer != 4:
        return None
    extents, steps, d, g = zip(*axes, *inner, strict=True)
    found = window_axes(d, extents, range(outer, len(d)), range(outer))
    channels = [k for k in range(outer) if (d[k], g[k]) == (1, 0)]
    others = [k for k in range(outer) if (d[k], g[k]) == (0, 1)]
    if found is None or len(channels) != 1 or len(others) != 1:
        return None
    places, window = zip(*found, strict=True)
    if {*window, *channels, *others} != set(range(outer)) or any(g[k] for k in window):
        return None
    order = [*(k for k in range(outer, len(d)) if k not in places), *places]
    made = [
        Operand(load, extents[k], steps[k], tuple(strides[a] for a in order))
        for load, (k,), strides in ((image, channels, d), (1 - image, others, g))
    ]
    if 1 not in (made[0].step, made[1].step):
        return None
    turned = made[0].step == 1
    *batch, down, across = (extents[k] for k in order)
    first, second = reversed(made) if turned else made
    return Gradient(int(turned), (first, second), (steps[window[0]], steps[window[1]]), tuple(batch), (down, across))
