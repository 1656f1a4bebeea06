"""Of a product with few columns those that whole vectors leave over, summed by a kernel of their own.

17 columns are a vector and one more, which costs half a vector in every step. Where there are many steps, that column
is made alone: as dot products, if what is summed lies side by side in the rows, from a copy of the weights that does so
too; or, in the gradient of weights, as a row, since the rows can be vectors there. Two columns in all are dot products
for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backlit.executors.native.dots import SHORT
from backlit.executors.native.index import Affine, row_major
from backlit.executors.native.kernels import Buffer, Call, Instruction, Nest
from backlit.executors.native.panel import turned_operand
from backlit.executors.native.tiling import is_product
from backlit.executors.native.vectors import BETTER, filled, in_line, left_over
from backlit.ir import Type

_NO_VECTOR = 2  # columns, for which there are no tiles
_VECTORS = 2  # whole ones at most, of which another half is much
SIDE_BY_SIDE = 16  # numbers at least that lie so,
_LONG = 16  # of so many in all for each column, for dot products to be quicker
_WORK = 1 << 15  # steps of all rows, so that more kernels do not matter


def apart(call: Call, scratch: Callable[[Type, str], Buffer]) -> list[Call]:
    """The call, or those that do the same."""
    nest = call.kernel
    if not isinstance(nest, Nest) or not is_product(nest) or nest.checks:
        return [call]
    found = _columns(nest)
    if found is None:
        return [call]
    axis, number = found
    b, a = nest.prologue[number], nest.prologue[1 - number].at.strides
    n, lanes = nest.space[axis], in_line(b.dtype.itemsize)
    rest = n if n <= _NO_VECTOR else left_over(n, lanes)
    if not rest or n - rest > _VECTORS * lanes or (rest < n and nest.points // n * nest.steps < _WORK):
        return [call]
    if _updates(call, nest, axis):
        return [call]
    whole = [replace(call, kernel=_of_columns(nest, axis, 0, n - rest))] if rest < n else []
    last = replace(call, kernel=_of_columns(nest, axis, n - rest, rest))
    others = [m for x, m in enumerate(nest.space) if a[x] == 1 and b.at.strides[x] == 0 and m >= SIDE_BY_SIDE]
    if others:
        other = min(filled(m, lanes) / m for m in others)
        return [call] if other < BETTER * filled(n, lanes) / n else [*whole, last]
    if a[-1] != 1 or nest.reduced[-1] < (SHORT if rest == n else SIDE_BY_SIDE):
        return [call]
    if rest < n and nest.steps < _LONG * rest:
        return [call]
    if b.at.strides[-1] == 1:
        return [*whole, last]
    if any(s for x, s in enumerate(b.at.strides[: len(nest.space)]) if x != axis):
        return [call]  # weights of a group or a batch each
    if sum(i.argument == b.argument for i in nest.prologue + nest.epilogue) > 1:
        return [call]
    return [*whole, *_with_copy(last, number, axis, scratch)]


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
