"""The reference executor: a loop that calls each op's NumPy semantics. No passes: it is the oracle of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backlit.executors.api import Array, Executor, Run, RunLoop, check_arguments, check_step
from backlit.ir import Graph
from backlit.ops.interpret import interpreter
from backlit.ops.record import OPS


class Reference(Executor):
    """Runs every op, one at a time, in NumPy."""

    name = "reference"

    def supports(self, op: str) -> bool:
        return op in OPS

    def compile(self, graph: Graph, donate: Sequence[int] = ()) -> Run:
        self.refuse_unsupported(graph)
        run = interpreter(graph)

        def call(*arrays: Array) -> list[Array]:
            check_arguments(graph.inputs, arrays)
            return run(arrays)

        return call

    def compile_loop(self, step: Graph, carry: int, rows: int) -> RunLoop:
        check_step(step, carry, rows)
        run = self.compile(step)

        def loop(
            state: Sequence[Array], data: Sequence[Array], row_index: Array, *, donate: bool = False
        ) -> tuple[list[Array], list[Array]]:
            state = list(state)
            watched = [np.empty((len(row_index), *o.type.shape), o.type.dtype) for o in step.outputs[carry:]]
            for t, chosen in enumerate(row_index):
                results = run(*state, *(np.ascontiguousarray(d[chosen]) for d in data))
                state = results[:carry]
                for column, value in zip(watched, results[carry:], strict=True):
                    column[t] = value
            return list(state), watched

        return loop
