"""Waiting for other threads: locks that a forked child finds open, whoever held them in its parent; and patience.

The thread that would open them again does not live on in the child. So the rule that holds: what such a lock guards is
whole at any moment; the lock only keeps two threads from doing the same work, or from taking the same thing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable


class Lock:
    """As `threading.Lock`, in a `with` statement."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Open it, and forget who holds it."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def patiently(wait: Callable[[], object]) -> None:
    """Wait to the end even if an interrupt comes meanwhile, and raise it then.

    What is waited for works on memory of the caller. `wait` is called again after an interrupt.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            wait()
            break
        except KeyboardInterrupt as e:
            interrupt = e
    if interrupt is not None:
        raise interrupt


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _renew() -> None:
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
