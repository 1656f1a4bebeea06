"""Results written where their old values lie: parameters and the state of an optimiser are updated in place.

A loop's new carry, or a result for which an input was given away, has memory of its own at first (`fresh`). It takes
the memory of the old value (`old`) when nothing can tell the difference: one call writes it, no later call reads the
old value, and that call itself reads the old value only at the element that it is about to write.

A caller that gives arrays away says that nobody else can tell the difference either; `donated` checks what can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NoReturn

from backlit.errors import DonationError
from backlit.executors.api import Array
from backlit.executors.native.kernels import Buffer, Call, Loop, Nest
from backlit.executors.native.storage import addresses
from backlit.ir import Node


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


def donated(
    inputs: Sequence[Node], arrays: Sequence[Array], others: Sequence[Array], places: Sequence[int]
) -> list[int]:
    """The addresses of the arrays that were given away for these inputs.

    `others` is what the program reads besides, C-contiguous, and `places` its addresses. Raises DonationError for an
    array that cannot be written to where it lies, or whose memory anything else has a part of.
    """
    for k, array in enumerate(arrays):
        if not array.flags.carray:
            why = "its elements do not lie one after the other, aligned" if array.flags.writeable else "it is read-only"
            _refuse(inputs[k], why)
    found = addresses(arrays)
    spans = sorted(zip([*found, *places], [a.nbytes for a in (*arrays, *others)], count()))
    written, read, last = 0, 0, 0  # where those so far end, and the number of the last one that is written
    for start, size, k in spans:
        if not size:
            continue
        mine = k < len(found)
        if start < written or (mine and start < read):
            _refuse(inputs[k if mine else last], "it shares memory with another argument")
        if mine:
            written, last = start + size, k
        else:
            read = max(read, start + size)
    return found


def _refuse(node: Node, why: str) -> NoReturn:
    what = node.name or f"the {node.type} that was given away"
    raise DonationError(f"{what} cannot be updated where it lies: {why}", fix="give away a copy, or nothing")
