"""Work done on another thread, and waited for: where there is room for it on the stack, or where no interrupt comes.

Python lets an interrupt in after any call on the main thread, and there alone. The rule that holds: when the one who
waits goes on, be it because of an interrupt, the work is done or will never begin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from backlit.executors.native import stack

_SOON = 0.02  # seconds after which one who waits looks for an interrupt: the system may have told another thread of it
_T = TypeVar("_T")


def undisturbed(work: Callable[[], _T], stop: Callable[[], object] = lambda: None) -> _T:
    """The result of work(), done on another thread if this is the main one. `stop` is called if an interrupt comes.

    Where there are no more threads it is done here all the same.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    found: list[_T] = []
    try:
        elsewhere(lambda: found.append(work()), stop)
    except stack.NoThreadError:
        return work()
    return found[0]


def elsewhere(work: Callable[[], None], stop: Callable[[], object] = lambda: None) -> None:
    """Do the work on a thread with enough room, and wait for it. What it raises is raised here.

    `stop` is called if an interrupt comes meanwhile, and may let the work end early.
    """
    raised: list[BaseException] = []
    leave, over = [None], list[None]()  # leave to begin: whoever takes it decides
    done = threading.Lock()
    done.acquire()

    def caught() -> None:
        try:
            leave.pop()
            work()
        except BaseException as e:
            raised.append(e)
        finally:
            over.append(None)
            done.release()

    try:
        stack.start(caught)
        while not done.acquire(timeout=_SOON):
            pass
    except BaseException:
        try:
            leave.pop()
        except IndexError:
            while not over:
                try:
                    stop()
                    done.acquire(timeout=_SOON)
                except BaseException:  # one more interrupt
                    continue
        raise
    if raised:
        raise raised[0]
