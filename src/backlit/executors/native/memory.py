"""Where intermediate values lie: offsets in one arena, found before anything runs.

A value needs its place from the call that writes it first to the call that reads it last; two values that are never
needed at once may share a place. What a loop reads from outside is needed until the loop ends. Larger values are placed
first, each at the lowest free offset. After a large one a few lines of the cache stay empty: sizes are often multiples
of a page, and what a kernel goes through side by side would lie at the same place of a page each time, where caches
have room for few lines and a load may wait for a store that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from backlit.executors.native.kernels import Buffer, Call, Loop
from backlit.executors.native.storage import ALIGNMENT

_LARGE = 1 << 16  # bytes of a value with room after it
_ROOM = 5 * ALIGNMENT


def place(program: Sequence[Any]) -> int:
    """Give every arena buffer of a program its offset; the size of the arena in bytes.

    Raises MemoryError where that has more than 63 bits.
    """
    spans = _spans(program)
    size = 0
    placed = np.empty((4, len(spans)), np.int64)  # in order of their offsets: offset, end, first and last use
    order = sorted(((_taken(b), span, b) for b, span in spans.items()), key=lambda item: (-item[0], item[1]))
    for count, (wanted, (first, last), buffer) in enumerate(order):
        starts, ends, begin, finish = placed[:, :count]
        busy = np.flatnonzero((begin <= last) & (finish >= first))
        floors = np.concatenate([[0], np.maximum.accumulate(ends[busy])])  # below each gap, the last one without end
        fits = starts[busy] - floors[:-1] >= wanted
        gap = int(fits.argmax()) if fits.any() else len(busy)
        buffer.offset = offset = int(floors[gap])
        end = offset + wanted
        if end >= 2**63:
            raise MemoryError(f"a program needs {end / 2**30:.1f} GB for its intermediate values")
        at = int(starts.searchsorted(offset))
        placed[:, at + 1 : count + 1] = placed[:, at:count]
        placed[:, at] = offset, end, first, last
        size = max(size, end)
    return size


def _taken(buffer: Buffer) -> int:
    """Bytes that a value takes, with the room after it."""
    return -(-max(buffer.bytes, 1) // ALIGNMENT) * ALIGNMENT + (_ROOM if buffer.bytes >= _LARGE else 0)


def _spans(program: Sequence[Any]) -> dict[Buffer, tuple[int, int]]:
    """For each arena buffer the times of its first and last use."""
    spans: dict[Buffer, tuple[int, int]] = {}
    clock = iter(range(1 << 60))

    def use(buffer: Buffer, first: int, last: int) -> None:
        root = buffer.root()
        if root.kind == "arena":
            a, b = spans.get(root, (first, last))
            spans[root] = min(a, first), max(b, last)

    def walk(steps: Sequence[Any]) -> None:
        for step in steps:
            if isinstance(step, Call):
                now = next(clock)
                for buffer, _ in step.arguments:
                    use(buffer, now, now)
                continue
            walk(step.start)
            begin = next(clock)
            known = set(spans)
            walk([*step.calls, *step.moves])
            end = next(clock)
            for buffer in _buffers(step):
                root = buffer.root()
                if root in known or buffer.kind == "slice":
                    use(root, begin, end)

    walk(program)
    return spans


def _buffers(loop: Loop) -> Iterator[Buffer]:
    for step in [*loop.calls, *loop.moves]:
        if isinstance(step, Call):
            yield from (b for b, _ in step.arguments)
        else:
            yield from _buffers(step)
            yield from (b for c in step.start for b, _ in c.arguments)
