"""A program in memory, ready to run on arrays."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.errors import IndexingError
from backlit.executors.api import Array
from backlit.executors.native import jit, threads
from backlit.executors.native.plan import Plan
from backlit.executors.native.program import ENTRY, Program
from backlit.executors.native.storage import block
from backlit.executors.native.target import Target

_WORTH_SHARING = 60e-6  # seconds of a step from which barriers are worth their cost
_WORTH_WAKING = 300e-6  # seconds of a run from which sleeping helpers are worth waking
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Code:
    """The machine code of a plan. May be run by several Python threads at once: each run has an arena of its own."""

    def __init__(self, plan: Plan, target: Target, shares: int = 0) -> None:
        self.plan, self.target = plan, target
        self.shares = shares or shares_for(plan)
        program = Program(plan, target, self.shares)
        self._checks = program.checks
        self._code = jit.compile_text(program.text, target)
        p, n = ctypes.c_void_p, ctypes.c_int64
        self._step = self._code.function(ENTRY, p, p, p, p, n, n, n, n)
        self.seconds = seconds_for(plan)
        self.pace = 0.0  # seconds that a step took in the last run
        self._choice = threads.Choice(self.shares) if self.shares > 1 else None
        self._constants = [a.ctypes.data for a in plan.constants]
        self._arenas: list[Array] = []
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[Array], first: int, last: int) -> None:
        """Run the program on the memory of its inputs and outputs. Raises IndexingError for an index out of range."""
        addresses = [*(a.ctypes.data for a in arrays), *self._constants]
        table = (ctypes.c_int64 * max(1, len(addresses)))(*addresses)
        status = (ctypes.c_int64 * 2)(0, 0)
        barrier = (ctypes.c_int64 * 1)(0)
        with self._lock:
            arena = self._arenas.pop() if self._arenas else None
        if arena is None:
            arena = block(max(1, self.plan.arena))
        try:
            place, steps = arena.ctypes.data, max(1, last - first)
            choice = self._choice if self.seconds * steps >= _WORTH_WAKING else None
            count = choice.next() if choice is not None else 1
            start = time.perf_counter()

            def work(me: int, all: int, _held: Any = (arrays, arena)) -> None:  # helpers keep the memory alive
                self._step(table, place, status, barrier, me, all, first, last)

            threads.run(count, work)
            self.pace = (time.perf_counter() - start) / steps
            if choice is not None:
                choice.learn(count, self.pace)
        finally:
            with self._lock:
                self._arenas.append(arena)
        if status[0]:
            self._raise(status[0] - 1, status[1])

    def _raise(self, check: int, index: int) -> None:
        node, axis, size = self._checks[check]
        raise IndexingError(
            f"index {index} is out of range: axis {axis} has size {size}",
            op=node.op,
            inputs=[i.type for i in node.inputs],
            site=node.site,
        )


def seconds_for(plan: Plan) -> float:
    """About how long one run (one step of a loop) takes on one thread."""
    return plan.flops / 80e9 + plan.bytes / 20e9 + 1e-7 * len(plan.calls())


def shares_for(plan: Plan) -> int:
    """In how many shares the kernels are cut: one where barriers would cost more than they save."""
    return min(8, max(1, PROCESSORS)) if seconds_for(plan) > _WORTH_SHARING else 1


def usable(array: Array, writeable: bool = False) -> Array:
    """The array itself if its elements lie one after the other where the processor likes them, else a copy."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and (flags.writeable or not writeable) and array.dtype.isnative:
        return array
    return np.array(array, order="C")
