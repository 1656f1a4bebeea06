"""Of a product those columns that whole vectors leave over, summed by a kernel of their own where that is quicker.

17 columns are a vector and one more, which costs half a vector in every step. That column may be made alone: as dot
products, if what is summed lies side by side in the rows, from a copy of the weights that does so too; or, in the
gradient of weights, as a row, since the rows can be vectors there. A few columns in all, such as three outputs, cost
half a vector too, and may be dot products for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from backlit.executors.native.estimate import NOMINAL, cycles
from backlit.executors.native.groups import Groups
from backlit.executors.native.index import Affine, row_major
from backlit.executors.native.kernels import Buffer, Call, Instruction, Nest
from backlit.executors.native.method import method
from backlit.executors.native.panel import turned_operand
from backlit.executors.native.tiling import is_product
from backlit.executors.native.vectors import filled, in_line
from backlit.ir import Type

_BETTER = 0.92  # of the time of one kernel, below which more are worth their code
_KERNEL = 500  # cycles for one kernel more


def apart(call: Call, scratch: Callable[[Type, str], Buffer]) -> list[Call]:
    """The call, or those that do the same."""
    nest = call.kernel
    ways = list(_ways(call, nest, scratch)) if isinstance(nest, Nest) and is_product(nest) and not nest.checks else []
    if not ways:
        return [call]
    best = min(ways, key=_time)
    return best if _time(best) < _BETTER * _time([call]) else [call]


def _time(calls: Sequence[Call]) -> float:
    return sum(cycles(call.kernel) + _KERNEL for call in calls)


def _ways(call: Call, nest: Nest, scratch: Callable[[Type, str], Buffer]) -> Iterator[list[Call]]:
    """The kernels of the columns that fill vectors and of the others, which may read a copy."""
    found = _columns(nest)
    if found is None:
        return
    axis, number = found
    b, a = nest.prologue[number], nest.prologue[1 - number].at.strides
    n, lanes = nest.space[axis], in_line(b.dtype.itemsize)
    few = 2 * n < lanes
    if not few and (n < lanes or n >= _BETTER * filled(n, lanes) * lanes or _updates(call, nest, axis)):
        return
    rest = n if few else n % lanes
    if isinstance(method(nest, NOMINAL), Groups):
        return
    whole = [replace(call, kernel=_of_columns(nest, axis, 0, n - rest))] if rest < n else []
    last = replace(call, kernel=_of_columns(nest, axis, n - rest, rest))
    yield [*whole, last]
    groups = any(s for x, s in enumerate(b.at.strides[: len(nest.space)]) if x != axis)  # each has weights of its own
    alone = sum(i.argument == b.argument for i in nest.prologue + nest.epilogue) == 1
    if a[-1] == 1 != b.at.strides[-1] and alone and not groups:
        yield [*whole, *_with_copy(last, number, axis, scratch)]


def _columns(nest: Nest) -> tuple[int, int] | None:
    """The axis that lies side by side in one load only, and in what is stored, and the number of that load."""
    p, q = (nest.prologue[k].at for k in (0, 1))
    stored = [i.at.strides for i in nest.epilogue if i.op == "store"]
    for axis in range(len(nest.space)):
        steps = p.strides[axis], q.strides[axis]
        if steps in ((0, 1), (1, 0)) and all(s[axis] == 1 for s in stored):
            return axis, steps.index(1)
    turned = turned_operand(nest.space, nest.reduced, (p, q), nest.prologue[3].dtype)
    return None if turned is None else (len(nest.space) - 1, turned)


def _updates(call: Call, nest: Nest, axis: int) -> bool:
    """Whether a matrix from outside goes into the result, which may lie where that does if one kernel does all."""
    return any(
        i.op == "load" and call.arguments[i.argument][0].kind != "arena" and i.at.strides[axis]
        and any(s for x, s in enumerate(i.at.strides) if x != axis)
        for i in nest.epilogue
    )  # fmt: skip


def _of_columns(nest: Nest, axis: int, first: int, count: int) -> Nest:
    """The nest for some columns."""

    def moved(i: Instruction) -> Instruction:
        if i.place is None:
            return i
        return replace(i, place=Affine(i.place.offset + first * i.place.strides[axis], i.place.strides))

    space = (*nest.space[:axis], count, *nest.space[axis + 1 :])
    prologue, epilogue = (tuple(map(moved, part)) for part in (nest.prologue, nest.epilogue))
    return replace(nest, space=space, prologue=prologue, epilogue=epilogue)


def _with_copy(call: Call, number: int, axis: int, scratch: Callable[[Type, str], Buffer]) -> list[Call]:
    """The call with the weights of its columns side by side, and before it that which copies them."""
    nest = call.kernel
    assert isinstance(nest, Nest)
    load, outer = nest.prologue[number], len(nest.space)
    buffer, offset = call.arguments[load.argument]
    shape = (nest.space[axis], *nest.reduced)
    copied, (across, *along) = scratch(Type(load.dtype, shape), f"{buffer.name} rest"), row_major(shape)
    source = Affine(load.at.offset, (load.at.strides[axis], *load.at.strides[outer:]))
    code = (
        Instruction("load", (), load.dtype, argument=0, place=source),
        Instruction("store", (0,), load.dtype, argument=1, place=Affine(0, (across, *along))),
    )
    kernel = Nest(shape, (), (), code, (load.dtype,) * 2)
    copy = Call(kernel, ((buffer, offset), (copied, 0)), (1,), call.nodes, (), copied.name)
    place = Affine(0, (*(across if x == axis else 0 for x in range(outer)), *along))
    prologue = tuple(replace(i, place=place) if k == number else i for k, i in enumerate(nest.prologue))
    arguments = tuple((copied, 0) if k == load.argument else x for k, x in enumerate(call.arguments))
    return [copy, replace(call, kernel=replace(nest, prologue=prologue), arguments=arguments)]
