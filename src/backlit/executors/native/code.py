"""A program in memory, ready to run on arrays."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from backlit.errors import IndexingError
from backlit.executors.api import Array
from backlit.executors.native import cache, errand, jit, stack, threads
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.digest import digest
from backlit.executors.native.plan import Plan
from backlit.executors.native.program import ENTRY
from backlit.executors.native.script import STOP, machinery
from backlit.executors.native.storage import address, block
from backlit.executors.native.target import Target
from backlit.garbage import uncollected
from backlit.ir import Graph

_WORTH_SHARING = 60e-6  # seconds of a step from which barriers are worth their cost
_WORTH_WAKING = 300e-6  # seconds of a run from which sleeping helpers are worth waking
_LONG = 0.05  # seconds of a step that an interrupt should not have to wait for


_STATUS, _TABLE = 0, 8  # places in a frame, in words: each at a cache line of its own


class Frame:
    """The memory of one run: status, the table of addresses, the arena of intermediate values."""

    def __init__(self, table: int, arena: int) -> None:
        words = _TABLE + -(-table // 8) * 8
        memory = block(8 * words + arena)
        self.arena = memory[8 * words :]
        self.words = (ctypes.c_int64 * words).from_buffer(memory)  # keeps the memory
        self.table = slice(_TABLE, _TABLE + table)
        start = ctypes.addressof(self.words)
        self.places = tuple(start + 8 * word for word in (_TABLE, words, _STATUS))


class Code:
    """An artifact ready to run. May be run by several Python threads at once: each run has a frame of its own."""

    def __init__(self, artifact: Artifact, target: Target) -> None:
        self.artifact, self.shares, self.seconds = artifact, artifact.shares, artifact.seconds
        self._code = jit.Loaded(artifact.objects, target)
        p, n = ctypes.c_void_p, ctypes.c_int64
        self._step = self._code.function(ENTRY, p, p, p, p, n, n, n, n)
        self.pace = 0.0  # seconds that a step took in the last run
        self._choice = threads.Choice(self.shares, self.seconds) if self.shares > 1 else None
        self._constants = [address(a) for a in artifact.constants]
        self.frames: list[Frame] = []  # of runs that have ended

    def run(self, arrays: Sequence[Array], first: int, last: int, whole: bool = False) -> None:
        """Run the program on the memory of its inputs and outputs. Raises IndexingError for an index out of range.

        An interrupt breaks a long step off, and leaves what it was to write useless; not if steps are to be `whole`.
        """
        self.run_at([*map(address, arrays)], first, last, whole)

    def run_at(self, addresses: Sequence[int], first: int, last: int, whole: bool = False) -> None:
        """The same by the addresses of inputs and outputs. Nobody works on their memory when it has returned."""
        try:
            frame = self.frames.pop()
        except IndexError:
            frame = Frame(len(addresses) + len(self._constants), self.artifact.arena)
        words = frame.words
        try:
            words[frame.table] = [*addresses, *self._constants]
            ctypes.memset(words, 0, 8 * _TABLE)
            room = stack.has_room()
            if room and self.seconds <= _LONG and self.pace <= _LONG:
                self._run(frame, first, last)
            else:

                def stop() -> None:
                    words[STOP] = not whole

                (errand.undisturbed if room else errand.elsewhere)(lambda: self._run(frame, first, last), stop)
            failed, index = words[_STATUS], words[_STATUS + 1]
        finally:
            self.frames.append(frame)
        if failed:
            self._raise(failed - 1, index)

    def _run(self, frame: Frame, first: int, last: int) -> None:
        words = frame.words
        while first < last and not words[_STATUS] and not words[STOP]:
            first = self._some(frame, first, last)

    def _some(self, frame: Frame, first: int, last: int) -> int:
        """Run from step `first` to `last`, or less far where a number of threads is only tried; where it ended."""
        choice = self._choice if self.seconds * (last - first) >= _WORTH_WAKING else None
        count, most = choice.next() if choice is not None else (1, math.inf)
        if most < math.inf:
            last = min(last, first + max(1, int(most / (self.pace or self.seconds))))
        start = time.perf_counter()
        if count == 1:
            self._step(*frame.places, 0, 0, 1, first, last)
        else:
            step, places, until = self._step, frame.places, last
            threads.run(count, lambda meeting, me, all: step(*places, meeting, me, all, first, until))
        if frame.words[STOP]:  # the time says nothing
            return last
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
    return threads.SHARES if plan.seconds > _WORTH_SHARING else 1


def compiled(graph: Graph, target: Target, make: Callable[[], Plan], *how: object) -> Code:
    """The code of a graph's plan. Neither the plan nor its code is made again where the cache on disk has it.

    `make` makes the plan; `how` is all that it depends on besides the graph and the target.
    """
    key = digest(graph, target, threads.PROCESSORS, *how) if cache.folder() is not None else None
    found = cache.read(key) if key is not None else None
    if found is not None:
        return Code(Artifact.unpack(found, graph.source), target)
    if threads.available() > 1:
        jit.begin(machinery(target), target)
    with uncollected():
        plan = make()
        artifact = Artifact.of(plan, target, shares_for(plan))
    packed = artifact.pack(graph.source) if key is not None else None
    if key is not None and packed is not None:
        cache.write(key, packed)
    return Code(artifact, target)


def usable(array: Array, writeable: bool = False) -> Array:
    """The array itself if its elements lie one after the other where the processor likes them, else a copy."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned and (flags.writeable or not writeable) and array.dtype.isnative:
        return array
    return np.array(array, order="C")
