"""From groups of nodes to kernels and the memory they work on.

For each group a `Body` collects the instructions of a `Nest`. Blocks (padding, joining, folding, sorting, ...)
become one or several kernels each. A reshape that is not affine raises `NeedsMemory`; the caller stores that node
and begins again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backlit.executors.native import index as ix
from backlit.executors.native.body import Body, NeedsMemory, plain_number
from backlit.executors.native.destination import Destination
from backlit.executors.native.fusion import VIEWS, Fusion, Group
from backlit.executors.native.index import Affine, Index
from backlit.executors.native.kernels import (
    Buffer,
    Call,
    Instruction,
    Limit,
    RunningSum,
    Scatter,
    Search,
    Sort,
)
from backlit.executors.native.packed import packed_operand
from backlit.executors.native.parts import in_parts
from backlit.executors.native.remainder import apart
from backlit.executors.native.winograd_weights import transformed_weights
from backlit.ir import Node
from backlit.ops.contraction import parts_of

I64 = np.dtype(np.int64)

_MOST_ZEROS = 1.2  # times as many steps as are needed, above which loops that leave zeros out are worth it
_SMALL = 1 << 20  # bytes of a padded value that is worth memory of its own, if zeros are written once then


class Lowering:
    """Turns the groups of a fusion into calls.

    `buffers` has the memory of every input, constant and stored node but those that have `destinations`. Convolutions
    may be taken by Winograd's method unless `winograd` is off.
    """

    def __init__(
        self,
        fusion: Fusion,
        names: Mapping[Node, str],
        buffers: Mapping[Any, Buffer],
        destinations: Mapping[Node, Destination],
        scratch: Callable[..., Buffer],
        winograd: bool,
        fixed: Sequence[Buffer] = (),
    ) -> None:
        self.names, self.winograd = names, winograd
        self.fusion, self.buffers, self.destinations, self.scratch = fusion, buffers, destinations, scratch
        self.fixed = fixed  # what is the same at each step of the loop that is being lowered
        places = (d for found in destinations.values() for d in found.all)
        self._filled = {d.target for d in places}  # by those that compute what is in it
        self.now = 0  # the position of the group that is being lowered
        self.before: list[Call] = []  # what the kernel that is being lowered needs first

    def calls(self, group: Group) -> list[Call]:
        """The kernels of a group (not of a scan)."""
        if group.kind == "map" and self._filled.issuperset(group.members):
            return []
        if group.kind in ("map", "reduce", "contract"):
            targets = (self.destinations[n].target for n in group.computes() if n in self.destinations)
            pads = [n for n in targets if n.op == "pad"]
            self.before = [c for n in pads if any(n.params["between"]) for c in self._padding(n)]
            after = [c for n in pads if not any(n.params["between"]) for c in self._padding(n)]
            made = self._nest(group)
            if made is None:
                return [*self.before, *after]
            parts = in_parts(made, self.scratch, self.winograd) if group.roots else [made]
            return [*self.before, *(call for part in parts for call in apart(part, self.scratch)), *after]
        (root,) = group.roots
        found: list[Call | None] = getattr(self, f"_{root.op}")(root)
        return [c for c in found if c is not None]

    def buffer(self, node: Node) -> Buffer | None:
        """The memory of a node, if it has any by now. What is stored later only is computed here as well."""
        home = self.fusion.home.get(node.inputs[0] if node.op == "item" else node)
        if home is not None and self.fusion.position[home] > self.now:
            return None
        if node.op == "item":
            return self.buffers.get((node.inputs[0], node.params["index"]))
        return self.buffers.get(node)

    def elsewhere(self, node: Node) -> Destination | None:
        """Where within the memory of another value a node lies, if it does and is there by now."""
        found = self.destinations.get(node)
        source = node.inputs[0] if node.op == "reshape" and node not in self.fusion.home else node
        home = self.fusion.home.get(source)
        return found if home is not None and self.fusion.position[home] < self.now else None

    # --- nests

    def _nest(self, group: Group) -> Call | None:
        if group.kind == "map":
            axes = len(group.space)
            body = Body(self, group.space, ())
            self._members(body, group.members, axes)
            return body.call(group)
        root = group.roots[0]  # what is reduced together has one shape
        if group.kind == "contract":
            return self._product(group, root)
        shape, reduced = root.inputs[0].type.shape, root.params["axis"]
        inner = tuple(shape[a] for a in reduced if shape[a] != 1)
        body = Body(self, group.space, inner)
        axes = len(group.space) + len(inner)
        kept, summed = iter(range(len(group.space))), iter(range(len(group.space), axes))
        index = tuple(
            ix.zero(axes) if n == 1 else ix.counter(next(summed if a in reduced else kept), axes)
            for a, n in enumerate(shape)
        )
        order = [a for a in index if any(a.strides)]
        inner_values = []
        for node in group.inner:
            own = iter(order)
            at = tuple(ix.zero(axes) if n == 1 else next(own) for n in node.type.shape)
            inner_values.append((node, at, body.define(node, at)))
        operands = [body.converted(body.value(r.inputs[0], index), r.type.dtype) for r in group.roots]
        for node, at, value in inner_values:
            if node in self.fusion.stored:
                body.store_at(node, value, at)
        totals = {
            r: body.emit(Instruction(r.op, (x,), r.type.dtype, hint=self.names[r]))
            for r, x in zip(group.roots, operands, strict=True)
        }
        body.finish_prologue()
        self._epilogue(body, group, totals, axes)
        return body.call(group)

    def _product(self, group: Group, root: Node) -> Call | None:
        """A contraction: the sum over the inner letters of a times b."""
        left, right, result = parts_of(root.params["spec"])
        a, b = root.inputs
        size = dict(zip(left + right, a.type.shape + b.type.shape, strict=True))
        outer = [c for c in result if size[c] != 1]
        inner = [c for c in left if c in right and c not in result and size[c] != 1]
        letters = outer + inner
        axes = len(letters)
        body = Body(self, tuple(size[c] for c in outer), tuple(size[c] for c in inner))

        def at(term: str) -> Index:
            return tuple(ix.counter(letters.index(c), axes) if c in letters else ix.zero(axes) for c in term)

        x, y = body.value(a, at(left)), body.value(b, at(right))
        body.limits = _limits(a, at(left), body)
        changed = transformed_weights(body, (x, y), group, self.before) if self.winograd else None
        changed = changed or packed_operand(body, (x, y), group, self.before)
        if changed is not None:
            packed, (k, place) = changed
            body.code[k] = Instruction(
                "load", (), root.type.dtype, argument=body.argument(packed), place=place, hint=packed.name
            )
            body.prune()
        product = body.emit(Instruction("multiply", (x, y), root.type.dtype))
        total = body.emit(Instruction("sum", (product,), root.type.dtype, hint=self.names[root]))
        body.finish_prologue()
        self._epilogue(body, group, {root: total}, axes)
        return body.call(group)

    def _epilogue(self, body: Body, group: Group, totals: Mapping[Node, int], axes: int) -> None:
        for root, total in totals.items():
            body.known[(root, _own_index(root, axes))] = total
            if root in self.fusion.stored:
                body.store_at(root, total, _own_index(root, axes))
        self._members(body, group.members, axes)

    def _members(self, body: Body, members: Sequence[Node], axes: int) -> None:
        for node in members:
            index = _own_index(node, axes)
            value = body.define(node, index)
            if node in self.fusion.stored:
                body.store_at(node, value, index)

    # --- blocks

    def copy(self, source: Node, target: Buffer, nodes: tuple[Node, ...], place: Affine | None = None) -> Call | None:
        """The elements of `source` stored in `target`, at an affine place if one is given."""
        shape = source.type.shape
        body = Body(self, shape, ())
        index = tuple(ix.counter(a, len(shape)) for a in range(len(shape)))
        value = body.value(source, index)
        body.store_into(target, value, place or Affine(0, ix.row_major(shape)))
        return body.call_of(nodes, f"copy of {self.names[source]}")

    def _fill(self, target: Buffer, value: float, nodes: tuple[Node, ...]) -> Call | None:
        body = Body(self, (target.type.size,), ())
        number = body.emit(Instruction("number", (), target.type.dtype, (plain_number(value),)))
        body.store_into(target, number, ix.counter(0, 1))
        return body.call_of(nodes, "fill")

    def _concat(self, node: Node) -> list[Call | None]:
        own = self.destinations.get(node) or Destination(node, 0, ix.row_major(node.type.shape))
        axis, offset = node.params["axis"], own.offset
        made: list[Call | None] = []
        for x in node.inputs:
            there = self.destinations.get(x)
            if there is None or all(d.target is not own.target for d in there.all):  # it may lie in a padding instead
                made.append(self.copy(x, self.buffers[own.target], (node,), Affine(offset, own.strides)))
            offset += x.type.shape[axis] * own.strides[axis]
        return made

    def _pad(self, node: Node) -> list[Call | None]:
        target, p = self.buffers[node], node.params
        if node.inputs[0] in self.destinations and self.destinations[node.inputs[0]].target is node:
            return []
        strides = ix.row_major(node.type.shape)
        place = Affine(
            sum(a * s for a, s in zip(p["low"], strides, strict=True)),
            tuple(s * (k + 1) for s, k in zip(strides, p["between"], strict=True)),
        )
        return [*self._padding(node), self.copy(node.inputs[0], target, (node,), place)]

    def _padding(self, node: Node) -> list[Call]:
        """What a pad puts around its operand: a slab on each side; all of it if something comes between."""
        target, p, shape = self.buffers[node], node.params, node.type.shape
        if any(p["between"]) or node.inputs[0].type.size == 0:
            return [c for c in [self._fill(target, p["value"], (node,))] if c is not None]
        strides, found = ix.row_major(shape), []
        start, stop = [0] * len(shape), list(shape)
        for axis, (low, high) in enumerate(zip(p["low"], p["high"], strict=True)):
            for first, last in ((0, low), (shape[axis] - high, shape[axis])):
                if first == last:
                    continue
                slab = [last - first if a == axis else stop[a] - start[a] for a in range(len(shape))]
                offset = sum(s * (first if a == axis else start[a]) for a, s in enumerate(strides))
                body = Body(self, tuple(slab), ())
                number = body.emit(Instruction("number", (), target.type.dtype, (plain_number(p["value"]),)))
                body.store_into(target, number, Affine(offset, strides))
                found.append(body.call_of((node,), f"padding of {self.names[node.inputs[0]]}"))
            start[axis], stop[axis] = low, shape[axis] - high
        made = [c for c in found if c is not None]
        for call in made:
            call.alone = target.bytes <= _SMALL or 2 * node.inputs[0].type.size <= node.type.size
        return made

    def _fold(self, node: Node) -> list[Call | None]:
        """One pass for each position in the window: every window's element there is added into place."""
        target, p, (w,) = self.buffers[node], node.params, node.inputs
        strides = ix.row_major(node.type.shape)
        ndim = node.type.ndim
        made = [self._fill(target, 0, (node,))]
        spans = w.type.shape[:ndim]
        for position in np.ndindex(*p["size"]):
            body = Body(self, spans, ())
            at = tuple(ix.counter(a, ndim) for a in range(ndim)) + tuple(Affine(k, (0,) * ndim) for k in position)
            value = body.value(w, at)
            steps, offset = list(strides), 0
            for a, k, s, d in zip(p["axes"], position, p["stride"], p["dilation"], strict=True):
                steps[a] = strides[a] * s
                offset += strides[a] * k * d
            place = Affine(offset, tuple(steps))
            old = body.load(target, place)
            total = body.emit(Instruction("add", (old, value), node.type.dtype))
            body.store_into(target, total, place)
            made.append(body.call_of((node,), "fold"))
        return made

    def _scatter_add(self, node: Node) -> list[Call | None]:
        x, updates, *indices = node.inputs
        target, shape = self.buffers[node], node.type.shape
        strides = ix.row_major(shape)
        first = self.copy(x, target, (node,))
        space = np.broadcast_shapes(*(i.type.shape for i in indices))
        own = [self.plain(updates), *(self.plain(i) for i in indices)]
        described = []
        for i in indices:
            lead = len(space) - i.type.ndim
            steps = ix.row_major(i.type.shape)
            described.append(
                (
                    i.type.dtype,
                    (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(i.type.shape, steps, strict=True)),
                )
            )
        k = len(indices)
        kernel = Scatter(
            tuple(space),
            math.prod(shape[k:]),
            tuple(zip(shape[:k], strides[:k], strict=True)),
            tuple(described),
            node.type.dtype,
        )
        if not math.prod(space) or not kernel.row:
            return [first]
        checked = tuple((node, a, shape[a]) for a in range(k))
        arguments = ((target, 0), *((b, 0) for b in own))
        return [first, Call(kernel, arguments, (0,), (node,), checked, self.names[node])]

    def plain(self, node: Node) -> Buffer:
        """Contiguous memory with the value of a node."""
        inner = node
        while inner.op in ("reshape", "stop_gradient") and self.buffer(inner) is None:
            inner = inner.inputs[0]
        found = self.buffer(inner)
        if found is None:
            raise NeedsMemory(node)
        return found

    def _three(self, node: Node) -> tuple[int, int, int]:
        shape, axis = node.inputs[0].type.shape, node.params["axis"]
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def _search(self, node: Node) -> list[Call | None]:
        kernel = Search(node.op, self._three(node), node.inputs[0].type.dtype)
        return [self._simple(kernel, node)]

    _argmax = _argmin = _search

    def _argsort(self, node: Node) -> list[Call | None]:
        kernel = Sort(self._three(node), node.inputs[0].type.dtype)
        room = self.scratch(node.type.with_shape((node.type.size,)).with_dtype(I64), f"{self.names[node]} room")
        return [self._simple(kernel, node, room)]

    def _cumulative_sum(self, node: Node) -> list[Call | None]:
        return [self._simple(RunningSum(self._three(node), node.inputs[0].type.dtype, node.type.dtype), node)]

    def _simple(self, kernel: Any, node: Node, *room: Buffer) -> Call | None:
        if node.type.size == 0:
            return None
        arguments = ((self.buffers[node], 0), (self.plain(node.inputs[0]), 0), *((r, 0) for r in room))
        return Call(kernel, arguments, (0, *range(2, 2 + len(room))), (node,), (), self.names[node])


def _limits(node: Node, index: Index, body: Body) -> tuple[Limit, ...]:
    """Where the operand of a product is one of the zeros that lie around a value, if those are many."""
    while node.op in VIEWS and node.op != "reshape":
        index, node = ix.through(node, index, body.axes), node.inputs[0]
    if node.op != "pad" or node.params["value"] != 0:
        return ()
    found, extents = [], body.space + body.reduced
    p = node.params
    for at, n, low, high, between in zip(index, node.type.shape, p["low"], p["high"], p["between"], strict=True):
        moves = [x for x, s in enumerate(at.strides) if s]
        if between or low + high <= 0 or len(moves) != 2 or not moves[0] < len(body.space) <= moves[1]:
            continue
        outer, inner = moves
        limit = Limit(outer, inner, at.strides[outer], low - at.offset, n - high - at.offset)
        few = limit.steps(extents) * _MOST_ZEROS < extents[outer] * extents[inner]
        if at.strides[inner] == 1 and limit.step > 0 and few:
            found.append(limit)
    return tuple(found)


def _own_index(node: Node, axes: int) -> Index:
    """The index of a node in a kernel that runs over its elements: counters in order, 0 where the size is 1."""
    counters = iter(range(axes))
    return tuple(ix.zero(axes) if n == 1 else ix.counter(next(counters), axes) for n in node.type.shape)
