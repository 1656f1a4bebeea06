"""Memory that programs work on: aligned to cache lines, in large pages where it is large, and used again.

What starts within a cache line makes each vector of that width touch two. Fresh memory costs a page fault for each of
its pages when it is first touched, and small pages fill the processor's table of them. So the arrays of one call are
laid side by side in a block of memory, and a block whose arrays have all been given up serves a later call. Whoever
holds an array, or a view of one, keeps its block: what has been given out is never written again.
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.executors.api import Array
from backlit.ir import Type

ALIGNMENT = 64
"""Bytes in a cache line, and in the widest vector."""

_LARGE = 2 * 1024 * 1024  # bytes of a large page


def block(size: int) -> Any:
    """Zeroed memory of `size` bytes, aligned, as an array. Raises MemoryError where there is not so much."""
    try:
        if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
            memory = mmap.mmap(-1, size + _LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
            raw: Any = np.frombuffer(memory, np.uint8)
            alignment = _LARGE
        else:
            raw, alignment = np.zeros(size + ALIGNMENT, np.uint8), ALIGNMENT
    except (OSError, OverflowError, MemoryError) as e:
        raise MemoryError(f"a program needs {size / 2**30:.1f} GB for its state or its intermediate values") from e
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


class Storage:
    """Blocks for the arrays of one list of types; one that is free again is kept."""

    def __init__(self, types: Sequence[Type]) -> None:
        self._types, self._starts = types, []
        self._size = 0
        for t in types:
            self._starts.append(self._size)
            self._size += -(-t.size * t.dtype.itemsize // ALIGNMENT) * ALIGNMENT
        self._free: list[Any] = []

    def arrays(self) -> list[Array]:
        """An array of each type; their contents are arbitrary."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = block(max(1, self._size))
        holder: Any = np.frombuffer(memoryview(memory), np.uint8)  # the base of all arrays: it dies with the last
        weakref.finalize(holder, _give_back, self._free, memory).atexit = False
        return [
            holder[start : start + t.size * t.dtype.itemsize].view(t.dtype).reshape(t.shape)
            for start, t in zip(self._starts, self._types, strict=True)
        ]


def _give_back(free: list[Any], memory: Any) -> None:
    if not free:
        free.append(memory)
