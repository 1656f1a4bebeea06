"""The processor's clock in a program: how long each row of its script takes, on the data and with the caches of a run.

A program that is made with a clock is written as a script, however small it is. What the clock reads it adds up in an
array of this process, so the program's code is of no use to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from backlit.executors.api import Array
from backlit.executors.native.builder import Function
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.value import Value

if TYPE_CHECKING:
    from backlit.executors.native.script import Row


class Clock:
    """For one program. `rows` are the places and functions of its rows, `ticks[share, place]` what they took.

    A thread counts at the first of its shares; the ticks of a loop contain those of its body.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, str]] = []
        self.ticks: Array = np.zeros((0, 0), np.int64)

    def prepare(self, rows: Sequence[Row], shares: int) -> None:
        """Make room for the ticks of these rows, in the order in which they lie in memory."""
        at = 0
        for row in rows:
            self.rows.append((at, row.function))
            at += row.size - sum(r.size for r in row.body)
        self.ticks = np.zeros((shares, at), np.int64)

    def around(self, f: Function, row: Value, share: Value, work: Callable[[], Value]) -> Value:
        """What `work` writes, and the ticks that it takes added to those of the row; what `work` gives."""
        f.module.declare("llvm.readcyclecounter", "declare i64 @llvm.readcyclecounter()")
        before = f.op("call i64 @llvm.readcyclecounter()", I64)
        made = work()
        taken = f.op("call i64 @llvm.readcyclecounter()", I64) - before
        at = f.op(f"ptrtoint {row} to i64", I64) - f.op("ptrtoint ptr @rows to i64", I64)
        slot = (share * self.ticks.strides[0] + at + self.ticks.ctypes.data).convert("inttoptr", POINTER)
        f.store(f.load(slot, I64) + taken, slot)
        return made
