"""Threads that run one program together.

The helpers are Python threads that enter the same machine code as the caller, each with its own number; the
interpreter lock is released in there. They are started when first needed and sleep between calls. One program at a
time has them: another one (from another Python thread, or from within a worker of joblib or multiprocessing) runs
alone, with the same results. A forked child starts without helpers.

`BACKLIT_THREADS` limits their number, as does `OMP_NUM_THREADS`, which joblib sets for its workers.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from backlit.executors.native import barrier, stack
from backlit.executors.native.storage import address, block


def _processors() -> int:
    """How many processors this process may use now."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


PROCESSORS = _processors()
SHARES = min(8, PROCESSORS)  # that the kernels of a program are cut into if several threads are worth it
_TRIED = 2  # runs of each number before one is chosen
_TRY_ONE = 40  # runs after which one thread is tried again
_TRY_ALL = 10  # and all again: what disturbed them may be over
_REMEMBERED = 6  # times that are kept of each number
_TRIAL = 5e-3  # seconds that a run of one thread should last while it is only tried: it is likely to be slower


def available() -> int:
    """How many threads a program may use here."""
    if multiprocessing.parent_process() is not None:
        return 1  # a worker among others
    count = _processors()
    for name in ("BACKLIT_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdigit() and int(text) > 0:
            count = min(count, int(text))
    return count


class Choice:
    """One thread, or `most` (more than one): what has been faster lately. Results do not depend on it.

    Helpers that have to share their processor with other programs can be slower than none, so the other number is
    tried now and then. A number counts with the least of its last times, so that a single run that was disturbed, or
    that loaded code and data, changes nothing. Where a step takes less than half of the seconds that it is thought to
    take `alone`, on one thread, the helpers surely have their processors, and one thread is not tried. Where it is
    tried, it is for a short while; runs of several threads are never short, as it takes a while to wake the helpers.
    """

    def __init__(self, most: int, alone: float = 0.0) -> None:
        self._most, self._alone = most, alone
        self._times: dict[int, deque[float]] = {n: deque(maxlen=_REMEMBERED) for n in (most, 1)}
        self._runs = 0

    def next(self) -> tuple[int, float]:
        """How many threads the next run should have, and how many seconds it should last at most."""
        self._runs += 1
        several, one = self._times[self._most], self._times[1]
        if len(several) < _TRIED:
            return self._most, math.inf
        if min(several) < self._alone / 2:
            return self._most, math.inf
        if len(one) < _TRIED:
            return 1, _TRIAL
        if min(several) <= min(one):
            return (1, _TRIAL) if self._runs % _TRY_ONE == 0 else (self._most, math.inf)
        return (self._most if self._runs % _TRY_ALL == 0 else 1), math.inf

    def learn(self, threads: int, seconds: float) -> None:
        """Keep how long a step took with so many threads."""
        self._times[threads].append(seconds)


class Pool:
    """Helpers numbered from 1; the caller is 0.

    An interrupt may come after any call, and leave at any such point: the rule that holds is that whatever was done up
    to there is either whole or of no consequence. Helpers begin only when the caller has (see `barrier`), what they are
    given holds no memory of the caller's, and what has to be put back is put back by the first call of a `finally`.
    """

    def __init__(self) -> None:
        self._helpers: list[SimpleQueue[Callable[[], None]]] = []  # what each has to do
        self._asking = threading.Lock()  # for all helpers: else two runs could wait for each other
        self._meeting = _meeting()  # of the last run

    def run(self, threads: int, work: Callable[[int, int, int], None]) -> None:
        """work(meeting, thread, threads) on each of `threads` threads at once, or work(0, 0, 1) if helpers are busy.

        `meeting` is the address of the words that `barrier` explains.
        """
        if threads <= 1 or self._meeting[barrier.GATE] == barrier.OPEN:
            work(0, 0, 1)
            return
        try:
            while len(self._helpers) < threads - 1:
                self._helpers.append(_helper(len(self._helpers) + 1))
        except stack.NoThreadError:
            threads = 1 + len(self._helpers)
        meeting = self._meeting = _meeting()
        place, old = address(meeting), os.sched_getaffinity(0) if _CAN_PIN else None
        try:
            _pin(0)
            with self._asking:
                for number, helper in enumerate(self._helpers[: threads - 1], 1):
                    helper.put(partial(_help, work, meeting, number, threads))
            work(place, 0, threads)
        finally:
            if old is not None:
                os.sched_setaffinity(0, old)


def _meeting() -> Any:
    """Words where the threads of a run meet."""
    return block(8 * barrier.MEETING).view(np.int64)


def _help(work: Callable[[int, int, int], None], meeting: Any, number: int, threads: int) -> None:
    """A helper's part; it holds the words where threads meet until it has gone."""
    work(address(meeting), number, threads)


def _helper(number: int) -> SimpleQueue[Callable[[], None]]:
    """A sleeping thread, which does what is put into its queue."""
    asked: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def live() -> None:
        _pin(number)
        while True:
            asked.get()()

    stack.start(live)
    return asked


def _pin(number: int) -> None:
    """Keep the calling thread on one processor, so that two that spin do not land on the same."""
    if _CAN_PIN:
        with suppress(OSError):  # the processor was taken away from this process
            os.sched_setaffinity(0, {_PROCESSORS[number % len(_PROCESSORS)]})


_CAN_PIN = hasattr(os, "sched_setaffinity")
_PROCESSORS = sorted(os.sched_getaffinity(0)) if _CAN_PIN else [0]
_pool = Pool()


def _forget() -> None:
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(threads: int, work: Callable[[int, int, int], None]) -> None:
    """work(meeting, thread, threads) on so many threads at once, or work(0, 0, 1) where they are not to be had."""
    _pool.run(min(threads, available()), work)
