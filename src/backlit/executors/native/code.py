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
from backlit.executors.native.target import Target

_WORTH_SHARING = 60e-6  # seconds of a step from which barriers are worth their cost
_TRY_AGAIN = 25  # runs after which the other number of threads is tried again
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
        self._speed: dict[int, float] = {}  # threads -> seconds a step
        self._runs = 0
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
            arena = _arena(self.plan.arena)
        try:
            place, count = arena.ctypes.data, self._threads(last - first)
            start = time.perf_counter()

            def work(me: int, all: int, _held: Any = (arrays, arena)) -> None:  # helpers keep the memory alive
                self._step(table, place, status, barrier, me, all, first, last)

            threads.run(count, work)
            self._learn(count, (time.perf_counter() - start) / max(1, last - first))
        finally:
            with self._lock:
                self._arenas.append(arena)
        if status[0]:
            self._raise(status[0] - 1, status[1])

    def _threads(self, steps: int) -> int:
        """One, or as many as there are shares: what has been faster lately. Results do not depend on it.

        Helpers that have to share their processor with other programs can be slower than none; so both are tried now
        and then.
        """
        if self.shares == 1 or self.seconds * steps < _WORTH_WAKING:
            return 1
        self._runs += 1
        if len(self._speed) < 2 or self._runs % _TRY_AGAIN == 0:
            return 1 if self._runs % 2 == 0 else self.shares
        return min(self._speed, key=self._speed.__getitem__)

    def _learn(self, count: int, seconds: float) -> None:
        """Keep the time of a step, more recent ones counting more; the very first one also loads code and data."""
        old = self._speed.get(count)
        self._speed[count] = seconds if old is None else min(seconds, 0.5 * (old + seconds))

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


def _arena(size: int) -> Array:
    """Memory that starts at a multiple of 64, the size of a cache line and of the widest vector."""
    raw: Any = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    found: Array = raw[start : start + max(size, 1)]
    return found
