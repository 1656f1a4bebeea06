"""A small program as one function: its kernels become part of it, where LLVM knows their sizes.

The rule that holds: intermediate values and carried state lie in the function's own frame, where LLVM can keep them in
registers. One thread runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.executors.native.builder import Function
from backlit.executors.native.kernels import Buffer, Call, Loop
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.plan import Plan
from backlit.executors.native.sharing import share_of
from backlit.executors.native.value import Value

if TYPE_CHECKING:
    from backlit.executors.native.program import Program

_U8 = np.dtype(np.uint8)
_SMALL = 1 << 13  # bytes of intermediate values and state of a small program
_FEW = 32  # calls of kernels
_NODES = 256  # that they compute: LLVM's time for one function grows faster than its code


def is_small(plan: Plan) -> bool:
    """Whether a plan runs so briefly that calls of kernels and trips to memory are much of its time."""
    calls = plan.calls()
    if len(calls) > _FEW or sum(len(c.nodes) for c in calls) > _NODES or plan.bytes > 4 * _SMALL:
        return False
    return plan.arena + sum(b.bytes for b in carried(plan)) <= _SMALL


def carried(plan: Plan) -> list[Buffer]:
    """The state of a plan that is a loop: results that hold the old values when it starts."""
    found: dict[Buffer, None] = {}
    for loop in plan.steps:
        if isinstance(loop, Loop) and loop.length is None:
            moving = {b.root() for b in loop.rows}
            for call in plan.calls():
                found |= dict.fromkeys(b for b, _ in call.arguments if b.kind == "output" and b not in moving)
    return list(found)


class Whole:
    """Writes a small program's function. Checks are numbered in their order, after those that the program has."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def emit(self, f: Function) -> None:
        """The body of the program's function."""
        plan = self.program.plan
        self.f = f
        self.table, _, self.status, _, _, _, self.first, self.last = f.arguments
        self.arena = f.slot(_U8, max(1, plan.arena), "arena")
        at_home: dict[Buffer, Value] = {}
        for b in carried(plan):
            at_home[b] = f.slot(_U8, max(1, b.bytes), f"carried.{b.number}")
            f.copy(at_home[b], self._address(b, {}), b.bytes)
        self._run(plan.steps, at_home)
        written = {b for call in plan.calls() for b in call.written()}
        for b, home in at_home.items():
            if b in written:  # others may be the caller's own
                f.copy(self._address(b, {}), home, b.bytes)

    def _run(self, steps: Sequence[Any], rows: Mapping[Buffer, Value]) -> None:
        for step in steps:
            if isinstance(step, Call):
                self._call(step, rows)
            else:
                self._loop(step, rows)

    def _loop(self, loop: Loop, rows: Mapping[Buffer, Value]) -> None:
        f, length = self.f, loop.length
        f.comment(f"{loop.label}: {loop.steps}")
        self._run(loop.start, rows)
        low, high = (self.first, self.last) if length is None else (f.index(0), f.index(length))

        def body(t: Value) -> None:
            at = (length - 1) - t if loop.reverse and length is not None else t
            inner = dict(rows)
            for b in loop.rows:
                assert b.base is not None
                inner[b] = self._address(b.base, rows).at(at * b.bytes, _U8)

            def work() -> None:
                self._run([*loop.calls, *loop.moves], inner)

            if length is None:
                f.when(f.load(self.status, I64) == 0, work, "go_on")
            else:
                work()

        f.loop(low, high, 1, body, name="t")

    def _address(self, buffer: Buffer, rows: Mapping[Buffer, Value]) -> Value:
        """Where a buffer lies. Worked out where it is needed, so that few addresses are held at once."""
        if buffer in rows:
            return rows[buffer]
        if buffer.kind == "arena":
            return self.arena.at(buffer.offset, _U8)
        if buffer.kind == "part":
            assert buffer.base is not None
            return self._address(buffer.base, rows).at(buffer.offset, _U8)
        with self.f.naming(buffer.name):
            number = self.f.load(self.table.at(self.program.slot(buffer), I64), I64)
            return number.convert("inttoptr", POINTER)

    def _call(self, call: Call, rows: Mapping[Buffer, Value]) -> None:
        f, program = self.f, self.program
        f.comment(call.note)
        arguments = [self._address(b, rows).at(offset, b.type.dtype) for b, offset in call.arguments]
        extent = share_of(call, program.target).extent
        check = len(program.checks)
        program.checks += call.checked
        f.invoke(program.name_of(call), [*arguments, f.index(0), f.index(extent), self.status, f.index(check)])
