"""Code for a copy that turns two axes: squares of lanes x lanes elements are turned in registers.

Rows of the source are loaded as vectors, and log2(lanes) rounds of shuffles exchange halves, quarters, ... of pairs of
rows, after which the vectors are columns (Eklundh 1972). This is a function that all such copies of a program share.
What is left over at the edges is copied number by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.executors.native.builder import Function, Module
from backlit.executors.native.kernels import Nest
from backlit.executors.native.names import I64, POINTER, element
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value


def turned_axes(nest: Nest, target: Target) -> tuple[int, int] | None:
    """(axis of neighbours in the source, axis of neighbours in the result) of a copy that turns them."""
    if nest.prologue or [i.op for i in nest.epilogue] != ["load", "store"]:
        return None
    load, store = nest.epilogue
    lanes = target.lanes(load.dtype.itemsize)
    if load.dtype.kind != "f" or load.dtype.itemsize < 4:
        return None
    axes = range(len(nest.space))
    source = next((a for a in axes if load.at.strides[a] == 1 and nest.space[a] >= lanes), -1)
    result = next((a for a in axes if store.at.strides[a] == 1 and nest.space[a] >= 4), -1)
    if source < 0 or result < 0 or source == result:
        return None
    return source, result


def square(rows: Sequence[Value]) -> list[Value]:
    """The columns of a square matrix whose rows are these vectors."""
    n, rows = len(rows), list(rows)
    half = n // 2
    while half:
        low = [j if not j & half else n + (j ^ half) for j in range(n)]
        high = [j | half if not j & half else n + j for j in range(n)]
        new: list[Any] = [None] * n
        for i in range(n):
            if not i & half:
                new[i] = rows[i].shuffled(low, rows[i | half])
                new[i | half] = rows[i].shuffled(high, rows[i | half])
        rows = new
        half //= 2
        if half and half == n // 8:  # LLVM would look for long for ways to join these shuffles with the next ones
            rows = [v.f.call("arithmetic.fence", v.dtype, v.lanes, [v]) for v in rows]
    return rows


def turn(module: Module, dtype: np.dtype[Any], lanes: int, rows: int, columns: int) -> str:
    """The function that turns a square from one place to another, whose rows lie so many elements apart.

    Only so many of its rows and columns are there: what is outside is not touched, and what is stored for it is 0.
    """
    whole = rows == columns == lanes
    name = f"turn_{lanes}_{element(dtype)}" + ("" if whole else f"_{rows}x{columns}")
    if all(f.name != name for f in module.functions):
        f = Function(module, name, [(POINTER, "from"), (I64, "apart"), (POINTER, "to"), (I64, "there")])
        source, apart, target, there = f.arguments
        mask = f.first(lanes, columns) if columns < lanes else None
        found = [f.load(source.at(apart * r, dtype), dtype, lanes, mask) for r in range(rows)]
        nothing = [f.const(0, dtype, lanes)] * (lanes - rows)
        for r, column in enumerate(square([*found, *nothing])[:columns]):
            f.store(column, target.at(there * r, dtype))
    return name


def write_transpose(f: Function, nest: Nest, axes: tuple[int, int], split: int, target: Target) -> None:
    """Squares first, then what is left of the rows, then what is left of the columns."""
    load, store = nest.epilogue
    dtype, (across, down) = load.dtype, axes
    lanes = target.lanes(dtype.itemsize)
    begin, end = f.arguments[2], f.arguments[3]
    others = [a for a in range(len(nest.space)) if a not in axes]
    places = (load.at, store.at)
    turned = turn(f.module, dtype, lanes, lanes, lanes)
    start = (
        f.arguments[load.argument].at(places[0].offset, dtype),
        f.arguments[store.argument].at(places[1].offset, dtype),
    )

    def moved(pointers: tuple[Value, Value], axis: int, i: Value) -> tuple[Value, Value]:
        return (pointers[0].at(i * places[0].strides[axis], dtype), pointers[1].at(i * places[1].strides[axis], dtype))

    def level(depth: int, pointers: tuple[Value, Value]) -> None:
        if depth < len(others):
            axis = others[depth]
            low, high = (begin, end) if axis == split else (f.index(0), f.index(nest.space[axis]))
            f.loop(low, high, 1, lambda i: level(depth + 1, moved(pointers, axis, i)), name=f"i{axis}")
            return
        low, high = (begin, end) if down == split else (f.index(0), f.index(nest.space[down]))
        whole = (low + (high - low) // lanes * lanes) if down == split else f.index(nest.space[down] // lanes * lanes)
        wide = nest.space[across] // lanes * lanes

        def strip(j: Value) -> None:
            f.loop(0, wide, lanes, lambda i: block(moved(moved(pointers, down, j), across, i)), name="square")

        def block(at: tuple[Value, Value]) -> None:
            steps = f.index(places[0].strides[down]), f.index(places[1].strides[across])
            f.invoke(turned, [at[0], steps[0], at[1], steps[1]])

        def single(i: Value, j: Value) -> None:
            at = moved(moved(pointers, down, j), across, i)
            f.store(f.load(at[0], dtype), at[1])

        f.loop(low, whole, lanes, strip, name="strip")
        f.loop(whole, high, 1, lambda j: f.loop(0, wide, 1, lambda i: single(i, j), name="rest") and None, name="left")
        if wide < nest.space[across]:
            f.loop(
                low,
                high,
                1,
                lambda j: f.loop(wide, nest.space[across], 1, lambda i: single(i, j)) and None,
                name="edge",
            )

    level(0, start)
