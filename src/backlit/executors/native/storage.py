"""Memory that programs work on: aligned to cache lines, in large pages where it is large, and used again.

What starts within a cache line makes each vector of that width touch two. Fresh memory costs a page fault for each of
its pages when it is first touched, and small pages fill the processor's table of them. So the arrays of one call are
laid side by side in a block of memory, and a block whose arrays have all been given up serves a later call. Whoever
holds an array, or a view of one, keeps its block: what has been given out is never written again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backlit.executors.api import Array
from backlit.executors.native.vectors import LINE, rounded_up
from backlit.ir import Type

_LARGE = 2 * 1024 * 1024  # bytes of a large page


_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


@cache
def most() -> int:
    """Bytes that this process can ever have: what the machine has, or the container that it runs in.

    A system that promises more memory than there is ends a process that makes use of it.
    """
    found = [1 << 62]
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # there is none
            found.append(int(Path(limit).read_text()))
    return min(n for n in found if n > 0)


def block(size: int) -> Any:
    """Zeroed memory of `size` bytes, aligned, as an array. Raises MemoryError where there is not so much."""
    try:
        if size >= _LARGE and size > most():
            raise MemoryError
        if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
            memory = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
            raw: Any = np.frombuffer(memory, np.uint8)
            alignment = _LARGE
        else:
            raw, alignment = np.zeros(size + LINE, np.uint8), LINE
    except (OSError, OverflowError, MemoryError) as e:
        raise MemoryError(f"a program needs {size / 2**30:.1f} GB for its state or its intermediate values") from e
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def address(array: Any) -> int:
    """Where the elements of an array start. NumPy takes five times as long, which is left to read-only arrays."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, or without elements
        return int(array.ctypes.data)


def addresses(arrays: Sequence[Any]) -> list[int]:
    """Those of several arrays, quicker where all can be written to."""
    start, element = ctypes.addressof, ctypes.c_char.from_buffer
    try:
        return [start(element(a)) for a in arrays]
    except (TypeError, ValueError):
        return [*map(address, arrays)]


class Layout:
    """Arrays of a list of types, side by side in one block, each from a cache line on."""

    def __init__(self, types: Sequence[Type]) -> None:
        self._parts: list[tuple[tuple[int, ...], Any, int]] = []  # shape, dtype and start of each
        self.size = 0
        for t in types:
            self._parts.append((t.shape, t.dtype, self.size))
            self.size += rounded_up(t.size * t.dtype.itemsize, LINE)

    def arrays(self, memory: Array) -> tuple[list[Array], list[int]]:
        """The arrays and their addresses, which need not be asked of each array."""
        start = address(memory)
        parts = self._parts
        return [np.ndarray(shape, dtype, memory, at) for shape, dtype, at in parts], [start + at for _, _, at in parts]


class Storage:
    """Blocks for the arrays of one list of types; one whose arrays have been given up is used again.

    While training alternates between two blocks, those of one more state may be given up: that many are kept.
    """

    def __init__(self, types: Sequence[Type]) -> None:
        self._layout = Layout(types)
        self.free: deque[Any] = deque(maxlen=2)

    def arrays(self) -> tuple[list[Array], list[int]]:
        """An array of each type and their addresses; their contents are arbitrary."""
        try:
            chosen = self.free.pop()
        except IndexError:
            chosen = block(max(1, self._layout.size))
        base: Any = np.frombuffer(memoryview(chosen), np.uint8)  # the base of all arrays: it dies with the last
        holder = weakref.ref(base, _take_back)
        _lent[id(holder)] = holder, chosen, self
        return self._layout.arrays(base)

    def copies(self, arrays: Sequence[Array]) -> tuple[list[Array], list[int]]:
        """Copies of arrays of these types, and their addresses."""
        found = self.arrays()
        for new, old in zip(found[0], arrays, strict=True):
            new[...] = old
        return found


_lent: dict[int, tuple[Any, Any, Storage]] = {}  # who holds each block, and where it goes back to


def _take_back(holder: Any, lent: dict[int, tuple[Any, Any, Storage]] = _lent) -> None:
    _, memory, owner = lent.pop(id(holder))
    owner.free.append(memory)


_storages: weakref.WeakValueDictionary[tuple[Type, ...], Storage] = weakref.WeakValueDictionary()


def storage(types: Sequence[Type]) -> Storage:
    """The storage of a list of types: one for all programs that are in use, and for what they gave out."""
    return _storages.setdefault(tuple(types), Storage(types))
