"""Where intermediate values lie: offsets in one arena, found before anything runs.

A value needs its place from the call that writes it first to the call that reads it last; two values that are never
needed at once may share a place. What a loop reads from outside is needed until the loop ends. Larger values are placed
first, each at the lowest free offset; where that leaves gaps, those that are large for a long time may leave fewer.
After a large one a few lines of the cache stay empty: sizes are often multiples of a page, and what a kernel goes
through side by side would lie at the same place of a page each time, where caches have room for few lines and a load
may wait for a store that it does not need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from backlit.executors.native.kernels import Buffer, Call, Loop
from backlit.executors.native.vectors import LINE, rounded_up

_LARGE = 1 << 16  # bytes of a value with room after it
_ROOM = 5 * LINE
_NEAR = 1.02  # times what is needed at once, from which on another order is not tried

Span: TypeAlias = tuple[int, int]
"""The times of the first and the last use of a value."""


def place(program: Sequence[Any]) -> int:
    """Give every arena buffer of a program its offset; the size of the arena in bytes.

    Raises MemoryError where that has more than 63 bits.
    """
    spans = _spans(program)
    places = _placed(spans, _bytes)
    if places.size > _NEAR * _most_at_once(spans):
        places = min(places, _placed(spans, _bytes_and_time), key=lambda p: p.size)
    for buffer, offset in places.offsets.items():
        buffer.offset = offset
    return places.size


class _Places(NamedTuple):
    """Where values lie, and how much memory they take together."""

    offsets: dict[Buffer, int]
    size: int


def _bytes(taken: int, span: Span) -> tuple[int, ...]:
    return -taken, *span


def _bytes_and_time(taken: int, span: Span) -> tuple[int, ...]:
    first, last = span
    return -taken * (last - first + 1), *span


def _placed(spans: Mapping[Buffer, Span], order: Callable[[int, Span], tuple[int, ...]]) -> _Places:
    """The values in this order, each at the lowest offset that is free all the time that it is needed."""
    offsets, size = {}, 0
    placed = np.empty((4, len(spans)), np.int64)  # in order of their offsets: offset, end, first and last use
    values = sorted(spans, key=lambda b: order(_taken(b), spans[b]))
    for count, buffer in enumerate(values):
        wanted, (first, last) = _taken(buffer), spans[buffer]
        starts, ends, begin, finish = placed[:, :count]
        busy = np.flatnonzero((begin <= last) & (finish >= first))
        floors = np.concatenate([[0], np.maximum.accumulate(ends[busy])])  # below each gap, the last one without end
        fits = starts[busy] - floors[:-1] >= wanted
        gap = int(fits.argmax()) if fits.any() else len(busy)
        offsets[buffer] = offset = int(floors[gap])
        end = offset + wanted
        if end >= 2**63:
            raise MemoryError(f"a program needs {end / 2**30:.1f} GB for its intermediate values")
        at = int(starts.searchsorted(offset))
        placed[:, at + 1 : count + 1] = placed[:, at:count]
        placed[:, at] = offset, end, first, last
        size = max(size, end)
    return _Places(offsets, size)


def _most_at_once(spans: Mapping[Buffer, Span]) -> int:
    """The bytes that are needed at the time when most are."""
    changes: Counter[int] = Counter()
    for buffer, (first, last) in spans.items():
        changes[first] += _taken(buffer)
        changes[last + 1] -= _taken(buffer)
    return max(accumulate(changes[t] for t in sorted(changes)), default=0)


def _taken(buffer: Buffer) -> int:
    """Bytes that a value takes, with the room after it."""
    return rounded_up(max(buffer.bytes, 1), LINE) + (_ROOM if buffer.bytes >= _LARGE else 0)


def _spans(program: Sequence[Any]) -> dict[Buffer, Span]:
    """For each arena buffer the times of its first and last use."""
    spans: dict[Buffer, Span] = {}
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
            for buffer in [*step.rows, *(b for b in _buffers(step) if b.root() in known)]:
                use(buffer, begin, end)

    walk(program)
    return spans


def _buffers(loop: Loop) -> Iterator[Buffer]:
    for step in [*loop.calls, *loop.moves]:
        if isinstance(step, Call):
            yield from (b for b, _ in step.arguments)
        else:
            yield from _buffers(step)
            yield from (b for c in step.start for b, _ in c.arguments)
