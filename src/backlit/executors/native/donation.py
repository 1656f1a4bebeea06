"""Results written where their old values lie: parameters and the state of an optimiser are updated in place.

A loop's new carry, or a result for which an input was given away, has memory of its own at first (`fresh`). It takes
the memory of the old value (`old`) when nothing can tell the difference: one call writes it, no later call reads the
old value, and that call itself reads the old value only at the element that it is about to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from backlit.executors.native.kernels import Buffer, Call, Loop, Nest


def reuse(steps: Sequence[Any], pairs: Iterable[tuple[Buffer, Buffer]]) -> dict[Buffer, Buffer]:
    """Of the pairs (fresh, old), those in which `fresh` may lie where `old` does. The steps are changed accordingly.

    A buffer may be in several pairs: the first that fits is taken.
    """
    users: dict[Buffer, dict[int, Any]] = {}
    for number, step in enumerate(steps):
        for buffer in _roots(step):
            users.setdefault(buffer, {})[number] = step
    found: dict[Buffer, Buffer] = {}
    given: set[Buffer] = set()
    for fresh, old in pairs:
        if fresh in found or old in given:
            continue
        near = users.get(fresh, {}) | users.get(old, {})
        mine = [near[number] for number in sorted(near)]
        if _may(mine, fresh, old):
            found[fresh] = old
            given.add(old)
            _replace(mine, fresh, old)
            users[old] = near
    return found


def _roots(step: Any) -> set[Buffer]:
    if isinstance(step, Loop):
        return set().union(*(_roots(s) for s in [*step.start, *step.calls, *step.moves]))
    return {b.root() for b, _ in step.arguments}


def _may(steps: Sequence[Any], fresh: Buffer, old: Buffer) -> bool:
    writer: Call | None = None
    for step in steps:
        if isinstance(step, Loop):
            if _touches(step, fresh) or (writer is not None and _touches(step, old)):
                return False
            continue
        reads_old = any(b.root() is old for b, _ in step.arguments)
        if writer is not None and reads_old:
            return False
        if any(b is fresh for b in step.written()):
            if writer is not None or (reads_old and not _same_place(step, fresh, old)):
                return False
            writer = step
        elif any(b.root() is fresh for b, _ in step.arguments) and writer is None:
            return False
    return writer is not None


def _touches(loop: Loop, buffer: Buffer) -> bool:
    return buffer in _roots(loop)


def _same_place(call: Call, fresh: Buffer, old: Buffer) -> bool:
    """Whether the call goes through both in the same way, one element at a time."""
    kernel = call.kernel
    if not isinstance(kernel, Nest):
        return False
    places = set()
    reduced = False
    for k, i in enumerate(kernel.prologue + kernel.epilogue):
        if i.argument < 0 or i.place is None:
            continue
        buffer, offset = call.arguments[i.argument]
        if buffer is fresh or buffer is old:
            if i.op == "gather":
                return False
            places.add(i.place.plus(offset))
            reduced = reduced or k < len(kernel.prologue)
    return len(places) == 1 and not reduced


def _replace(steps: Sequence[Any], fresh: Buffer, old: Buffer) -> None:
    for step in steps:
        if isinstance(step, Loop):
            _replace([*step.start, *step.calls, *step.moves], fresh, old)
        else:
            step.arguments = tuple((old if b is fresh else b, o) for b, o in step.arguments)
