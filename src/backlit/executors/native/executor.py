"""The executor "native": graphs compiled to machine code, and training loops that run without Python."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.errors import IndexingError
from backlit.executors.api import Array, Executor, Run, RunLoop, check_arguments, check_step
from backlit.executors.native import jit
from backlit.executors.native.fusion import BLOCKS, VIEWS
from backlit.executors.native.kernels import COMBINERS
from backlit.executors.native.plan import Plan, plan
from backlit.executors.native.program import ENTRY, Program
from backlit.executors.native.target import Target, known
from backlit.ir import Graph
from backlit.ops.record import OPS


class Native(Executor):
    """Runs every op, compiled for a target: by default, for the machine at hand."""

    name = "native"

    def __init__(self, target: str = "host") -> None:
        self.target: Target = known(target)

    def supports(self, op: str) -> bool:
        return op in OPS and (op in VIEWS | BLOCKS | {*COMBINERS, "contract", "gather", "iota"} or OPS[op].scalar is not None)

    def plan(self, graph: Graph) -> Plan:
        """The kernels that a graph becomes, in order. Print it."""
        self.refuse_unsupported(graph)
        return plan(prepared(graph))

    def llvm(self, graph: Graph) -> str:
        """The program of a graph in LLVM's language."""
        return Program(self.plan(graph), self.target).text

    def assembly(self, graph: Graph) -> str:
        """The program of a graph in the target's assembly language."""
        return jit.assembly(self.llvm(graph), self.target)

    def compile(self, graph: Graph, donate: Sequence[int] = ()) -> Run:
        found = self.plan(graph)
        return Compiled(found, self.target)

    def compile_loop(self, step: Graph, carry: int, rows: int) -> RunLoop:
        check_step(step, carry, rows)
        raise NotImplementedError


def prepared(graph: Graph) -> Graph:
    """The graph after the passes that every executor may use."""
    try:
        from backlit.passes import simplify
    except ImportError:
        return graph
    return simplify(graph)


class Compiled:
    """A program in memory. Each call that runs at the same time as another has an arena of its own."""

    def __init__(self, found: Plan, target: Target) -> None:
        self.plan, self.target = found, target
        program = Program(found, target)
        self.checks = program.checks
        self._code = jit.compile_text(program.text, target)
        p, n = ctypes.c_void_p, ctypes.c_int64
        self._step = self._code.function(ENTRY, p, p, p, p, n, n, n, n)
        self._arenas: list[Array] = []
        self._lock = threading.Lock()

    def __call__(self, *arrays: Array) -> list[Array]:
        graph = self.plan.graph
        check_arguments(graph.inputs, arrays)
        given = [np.ascontiguousarray(a) if a.ndim else np.asarray(a) for a in arrays]
        given = [a if a.flags.aligned else a.copy() for a in given]
        results = [np.empty(o.type.shape, o.type.dtype) for o in graph.outputs]
        self.run([*given, *results], 0, 1)
        return results

    def run(self, arrays: Sequence[Array], first: int, last: int) -> None:
        """Run the program on the memory of its inputs and outputs."""
        addresses = [a.ctypes.data for a in (*arrays, *self.plan.constants)]
        table = (ctypes.c_int64 * max(1, len(addresses)))(*addresses)
        status = (ctypes.c_int64 * 2)(0, 0)
        barrier = (ctypes.c_int64 * 1)(0)
        with self._lock:
            arena = self._arenas.pop() if self._arenas else None
        if arena is None:
            arena = _aligned(self.plan.arena)
        try:
            self._step(table, arena.ctypes.data, status, barrier, 0, 1, first, last)
        finally:
            with self._lock:
                self._arenas.append(arena)
        if status[0]:
            self._raise(status[0] - 1, status[1])

    def _raise(self, check: int, index: int) -> None:
        node, axis, size = self.checks[check]
        raise IndexingError(
            f"index {index} is out of range: axis {axis} has size {size}",
            op="gather or scatter_add",
            inputs=[i.type for i in node.inputs],
            site=node.site,
        )


def _aligned(size: int) -> Array:
    """Zeroed bytes that start at a multiple of 64."""
    raw: Any = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    found: Array = raw[start : start + max(size, 1)]
    return found
