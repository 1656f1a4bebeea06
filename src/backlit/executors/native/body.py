"""The instructions of a Nest while they are collected.

A `Body` walks from a stored node down to what is read, turning indices around at every movement op, and notes each
value once. `call_of` makes the kernel: without the axes that do nothing, with neighbouring axes made one where every
access goes through both evenly, and with the offsets that all accesses share left to the call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.executors.native import index as ix
from backlit.executors.native.fusion import VIEWS, Group, is_pointwise
from backlit.executors.native.index import Affine, Index
from backlit.executors.native.kernels import Buffer, Call, Instruction, Limit, Nest
from backlit.ir import Node, freeze

if TYPE_CHECKING:
    from backlit.executors.native.lowering import Lowering


class NeedsMemory(Exception):
    """These nodes have to be stored, since they are read in a way that is not affine."""

    def __init__(self, *nodes: Node) -> None:
        super().__init__(*nodes)
        self.nodes = frozenset(nodes)


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
        self.limits: tuple[Limit, ...] = ()
        self.apart: tuple[int, ...] = ()  # axes that do not become one with their neighbours
        self.kind: type[Nest] = Nest

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
        elsewhere = self.lowering.destinations.get(node)
        if elsewhere is not None:
            for place in elsewhere.all:
                self.store_into(self.lowering.buffers[place.target], value, place.place(index, self.axes))
        else:
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
            return self.emit(Instruction("number", (), node.type.dtype, (plain_number(number),)))
        elsewhere = lowering.elsewhere(node)
        if elsewhere is not None:
            place = elsewhere.place(index, self.axes)
            return self.load(lowering.buffers[elsewhere.target], place, lowering.names.get(node, ""))
        buffer = lowering.buffer(node)
        if buffer is not None:
            place = ix.flat(index, node.type.shape, self.axes)
            return self.load(buffer, place, lowering.names.get(node, ""))
        return self._computed(node, index)

    def _computed(self, node: Node, index: Index) -> int:
        if node.type.size == 0:  # there is no element: nobody ever reads it
            return self.emit(Instruction("number", (), node.type.dtype, (0,)))
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
        inputs = tuple([self.value(i, self._of_operand(node, i, index)) for i in node.inputs])
        params = tuple(sorted(node.params.items()))
        return self.emit(Instruction(node.op, inputs, node.type.dtype, params, hint=self.lowering.names[node]))

    def _of_operand(self, node: Node, operand: Node, index: Index) -> Index:
        """The index of an operand, from that of an elementwise node."""
        alike = operand.type.shape == node.type.shape
        return index if alike else ix.broadcast(index, operand.type.shape, self.axes)

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
        places = [i.place for i in self.code if i.place is not None]
        extents, outer = self.space + self.reduced, len(self.space)
        apart = {*self.apart, *(axis for i in self.limits for axis in (i.outer, i.inner))}
        alone = [Affine(0, tuple(int(x == axis) for x in range(len(extents)))) for axis in apart]
        groups = collapsed(extents, outer, sorted_inner(extents, outer, places), [*places, *alone])
        at = {g[0]: k for k, g in enumerate(groups)}
        limits = tuple(replace(i, outer=at[i.outer], inner=at[i.inner]) for i in self.limits)
        sizes = [(math.prod(extents[a] for a in g), g[0] < outer) for g in groups]
        offsets = self._offsets()
        code = [moved(i, -offsets[i.argument] if i.argument >= 0 else 0, groups) for i in self.code]
        kernel = self.kind(
            tuple(n for n, o in sizes if o), tuple(n for n, o in sizes if not o), tuple(code[: self.prologue]),
            tuple(code[self.prologue :]), tuple(b.type.dtype for b in self.arguments), limits,
        )  # fmt: skip
        arguments = tuple(zip(self.arguments, offsets, strict=True))
        return Call(kernel, arguments, tuple(sorted(self.writes)), nodes, tuple(self.checked), label)

    def _offsets(self) -> list[int]:
        """An offset that all accesses of an argument share belongs to the call: kernels that differ in it are equal."""
        found: dict[int, int] = {}
        for i in self.code:
            if i.argument >= 0 and i.place is not None:
                found[i.argument] = min(found.get(i.argument, i.place.offset), i.place.offset)
        return [found.get(k, 0) for k in range(len(self.arguments))]


def sorted_inner(extents: tuple[int, ...], outer: int, places: Sequence[Affine]) -> list[int]:
    """The axes, those from `outer` on from the longest step through memory to the shortest."""
    inner = range(outer, len(extents))
    return [*range(outer), *sorted(inner, key=lambda a: -sum(abs(p.strides[a]) for p in places))]


def collapsed(extents: tuple[int, ...], outer: int, axes: Sequence[int], places: Sequence[Affine]) -> list[list[int]]:
    """The axes without those of size 1, neighbouring ones together where every access goes through both evenly."""
    groups: list[list[int]] = []
    for axis in axes:
        n = extents[axis]
        if n == 1:
            continue
        if groups and (groups[-1][-1] < outer) == (axis < outer):
            before = groups[-1][-1]
            if all(p.strides[before] == p.strides[axis] * n for p in places):
                groups[-1].append(axis)
                continue
        groups.append([axis])
    return groups


def moved(i: Instruction, offset: int, groups: Sequence[Sequence[int]]) -> Instruction:
    """The instruction at a place that is so much further on, each group of axes one axis."""
    if i.place is None:
        return i
    place = Affine(i.place.offset + offset, tuple(i.place.strides[g[-1]] for g in groups))
    return Instruction(i.op, i.inputs, i.dtype, i.params, i.argument, place, i.axes, i.hint)


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


def plain_number(number: Any) -> Any:
    """A Python number that tells -0.0 from 0.0 when compared: floats as their hexadecimal text."""
    value = np.asarray(number).item()
    return value.hex() if isinstance(value, float) else value
