"""Rows of a large table that a gather reads in the order of its indices, asked for some turns before they are needed.

Rows of a minibatch lie anywhere in a data set. A processor finds out that it goes through memory in order after some
lines of each row, and waits for memory meanwhile.
"""

from __future__ import annotations

import math

import numpy as np

from backlit.executors.native.arithmetic import SCALARS
from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import Nest
from backlit.executors.native.names import I64
from backlit.executors.native.value import Value
from backlit.executors.native.vectors import LINE

AHEAD = 2  # turns of the loop over rows
_U8 = np.dtype(np.uint8)
_LEAST, _MOST = 256, 1 << 14  # bytes of a row: several lines, and a few rows fit into a cache
_FAR = 1 << 20  # bytes of a table that does not stay near


def far_rows(nest: Nest, axis: int) -> dict[int, int]:
    """The gathers that read one row of a large table for each turn of `axis`, whatever the other axes; its bytes."""
    everything, extents, found = nest.prologue + nest.epilogue, nest.space + nest.reduced, {}
    for k, i in enumerate(everything):
        if i.op != "gather" or i.at.strides[axis]:
            continue
        low, high = i.at.bounds(extents)
        size, (rows, step) = (high + 1 - low) * i.dtype.itemsize, i.axes[0]
        dense = high + 1 - low == math.prod(n for n, s in zip(extents, i.at.strides, strict=True) if s)
        indices = [everything[j] for j in i.inputs]
        of_axis = all(j.op == "load" and [a for a, s in enumerate(j.at.strides) if s] == [axis] for j in indices)
        if of_axis and dense and _LEAST <= size <= _MOST and rows * step * i.dtype.itemsize > _FAR:
            found[k] = size
    return found


def ask_for_row(
    f: Function, nest: Nest, k: int, size: int, pointers: dict[int, Value], indices: dict[int, Value]
) -> None:
    """Ask for the row that gather k reads with the indices at these places, whatever lies there."""
    everything = nest.prologue + nest.epilogue
    gather = everything[k]
    place = f.index(gather.at.bounds(nest.space + nest.reduced)[0] - gather.at.offset)
    for j, (_, step) in zip(gather.inputs, gather.axes, strict=True):
        place = place + SCALARS.cast(f.load(indices[j], everything[j].dtype), I64) * step
    row = pointers[k].at(place, gather.dtype)
    f.loop(0, size, LINE, lambda n: f.prefetch(row.at(n, _U8)), name="ask")
