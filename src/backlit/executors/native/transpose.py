"""Code for a copy that turns two axes: squares of lanes x lanes elements are turned in registers.

Rows of the source are loaded as vectors, and log2(lanes) rounds of shuffles exchange halves, quarters, ... of pairs of
rows, after which the vectors are columns (Eklundh 1972). This is a function that all such copies of a program share.
What is left over at the edges is a part of a square, under masks.

The rows may be named by numbers, as those of a minibatch are: then they are gathered and turned at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from backlit.executors.native.bounds import checked, report
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.kernels import Nest
from backlit.executors.native.names import I64, POINTER, element
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value


@dataclass(frozen=True, kw_only=True)
class Transpose(Schedule):
    """How such a copy is run: `source` and `vector` are the axes of neighbours in the source and in the result."""

    source: int


def transpose(nest: Nest, target: Target) -> Transpose | None:
    """How to run a copy that turns two axes; None where the nest is none."""
    code = nest.epilogue
    if nest.prologue or [i.op for i in code] not in (["load", "store"], ["load", "gather", "store"]):
        return None
    load, store = code[-2:]
    lanes = target.lanes(load.dtype.itemsize)
    if load.dtype.kind != "f" or load.dtype.itemsize < 4:
        return None
    axes = range(len(nest.space))
    source = next((a for a in axes if load.at.strides[a] == 1 and nest.space[a] >= lanes), -1)
    result = next((a for a in axes if store.at.strides[a] == 1 and nest.space[a] >= 4), -1)
    if source < 0 or result < 0 or source == result:
        return None
    if load.op == "gather":  # by one number for each element of the result's axis
        along = [int(a == result) for a in axes]
        if len(load.axes) != 1 or code[0].at.strides != tuple(along) or load.at.strides[result]:
            return None
        if load.axes[0][0] == 0:  # there is no row that could be read instead of a wrong one
            return None
    longer = source if nest.space[source] > nest.space[result] else result  # few lines belong to two shares then
    split = next((a for a in axes if a not in (source, result)), longer)
    return Transpose(result, lanes, 1, split, lanes if split == source else 1, source=source)


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


def turn(
    module: Module, dtype: np.dtype[Any], lanes: int, rows: int, columns: int, apart: bool = True, within: bool = False
) -> str:
    """The function that turns a square from one place to another, whose rows lie so many elements apart.

    Unless `apart` it is given where a list of the places of its rows lies. Only so many of its rows and columns are
    there: what is outside is not touched, and what is stored for it is 0, or nothing if it must stay `within`.
    """
    part = "" if rows == columns == lanes else f"_{rows}x{columns}{'_within' if within else ''}"
    name = f"turn_{lanes}_{element(dtype)}{'' if apart else '_named'}{part}"
    if all(f.name != name for f in module.functions):
        second = (I64, "apart") if apart else (POINTER, "places")
        f = Function(module, name, [(POINTER, "from"), second, (POINTER, "to"), (I64, "there")])
        source, by, target, there = f.arguments
        mask = f.first(lanes, columns) if columns < lanes else None
        places = (by * r if apart else f.load(by.at(r, I64), I64) for r in range(rows))
        found = [f.load(source.at(place, dtype), dtype, lanes, mask) for place in places]
        nothing = [f.const(0, dtype, lanes)] * (lanes - rows)
        kept = f.first(lanes, rows) if within and rows < lanes else None
        for r, column in enumerate(square([*found, *nothing])[:columns]):
            f.store(column, target.at(there * r, dtype), kept)
    return name


class TransposeWriter:
    """Writes such a copy: strips of `lanes` rows, and in a strip square after square."""

    def __init__(self, f: Function, nest: Nest, plan: Transpose, lengths: Sequence[int]) -> None:
        self.f, self.nest, self.split, self.lengths = f, nest, plan.split, lengths
        self.across, self.down, self.lanes = plan.source, plan.vector, plan.lanes
        *named, self.load, self.store = nest.epilogue
        self.named = named[0] if named else None
        self.dtype = self.load.dtype
        self.begin, self.end, self.status, self.check = f.arguments[len(nest.arguments) :]
        self.places = f.slot(I64, self.lanes, "places") if named else None

    def write(self) -> None:
        f, lanes = self.f, self.lanes
        source, result = (f.arguments[i.argument].at(i.at.offset, i.dtype) for i in (self.load, self.store))
        lengths = set(self.lengths) if self.down == self.split else {self.nest.space[self.down]}
        low, high = self._range(self.down)
        whole = low + ((high - low) // lanes * lanes if len(lengths) > 1 else min(lengths) // lanes * lanes)
        f.loop(low, whole, lanes, lambda j: self._strip(source, result, j, lanes), name="strip")
        for rest in sorted({n % lanes for n in lengths} - {0}):
            strip = partial(self._strip, source, result, whole, rest)
            if len(lengths) == 1:
                strip()
            else:
                f.when(high - whole == rest, strip, "rest")

    def _range(self, axis: int) -> tuple[Value, Value]:
        if axis == self.split:
            return self.begin, self.end
        return self.f.index(0), self.f.index(self.nest.space[axis])

    def _strip(self, source: Value, result: Value, j: Value, rows: int) -> None:
        """The rows from `j` on, so many of them."""
        if self.named is not None:
            self._find_places(j, rows)
        others = [a for a in range(len(self.nest.space)) if a not in (self.across, self.down)]
        self._around(others, *self._moved(source, result, self.down, j), rows)

    def _find_places(self, j: Value, rows: int) -> None:
        """Where the rows lie that are named from `j` on."""
        f, index = self.f, self.named
        assert index is not None
        assert self.places is not None
        ((size, stride),) = self.load.axes
        mask = f.first(self.lanes, rows) if rows < self.lanes else None
        names = f.load(f.arguments[index.argument].at(j + index.at.offset, index.dtype), index.dtype, self.lanes, mask)
        place, wrong = checked(f, names, size, mask)
        report(f, self.status, self.check, names, wrong)
        f.store(place * stride, self.places)

    def _moved(self, source: Value, result: Value, axis: int, i: Value) -> tuple[Value, Value]:
        steps = (k.at.strides[axis] for k in (self.load, self.store))
        a, b = (p.at(i * step, self.dtype) for p, step in zip((source, result), steps, strict=True))
        return a, b

    def _around(self, others: Sequence[int], source: Value, result: Value, rows: int) -> None:
        """The squares of a strip, in loops over the axes that stay."""
        f, lanes, tail = self.f, self.lanes, self.nest.space[self.across] % self.lanes
        if others:
            axis, *inner = others

            def inside(i: Value) -> None:
                self._around(inner, *self._moved(source, result, axis, i), rows)

            f.loop(*self._range(axis), 1, inside, name=f"i{axis}")
            return

        def one(i: Value, columns: int = lanes) -> None:
            a, b = self._moved(source, result, self.across, i)
            name = turn(f.module, self.dtype, lanes, rows, columns, self.places is None, within=True)
            by = self.places or f.index(self.load.at.strides[self.down])
            f.invoke(name, [a, by, b, f.index(self.store.at.strides[self.across])])

        low, high = self._range(self.across)
        whole = low + (high - low) // lanes * lanes  # only the last share may have more
        f.loop(low, whole, lanes, one, name="square")
        if tail:
            f.when(whole < high, lambda: one(whole, tail), "rest")
