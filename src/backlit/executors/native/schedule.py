"""How a Nest is run by loops: a choice made of its shapes and strides by a simple model of cycles, as data.

For products, and for copies that turn axes, there are better ways (`method`), whose records extend that of loops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from backlit.executors.native.kernels import COMBINERS, Instruction, Nest
from backlit.executors.native.target import Target
from backlit.executors.native.vectors import narrowed

_COLUMNS = 4  # vectors side by side that a sum over rows takes at once: it goes through memory in longer runs
_SHORT = 8  # cycles of a step that waits for the sum of the step before, unless several sums are made at once
_PLAIN = ("load", "number", "add", "subtract", "multiply", "negative")


@dataclass(frozen=True)
class Schedule:
    """How a Nest is run."""

    vector: int  # the axis cut into vectors; -1: none
    lanes: int  # of a vector, or of several where sums over rows take them side by side
    unroll: int  # partial sums at once
    split: int  # the axis that threads share; -1: none
    grain: int = 1  # points along it that stay together


@lru_cache(maxsize=4096)
def schedule(nest: Nest, target: Target) -> Schedule:
    """The schedule that takes the fewest cycles by a simple model."""
    extents = nest.space + nest.reduced
    outer = len(nest.space)
    sizes = [i.dtype.itemsize for i in nest.prologue + nest.epilogue if i.dtype.kind == "f" or i.op in COMBINERS]
    lanes = target.lanes(max(sizes, default=4))
    vector, width, best = -1, 1, nest_cycles(nest, -1, 1)
    if extents == (-1,):
        return Schedule(0, lanes, 1, 0)
    for axis, n in enumerate(extents):
        w = narrowed(lanes, n)
        cost = nest_cycles(nest, axis, w) if w > 1 else math.inf
        if cost <= best:  # of equals the inner axis
            vector, width, best = axis, w, cost
    inner = nest.reduced[-1] if nest.reduced else 0
    if vector >= outer:
        inner = extents[vector] // width
    step = sum(_price(i, vector, width) for i in nest.prologue)
    unroll = 4 if inner >= 8 and step <= _SHORT else 2 if inner >= 4 and step <= 2 * _SHORT else 1
    split = next((a for a in range(outer) if a != vector), 0) if outer else -1
    if vector in range(outer) and inner >= 8 and _is_plain_sum(nest, vector):
        while width < _COLUMNS * lanes and extents[vector] >= 4 * width:  # so that two threads have whole ones
            width, unroll = 2 * width, 2
    return Schedule(vector, width, unroll, split)


def of_any_length(nest: Nest, target: Target) -> Nest:
    """A long flat map without its length: its code is the same for every length, so all such maps share it."""
    if nest.prologue or len(nest.space) != 1 or nest.space[0] < 4 * target.vector_bytes:
        return nest
    return replace(nest, space=(-1,)) if schedule(nest, target).vector == 0 else nest


def _is_plain_sum(nest: Nest, vector: int) -> bool:
    """Whether a few values are read, put together and combined, all of them by neighbours along `vector`."""

    def plain(i: Instruction) -> bool:
        if i.op == "divide":  # by one number for the whole row
            by = nest.prologue[i.inputs[1]].place
            return by is not None and by.strides[vector] == 0
        near = i.place is None or i.place.strides[vector] in (0, 1)
        return near and (i.op in _PLAIN or i.op in COMBINERS)

    return len(nest.prologue) <= 8 and all(plain(i) for i in nest.prologue)


def nest_cycles(nest: Nest, axis: int, lanes: int) -> float:
    """About how long the nest takes when `axis` is cut into vectors of `lanes`."""
    outer = len(nest.space)
    points, steps = nest.points, math.prod(nest.reduced)
    if axis >= outer:
        steps = steps // nest.reduced[axis - outer] * math.ceil(nest.reduced[axis - outer] / lanes)
        sums = sum(i.op in COMBINERS for i in nest.prologue)
        across = sums * (8 + 4 * lanes.bit_length())
        inner = sum(_price(i, axis, lanes) for i in nest.prologue)
        return points * (steps * inner + across + sum(_price(i, -1, 1) for i in nest.epilogue))
    if axis >= 0:
        points = points // nest.space[axis] * math.ceil(nest.space[axis] / lanes)
    return points * (
        steps * sum(_price(i, axis, lanes) for i in nest.prologue) + sum(_price(i, axis, lanes) for i in nest.epilogue)
    )


def _price(i: Instruction, axis: int, lanes: int) -> float:
    """Cycles for one instruction on a vector."""
    if i.place is not None and i.op != "index":
        stride = i.place.strides[axis] if axis >= 0 else 1
        if i.op == "gather":
            return 4.0 + 1.5 * lanes
        return {0: 0.6, 1: 1.0}.get(stride, 1.3 * lanes)
    return {"number": 0.0, "divide": 8.0, "sqrt": 8.0, "exp": 14.0, "log": 20.0, "tanh": 17.0, "sigmoid": 14.0,
            "erf": 60.0, "pow": 30.0 * lanes, "sin": 30.0 * lanes, "cos": 30.0 * lanes}.get(i.op, 1.0)  # fmt: skip
