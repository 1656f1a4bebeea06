"""Room on the stack, where programs keep blocks of matrices: up to one and a half megabytes.

Main threads and those of Python have eight as a rule. A thread that was given less, by `threading.stack_size` or by
whoever started it, would end the process: what runs there is handed to a thread with enough.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress

from backlit.executors.native.locks import Lock

ROOM = 4 << 20  # bytes

_known = threading.local()
_starting = Lock()  # a forked child starts threads of its own


def has_room() -> bool:
    """Whether the stack of the calling thread is large enough."""
    try:
        found: bool = _known.enough
    except AttributeError:
        found = _known.enough = _size() >= ROOM
    return found


def _size() -> int:
    """Bytes of the calling thread's stack; of what the system does not tell, what Python gives to its threads."""
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        attributes, start, size = ctypes.create_string_buffer(256), ctypes.c_void_p(), ctypes.c_size_t()
        library.pthread_self.restype = ctypes.c_void_p
        thread = ctypes.c_void_p(library.pthread_self())
        if library.pthread_getattr_np(thread, attributes) == 0:
            library.pthread_attr_getstack(attributes, ctypes.byref(start), ctypes.byref(size))
            library.pthread_attr_destroy(attributes)
            return size.value
    return threading.stack_size() or ROOM


class NoThreadError(MemoryError):
    """The system gives this process no more threads."""


def start(work: Callable[[], None]) -> None:
    """Do the work on a thread with enough room. Raises NoThreadError where there is none to be had.

    `threading.Thread.start` waits in Python for the thread to begin, where an interrupt can break locks of its own.
    """
    with _starting.door:
        old = threading.stack_size()
        try:
            threading.stack_size(2 * ROOM)
            _thread.start_new_thread(work, ())
        except RuntimeError as e:
            raise NoThreadError("a program needs one more thread than the system gives") from e
        finally:
            threading.stack_size(old)
