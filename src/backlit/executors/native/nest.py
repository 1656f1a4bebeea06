"""Code for a `Nest`: loops, with one axis cut into vectors.

The axis that is cut (`Schedule.vector`) is the one along which most accesses touch neighbours; it may be an axis of the
result (each lane is an element) or a reduced one (each lane is a partial sum). What is left over at its end is done by
the same code under a mask. Whatever does not depend on a loop's counter is computed before that loop: every instruction
and every pointer stands at the outermost loop that it can.

The function that is made (`kernel_function`) is called for a range of the outermost axis, which is how threads share a
kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from backlit.executors.native.ahead import AHEAD, ask_for_row, far_rows
from backlit.executors.native.arithmetic import SCALARS
from backlit.executors.native.bounds import checked, report
from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import COMBINERS, Instruction, Nest
from backlit.executors.native.names import BOOL, F32, F64, I64
from backlit.executors.native.schedule import Schedule
from backlit.executors.native.tiling import pieces
from backlit.executors.native.value import Value
from backlit.ops.record import OPS

_LONG = 8  # instructions of an epilogue at most that is written out for each vector of a tile


class Point:
    """Where the code being written stands: values and pointers known so far, counters, lanes and mask."""

    def __init__(self, values: dict[int, Value], pointers: dict[int, Value], counters: dict[int, Value]) -> None:
        self.values, self.pointers, self.counters = values, pointers, counters
        self.reciprocals: dict[int, tuple[Value, Value, Value]] = {}  # of values that are divided by more than once
        self.found: frozenset[int] = frozenset()  # gathers whose pointers have moved to the row of their indices
        self.lanes = 1
        self.mask: Value | None = None

    def copy(self) -> Point:
        new = Point(dict(self.values), dict(self.pointers), dict(self.counters))
        new.reciprocals = dict(self.reciprocals)
        new.lanes, new.mask, new.found = self.lanes, self.mask, self.found
        return new


class NestWriter:
    """Writes one Nest."""

    def __init__(self, f: Function, nest: Nest, plan: Schedule, lengths: Sequence[int]) -> None:
        self.f, self.nest, self.plan, self.lengths = f, nest, plan, sorted(set(lengths))
        self.extents = nest.space + nest.reduced
        outer = range(len(nest.space))
        inner = range(len(nest.space), len(self.extents))
        v = plan.vector
        self.outer = [a for a in outer if a != v] + ([v] if v in outer else [])
        self.inner = [a for a in inner if a != v] + ([v] if v in inner else [])
        self.order = self.outer + self.inner
        self.everything = nest.prologue + nest.epilogue
        self.stage = self._stages()
        self.divisors = self._divisors()
        self._loop: Callable[..., list[Value]] = f.loop
        self.check = {k: n for n, k in enumerate(k for k, i in enumerate(self.everything) if i.op == "gather")}

    def _stages(self) -> list[int]:
        """For each instruction the number of loops that must be open before it: all that its value depends on."""
        depth = {a: d + 1 for d, a in enumerate(self.order)}
        first = len(self.nest.prologue)
        stages: list[int] = []
        for k, i in enumerate(self.everything):
            known = [stages[j] for j in i.inputs]
            if i.place is not None:
                known += [depth[a] for a, s in enumerate(i.place.strides) if s]
            stage = max(known, default=0)
            if i.op == "store":
                stage = len(self.order) if k < first else len(self.outer)
            elif i.op in COMBINERS:
                stage = len(self.outer)
            stages.append(stage)
        return stages

    def _divisors(self) -> set[int]:
        """The values by which is divided in a loop that they do not depend on."""
        found = {
            i.inputs[1] for k, i in enumerate(self.everything)
            if i.op == "divide" and i.dtype in (F32, F64) and self.stage[i.inputs[1]] < self.stage[k]
        }  # fmt: skip
        return found if self.f.module.target.fused else set()

    def write(self) -> None:
        f, n = self.f, len(self.nest.arguments)
        self.begin, self.end = f.arguments[n], f.arguments[n + 1]
        self._level(0, self._start(f.arguments))

    def _start(self, arguments: Sequence[Value]) -> Point:
        """Before all loops: the pointers of a function as they are given."""
        pointers = {
            k: arguments[i.argument].at(i.place.offset, self.nest.arguments[i.argument])
            for k, i in enumerate(self.everything)
            if i.argument >= 0 and i.place is not None
        }
        return Point({}, pointers, {})

    # --- loops

    def _around(self, axes: Sequence[int], here: Point, inside: Callable[[Point], None]) -> None:
        """`inside` in plain loops over these axes of the result, of which threads may share one."""
        if not axes:
            inside(here)
            return
        axis, *rest = axes
        low, high = self.f.index(0), self.f.index(self.extents[axis])
        if axis == self.plan.split:
            low, high = self.begin, self.end
        self.f.loop(low, high, 1, lambda i: self._around(rest, self._enter(here, axis, i), inside), name=f"i{axis}")

    def _along(self, axis: int, write: Callable[[Value, int], None]) -> None:
        """`write(low, n)` for the points of an axis; where threads share it, for each length that a share may have."""
        if axis != self.plan.split:
            write(self.f.index(0), self.extents[axis])
        elif len(self.lengths) == 1:
            write(self.begin, self.lengths[0])
        else:
            for length in self.lengths:
                self.f.when((self.end - self.begin) == length, partial(write, self.begin, length), f"share{length}")

    def _in_pieces(self, axis: int, here: Point, most: int, body: Callable[[Point, int], None], name: str) -> None:
        """`body(here, n)` at each piece of an axis, which has at most so many points."""

        def write(low: Value, n: int) -> None:
            start = 0
            for count, size in pieces(n, most):

                def one(i: Value, size: int = size, first: int = start) -> None:
                    body(self._enter(here, axis, low + (i * size + first)), size)

                self.f.loop(0, count, 1, one, name=name)
                start += count * size

        self._along(axis, write)

    def _is_same(self, k: int, axes: Sequence[int]) -> bool:
        """Whether an instruction reads the same all along these axes, as a bias: it is done once for all of them."""
        i = self.everything[k]
        return i.op == "load" and not any(i.at.strides[a] for a in axes)

    def _is_long(self) -> bool:
        """Whether the epilogue is better a loop over a tile, whose sums are kept on the stack, than written out."""
        return sum(i.op != "number" for i in self.nest.epilogue) > _LONG

    def _level(self, depth: int, here: Point) -> None:
        """Everything from loop `depth` of the outer loops on."""
        self._evaluate(here, depth, prologue_too=True)
        if depth == len(self.outer):
            self._innermost(here)
            return
        axis = self.outer[depth]
        n, low, high = self.extents[axis], self.f.index(0), self.f.index(self.extents[axis])
        split = axis == self.plan.split
        if split:
            low, high = self.begin, self.end
        if axis != self.plan.vector:
            far = far_rows(self.nest, axis) if depth == 0 else {}

            def turn(i: Value) -> None:
                for k, size in far.items():
                    later = i + AHEAD
                    at = self._enter(here, axis, (later < high).select(later, high - 1))
                    ask_for_row(self.f, self.nest, k, size, here.pointers, at.pointers)
                self._level(depth + 1, self._enter(here, axis, i))

            self._loop(low, high, 1, turn, name=f"i{axis}")
            return
        w = self.plan.lanes
        if split:
            self._any_length(here, axis, w)
            return
        whole = n - n % w

        def step(i: Value) -> None:
            self._level(depth + 1, self._enter(here, axis, i, w))

        self._loop(0, whole, w, step, name=f"i{axis}")
        if n % w:
            tail = self._enter(here, axis, self.f.index(whole), w, self._mask(n % w, w))
            self._level(depth + 1, tail)

    def _any_length(self, here: Point, axis: int, w: int) -> None:
        """The range that the function is called for. If it may have several lengths, its last vector has a mask that is
        made when the code runs."""
        f = self.f
        known = self.lengths[0] if len(self.lengths) == 1 else None
        length = f.index(known) if known is not None else self.end - self.begin
        whole = self.begin + (known // w * w if known is not None else length // w * w)

        def rest(mask: Value) -> None:
            self._level(1, self._enter(here, axis, whole, w, mask))

        if known is not None and known // w == 1:
            self._level(1, self._enter(here, axis, self.begin, w))
        elif self.lengths[-1] >= w:
            f.loop(self.begin, whole, w, lambda i: self._level(1, self._enter(here, axis, i, w)), name="i")
        if known is not None and known % w:
            rest(self._mask(known % w, w))
        elif any(n % w for n in self.lengths):
            lanes = f.constants(list(range(w)), I64)
            f.when(whole < self.end, lambda: rest(lanes < (self.end - whole)), "rest")

    def _mask(self, count: int, lanes: int) -> Value:
        return self.f.constants([i < count for i in range(lanes)], BOOL)

    def _enter(self, here: Point, axis: int, i: Value, lanes: int = 1, mask: Value | None = None) -> Point:
        """Inside the loop over `axis`: its counter is i, and every pointer that depends on it has moved."""
        new = here.copy()
        new.counters[axis] = i
        if lanes > 1:
            new.lanes, new.mask = lanes, mask
        for k, p in here.pointers.items():
            instruction = self.everything[k]
            stride = instruction.at.strides[axis]
            if stride and k not in new.values:
                new.pointers[k] = p.at(i * stride, self.nest.arguments[instruction.argument])
        return new

    def _innermost(self, here: Point) -> None:
        """The reduction, if there is one, then the epilogue's last part."""
        if self.nest.prologue:
            sums = [k for k, i in enumerate(self.nest.prologue) if i.op in COMBINERS]
            lanes = self.plan.lanes if self.plan.vector >= 0 else 1
            start = [self._neutral(self.nest.prologue[k], lanes) for k in sums]
            totals = self._reduce(len(self.outer), here, sums, start)
            for k, total in zip(sums, totals, strict=True):
                if here.lanes == 1 and total.lanes > 1:
                    total = self._across(self.nest.prologue[k].op, total)
                here.values[k] = total
        self._evaluate(here, len(self.outer), prologue_too=False, last=True)

    def _reduce(self, depth: int, here: Point, sums: Sequence[int], totals: Sequence[Value]) -> list[Value]:
        """The reduced loops from `depth` on; gives the new totals."""
        if depth == len(self.order):
            self._evaluate(here, depth, prologue_too=True, last=True)
            found = []
            for k, total in zip(sums, totals, strict=True):
                i = self.nest.prologue[k]
                new = self._combine(i.op, total, here.values[i.inputs[0]].splat(total.lanes))
                reduced_mask = here.mask if self.plan.vector >= len(self.nest.space) else None
                found.append(new if reduced_mask is None else reduced_mask.select(new, total))
            return found
        if depth > len(self.outer):
            self._evaluate(here, depth, prologue_too=True)
        axis = self.order[depth]
        n = self.extents[axis]
        w = self.plan.lanes if axis == self.plan.vector else 1
        unroll = self.plan.unroll if depth == len(self.order) - 1 else 1
        whole, many = n - n % w, n - n % (w * unroll)
        count = len(sums)

        def one(i: Value, *totals: Value) -> list[Value]:
            return self._reduce(depth + 1, self._enter(here, axis, i, w), sums, totals)

        def several(i: Value, *totals: Value) -> list[Value]:
            """`unroll` steps at once, each with totals of its own, so that they need not wait for one another."""
            found: list[Value] = []
            for u in range(unroll):
                found += one(i + u * w, *totals[u * count : (u + 1) * count])
            return found

        current = list(totals)
        if unroll > 1:
            fresh = [self._neutral(self.nest.prologue[k], t.lanes) for k, t in zip(sums, totals, strict=True)]
            parts = self._loop(0, many, w * unroll, several, [*current, *fresh * (unroll - 1)], f"i{axis}")
            current = parts[:count]
            for u in range(1, unroll):
                others = parts[u * count : (u + 1) * count]
                current = [
                    self._combine(self.nest.prologue[k].op, a, b) for k, a, b in zip(sums, current, others, strict=True)
                ]
        else:
            many = 0
        current = self._loop(many, whole, w, one, current, f"i{axis}")
        if n % w:
            tail = self._enter(here, axis, self.f.index(whole), w, self._mask(n % w, w))
            current = self._reduce(depth + 1, tail, sums, current)
        return current

    # --- totals

    def _neutral(self, i: Instruction, lanes: int) -> Value:
        info: Any = np.finfo(i.dtype) if i.dtype.kind == "f" else np.iinfo(i.dtype)
        low, high = (-math.inf, math.inf) if i.dtype.kind == "f" else (info.min, info.max)
        return self.f.const({"sum": 0, "max": low, "min": high}[i.op], i.dtype, lanes)

    def _combine(self, op: str, a: Value, b: Value) -> Value:
        return a + b if op == "sum" else SCALARS.maximum(a, b) if op == "max" else SCALARS.minimum(a, b)

    def _across(self, op: str, total: Value) -> Value:
        """The lanes of a vector combined, halves with halves."""
        n = total.lanes
        while n > 1:
            n //= 2
            total = self._combine(op, total.shuffled(range(n)), total.shuffled(range(n, 2 * n)))
        return total

    # --- instructions

    def _evaluate(self, here: Point, depth: int, prologue_too: bool, last: bool = False) -> None:
        """The instructions that belong right inside loop `depth`."""
        first = len(self.nest.prologue)
        for k, i in enumerate(self.everything):
            if k in here.values or (k < first and (i.op in COMBINERS or not prologue_too)):
                continue
            if self.stage[k] > depth:
                if i.op == "gather":
                    self._find_row(k, i, here)
                continue
            if i.op == "store":
                at_end = last and (
                    depth == len(self.order) if k < first else depth == len(self.outer) and not prologue_too
                )
                if not at_end:
                    continue
            if k >= first and (depth > len(self.outer) or any(j not in here.values for j in i.inputs)):
                continue
            with self.f.naming(i.hint or i.op):
                here.values[k] = self.value(k, i, here)
                if k in self.divisors:
                    here.reciprocals[k] = here.values[k].reciprocal()

    def _evaluate_epilogue(self, point: Point) -> None:
        """All of the epilogue that is not known yet, at one place."""
        for k in range(len(self.nest.prologue), len(self.everything)):
            if k not in point.values:
                i = self.everything[k]
                with self.f.naming(i.hint or i.op):
                    point.values[k] = self.value(k, i, point)

    def value(self, k: int, i: Instruction, here: Point) -> Value:
        """One instruction."""
        f, operands = self.f, [here.values[j] for j in i.inputs]
        match i.op:
            case "number":
                number = i.params[0]
                return f.const(float.fromhex(number) if isinstance(number, str) else number, i.dtype)
            case "index":
                return self._index(k, i, here)
            case "load":
                return self._load(k, i, here)
            case "gather":
                return self._gather(k, i, here, operands)
            case "store":
                self._store(k, i, here, operands[0])
                return operands[0]
            case "divide" if i.inputs[1] in here.reciprocals:
                return operands[0].divided(*here.reciprocals[i.inputs[1]])
            case op:
                scalar = OPS[op].scalar
                assert scalar is not None
                found: Value = scalar(SCALARS, *operands, **dict(i.params))
                return found

    def _pointer(self, k: int, here: Point) -> Value:
        """Where the element that an instruction touches lies, or the first of a vector's."""
        return here.pointers[k]

    def _lane_steps(self, i: Instruction, lanes: int) -> list[int]:
        """How far each lane lies from the first one."""
        stride = i.at.strides[self.plan.vector] if self.plan.vector >= 0 else 0
        return [stride * lane for lane in range(lanes)]

    def _places(self, i: Instruction, here: Point, pointer: Value) -> Value:
        """A vector of pointers, one a lane."""
        steps = self.f.constants(self._lane_steps(i, here.lanes), I64)
        return pointer.at(steps, self.nest.arguments[i.argument])

    def _load(self, k: int, i: Instruction, here: Point) -> Value:
        return self._loaded(i, here, self._pointer(k, here))

    def _loaded(self, i: Instruction, here: Point, pointer: Value) -> Value:
        """What lies at a place, for each lane."""
        f, steps = self.f, self._lane_steps(i, here.lanes)
        if not any(steps):
            return f.load(pointer, i.dtype)
        if steps == [*range(here.lanes)]:
            return f.load(pointer, i.dtype, here.lanes, here.mask)
        return f.gather(self._places(i, here, pointer), i.dtype, here.mask)

    def _store(self, k: int, i: Instruction, here: Point, value: Value) -> None:
        pointer = self._pointer(k, here)
        if self._lane_steps(i, here.lanes) == [*range(here.lanes)]:
            self.f.store(value.splat(here.lanes), pointer, here.mask)
        else:
            self.f.scatter(value.splat(here.lanes), self._places(i, here, pointer), here.mask)

    def _origin(self, k: int) -> Value:
        """The place of an instruction where all counters are 0."""
        return self.f.index(self.everything[k].at.offset)

    def _moved_by(self, k: int, here: Point, start: Value) -> Value:
        """`start`, moved by the counters as the place of an instruction is."""
        for axis, stride in enumerate(self.everything[k].at.strides):
            if stride:
                start = start + here.counters[axis] * stride
        return start

    def _index(self, k: int, i: Instruction, here: Point) -> Value:
        total = self._moved_by(k, here, self._origin(k))
        steps = self._lane_steps(i, here.lanes)
        if any(steps):
            total = total.splat(here.lanes) + self.f.constants(steps, I64)
        return SCALARS.cast(total, i.dtype)

    def _gather(self, k: int, i: Instruction, here: Point, indices: Sequence[Value]) -> Value:
        if k in here.found:
            return self._load(k, i, here)
        f, pointer = self.f, self._pointer(k, here)
        offset = self._offset_of_row(k, i, here, indices)
        if any(size == 0 for size, _ in i.axes):
            return f.const(0, i.dtype)
        if offset.lanes == 1:
            return self._loaded(i, here, pointer.at(offset, i.dtype))
        steps = f.constants(self._lane_steps(i, here.lanes), I64)
        return f.gather(pointer.at(offset + steps, i.dtype), i.dtype, here.mask)

    def _find_row(self, k: int, i: Instruction, here: Point) -> None:
        """Once its indices are known, a gather is a load from their row for all that is inside."""
        indices = [here.values[j] for j in i.inputs if j in here.values]
        known = len(indices) == len(i.inputs) and all(index.lanes == 1 for index in indices)
        if k not in here.found and known and all(size for size, _ in i.axes):
            here.pointers[k] = here.pointers[k].at(self._offset_of_row(k, i, here, indices), i.dtype)
            here.found |= {k}

    def _offset_of_row(self, k: int, i: Instruction, here: Point, indices: Sequence[Value]) -> Value:
        """How far indices, which are checked, move a gather."""
        offset = self.f.index(0)
        for n, (index, (size, stride)) in enumerate(zip(indices, i.axes, strict=True)):
            place, wrong = checked(self.f, index, size, here.mask)
            offset = offset + place * stride
            self._report(k, n, index, wrong)
        return offset

    def _report(self, k: int, axis: int, index: Value, wrong: Value) -> None:
        earlier = sum(len(i.axes) for i in self.everything[:k] if i.op == "gather")
        n = len(self.nest.arguments)
        report(self.f, self.f.arguments[n + 2], self.f.arguments[n + 3] + (earlier + axis), index, wrong)
