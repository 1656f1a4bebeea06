"""Many training steps in one call: the step's graph becomes the body of a loop that runs without Python.

The minibatches are gathered inside, by checked indices, from whole data sets; the carried values are updated where they
lie; watched outputs are written row by row. The loop is entered in stretches that last about `STRETCH` seconds: between
two of them Python may run a signal handler, so Ctrl-C is honoured soon, and the state is that of a whole step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from backlit.errors import ShapeError
from backlit.executors.api import Array
from backlit.executors.native.code import Code, compiled, usable
from backlit.executors.native.convolution import prepared
from backlit.executors.native.plan import Plan, plan_loop
from backlit.executors.native.storage import Storage
from backlit.executors.native.target import Target
from backlit.ir import Graph, Type, make_node, substitute
from backlit.tracing import input_node

STRETCH = 0.04


class Steps:
    """A step that can be run many times; compiled once for each set of data shapes."""

    def __init__(self, step: Graph, carry: int, rows: int, target: Target) -> None:
        self.step, self.carry, self.rows, self.target = step, carry, rows, target
        self._codes: dict[tuple[int, ...], Code] = {}
        self.storage = Storage([n.type for n in step.inputs[:carry]])
        self._lock = threading.Lock()

    def __call__(
        self, state: Sequence[Array], data: Sequence[Array], row_index: Array
    ) -> tuple[list[Array], list[Array]]:
        self._check(state, data, row_index)
        code = self.code([len(d) for d in data])
        steps = len(row_index)
        carried = self.storage.arrays()
        for new, old in zip(carried, state, strict=True):
            np.copyto(new, old)
        watched = [np.empty((steps, *o.type.shape), o.type.dtype) for o in self.step.outputs[self.carry :]]
        chosen = np.ascontiguousarray(row_index, np.int64)
        arrays = [*(usable(d) for d in data), chosen, *carried, *watched]
        done = 0
        while done < steps:
            last = min(steps, done + max(1, int(STRETCH / code.pace) if code.pace else 1))
            code.run(arrays, done, last)
            done = last
        return carried, watched

    def _check(self, state: Sequence[Array], data: Sequence[Array], row_index: Array) -> None:
        inputs = self.step.inputs
        if len(state) != self.carry or len(data) != self.rows:
            raise ShapeError(f"{len(state)} carried values and {len(data)} data sets for {self.carry} and {self.rows}")
        for node, array in zip(inputs[: self.carry], state, strict=True):
            if Type(array.dtype, array.shape) != node.type:
                raise ShapeError(f"the carried value {node.name} is {Type(array.dtype, array.shape)}, not {node.type}")
        for node, array in zip(inputs[self.carry :], data, strict=True):
            row = node.type.shape[1:]
            if array.dtype != node.type.dtype or array.shape[1:] != row:
                raise ShapeError(f"the rows of {node.name} are {Type(array.dtype, array.shape[1:])}, not {node.type}")
            if row_index.ndim != 2 or row_index.shape[1] != node.type.shape[0] or row_index.dtype.kind not in "iu":
                raise ShapeError(f"the row indices have the shape {row_index.shape}, not (steps, {node.type.shape[0]})")

    def code(self, lengths: Sequence[int]) -> Code:
        """The compiled loop for data sets of these lengths."""
        with self._lock:
            found = self._codes.get(tuple(lengths))
            if found is None:
                how = "loop", self.carry, *lengths
                found = compiled(self.step, self.target, lambda: self.plan(lengths, sources=False), *how)
                self._codes[tuple(lengths)] = found
        return found

    def plan(self, lengths: Sequence[int], sources: bool = True) -> Plan:
        """The plan of the loop for data sets of these lengths."""
        whole = with_gathers(self.step, self.carry, lengths)
        return plan_loop(prepared(whole), self.carry, len(lengths), sources)


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
