"""How threads share a kernel, and where they have to wait for one another.

A kernel is cut along its outermost axis into equal runs of neighbouring points, thread t of n taking the run from
t/n to (t+1)/n. Two kernels need no barrier between them when every thread touches only such parts of their common
memory as are its own in both: the rows of a batch from the input to the loss, say. That is so when both stay within one
step along the axis that is cut, and a share goes equally far through the buffer in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from backlit.executors.native.kernels import Buffer, Call, Loop, Nest, RunningSum, Search, Sort
from backlit.executors.native.nest import schedule
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import split_axis, tiling


@dataclass(frozen=True)
class Share:
    """The axis of a kernel that is cut, and its size; shares are multiples of `grain`. Axis -1: one thread does all."""

    axis: int
    extent: int
    grain: int = 1

    def size(self, count: int) -> int:
        """The points of each share but the last ones, which may have fewer or none."""
        return -(-self.extent // (count * self.grain)) * self.grain

    def lengths(self, count: int) -> list[int]:
        """The different numbers of points in a share."""
        size = self.size(count)
        starts = range(0, self.extent, max(size, 1))
        return list(dict.fromkeys(min(size, self.extent - s) for s in starts))


def share_of(call: Call, target: Target) -> Share:
    """How a call is shared."""
    kernel = call.kernel
    if isinstance(kernel, Nest):
        return _share_of_nest(kernel, target)
    if isinstance(kernel, Search | Sort | RunningSum):
        return Share(0, kernel.shape[0])
    return Share(-1, 0)


@lru_cache(maxsize=4096)
def _share_of_nest(nest: Nest, target: Target) -> Share:
    cut = tiling(nest, target)
    if cut is not None and cut.by_columns:
        return Share(cut.columns, nest.space[cut.columns], cut.vectors * cut.lanes)
    axis = split_axis(nest, cut) if cut is not None else schedule(nest, target).split
    return Share(axis, nest.space[axis]) if axis >= 0 else Share(-1, 0)


def _step(call: Call, buffer: Buffer, axis: int) -> int | None:
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
        step = i.place.strides[axis]
        rest = type(i.place)(
            i.place.offset + call.arguments[i.argument][1],
            tuple(0 if x == axis else s for x, s in enumerate(i.place.strides)),
        )
        low, high = rest.bounds(extents)
        if low < 0 or high >= step:
            return None
        found.add(step)
    return found.pop() if len(found) == 1 else None


def needs_barrier(early: Call, early_share: Share, late: Call, late_share: Share, count: int) -> bool:
    """Whether a thread may start `late` only when the others have finished `early`, both cut into `count` shares."""
    shared = conflicts(early, late)
    if not shared or (early_share.axis < 0 and late_share.axis < 0):
        return False  # both belong to the first thread
    if early_share.axis < 0 or late_share.axis < 0:
        return True

    def alike(buffer: Buffer) -> bool:
        a, b = _step(early, buffer, early_share.axis), _step(late, buffer, late_share.axis)
        return a is not None and b is not None and a * early_share.size(count) == b * late_share.size(count)

    return any(b is not c or not alike(b) for b, c in shared)


class Pending:
    """The calls since the last barrier, while a program is walked through in order."""

    def __init__(self, target: Target, count: int) -> None:
        self.target, self.count = target, count
        self.calls: list[tuple[Call, Share]] = []

    def add(self, call: Call) -> bool:
        """Whether threads must wait for one another before the call, which is pending from now on."""
        share = share_of(call, self.target)
        waits = any(needs_barrier(c, s, call, share, self.count) for c, s in self.calls)
        if waits:
            self.calls.clear()
        self.calls.append((call, share))
        return waits


def flows(loop: Loop, target: Target, count: int) -> bool:
    """Whether a thread may go from one step of a loop to the next without waiting for the others at its end.

    So it is when a second step waits before the same calls as the first one, before which nothing was pending.
    """
    calls = [*loop.calls, *loop.moves]
    if loop.length is None or not all(isinstance(c, Call) for c in calls):
        return False
    pending = Pending(target, count)
    first, second = ([pending.add(c) for c in calls] for _ in range(2))
    return first == second


def conflicts(early: Call, late: Call) -> list[tuple[Buffer, Buffer]]:
    """Pairs of buffers that share memory and of which one is written."""
    found = []
    for i, (b, _) in enumerate(early.arguments):
        root = b.root()
        for j, (c, _) in enumerate(late.arguments):
            if (i in early.writes or j in late.writes) and overlap(root, c.root()):
                found.append((b, c))
    return found


def overlap(a: Buffer, b: Buffer) -> bool:
    """Whether two roots share memory."""
    if a is b:
        return True
    if a.kind != "arena" or b.kind != "arena":
        return False
    return a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
