"""A program in memory, ready to run on arrays."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlit.errors import IndexingError
from backlit.executors.api import Array
from backlit.executors.native import cache, jit, threads
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.digest import digest
from backlit.executors.native.plan import Plan
from backlit.executors.native.program import ENTRY
from backlit.executors.native.storage import block
from backlit.executors.native.target import Target
from backlit.garbage import uncollected
from backlit.ir import Graph

_WORTH_SHARING = 60e-6  # seconds of a step from which barriers are worth their cost
_WORTH_WAKING = 300e-6  # seconds of a run from which sleeping helpers are worth waking
PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Code:
    """An artifact ready to run. May be run by several Python threads at once: each run has an arena of its own."""

    def __init__(self, artifact: Artifact, target: Target) -> None:
        self.artifact, self.shares, self.seconds = artifact, artifact.shares, artifact.seconds
        self._code = jit.Loaded(artifact.objects, target)
        p, n = ctypes.c_void_p, ctypes.c_int64
        self._step = self._code.function(ENTRY, p, p, p, p, n, n, n, n)
        self.pace = 0.0  # seconds that a step took in the last run
        self._choice = threads.Choice(self.shares, self.seconds) if self.shares > 1 else None
        self._constants = [a.ctypes.data for a in artifact.constants]
        self._arenas: list[Array] = []
        self._lock = threading.Lock()

    def run(self, arrays: Sequence[Array], first: int, last: int) -> None:
        """Run the program on the memory of its inputs and outputs. Raises IndexingError for an index out of range."""
        addresses = [*(a.ctypes.data for a in arrays), *self._constants]
        table = (ctypes.c_int64 * max(1, len(addresses)))(*addresses)
        status = (ctypes.c_int64 * 4)()
        with self._lock:
            arena = self._arenas.pop() if self._arenas else None
        if arena is None:
            arena = block(max(1, self.artifact.arena))
        try:
            while first < last and not status[0]:
                first = self._some((table, arena, status, arrays), first, last)
        finally:
            with self._lock:
                self._arenas.append(arena)
        if status[0]:
            self._raise(status[0] - 1, status[1])

    def _some(self, memory: tuple[Any, ...], first: int, last: int) -> int:
        """Run from step `first` to `last`, or less far where a number of threads is only tried; where it ended."""
        table, arena, status, _ = memory
        choice = self._choice if self.seconds * (last - first) >= _WORTH_WAKING else None
        count, most = choice.next() if choice is not None else (1, math.inf)
        if most < math.inf:
            last = min(last, first + max(1, int(most / (self.pace or self.seconds))))
        place, until, barrier = arena.ctypes.data, last, (ctypes.c_int64 * 1)(0)
        start = time.perf_counter()

        def work(me: int, all: int, _held: Any = memory) -> None:  # helpers keep the memory alive
            self._step(table, place, status, barrier, me, all, first, until)

        threads.run(count, work)
        self.pace = (time.perf_counter() - start) / (last - first)
        if choice is not None:
            choice.learn(count, self.pace)
        return last

    def _raise(self, check: int, index: int) -> None:
        found = self.artifact.checks[check]
        raise IndexingError(
            f"index {index} is out of range: axis {found.axis} has size {found.size}",
            op=found.op,
            inputs=found.inputs,
            site=found.site,
        )


def shares_for(plan: Plan) -> int:
    """In how many shares the kernels are cut: one where barriers would cost more than they save."""
    return min(8, max(1, PROCESSORS)) if plan.seconds > _WORTH_SHARING else 1


def compiled(graph: Graph, target: Target, make: Callable[[], Plan], *how: object) -> Code:
    """The code of a graph's plan. Neither the plan nor its code is made again where the cache on disk has it.

    `make` makes the plan; `how` is all that it depends on besides the graph and the target.
    """
    key = digest(graph, target, PROCESSORS, *how) if cache.folder() is not None else None
    found = cache.read(key) if key is not None else None
    if found is not None:
        return Code(Artifact.unpack(found, graph), target)
    with uncollected():
        plan = make()
        artifact = Artifact.of(plan, target, shares_for(plan))
    packed = artifact.pack(graph) if key is not None else None
    if key is not None and packed is not None:
        cache.write(key, packed)
    return Code(artifact, target)


def usable(array: Array, writeable: bool = False) -> Array:
    """The array itself if its elements lie one after the other where the processor likes them, else a copy."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and (flags.writeable or not writeable) and array.dtype.isnative:
        return array
    return np.array(array, order="C")
