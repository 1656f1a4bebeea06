"""Operands of a product that are copied first, so that an axis of its result goes through them by neighbours.

In g wT, the gradient of x in x w, the columns of the result are the rows of w: no axis of the result lies side by side
in an operand. Three ways are left, of which the quickest is taken:

    panels of w are turned on their way into the cache        where many rows use them (`panel`)
    w is copied, its rows side by side                        here
    tiles of dot products                                     where the copy would cost more than it saves (`dots`)

What is the same at each step of a loop is copied before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backlit.executors.native import index as ix
from backlit.executors.native.body import Body
from backlit.executors.native.dots import SHORT, SUM
from backlit.executors.native.index import Affine
from backlit.executors.native.kernels import Buffer, Call
from backlit.executors.native.panel import turned_operand
from backlit.executors.native.vectors import in_line
from backlit.ir import Type

if TYPE_CHECKING:
    from backlit.executors.native.fusion import Group

_SMALL = 512  # multiply-adds of a product that is not worth a copy
_FAR_LONGER = 1024  # numbers that dot products have where their tiles are as fast as others
_NARROW = 0.6  # cycles of a vector of columns that is half empty
_OFTEN = 6  # uses of each number in a step of a loop, before which it is copied once


@dataclass(frozen=True)
class _Operand:
    """An operand that may be copied: the number of its load, where it and the other one lie, its axis of columns."""

    load: int
    place: Affine
    other: Affine
    column: int
    elements: int


def packed_operand(
    body: Body, loads: tuple[int, int], group: Group, before: list[Call]
) -> tuple[Buffer, tuple[int, Affine]] | None:
    """Memory for such a copy, and the load that it replaces; None where the product reads its operands as they lie.

    The call that copies is added to `before`.
    """
    found = _operand(body, loads)
    if found is None or not _is_worth(found, body, [body.code[k].at for k in loads]):
        return None
    extents, mine, other = body.space + body.reduced, found.place.strides, found.other.strides
    source = body.arguments[body.code[found.load].argument]
    together = _in_groups(found.place, found.other, source.type.dtype.itemsize, len(body.space))
    apart = [x for x in range(len(body.space)) if mine[x] and other[x] and together]  # next to the columns
    axes = [x for x in range(len(extents)) if mine[x] and x not in (*apart, found.column)]
    axes = [*sorted(axes, key=lambda x: -abs(other[x])), *apart, found.column]  # as the other goes through memory
    shape = tuple(extents[x] for x in axes)
    packed = body.lowering.scratch(Type(source.type.dtype, shape), f"{source.name} turned")
    copy = Body(body.lowering, shape, ())
    value = copy.load(source, Affine(found.place.offset, tuple(mine[x] for x in axes)), source.name)
    strides = ix.row_major(shape)
    copy.store_into(packed, value, Affine(0, strides))
    call = copy.call_of(tuple(group.roots), packed.name)
    assert call is not None
    before.append(call)
    by_axis = dict(zip(axes, strides, strict=True))
    return packed, (found.load, Affine(0, tuple(by_axis.get(x, 0) for x in range(len(extents)))))


def _operand(body: Body, loads: tuple[int, int]) -> _Operand | None:
    """The smaller operand through which the last axis of the result goes; None where none needs a copy."""
    if loads[0] == loads[1] or any(body.code[k].op != "load" for k in loads) or not body.reduced:
        return None
    outer, extents = len(body.space), body.space + body.reduced
    p, q = (body.code[k].at for k in loads)
    if math.prod(extents) < _SMALL:
        return None
    if any({p.strides[x], q.strides[x]} == {0, 1} and body.space[x] > 1 for x in range(outer)):
        return None
    found = []
    for k, mine, other in ((loads[0], p, q), (loads[1], q, p)):
        columns = [x for x in range(outer) if mine.strides[x] > 1 and other.strides[x] == 0 and body.space[x] > 1]
        elements = math.prod(extents[x] for x, s in enumerate(mine.strides) if s)
        overlaps = elements > body.arguments[body.code[k].argument].type.size  # windows, which a copy would multiply
        if columns and columns[-1] == outer - 1 and not overlaps:
            found.append(_Operand(k, mine, other, outer - 1, elements))
    return min(found, key=lambda o: o.elements, default=None)


def _in_groups(mine: Affine, other: Affine, itemsize: int, outer: int) -> bool:
    """Whether an axis of the result goes through both, several of whose steps fill a vector together (`groups`)."""
    return any(mine.strides[x] and 0 < other.strides[x] < in_line(itemsize) for x in range(outer))


def _is_worth(operand: _Operand, body: Body, places: Sequence[Affine]) -> bool:
    """Whether neither panels nor dot products take less time than the copy and the tiles that it allows."""
    extents, outer = body.space + body.reduced, len(body.space)
    source = body.arguments[body.code[operand.load].argument]
    often = source in body.lowering.fixed
    if not often and turned_operand(body.space, body.reduced, places, source.type.dtype) is not None:
        return False
    p, q = (place.strides for place in places)
    if not any(p[x] == q[x] == 1 and extents[x] >= SHORT for x in range(outer, len(extents))):
        return True  # there are no dot products
    if len(body.reduced) > 1 and math.prod(body.reduced) > max(_FAR_LONGER, math.prod(body.space)):
        return False
    width, mine = 1, operand.place.strides
    for x in range(operand.column, -1, -1):  # axes that will be one
        if mine[x] != mine[operand.column] * width or operand.other.strides[x]:
            break
        width *= body.space[x]
    uses = math.prod(extents) // operand.elements
    *steps, length = body.reduced
    return _gains(uses, width, math.prod(steps), length, source.type.dtype.itemsize, often)


def _gains(uses: int, columns: int, steps: int, length: int, itemsize: int, often: bool) -> bool:
    """Whether vectors of so many columns save more time than the copy takes, whose numbers are used so often each.

    Sums have `steps` times `length` products; the copy may serve often. It takes a cycle for 8 bytes, twice that where
    rows are shorter than a line. Dot products lose what is missing in the last vector of a row, and what it takes to
    add up lanes; the others what is missing in the last vector of columns.
    """
    wide = in_line(itemsize)
    rest = columns % wide
    last = 0.0 if not rest else _NARROW if 2 * rest <= wide else 1.0
    lost = (steps * -(-length // wide) + SUM) / (steps * length) - (columns // wide + last) / columns
    copy = itemsize / 8 * (1 if length >= wide else 2)
    return uses * lost > copy or (often and uses >= _OFTEN)
