"""From groups of nodes to kernels and the memory they work on.

For each group a `Body` walks from the stored nodes down to what is read, turning indices around at every movement op,
and writes the instructions of a `Nest` in the order in which they are needed. Blocks (padding, joining, folding,
sorting, ...) become one or several kernels each. A reshape that is not affine raises `NeedsMemory`; the caller stores
that node and begins again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backlit.executors.native import index as ix
from backlit.executors.native.fusion import VIEWS, Fusion, Group, is_pointwise
from backlit.executors.native.index import Affine, Index
from backlit.executors.native.kernels import (
    COMBINERS,
    Buffer,
    Call,
    Instruction,
    Nest,
    RunningSum,
    Scatter,
    Search,
    Sort,
)
from backlit.ir import Node, Type, freeze
from backlit.ops.contraction import parts_of

I64 = np.dtype(np.int64)


class NeedsMemory(Exception):
    """This node has to be stored, since it is read in a way that is not affine."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node = node


class Lowering:
    """Turns the groups of a fusion into calls. `buffers` has the memory of every input, constant and stored node."""

    def __init__(self, fusion: Fusion, buffers: Mapping[Any, Buffer], scratch: Callable[..., Buffer]) -> None:
        self.fusion, self.buffers, self.scratch = fusion, buffers, scratch
        self.names = fusion.graph.names()
        self.now = 0  # the position of the group that is being lowered
        self.before: list[Call] = []  # what the kernel that is being lowered needs first

    def calls(self, group: Group) -> list[Call]:
        """The kernels of a group (not of a scan)."""
        if group.kind in ("map", "reduce", "contract"):
            self.before = []
            made = self._nest(group)
            return [] if made is None else [*self.before, made]
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

    # --- nests

    def _nest(self, group: Group) -> Call | None:
        if group.kind == "map":
            axes = len(group.space)
            body = Body(self, group.space, ())
            self._members(body, group.members, axes)
            return body.call(group)
        (root,) = group.roots
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
        operand = body.value(root.inputs[0], index)
        operand = body.converted(operand, root.type.dtype)
        for node, at, value in inner_values:
            if node in self.fusion.stored:
                body.store_at(node, value, at)
        total = body.emit(Instruction(root.op, (operand,), root.type.dtype, hint=self.names[root]))
        body.finish_prologue()
        self._epilogue(body, group, root, total, axes)
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
        turned = self._turned(body, (x, y), result, group)
        if turned is not None:
            packed, (k, place) = turned
            body.code[k] = Instruction(
                "load", (), root.type.dtype, argument=body.argument(packed), place=place, hint="turned"
            )
            body.prune()
        product = body.emit(Instruction("multiply", (x, y), root.type.dtype))
        total = body.emit(Instruction("sum", (product,), root.type.dtype, hint=self.names[root]))
        body.finish_prologue()
        self._epilogue(body, group, root, total, axes)
        return body.call(group)

    def _turned(
        self, body: Body, operands: tuple[int, int], result: str, group: Group
    ) -> tuple[Buffer, tuple[int, Affine]] | None:
        """Memory for an operand written so that an axis of the product's result goes through it by neighbours.

        Needed when no axis does so already (the gradient of x in x w is g wT, which runs through the rows of w): then
        the smaller operand that has a last axis of the result is copied first, that axis innermost.
        """
        outer = len(body.space)
        if operands[0] == operands[1] or any(body.code[k].op != "load" for k in operands) or not body.reduced:
            return None
        extents = body.space + body.reduced
        places = [body.code[k].at for k in operands]
        p, q = places
        if math.prod(extents) < 512 or any(
            {p.strides[x], q.strides[x]} == {0, 1} and body.space[x] > 2 for x in range(outer)
        ):
            return None
        best: tuple[int, int, int] | None = None
        for which, (mine, other) in enumerate(((p, q), (q, p))):
            columns = [x for x in range(outer) if mine.strides[x] > 1 and other.strides[x] == 0 and body.space[x] > 2]
            if not columns or columns[-1] != outer - 1:
                continue
            used = [x for x, s in enumerate(mine.strides) if s]
            elements = math.prod(extents[x] for x in used)
            if elements > body.lowering.buffer_size(body.code[operands[which]], body):
                continue  # overlapping windows: copying would multiply them
            if best is None or elements < best[0]:
                best = elements, which, columns[-1]
        if best is None:
            return None
        elements, which, column = best
        k = operands[which]
        mine = places[which]
        other = places[1 - which]  # the inner axes in the order in which the other operand goes through memory
        axes = [x for x in range(len(extents)) if mine.strides[x] and x != column]
        axes = [*sorted(axes, key=lambda x: -abs(other.strides[x])), column]
        shape = tuple(extents[x] for x in axes)
        instruction = body.code[k]
        source = body.arguments[instruction.argument]
        packed = self.scratch(Type(source.type.dtype, shape), f"{source.name} turned")
        copy = Body(self, shape, ())
        value = copy.load(source, Affine(mine.offset, tuple(mine.strides[x] for x in axes)), source.name)
        strides = ix.row_major(shape)
        copy.store_into(packed, value, Affine(0, strides))
        call = copy.call_of(tuple(group.roots), f"{source.name} turned")
        assert call is not None
        self.before.append(call)
        by_axis = dict(zip(axes, strides, strict=True))
        return packed, (k, Affine(0, tuple(by_axis.get(x, 0) for x in range(len(extents)))))

    def buffer_size(self, instruction: Instruction, body: Body) -> int:
        """Elements of the memory that a load reads from."""
        return body.arguments[instruction.argument].type.size

    def _epilogue(self, body: Body, group: Group, root: Node, total: int, axes: int) -> None:
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
        return body.call_of(nodes, "copy")

    def _fill(self, target: Buffer, value: float, nodes: tuple[Node, ...]) -> Call | None:
        body = Body(self, (target.type.size,), ())
        number = body.emit(Instruction("number", (), target.type.dtype, (_plain_number(value),)))
        body.store_into(target, number, ix.counter(0, 1))
        return body.call_of(nodes, "fill")

    def _concat(self, node: Node) -> list[Call | None]:
        target, axis, start = self.buffers[node], node.params["axis"], 0
        strides = ix.row_major(node.type.shape)
        made = []
        for x in node.inputs:
            made.append(self.copy(x, target, (node,), Affine(start * strides[axis], strides)))
            start += x.type.shape[axis]
        return made

    def _pad(self, node: Node) -> list[Call | None]:
        target, p = self.buffers[node], node.params
        strides = ix.row_major(node.type.shape)
        place = Affine(
            sum(a * s for a, s in zip(p["low"], strides, strict=True)),
            tuple(s * (k + 1) for s, k in zip(strides, p["between"], strict=True)),
        )
        return [self._fill(target, p["value"], (node,)), self.copy(node.inputs[0], target, (node,), place)]

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


def _own_index(node: Node, axes: int) -> Index:
    """The index of a node in a kernel that runs over its elements: counters in order, 0 where the size is 1."""
    counters = iter(range(axes))
    return tuple(ix.zero(axes) if n == 1 else ix.counter(next(counters), axes) for n in node.type.shape)


class Body:
    """The instructions of a Nest while they are collected."""

    def __init__(self, lowering: Lowering, space: tuple[int, ...], reduced: tuple[int, ...]) -> None:
        self.lowering = lowering
        self.space, self.reduced = space, reduced
        self.axes = len(space) + len(reduced)
        self.code: list[Instruction] = []
        self.prologue = 0
        self.known: dict[tuple[Node, Index], int] = {}
        self._shared: dict[Instruction, int] = {}
        self.arguments: list[Buffer] = []
        self.writes: set[int] = set()
        self.checked: list[tuple[Node, int, int]] = []
        self.made: set[Node] = set()  # what is computed here, stored or not

    def emit(self, instruction: Instruction) -> int:
        if instruction.op != "store":
            found = self._shared.get(instruction)
            if found is not None:
                return found
            self._shared[instruction] = len(self.code)
        self.code.append(instruction)
        return len(self.code) - 1

    def finish_prologue(self) -> None:
        """From here on values are of the result, not of the points that are reduced."""
        self.prologue = len(self.code)
        self.known.clear()
        self._shared.clear()

    def argument(self, buffer: Buffer, write: bool = False) -> int:
        """The number of a buffer among the arguments. What is written and read has one number."""
        k = next((k for k, b in enumerate(self.arguments) if b is buffer), len(self.arguments))
        if k == len(self.arguments):
            self.arguments.append(buffer)
        if write:
            self.writes.add(k)
        return k

    def prune(self) -> None:
        """Forget arguments that no instruction uses any more."""
        used = sorted({i.argument for i in self.code if i.argument >= 0})
        self.code = [replace(i, argument=used.index(i.argument)) if i.argument >= 0 else i for i in self.code]
        self.arguments = [self.arguments[k] for k in used]
        self.writes = {used.index(k) for k in self.writes}
        self._shared = {}

    def load(self, buffer: Buffer, place: Affine, hint: str = "") -> int:
        return self.emit(
            Instruction("load", (), buffer.type.dtype, argument=self.argument(buffer), place=place, hint=hint)
        )

    def store_into(self, buffer: Buffer, value: int, place: Affine) -> None:
        dtype = buffer.type.dtype
        self.emit(Instruction("store", (value,), dtype, argument=self.argument(buffer, True), place=place))

    def store_at(self, node: Node, value: int, index: Index) -> None:
        """Store the value of a node at its place."""
        self.store_into(self.lowering.buffers[node], value, ix.flat(index, node.type.shape, self.axes))

    def converted(self, value: int, dtype: np.dtype[Any]) -> int:
        if self.code[value].dtype == dtype:
            return value
        return self.emit(Instruction("cast", (value,), dtype, (("dtype", dtype),)))

    # --- values

    def define(self, node: Node, index: Index) -> int:
        """The value of a node that this kernel computes."""
        value = self._computed(node, index)
        self.known[(node, index)] = value
        return value

    def value(self, node: Node, index: Index) -> int:
        """The value of a node at an index: known, computed here, or read from memory."""
        found = self.known.get((node, index))
        if found is None:
            found = self._found(node, index)
            self.known[(node, index)] = found
        return found

    def _found(self, node: Node, index: Index) -> int:
        lowering = self.lowering
        if node.op == "constant" and (number := uniform(node)) is not None:
            return self.emit(Instruction("number", (), node.type.dtype, (_plain_number(number),)))
        buffer = lowering.buffer(node)
        if buffer is not None:
            place = ix.flat(index, node.type.shape, self.axes)
            return self.load(buffer, place, lowering.names.get(node, ""))
        return self._computed(node, index)

    def _computed(self, node: Node, index: Index) -> int:
        if node.op == "iota":
            return self.emit(Instruction("index", (), node.type.dtype, place=index[0]))
        if node.op == "reshape":
            return self._reshaped(node, index)
        if node.op in VIEWS:
            return self.value(node.inputs[0], ix.through(node, index, self.axes))
        assert is_pointwise(node), node
        self.made.add(node)
        if node.op == "gather":
            return self._gathered(node, index)
        inputs = tuple(self.value(i, ix.broadcast(index, i.type.shape, self.axes)) for i in node.inputs)
        params = tuple(sorted(node.params.items()))
        return self.emit(Instruction(node.op, inputs, node.type.dtype, params, hint=self.lowering.names[node]))

    def _reshaped(self, node: Node, index: Index) -> int:
        place = ix.flat(index, node.type.shape, self.axes)
        (source,) = node.inputs
        while True:
            turned = ix.unflat(place, source.type.shape, self.space + self.reduced)
            if turned is not None and (source, turned) in self.known:
                return self.known[(source, turned)]
            if source.op not in ("reshape", "stop_gradient") or self.lowering.buffer(source) is not None:
                break
            (source,) = source.inputs
        buffer = self.lowering.buffer(source)
        if buffer is not None and not (source.op == "constant" and uniform(source) is not None):
            return self.load(buffer, place, self.lowering.names.get(source, ""))
        if turned is None:
            raise NeedsMemory(source)
        return self.value(source, turned)

    def _gathered(self, node: Node, index: Index) -> int:
        table, *indices = node.inputs
        k = len(indices)
        lead = node.type.ndim - (table.type.ndim - k)
        values = [self.value(i, ix.broadcast(index[:lead], i.type.shape, self.axes)) for i in indices]
        strides = ix.row_major(table.type.shape)
        place = ix.flat(index[lead:], table.type.shape[k:], self.axes)
        buffer = self.lowering.plain(table)
        axes = tuple(zip(table.type.shape[:k], strides[:k], strict=True))
        made = Instruction(
            "gather", tuple(values), node.type.dtype, argument=self.argument(buffer), place=place, axes=axes,
            hint=self.lowering.names[node],
        )  # fmt: skip
        before = len(self.code)
        found = self.emit(made)
        if found == before:
            self.checked += [(node, a, n) for a, (n, _) in enumerate(axes)]
        return found

    # --- the kernel

    def call(self, group: Group) -> Call | None:
        own = group.computes()
        nodes = sorted({*self.made, *own}, key=lambda n: n.serial)
        return self.call_of(tuple(nodes), self.lowering.names[own[-1]])

    def call_of(self, nodes: tuple[Node, ...], label: str) -> Call | None:
        """The finished kernel; None where it has nothing to do."""
        if not self.writes or 0 in self.space:
            return None
        code, offsets = self._without_offsets()
        reduced, code = sorted_inner(self.space, self.reduced, code)
        space, reduced, code = collapsed(self.space, reduced, code)
        kernel = Nest(
            space, reduced, tuple(code[: self.prologue]), tuple(code[self.prologue :]),
            tuple(b.type.dtype for b in self.arguments),
        )  # fmt: skip
        arguments = tuple(zip(self.arguments, offsets, strict=True))
        return Call(kernel, arguments, tuple(sorted(self.writes)), nodes, tuple(self.checked), label)

    def _without_offsets(self) -> tuple[list[Instruction], list[int]]:
        """An offset that all accesses of an argument share belongs to the call: kernels that differ in it are equal."""
        offsets = []
        for k in range(len(self.arguments)):
            found = [i.place.offset for i in self.code if i.argument == k and i.place is not None]
            offsets.append(min(found, default=0))
        code = [
            replace(i, place=i.place.plus(-offsets[i.argument])) if i.argument >= 0 and i.place is not None else i
            for i in self.code
        ]
        return code, offsets


def sorted_inner(
    space: tuple[int, ...], reduced: tuple[int, ...], code: Sequence[Instruction]
) -> tuple[tuple[int, ...], list[Instruction]]:
    """The reduced axes from the longest step through memory to the shortest."""
    outer = len(space)
    order = sorted(
        range(len(reduced)), key=lambda a: -sum(abs(i.place.strides[outer + a]) for i in code if i.place is not None)
    )
    axes = [*range(outer), *(outer + a for a in order)]
    moved = [
        replace(i, place=Affine(i.place.offset, tuple(i.place.strides[a] for a in axes))) if i.place is not None else i
        for i in code
    ]
    return tuple(reduced[a] for a in order), moved


def collapsed(
    space: tuple[int, ...], reduced: tuple[int, ...], code: Sequence[Instruction]
) -> tuple[tuple[int, ...], tuple[int, ...], list[Instruction]]:
    """Without axes of size 1, and with neighbouring axes made one where every access goes through both evenly."""
    extents = space + reduced
    outer = len(space)
    places = [i.place for i in code if i.place is not None]
    groups: list[list[int]] = []
    for axis, n in enumerate(extents):
        if n == 1:
            continue
        if groups and (groups[-1][-1] < outer) == (axis < outer):
            before = groups[-1][-1]
            if all(p.strides[before] == p.strides[axis] * n for p in places):
                groups[-1].append(axis)
                continue
        groups.append([axis])
    made = [
        replace(i, place=Affine(i.place.offset, tuple(i.place.strides[g[-1]] for g in groups)))
        if i.place is not None
        else i
        for i in code
    ]
    sizes = [(math.prod(extents[a] for a in g), g[0] < outer) for g in groups]
    return tuple(n for n, o in sizes if o), tuple(n for n, o in sizes if not o), made


def uniform(node: Node) -> Any | None:
    """The number that a constant is everywhere, if it is one."""
    value: np.ndarray[Any, Any] = node.params["value"]
    if value.ndim == 0:
        return value
    if value.size and value.size <= 1 << 20:
        first = value.reshape(-1)[0]
        if freeze(np.broadcast_to(first, value.shape)) == freeze(value):
            return first
    return None


def _plain_number(number: Any) -> Any:
    """A Python number that tells -0.0 from 0.0 when compared: floats as their hexadecimal text."""
    value = np.asarray(number).item()
    return value.hex() if isinstance(value, float) else value


__all__ = ["COMBINERS", "Body", "Lowering", "NeedsMemory", "collapsed", "uniform"]
