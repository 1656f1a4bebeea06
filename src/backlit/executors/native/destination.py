"""Values that are written straight into the memory of the one value made from them.

A value that is only read to be joined with others, or to be stored in another shape or with its axes in another order,
needs no memory of its own: the kernel that computes it writes each element where the result has it, or each of several
that it is joined to. The rule that holds: nobody else reads such a value, and its readers then have nothing left to do
for it.

So it is with a value that is padded, but that others may read it too, from where it lies within the padding: all but
those that need neighbouring memory. The padding is written after it, so that nothing comes between two kernels that
may be one; first where it lies between the elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from backlit.executors.native import index as ix
from backlit.executors.native.fusion import VIEWS, Fusion, is_pointwise
from backlit.executors.native.index import Affine, Index
from backlit.executors.native.kernels import COMBINERS
from backlit.ir import Node

_NESTS = ("map", "reduce", "contract")
_READERS = {*COMBINERS, "contract", "pad", "concat"}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a value lies in the memory of `target`: an element at i there at offset + sum of strides[a] * i[a].

    `others` are further places, where nobody reads it as itself.
    """

    target: Node
    offset: int
    strides: tuple[int, ...]
    others: tuple[Destination, ...] = ()

    @property
    def all(self) -> tuple[Destination, ...]:
        return (self, *self.others)

    def place(self, index: Index, axes: int) -> Affine:
        total = ix.zero(axes).plus(self.offset)
        for i, s in zip(index, self.strides, strict=True):
            total = total + i * s
        return total


def destinations(fusion: Fusion) -> dict[Node, Destination]:
    """The values of a graph that need no memory of their own, and where they go."""
    found: dict[Node, Destination] = {}
    for group in reversed(fusion.groups):  # what is joined from joined values comes first
        if group.kind == "concat" and group.roots[0] not in found:
            (joined,) = group.roots
            _join(fusion, joined, Destination(joined, 0, ix.row_major(joined.type.shape)), found)
    for group in fusion.groups:
        if len(group.members) != 1 or group.roots:
            continue
        (moved,) = group.members
        if moved.op not in ("permute_dims", "reshape") or moved in found or moved not in fusion.stored:
            continue
        (x,) = moved.inputs
        if moved.op == "reshape":
            if _is_only_for(fusion, x, moved):
                found[x] = Destination(moved, 0, ix.row_major(x.type.shape))
            continue
        order = moved.params["axes"]
        if _is_only_for(fusion, x, moved) and _last(x.type.shape) == order[_last(moved.type.shape)]:
            by_axis = dict(zip(order, ix.row_major(moved.type.shape), strict=True))
            found[x] = Destination(moved, 0, tuple(by_axis[a] for a in range(x.type.ndim)))
    for group in fusion.groups:
        if group.kind == "pad":
            found |= _padded(fusion, group.roots[0], found)
    return found


def _join(fusion: Fusion, joined: Node, place: Destination, found: dict[Node, Destination]) -> None:
    """The parts of a joined value that lies at `place`; also those of parts that are joined themselves."""
    step, offset = place.strides[joined.params["axis"]], place.offset
    for x in joined.inputs:
        there = Destination(place.target, offset, place.strides)
        if _is_only_for(fusion, x, *(u for u in fusion.users[x] if u.op == "concat")):
            found[x] = replace(found[x], others=(*found[x].others, there)) if x in found else there
        elif _is_only_for(fusion, x, joined, kinds=("concat",)):
            found[x] = there
            _join(fusion, x, there, found)
        offset += x.type.shape[joined.params["axis"]] * step


def _padded(fusion: Fusion, padded: Node, found: Mapping[Node, Destination]) -> dict[Node, Destination]:
    """Where the operand of a pad goes, if its kernel may write it there; split axes too."""
    x, p = padded.inputs[0], padded.params
    steps = ix.row_major(padded.type.shape)
    strides = tuple(s * (k + 1) for s, k in zip(steps, p["between"], strict=True))
    offset = sum(a * s for a, s in zip(p["low"], steps, strict=True))
    made = {x: Destination(padded, offset, strides)}
    if x.op == "reshape" and x not in fusion.home:
        (fine,) = x.inputs
        groups = ix.split_axes(x.type.shape, fine.type.shape)
        if groups is None or not _is_read_anywhere(fusion, fine, but=x):
            return {}
        inner = tuple(s * k for g, s in zip(groups, strides, strict=True) for k in ix.row_major(g))
        made[fine] = Destination(padded, offset, inner)
    computed = next(reversed(made))
    home = fusion.home.get(computed)
    if home is None or home.kind not in _NESTS or computed not in fusion.stored:
        return {}
    if not made.keys().isdisjoint(found.keys() | fusion.outputs) or padded in fusion.outputs or padded in found:
        return {}
    if computed.op in VIEWS or x.type.dtype != padded.type.dtype or not _is_read_anywhere(fusion, x):
        return {}
    return made


def _is_read_anywhere(fusion: Fusion, x: Node, but: Node | None = None) -> bool:
    """Whether all readers of a value, but one, ask for single elements, and so do those of its views."""
    for user in fusion.users.get(x, []):
        if user is but:
            continue
        if user in fusion.outputs and user.op in VIEWS:
            return False
        if user.op == "reshape" and ix.split_axes(x.type.shape, user.type.shape) is None:
            return False
        if user.op in VIEWS:
            if not _is_read_anywhere(fusion, user):
                return False
        elif (user.op == "gather" and user.inputs[0] is x) or (not is_pointwise(user) and user.op not in _READERS):
            return False
    return True


def _is_only_for(fusion: Fusion, x: Node, *readers: Node, kinds: Sequence[str] = _NESTS) -> bool:
    """Whether a group of these kinds computes x, and for these readers alone."""
    home = fusion.home.get(x)
    if home is None or home.kind not in kinds or x not in fusion.stored:
        return False
    alone = fusion.users[x] == [*readers] and all(r.inputs.count(x) == 1 for r in readers)
    return alone and x not in fusion.outputs and all(r.type.dtype == x.type.dtype for r in readers)


def _last(shape: Sequence[int]) -> int:
    """The last axis along which there is more than one element: there, neighbours stay neighbours."""
    return max((a for a, n in enumerate(shape) if n != 1), default=len(shape) - 1)
