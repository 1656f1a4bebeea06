"""Many training steps in one call: the step's graph becomes the body of a loop that runs without Python.

The minibatches are gathered inside, by checked indices, from whole data sets; the carried values are updated where they
lie, and those of a step that changes none are only read; watched outputs are written row by row. The loop is entered in
stretches that last about `STRETCH` seconds: between two of them Python may run a signal handler, so Ctrl-C is honoured
soon, and a state that was given away is that of a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from backlit.errors import ShapeError
from backlit.executors.api import Array, check_step
from backlit.executors.native.code import Code, compiled, usable
from backlit.executors.native.donation import donated
from backlit.executors.native.locks import Lock
from backlit.executors.native.plan import Plan, plan_loop
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.storage import Layout, address, storage
from backlit.executors.native.target import Target
from backlit.ir import Derived, Graph, Type, make_node, substitute
from backlit.tracing import input_node, refuse_leaks

STRETCH = 0.04


class Steps:
    """A step that can be run many times; compiled once for each set of data shapes."""

    def __init__(
        self,
        step: Graph,
        carry: int,
        rows: int,
        target: Target,
        refuse: Callable[[Graph], None] = refuse_leaks,
        winograd: bool = True,
    ) -> None:
        """`refuse` raises where the step cannot be compiled. A derived one is not looked at before it has to be."""
        self.step, self.carry, self.rows, self.target, self.refuse = step, carry, rows, target, refuse
        self.winograd = winograd
        self._codes: dict[tuple[int, ...], Code] = {}
        state, batches = step.source.inputs[:carry], step.source.inputs[carry:]
        self._state = [n.type.dtype for n in state], [n.type.shape for n in state]
        self._still = not isinstance(step, Derived) and step.outputs[:carry] == step.inputs[:carry]  # changes nothing
        self._rows = [n.type.dtype for n in batches], [n.type.shape[1:] for n in batches]
        self._batch = batches[0].type.shape[0] if batches else 0
        self.storage = storage([n.type for n in state])
        self._watched_types = step.types[carry:]
        self._room = -1, Layout([])  # where watched outputs lie, for a number of steps
        self._lock = Lock()

    def __call__(
        self, state: Sequence[Array], data: Sequence[Array], row_index: Array, *, donate: bool = False
    ) -> tuple[list[Array], list[Array]]:
        self._check(state, data, row_index)
        code = self.code([len(d) for d in data])
        steps = len(row_index)
        given = [*(usable(d) for d in data), np.ascontiguousarray(row_index, np.int64)]
        addresses = [*map(address, given)]
        if self._still:
            carried = [usable(a) for a in state]
            places = [*map(address, carried)]
        elif donate:
            carried, places = list(state), donated(self.step.source.inputs, state, given, addresses)
        else:
            carried, places = self.storage.copies(state)
        watched, kept = self._watched(steps)
        addresses += places + kept
        done = 0
        while done < steps:
            last = min(steps, done + max(1, int(STRETCH / code.pace) if code.pace else 1))
            code.run_at(addresses, done, last, whole=donate)
            done = last
        return carried, watched

    def _watched(self, steps: int) -> tuple[list[Array], list[int]]:
        """Room for the watched outputs of so many steps, and its addresses."""
        if self._room[0] != steps:
            self._room = steps, Layout([t.with_shape((steps, *t.shape)) for t in self._watched_types])
        layout = self._room[1]
        return layout.arrays(np.empty(max(1, layout.size), np.uint8))

    def _check(self, state: Sequence[Array], data: Sequence[Array], row_index: Array) -> None:
        """Raise ShapeError unless the arguments are of the step's types. Lists are compared whole, which is fast."""
        if len(state) != self.carry or len(data) != self.rows:
            raise ShapeError(f"{len(state)} carried values and {len(data)} data sets for {self.carry} and {self.rows}")
        inputs = self.step.source.inputs
        if ([a.dtype for a in state], [a.shape for a in state]) != self._state:
            for node, array in zip(inputs, state, strict=False):
                found = Type(array.dtype, array.shape)
                if found != node.type:
                    raise ShapeError(f"the carried value {node.name} is {found}, not {node.type}")
        if ([a.dtype for a in data], [a.shape[1:] for a in data]) != self._rows:
            for node, array in zip(inputs[self.carry :], data, strict=True):
                found = Type(array.dtype, array.shape[1:])
                if found != node.type.with_shape(node.type.shape[1:]):
                    raise ShapeError(f"the rows of {node.name} are {found}, not {node.type}")
        shape = row_index.shape
        if data and (len(shape) != 2 or shape[1] != self._batch or row_index.dtype.kind not in "iu"):
            raise ShapeError(f"the row indices have the shape {shape}, not (steps, {self._batch})")

    def check_step(self) -> None:
        """Raise unless the step can be compiled, and be one of a loop."""
        check_step(self.step, self.carry, self.rows)
        self.refuse(self.step)

    def code(self, lengths: Sequence[int]) -> Code:
        """The compiled loop for data sets of these lengths."""
        key = tuple(lengths)
        found = self._codes.get(key)
        if found is not None:
            return found
        with self._lock.door:
            if key not in self._codes:
                how = "loop", self.winograd, self.carry, *lengths
                self._codes[key] = compiled(self.step, self.target, lambda: self.plan(lengths, sources=False), *how)
            return self._codes[key]

    def plan(self, lengths: Sequence[int], sources: bool = True) -> Plan:
        """The plan of the loop for data sets of these lengths."""
        self.check_step()
        whole = with_gathers(self.step, self.carry, lengths)
        return plan_loop(prepared(whole), self.carry, len(lengths), sources, self.winograd)


def with_gathers(step: Graph, carry: int, lengths: Sequence[int]) -> Graph:
    """The step as a graph of the carried values, the whole data sets and the indices of one minibatch's rows."""
    batches = step.inputs[carry:]
    size = batches[0].type.shape[0] if batches else 0
    chosen = input_node(Type(np.dtype(np.int64), (size,)), "row_index")
    data, replaced = [], {}
    for node, n in zip(batches, lengths, strict=True):
        whole = input_node(node.type.with_shape((n, *node.type.shape[1:])), f"all {node.name}")
        data.append(whole)
        replaced[node] = make_node("gather", (whole, chosen), (node.type,), name=node.name)
    outputs = substitute(step.outputs, replaced)
    return Graph((*step.inputs[:carry], *data, chosen), tuple(outputs), step.name)
