"""How threads share a kernel, and where they have to wait for one another.

A kernel is cut along its outermost axis into equal runs of neighbouring points, thread t of n taking the run from
t/n to (t+1)/n. Two kernels need no barrier between them when every thread touches only such parts of their common
memory as are its own in both: the rows of a batch from the input to the loss, say. That is so when both stay within one
step along the axis that is cut, and a share goes equally far through the buffer in both.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field, replace
from functools import lru_cache

from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import (
    Buffer,
    Call,
    Loop,
    Nest,
    Rows,
    RunningSum,
    Search,
    Sort,
    WinogradSum,
)
from backlit.executors.native.method import method
from backlit.executors.native.target import Target
from backlit.executors.native.vectors import in_line

_GRAIN = in_line(4)  # elements that end where a line of the caches does, in float32 and float64
_LONG = 4096  # elements


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
        share = _share_of_nest(kernel, target)
        return replace(share, grain=_GRAIN) if _is_long_update(call) else share
    if isinstance(kernel, Rows):
        return Share(0, kernel.space[0])
    if isinstance(kernel, Search | Sort | RunningSum | WinogradSum):
        return Share(0, kernel.shape[0])
    return Share(-1, 0)


def _is_long_update(call: Call) -> bool:
    """Whether a call goes through parameters, or the like, from end to end.

    Then it is worth a barrier that shares start at a line of the caches: from within one, each vector touches two.
    """
    nest = call.kernel
    long = not nest.prologue and len(nest.space) == 1 and nest.space[0] >= _LONG
    return long and any(b.kind == "output" for b in call.written())


@lru_cache(maxsize=4096)
def _share_of_nest(nest: Nest, target: Target) -> Share:
    plan = method(nest, target)
    return Share(plan.split, nest.space[plan.split], plan.grain) if plan.split >= 0 else Share(-1, 0)


@lru_cache(maxsize=16384)
def _step(kernel: Nest | Rows, uses: tuple[tuple[int, int], ...], axis: int) -> int | None:
    """The step, in elements, by which a kernel goes through a buffer along the axis that is cut; None if it strays.

    `uses` are the arguments that are the buffer, and their offsets.
    """
    found: set[int] = set()
    offsets = dict(uses)
    for nest in kernel.nests:
        for i in nest.prologue + nest.epilogue:
            if i.argument not in offsets or i.place is None:
                continue
            if i.op == "gather":
                return None
            step = i.place.strides[axis]
            rest = Affine(
                i.place.offset + offsets[i.argument],
                tuple(0 if x == axis else s for x, s in enumerate(i.place.strides)),
            )
            low, high = rest.bounds(nest.space + nest.reduced)
            if low < 0 or high >= step:
                return None
            found.add(step)
    return found.pop() if len(found) == 1 else None


_ALONE = -1  # the pace of what one thread does


def paces(call: Call, share: Share, count: int) -> dict[Buffer, int | None]:
    """How far a share of a call goes through each buffer, in elements; None where it strays.

    Two calls that touch a buffer at the same pace need no barrier between them for its sake.
    """
    uses: dict[Buffer, tuple[tuple[int, int], ...]] = {}
    for k, (buffer, offset) in enumerate(call.arguments):
        uses[buffer] = (*uses.get(buffer, ()), (k, offset))
    if share.axis < 0:
        return dict.fromkeys(uses, _ALONE)
    if not isinstance(call.kernel, Nest | Rows):
        return dict.fromkeys(uses)
    steps = {b: _step(call.kernel, u, share.axis) for b, u in uses.items()}
    return {b: None if step is None else step * share.size(count) for b, step in steps.items()}


@dataclass
class _Touched:
    """How a buffer has been touched since the last barrier: at which paces it was read and written."""

    read: set[int | None] = field(default_factory=set)
    written: set[int | None] = field(default_factory=set)


class Pending:
    """What has been touched since the last barrier, while a program is walked through in order.

    Buffers of the arena are found by their place, others by what they are; so a call is compared with those that touch
    the same memory only.
    """

    def __init__(self, target: Target, count: int) -> None:
        self.target, self.count = target, count
        self.clear()

    def clear(self) -> None:
        """All threads have met."""
        self._touched: dict[Buffer, dict[Buffer, _Touched]] = {}  # by root, then by buffer
        self._places: list[tuple[int, int, Buffer]] = []  # roots in the arena in order: begin, a number, root
        self._widest = 0

    def __bool__(self) -> bool:
        return bool(self._touched)

    def add(self, call: Call) -> bool:
        """Whether threads must wait for one another before the call, which is pending from now on."""
        touched = paces(call, share_of(call, self.target), self.count)
        written = set(call.written())
        waits = any(self._meets(b, pace, b in written) for b, pace in touched.items())
        if waits:
            self.clear()
        for b, pace in touched.items():
            found = self._at(b)
            (found.written if b in written else found.read).add(pace)
        return waits

    def _meets(self, buffer: Buffer, pace: int | None, writes: bool) -> bool:
        """Whether another thread may have written there, or read what is to be written."""
        for root in self._near(buffer.root()):
            for other, touched in self._touched[root].items():
                known = touched.written | touched.read if writes else touched.written
                if not _is_alike(other, buffer):
                    known = known if pace != _ALONE else known - {_ALONE}
                elif pace is not None:
                    known = known - {pace}
                if known:
                    return True
        return False

    def _near(self, root: Buffer) -> list[Buffer]:
        """The pending roots that share memory with this one."""
        if root.kind != "arena":
            return [root] if root in self._touched else []
        first = bisect_left(self._places, (root.offset - self._widest,))
        last = bisect_left(self._places, (root.offset + max(1, root.bytes),))
        return [r for begin, _, r in self._places[first:last] if begin + r.bytes > root.offset or r is root]

    def _at(self, buffer: Buffer) -> _Touched:
        root = buffer.root()
        if root not in self._touched:
            self._touched[root] = {}
            if root.kind == "arena":
                insort(self._places, (root.offset, len(self._touched), root))
                self._widest = max(self._widest, root.bytes)
        return self._touched[root].setdefault(buffer, _Touched())


def _is_alike(a: Buffer, b: Buffer) -> bool:
    """Whether shares at one pace are the same thread's in both: rows of one size are either the same or apart."""
    return a is b or (a.kind == b.kind == "slice" and a.bytes == b.bytes)


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
