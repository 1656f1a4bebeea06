"""Calls that go over the same rows, made one: softmax, normalisation and a classifier's loss read a row once.

A run begins with a sum (or maximum) along rows. Later calls join it that go over as many rows, share memory with it,
and find in a row all that they need of what the run computes there. What lies between them runs after the whole run, so
it must neither write what they touch nor touch what they write. The rule that holds: of a buffer that the run writes,
each row touches a stretch of its own.

A row may also be a window where windows do not overlap: pooling's gradient counts the maxima of a window, and sends
each its part, while the window is in registers. There, rows are neighbours, so that vectors go along them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from backlit.executors.native.index import Affine, row_major
from backlit.executors.native.kernels import Buffer, Call, Instruction, Loop, Nest, Rows

_FEWEST = 8  # rows: fewer cannot be shared between threads
_NEAR = 12  # calls after the first one among which the others are looked for
_ROOM = 1 << 13  # bytes of a row that nobody else reads: more would leave the first-level cache
_WINDOW = 16  # places of a window at most: so many vectors stay in registers


def joined(steps: Sequence[Any], calls: Iterable[Call]) -> list[Any]:
    """The steps of a program, with runs of calls as one call each; `calls` are all that there are, in loops too."""
    users = Counter(b.root() for call in calls for b in {b for b, _ in call.arguments})
    return _joined(steps, users)


def _joined(steps: Sequence[Any], users: Counter[Buffer]) -> list[Any]:
    found: list[Any] = []
    taken: set[int] = set()
    for k, step in enumerate(steps):
        if isinstance(step, Loop):
            step.calls = _joined(step.calls, users)
        if k in taken:
            continue
        run = Run.of(step) if isinstance(step, Call) else None
        if run is None:
            found.append(step)
            continue
        passed = _Touched()
        for j in range(k + 1, min(k + 1 + _NEAR, len(steps))):
            later = steps[j]
            if isinstance(later, Loop):
                break
            if j in taken:
                continue
            if not passed.meets(later) and run.join(later):
                taken.add(j)
            else:
                passed.add(later)
        found.append(run.call(users))
    return found


class _Touched:
    """What calls read and write."""

    def __init__(self) -> None:
        self.read: set[Buffer] = set()
        self.written: set[Buffer] = set()

    def add(self, call: Call) -> None:
        self.read.update(b.root() for b in call.read())
        self.written.update(b.root() for b in call.written())

    def meets(self, call: Call) -> bool:
        """Whether the call may not run before them."""
        written = {b.root() for b in call.written()}
        read = {b.root() for b in call.read()}
        return not (self.written.isdisjoint(read | written) and self.read.isdisjoint(written))


class Run:
    """Calls over the same rows, of a kind (`_by_rows`, `_by_windows`); their nests begin with the axes `space`."""

    def __init__(self, call: Call, nest: Nest, alike: Callable[[Nest, tuple[int, ...]], bool]) -> None:
        self.space, self.alike = nest.space, alike
        self.calls, self.nests = [call], [nest]
        self.written = set(call.written())
        self.lengths = _lengths(call, nest, self.space)

    @classmethod
    def of(cls, call: Call) -> Run | None:
        """A run that begins with this call; None where it is no sum along rows."""
        nest = call.kernel
        if not _is_plain(call) or not nest.prologue or nest.points < _FEWEST:
            return None
        return next((cls(call, nest, kind) for kind in (_by_rows, _by_windows) if kind(nest, nest.space)), None)

    def join(self, call: Call) -> bool:
        """Take the call in, if it may be part of the run."""
        if not _is_plain(call):
            return False
        return any(self._take(call, nest) for nest in dict.fromkeys([call.kernel, self._by_places(call)]))

    def _by_places(self, call: Call) -> Nest:
        """The nest of a call with those axes first by which it goes through what the run computes."""
        nest: Nest = call.kernel
        for i in nest.prologue + nest.epilogue:
            if i.op == "load" and call.arguments[i.argument][0] in self.written:
                return _ordered(nest, sorted(range(len(nest.space)), key=lambda a: -i.at.strides[a]))
        return nest

    def _take(self, call: Call, nest: Nest) -> bool:
        both = refined(nest, self.space)
        if both is None or not self.alike(both[1], both[0]):
            return False
        space, nest = both
        lengths, written = _lengths(call, nest, space), self.written | set(call.written())
        roots = {b.root() for b in written}
        shares = False
        for b, length in lengths.items():
            for other in [o for o in self.lengths if o.root() is b.root()]:
                alike = other is b and length is not None and length == self.lengths[b]
                if not alike and b.root() in roots:
                    return False
                shares = shares or alike
        if not shares:
            return False
        self.space, self.written = space, written
        self.calls.append(call)
        self.nests.append(nest)
        for b, length in lengths.items():
            self.lengths[b] = length if self.lengths.get(b, length) == length else None
        return True

    def call(self, users: Counter[Buffer]) -> Call:
        """The run as one call; `users` says how many calls of the program touch a buffer."""
        if len(self.calls) == 1:
            return self.calls[0]
        own = self._own(users)
        buffers = dict.fromkeys(b for c in self.calls for b, _ in c.arguments if b not in own)
        offsets = {b: min(o for c in self.calls for a, o in c.arguments if a is b) for b in buffers}
        number = {b: k for k, b in enumerate([*buffers, *own])}
        dtypes = tuple(b.type.dtype for b in number)
        nests = []
        for call, old in zip(self.calls, self.nests, strict=True):
            both = refined(old, self.space)
            assert both is not None
            new = [(number[b], o - offsets.get(b, 0)) for b, o in call.arguments]
            code = [_renumbered(i, new) for i in both[1].prologue + both[1].epilogue]
            first = len(old.prologue)
            nests.append(replace(both[1], prologue=tuple(code[:first]), epilogue=tuple(code[first:]), arguments=dtypes))
        slots = tuple((b.type.dtype, n) for b, n in own.items())
        kernel = Rows(self.space, tuple(nests), dtypes[: len(buffers)], slots)
        writes = tuple(k for k, b in enumerate(buffers) if b in self.written)
        nodes = dict.fromkeys(n for c in self.calls for n in c.nodes)
        return Call(kernel, tuple(offsets.items()), writes, tuple(nodes), (), self.calls[-1].label)

    def _own(self, users: Counter[Buffer]) -> dict[Buffer, int]:
        """The buffers that nobody outside of the run touches, and how much of each belongs to a row."""
        touching = Counter(b for c in self.calls for b in {b for b, _ in c.arguments})
        found: dict[Buffer, int] = {}
        room = _ROOM
        for b, length in self.lengths.items():
            first = next(c for c in self.calls if any(a is b for a, _ in c.arguments))
            if b.kind != "arena" or length is None or touching[b] != users[b] or b not in first.written():
                continue
            if length * b.type.dtype.itemsize <= room and not _reads(first, b):
                room -= length * b.type.dtype.itemsize
                found[b] = length
        return found


def _reads(call: Call, buffer: Buffer) -> bool:
    code = call.kernel.prologue + call.kernel.epilogue
    return any(i.op != "store" and i.argument >= 0 and call.arguments[i.argument][0] is buffer for i in code)


def _renumbered(i: Instruction, arguments: Sequence[tuple[int, int]]) -> Instruction:
    """The instruction with the number and the further offset of its argument."""
    if i.argument < 0:
        return i
    number, offset = arguments[i.argument]
    return replace(i, argument=number, place=i.at.plus(offset))


def refined(nest: Nest, rows: tuple[int, ...]) -> tuple[tuple[int, ...], Nest] | None:
    """The rows and the nest, axes of both cut so that the nest begins with those of the rows; None if it cannot."""
    rest, space, own = list(rows), list(nest.space), []
    while rest:
        if not space:
            return None
        small, large = sorted((rest[0], space[0]))
        if small <= 1 or large % small:
            return None
        own.append(small)
        for axes in (rest, space):
            axes[:1] = [axes[0] // small] if axes[0] > small else []
    shape = tuple(own)
    if shape == nest.space[: len(shape)]:
        return shape, nest
    cuts = _cuts(nest.space, [*own, *space])
    new = replace(
        nest,
        space=(*own, *space),
        prologue=tuple(_cut(i, cuts, len(nest.space)) for i in nest.prologue),
        epilogue=tuple(_cut(i, cuts, len(nest.space)) for i in nest.epilogue),
    )
    return shape, new


def _ordered(nest: Nest, order: Sequence[int]) -> Nest:
    """The nest with the axes of its space in another order."""

    def moved(i: Instruction) -> Instruction:
        if i.place is None:
            return i
        strides = (*(i.place.strides[a] for a in order), *i.place.strides[len(order) :])
        return replace(i, place=Affine(i.place.offset, strides))

    code = [moved(i) for i in nest.prologue + nest.epilogue]
    first = len(nest.prologue)
    space = tuple(nest.space[a] for a in order)
    return replace(nest, space=space, prologue=tuple(code[:first]), epilogue=tuple(code[first:]))


def _cuts(shape: Sequence[int], fine: Sequence[int]) -> list[list[int]]:
    """For each axis the sizes that it is cut into."""
    rest, found = list(fine), []
    for n in shape:
        parts = [rest.pop(0)]
        while math.prod(parts) < n:
            parts.append(rest.pop(0))
        found.append(parts)
    return found


def _cut(i: Instruction, cuts: Sequence[Sequence[int]], outer: int) -> Instruction:
    """The instruction with axes cut into parts."""
    if i.place is None:
        return i
    strides: list[int] = []
    for step, parts in zip(i.place.strides[:outer], cuts, strict=True):
        strides += [step * n for n in row_major(parts)]
    return replace(i, place=Affine(i.place.offset, (*strides, *i.place.strides[outer:])))


def _is_plain(call: Call) -> bool:
    """Whether a call may be part of a run as far as its kind goes: no copy, no checks, no memory under two names."""
    nest = call.kernel
    if type(nest) is not Nest or len(nest.prologue + nest.epilogue) <= 2 or call.checked:
        return False
    roots = [b.root() for b in {b for b, _ in call.arguments}]
    return len(set(roots)) == len(roots)


def _by_rows(nest: Nest, space: tuple[int, ...]) -> bool:
    """Whether a nest has one sum a row, or none, and rows lie one after another in all that differs among them."""
    last, extents = len(space) - 1, nest.space + nest.reduced
    if nest.prologue and len(nest.space) > len(space):  # several sums a row, as in a product
        return False
    for i in nest.prologue + nest.epilogue:
        if i.argument < 0 or i.place is None or not any(i.place.strides[: last + 1]):
            continue
        low, high = _within(i.place, last).bounds(extents)
        if low < 0 or high >= max(i.place.strides[last], 1):
            return False
    return True


def _by_windows(nest: Nest, space: tuple[int, ...]) -> bool:
    """Whether each row has a few elements of its own, and those of neighbouring rows are neighbours."""
    rows, extents = len(space), nest.space + nest.reduced
    if not 1 < math.prod(extents[rows:]) <= _WINDOW or (nest.prologue and len(nest.space) > rows):
        return False
    for i in nest.prologue + nest.epilogue:
        if i.argument < 0 or i.place is None:
            continue
        moves = any(i.place.strides[rows:])
        reach = 0  # of the axes with shorter steps: if each step is longer, no element is met twice
        for step, n in sorted((abs(s), n) for s, n in zip(i.place.strides, extents, strict=True) if s or moves):
            if step <= reach:
                return False
            reach += step * (n - 1)
        if i.place.strides[rows - 1] not in (0, 1):
            return False
    return True


def _within(place: Affine, last: int) -> Affine:
    """A place in its row, whatever its argument starts with."""
    return Affine(0, tuple(0 if a <= last else s for a, s in enumerate(place.strides)))


def _lengths(call: Call, nest: Nest, space: tuple[int, ...]) -> dict[Buffer, int | None]:
    """For each buffer how many of its elements belong to a row; None where rows are not stretches that follow."""
    found: dict[Buffer, int | None] = {}
    rows, extents = len(space), nest.space + nest.reduced
    used: set[Buffer] = set()
    for i in nest.prologue + nest.epilogue:
        if i.argument < 0:
            continue
        buffer, offset = call.arguments[i.argument]
        step = i.at.strides[rows - 1]
        even = i.at.strides[:rows] == tuple(step * n for n in row_major(space))
        inside = Affine(i.at.offset + offset, (*(0,) * rows, *i.at.strides[rows:]))
        low, high = inside.bounds(extents)
        length = step if even and low >= 0 and high < step else None
        found[buffer] = length if buffer not in used or found[buffer] == length else None
        used.add(buffer)
    return found
