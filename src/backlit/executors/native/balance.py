"""Which axis of a nest's result threads share, so that none waits long for another.

It is the outermost one, which is that of the kernels around as well, as the rows of a batch are: what a thread needs is
then in its own cache. But seven images make two shares of four and three; where that costs more than it does to get
numbers from the other cores and to meet them, an axis further in is shared instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from backlit.executors.native.kernels import Nest
from backlit.executors.native.threads import SHARES

_MEETING = 1 << 17  # multiply-adds in the time of the barriers that an axis of its own may need
_FETCHED = 5  # multiply-adds in the time in which a number comes from another core, those of a line together


def shared_axis(nest: Nest, axes: Sequence[int], extents: Sequence[int]) -> int:
    """The one of these axes, the outermost one first, which are cut into so many pieces; -1: there is none."""
    if not axes:
        return -1
    first, best = axes[0], min(axes, key=lambda axis: _longest(extents[axis]))
    saved = nest.points * nest.steps * (_longest(extents[first]) - _longest(extents[best]))
    return best if saved > _MEETING and saved > _MEETING + _FETCHED * _apart(nest, first) else first


def _longest(extent: int) -> float:
    """The longest of the threads' shares, as a part of all."""
    return -(-extent // SHARES) / max(1, extent)


def _apart(nest: Nest, axis: int) -> int:
    """The numbers in memory that each thread has its own of, if this axis is shared."""
    extents, found = nest.space + nest.reduced, 0
    for i in nest.prologue + nest.epilogue:
        if i.place is not None and i.op in ("load", "store"):
            low, high = i.place.bounds(extents)
            if abs(i.place.strides[axis]) * extents[axis] >= high - low:  # else all shares read almost the same
                found += high - low + 1
    return found
