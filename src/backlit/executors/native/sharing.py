"""How threads share a kernel, and where they have to wait for one another.

A kernel is cut along its outermost axis into equal runs of neighbouring points, thread t of n taking the run from
t/n to (t+1)/n. Two kernels need no barrier between them when every thread touches only such parts of their common
memory as are its own in both: the rows of a batch from the input to the loss, say. That is so when both go through
the buffer by the same step along the axis that is cut, and stay within one step otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from backlit.executors.native.kernels import Buffer, Call, Nest, RunningSum, Search, Sort
from backlit.executors.native.nest import schedule
from backlit.executors.native.target import Target

SMALL = 2048  # points of work below which sharing costs more than it saves


@dataclass(frozen=True)
class Share:
    """The size of the axis that is cut and how many points stay together. `extent` 0: one thread does it all."""

    extent: int
    grain: int

    @property
    def pieces(self) -> int:
        return -(-self.extent // self.grain)


def share_of(call: Call, target: Target) -> Share:
    """How a call is shared."""
    kernel = call.kernel
    if isinstance(kernel, Nest):
        plan = schedule(kernel, target)
        if plan.split < 0:
            return Share(0, 1)
        return Share(kernel.space[plan.split], plan.grain)
    if isinstance(kernel, Search | Sort | RunningSum):
        return Share(kernel.shape[0], 1)
    return Share(0, 1)


def _step(call: Call, buffer: Buffer, target_split: int) -> int | None:
    """The step, in elements, by which a call goes through a buffer along the axis that is cut; None if it strays."""
    kernel = call.kernel
    if not isinstance(kernel, Nest):
        return None
    found: set[int] = set()
    numbers = {k for k, (b, _) in enumerate(call.arguments) if b is buffer}
    extents = kernel.space + kernel.reduced
    for i in kernel.prologue + kernel.epilogue:
        if i.argument not in numbers or i.place is None:
            continue
        if i.op == "gather":
            return None
        step = i.place.strides[target_split]
        rest = type(i.place)(
            i.place.offset + call.arguments[i.argument][1],
            tuple(0 if a == target_split else s for a, s in enumerate(i.place.strides)),
        )
        low, high = rest.bounds(extents)
        if low < 0 or high >= step:
            return None
        found.add(step)
    return found.pop() if len(found) == 1 else None


def needs_barrier(early: Call, early_share: Share, late: Call, late_share: Share) -> bool:
    """Whether a thread may start `late` only when the others have finished `early`."""
    shared = conflicts(early, late)
    if not shared:
        return False
    if early_share.pieces <= 1 and late_share.pieces <= 1:
        return False  # both belong to the first thread
    if early_share != late_share:
        return True
    return any(b is not c or not _alike(early, late, b) for b, c in shared)


def _alike(early: Call, late: Call, buffer: Buffer) -> bool:
    a, b = (_step(c, buffer, 0) for c in (early, late))
    return a is not None and a == b


def conflicts(early: Call, late: Call) -> list[tuple[Buffer, Buffer]]:
    """Pairs of buffers that share memory and of which one is written."""
    found = []
    for i, (b, _) in enumerate(early.arguments):
        for j, (c, _) in enumerate(late.arguments):
            if (i in early.writes or j in late.writes) and overlap(b.root(), c.root()):
                found.append((b, c))
    return found


def overlap(a: Buffer, b: Buffer) -> bool:
    if a is b:
        return True
    if a.kind != "arena" or b.kind != "arena":
        return False
    return a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
