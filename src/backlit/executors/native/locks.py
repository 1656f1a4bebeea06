"""Locks that a forked child finds open, whoever held them in its parent.

The thread that would open them again does not live on in the child. So the rule that holds: what such a lock guards is
whole at any moment; the lock only keeps two threads from doing the same work, or from taking the same thing.
"""

from __future__ import annotations

import os
import threading
import weakref


class Lock:
    """A lock, held in `with lock.door:`. An interrupt that comes meanwhile leaves it open, as Python's own locks do."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Open it, and forget who holds it."""
        self.door = threading.Lock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _renew() -> None:
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
