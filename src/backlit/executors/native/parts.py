"""Long sums of few results (a bias's gradient, the statistics of batch norm) are taken in parts.

Such a nest has no axis of the result worth sharing between threads, and goes through memory once for each vector of
its result. Cut into parts, the longest step first, it becomes two nests: partial sums of so many rows that they stay in
the cache while they are read, and the sum of the partial sums, with what follows it. How many parts there are depends
on the sizes only, so the results have the same bits for any number of threads.

The gradient of a convolution's weights is such a sum as well. It is cut where the first axis of the result, the few
rows of a window, would leave threads with unequal shares, into few parts: each is as large as the weights. Where both
operands lie side by side along what is summed, a tile of results uses each number that it reads a few times only: then
parts are so small that they stay in the first-level cache for all tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from backlit.executors.native import index as ix
from backlit.executors.native.gradients import by_winograd
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import COMBINERS, Buffer, Call, Instruction, Nest, Winograd
from backlit.ir import Type

_WORK = 1 << 15  # elements that are worth a kernel more
_PART = 1 << 13  # elements of a part: a few arrays of them fit in the first-level cache
_FEW = 16  # parts of a product at most,
_SHORT = 256  # of so many steps at least, which take far longer than to store the sums and to add them up
_FAR_LONGER = 64  # times as many steps as results, of which too few may be there for threads to share
_ROOM = 1 << 20  # elements of all parts together: they stay in the caches
_NEAR = 24 * 1024  # bytes of the first-level cache that what is read again and again may take,
_AGAIN = 8  # so many results, and parts of so many steps that adding up lanes takes little of their time:
_ENOUGH = 512


def in_parts(call: Call, scratch: Callable[[Type, str], Buffer], winograd: bool) -> list[Call]:
    """The call, or the two calls that do the same."""
    nest = call.kernel
    assert isinstance(nest, Nest)
    transformed = by_winograd(call, scratch) if winograd else None
    if transformed is not None:
        made, place = transformed
        return [*made, _whole(call, nest, [3], [place])]
    counts = parts(nest)
    if counts is None:
        return [call]
    sums = [k for k, i in enumerate(nest.prologue) if i.op in COMBINERS]
    shape = (math.prod(counts), *nest.space)
    places = [scratch(Type(nest.prologue[k].dtype, shape), f"{call.label} part") for k in sums]
    return [_partial(call, nest, counts, sums, places), _whole(call, nest, sums, places)]


def parts(nest: Nest) -> tuple[int, ...] | None:
    """Into how many equal parts each reduced axis of a nest is cut; None: its sums are not taken in parts."""
    if isinstance(nest, Winograd) or not nest.reduced or nest.checks or nest.points * nest.steps < _WORK:
        return None
    if [i.op for i in nest.prologue] == ["load", "load", "multiply", "sum"]:
        return _of_product(nest)
    if nest.steps < 4 * nest.points:
        return None
    n = nest.reduced[0]
    wanted = nest.points * nest.steps / _PART
    choices = [d for d in _divisors(n) if nest.steps // d >= 16]
    return _cut(nest, 0, min(choices, key=lambda d: abs(math.log(d / wanted)))) if choices else None


def _cut(nest: Nest, axis: int, count: int) -> tuple[int, ...]:
    """One reduced axis cut, those before it into single steps."""
    return tuple(n if x < axis else count if x == axis else 1 for x, n in enumerate(nest.reduced))


@cache
def _divisors(n: int) -> list[int]:
    """How many parts n may be cut into."""
    return [d for d in range(4, min(n, 4096) + 1) if n % d == 0]


def _of_product(nest: Nest) -> tuple[int, ...] | None:
    """Of a product summed along several axes, as over the places of an image: so that threads have equal shares."""
    far_longer = nest.steps >= _FAR_LONGER * nest.points
    if not nest.space or (len(nest.reduced) < 2 and not far_longer):
        return None
    most = min(_FEW, nest.steps // _SHORT, _ROOM // nest.points)
    a, b = (nest.prologue[k].at.strides[len(nest.space) :] for k in (0, 1))
    axes = [x for x in range(len(nest.reduced)) if (a[x], b[x]) != (1, 1)]  # that one is cut into vectors
    choices = [(x, d) for x in axes for d in range(2, min(nest.reduced[x], most) + 1) if nest.reduced[x] % d == 0]
    best = max(choices, key=lambda c: (_evenness(c[1]), -c[0], c[1]), default=None)
    if best is None or not (far_longer or _evenness(best[1]) > _evenness(nest.space[0]) + 0.05):
        return None
    counts = tuple(best[1] if x == best[0] else 1 for x in range(len(nest.reduced)))
    return _near(nest, counts) if (a[-1], b[-1]) == (1, 1) else counts


def _near(nest: Nest, counts: tuple[int, ...]) -> tuple[int, ...]:
    """The fewest parts of which what is read more often stays in the first-level cache, if they are long enough.

    Axes are cut from the outermost one on; the last one is that of the vectors. Else it is cut as it was.
    """
    itemsize = nest.prologue[3].dtype.itemsize
    strides = [nest.prologue[k].at.strides for k in (0, 1)]
    uses = [math.prod(n for n, s in zip(nest.space, own, strict=False) if not s) for own in strides]
    own = strides[uses[1] > uses[0]]

    def read(counts: tuple[int, ...]) -> int:
        lengths = (n // c for n, c in zip(nest.reduced, counts, strict=True))
        return itemsize * math.prod(n for n, s in zip((*nest.space, *lengths), own, strict=True) if s)

    if max(uses) < _AGAIN or read(counts) <= _NEAR:
        return counts
    for axis in range(len(nest.reduced) - 1):
        for count in range(2, nest.reduced[axis] + 1):
            finer = _cut(nest, axis, count)
            steps = nest.steps // math.prod(finer)
            if nest.reduced[axis] % count == 0 and steps >= _ENOUGH and read(finer) <= _NEAR:
                return finer if math.prod(finer) * nest.points <= _ROOM else counts
    return counts


def _evenness(extent: int) -> float:
    """How much of the threads' time is used when 2, 4 or 8 of them share so many equal pieces: the mean."""
    return sum(extent / (t * -(-extent // t)) for t in (2, 4, 8)) / 3


def _partial(call: Call, nest: Nest, counts: tuple[int, ...], sums: Sequence[int], places: Sequence[Buffer]) -> Call:
    """The sums of each part, which are stored."""
    outer, lengths = len(nest.space), [n // c for n, c in zip(nest.reduced, counts, strict=True)]
    cut = [x for x, c in enumerate(counts) if c > 1]
    kept = [x for x, c in enumerate(counts) if c == 1 or lengths[x] > 1]
    space, reduced = (*(counts[x] for x in cut), *nest.space), tuple(lengths[x] for x in kept)

    def moved(place: Affine) -> Affine:
        own, inner = place.strides[:outer], place.strides[outer:]
        return Affine(place.offset, (*(inner[x] * lengths[x] for x in cut), *own, *(inner[x] for x in kept)))

    code = [replace(i, place=moved(i.place)) if i.place is not None else i for i in nest.prologue]
    used = sorted({i.argument for i in code if i.argument >= 0})
    code = [replace(i, argument=used.index(i.argument)) if i.argument >= 0 else i for i in code]
    strides = ix.row_major(space) + (0,) * len(reduced)
    stores = tuple(
        Instruction("store", (k,), nest.prologue[k].dtype, argument=len(used) + j, place=Affine(0, strides))
        for j, k in enumerate(sums)
    )
    dtypes = (*(nest.arguments[a] for a in used), *(b.type.dtype for b in places))
    kernel = Nest(space, reduced, tuple(code), stores, dtypes)
    arguments = (*(call.arguments[a] for a in used), *((b, 0) for b in places))
    writes = [used.index(a) for a in call.writes if a in used and _stored_by(code, used.index(a))]
    writes += range(len(used), len(used) + len(places))
    return Call(kernel, arguments, tuple(writes), call.nodes, (), f"{call.label} in parts")


def _stored_by(code: Sequence[Instruction], argument: int) -> bool:
    return any(i.op == "store" and i.argument == argument for i in code)


def _whole(call: Call, nest: Nest, sums: Sequence[int], places: Sequence[Buffer]) -> Call:
    """The sums of the parts, and the epilogue."""
    count, first = places[0].type.shape[0], len(nest.prologue)
    steps = ix.row_major(places[0].type.shape)
    place = Affine(0, (*steps[1:], steps[0]))
    prologue: list[Instruction] = []
    new: dict[int, int] = {}
    for j, k in enumerate(sums):
        i = nest.prologue[k]
        prologue.append(Instruction("load", (), i.dtype, argument=j, place=place, hint="part"))
        prologue.append(replace(i, inputs=(len(prologue) - 1,)))
        new[k] = len(prologue) - 1
    new |= {first + e: len(prologue) + e for e in range(len(nest.epilogue))}
    used = sorted({i.argument for i in nest.epilogue if i.argument >= 0})
    epilogue = []
    for i in nest.epilogue:
        at = Affine(i.place.offset, (*i.place.strides[: len(nest.space)], 0)) if i.place is not None else None
        argument = len(places) + used.index(i.argument) if i.argument >= 0 else -1
        epilogue.append(replace(i, inputs=tuple(new[j] for j in i.inputs), argument=argument, place=at))
    dtypes = (*(b.type.dtype for b in places), *(nest.arguments[a] for a in used))
    kernel = Nest(nest.space, (count,), tuple(prologue), tuple(epilogue), dtypes)
    arguments = (*((b, 0) for b in places), *(call.arguments[a] for a in used))
    writes = tuple(len(places) + used.index(a) for a in call.writes if a in used and _stored_by(nest.epilogue, a))
    return Call(kernel, arguments, writes, call.nodes, (), call.label)
