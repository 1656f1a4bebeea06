"""Code for `Rows`: a loop over rows, in which each nest does its part of one row.

Where a row is a few vectors long its loops are written out, and what one nest has read or computed of it stays in
registers for the next ones. A value that nobody else reads is stored only if it is asked for in another way than it was
left, by another cut into vectors, say. Nests whose vectors go along the rows take a block of rows at once, as many as a
vector has lanes. The rule that holds: what is known of memory (`Row`) was loaded or stored outside of every loop but
those over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from backlit.executors.native.builder import Function, Module, kernel_function
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Instruction, Nest, Rows
from backlit.executors.native.nest import NestWriter, Point
from backlit.executors.native.schedule import Schedule, schedule
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value

_LONG = 768  # instructions for a row that are not written out
_DEAR = {"exp", "log", "tanh", "sigmoid", "erf", "expm1", "log1p", "pow", "sin", "cos", "threefry2x32"}
_MANY = 16  # instructions that one of these takes

Key: TypeAlias = tuple[int, tuple[int, ...], int, int, int, str]
"""Argument, steps from row to row, place, lanes, step from lane to lane, mask."""


def emit_rows(module: Module, name: str, rows: Rows, lengths: Sequence[int]) -> None:
    """Write the function of Rows: as that of a nest, with a range of the first axis of the rows."""
    f = kernel_function(module, name, [f"p{k}" for k in range(len(rows.arguments))])
    RowsWriter(f, rows, lengths).write()


def block(rows: Rows, target: Target) -> int:
    """How many rows are done at once."""
    axes = len(rows.space)
    plans = [schedule(n, target) for n in rows.nests]
    return max((p.lanes for p in plans if 0 <= p.vector < axes), default=1)


def is_short(rows: Rows, count: int, target: Target) -> bool:
    """Whether a row, or a block of `count` rows, is a few vectors, and not too long when its loops are written out."""
    code = 0
    for nest in rows.nests:
        inner, plan = inside(nest, len(rows.space), count, target)
        sizes = [-(-n // plan.lanes) if a == plan.vector else n for a, n in enumerate(inner.space + inner.reduced)]
        points, vectors = math.prod(sizes[: len(inner.space)]), math.prod(sizes)
        if vectors > target.registers // 2:
            return False
        code += vectors * _length(inner.prologue) + points * _length(inner.epilogue)
    return code <= _LONG


def inside(nest: Nest, axes: int, count: int, target: Target) -> tuple[Nest, Schedule]:
    """What a nest does for one row, or for a block of `count` rows, and how; the rows are its first axes."""
    kept = axes - 1 if count else axes  # axes that are loops around this
    plan = schedule(nest, target)
    vector = 0 if 0 <= plan.vector < axes else max(plan.vector - kept, -1)
    code = [
        i if i.place is None else replace(i, place=Affine(i.place.offset, i.place.strides[kept:]))
        for i in nest.prologue + nest.epilogue
    ]
    first, space = len(nest.prologue), nest.space[axes:]
    inner = replace(
        nest, space=(count, *space) if count else space, prologue=tuple(code[:first]), epilogue=tuple(code[first:])
    )
    return inner, Schedule(vector, plan.lanes, plan.unroll, -1)


class RowsWriter:
    """Writes Rows: the loops over rows."""

    def __init__(self, f: Function, rows: Rows, lengths: Sequence[int]) -> None:
        self.f, self.rows, self.lengths = f, rows, sorted(set(lengths))
        self.block = block(rows, f.module.target)
        n = len(rows.arguments)
        self.begin, self.end = f.arguments[n : n + 2]
        self.beside = 2 if self.block == 1 and is_short(rows, 0, f.module.target) else 1
        self.memory = [  # of each of the rows side by side
            [*f.arguments[:n], *(f.slot(dtype, size * self.block, "row") for dtype, size in rows.slots)]
            for _ in range(self.beside)
        ]

    def write(self) -> None:
        self._axis(0, ())

    def _axis(self, axis: int, counters: tuple[Value, ...]) -> None:
        f, n, last = self.f, self.rows.space[axis], axis == len(self.rows.space) - 1
        low, high = (self.begin, self.end) if axis == 0 else (f.index(0), f.index(n))
        if not last:
            f.loop(low, high, 1, lambda i: self._axis(axis + 1, (*counters, i)), name=f"row{axis}")
        elif self.block == 1:
            self._beside(low, high, counters, self.lengths if axis == 0 else [n])
        else:
            self._blocks(low, high, counters, self.lengths if axis == 0 else [n])

    def _beside(self, low: Value, high: Value, counters: tuple[Value, ...], lengths: Sequence[int]) -> None:
        """The last axis of the rows, a few rows at once, and what is left of it row by row."""
        f, size = self.f, self.beside
        length = f.index(lengths[0]) if len(lengths) == 1 else high - low
        whole = low + length // size * size
        if lengths[-1] >= size:
            f.loop(low, whole, size, lambda i: self._rows([(*counters, i + k) for k in range(size)], 0), name="row")
        if any(n % size for n in lengths):
            f.loop(whole, high, 1, lambda i: self._rows([(*counters, i)], 0), name="row")

    def _blocks(self, low: Value, high: Value, counters: tuple[Value, ...], lengths: Sequence[int]) -> None:
        """The last axis of the rows in blocks, and what is left of each length that it may have."""
        f, size = self.f, self.block
        length = f.index(lengths[0]) if len(lengths) == 1 else high - low
        whole = low + length // size * size
        if lengths[-1] >= size:
            f.loop(low, whole, size, lambda i: self._rows([(*counters, i)], size), name="rows")
        for rest in sorted({n % size for n in lengths} - {0}):
            if len(lengths) == 1:
                self._rows([(*counters, whole)], rest)
            else:
                f.when(high - whole == rest, partial(self._rows, [(*counters, whole)], rest), "rest")

    def _rows(self, places: Sequence[tuple[Value, ...]], count: int) -> None:
        """All nests on each of some rows, or on a block of `count` rows.

        Rows are done side by side because each waits for its sums longer than it works.
        """
        nests = self.rows.nests
        written_out = is_short(self.rows, count, self.f.module.target)
        most = 3 * self.f.module.target.registers // (4 * len(places))
        rows = [Row(written_out, most, memory) for memory in self.memory[: len(places)]]
        for k, nest in enumerate(nests):
            later = {i.argument for n in nests[k + 1 :] for i in n.prologue + n.epilogue if i.op == "load"}
            for row, place in zip(rows, places, strict=True):
                row.wanted = later | {i.argument for i in nest.prologue + nest.epilogue if i.op == "load"}
                RowWriter(self, nest, place, count, row).write()
                row.forget(later)


class Row:
    """What is known of the memory of a row while the code for it is written: values, at most so many."""

    def __init__(self, written_out: bool, most: int, memory: Sequence[Value]) -> None:
        self.written_out, self.most, self.memory = written_out, most, memory
        self.values: dict[Key, Value] = {}
        self.late: dict[Key, Callable[[], None]] = {}  # stores that nobody has needed yet
        self.wanted: set[int] = set()  # arguments that are still to be read
        self.bases: dict[tuple[int, tuple[int, ...]], Value] = {}  # where arguments start in this row

    def keep(self, key: Key, value: Value) -> bool:
        """Remember the value at a place, if it is wanted and there is room for it."""
        if key[0] not in self.wanted or (key not in self.values and len(self.values) >= self.most):
            return False
        self.values[key] = value
        return True

    def flush(self, arguments: set[int]) -> None:
        """Store what was left for later."""
        for key in [k for k in self.late if k[0] in arguments]:
            self.late.pop(key)()

    def overwrite(self, key: Key) -> None:
        """Before something is stored at a place: what is known there is so no more."""
        if any(k[0] == key[0] and k != key and _meet(k, key) for k in self.values):
            self.flush({key[0]})
            self.values = {k: v for k, v in self.values.items() if k[0] != key[0] or k == key or not _meet(k, key)}
        self.late.pop(key, None)
        self.values.pop(key, None)

    def forget(self, wanted: set[int]) -> None:
        """Of all arguments but those that are still wanted."""
        self.values = {k: v for k, v in self.values.items() if k[0] in wanted}
        self.late = {k: v for k, v in self.late.items() if k[0] in wanted}


def _meet(a: Key, b: Key) -> bool:
    """Whether two places of an argument may have elements in common."""
    _, rows, place, lanes, step, _ = a
    if (rows, lanes, step) != (b[1], b[3], b[4]):
        return True
    apart = abs(place - b[2])
    return apart == 0 if lanes == 1 else step == 0 or (apart % step == 0 and apart < lanes * step)


class RowWriter(NestWriter):
    """Writes what one nest does for a row, or for the rows of a block."""

    def __init__(self, whole: RowsWriter, nest: Nest, counters: tuple[Value, ...], count: int, row: Row) -> None:
        axes, target = len(whole.rows.space), whole.f.module.target
        inner, plan = inside(nest, axes, count, target)
        super().__init__(whole.f, inner, plan, ())
        self._loop = partial(whole.f.loop, written_out=row.written_out)
        self.row, self.counters = row, counters
        self.slots = len(whole.rows.arguments)  # the first of them
        self.steps = [i.place.strides[:axes] if i.place is not None else () for i in nest.prologue + nest.epilogue]

    def write(self) -> None:
        self.bases = {k: self._base(k) for k, i in enumerate(self.everything) if i.argument >= 0}
        if not self.row.written_out:
            touched = {i.argument for i in self.everything}
            self.row.flush(touched)
            stored = {i.argument for i in self.everything if i.op == "store"}
            self.row.values = {k: v for k, v in self.row.values.items() if k[0] not in stored}
        self._level(0, Point({}, {}, {}))

    def _base(self, k: int) -> Value:
        """Where the argument of an instruction starts in this row."""
        argument, steps = self.everything[k].argument, self.steps[k]
        memory = self.row.memory[argument]
        if argument >= self.slots:
            return memory
        key = argument, steps
        if key not in self.row.bases:
            self.row.bases[key] = memory.at(self._moved(steps), self.nest.arguments[argument])
        return self.row.bases[key]

    def _moved(self, steps: Sequence[int]) -> Value:
        total = self.f.index(0)
        for counter, step in zip(self.counters, steps, strict=True):
            if step:
                total = total + counter * step
        return total

    def _origin(self, k: int) -> Value:
        return super()._origin(k) + self._moved(self.steps[k])

    def _enter(self, here: Point, axis: int, i: Value, lanes: int = 1, mask: Value | None = None) -> Point:
        new = here.copy()
        new.counters[axis] = i
        if lanes > 1:
            new.lanes, new.mask = lanes, mask
        return new

    # --- memory

    def _place(self, k: int, here: Point) -> Value:
        """Where an instruction is within the row."""
        return self._moved_by(k, here, self.f.index(self.everything[k].at.offset))

    def _pointer(self, k: int, here: Point) -> Value:
        return self.bases[k].at(self._place(k, here), self.nest.arguments[self.everything[k].argument])

    def _key(self, k: int, i: Instruction, here: Point) -> Key:
        step = self._lane_steps(i, 2)[1]
        lanes = here.lanes if step else 1
        mask = here.mask.text if here.mask is not None and lanes > 1 else ""
        return i.argument, self.steps[k], self._place(k, here).const, lanes, step if lanes > 1 else 0, mask

    def _load(self, k: int, i: Instruction, here: Point) -> Value:
        if _in_loop(here):
            return super()._load(k, i, here)
        key = self._key(k, i, here)
        if key not in self.row.values:
            self.row.flush({i.argument})
            value = super()._load(k, i, here)
            self.row.keep(key, value)
            return value
        return self.row.values[key]

    def _store(self, k: int, i: Instruction, here: Point, value: Value) -> None:
        def store() -> None:
            NestWriter._store(self, k, i, here, value)

        if _in_loop(here):
            store()
            return
        key = self._key(k, i, here)
        self.row.overwrite(key)
        if self.row.keep(key, value) and i.argument >= self.slots:
            self.row.late[key] = store
        else:
            store()


def _in_loop(here: Point) -> bool:
    """Whether the code is run several times for a row."""
    return any(i.const is None for i in here.counters.values())


def _length(code: Sequence[Instruction]) -> int:
    return sum(_MANY if i.op in _DEAR else 1 for i in code)
