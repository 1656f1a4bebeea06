"""The executor "native": graphs compiled to machine code, and training loops that run without Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backlit.errors import ShapeError, UnsupportedError
from backlit.executors.api import Array, Executor, Run, RunLoop, check_arguments
from backlit.executors.native import jit
from backlit.executors.native.code import Code, compiled, shares_for, usable
from backlit.executors.native.donation import donated
from backlit.executors.native.fusion import BLOCKS, VIEWS
from backlit.executors.native.kernels import COMBINERS
from backlit.executors.native.plan import Plan, plan
from backlit.executors.native.program import Program
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.steps import Steps
from backlit.executors.native.storage import addresses, storage
from backlit.executors.native.table import table
from backlit.executors.native.target import Target, known
from backlit.ir import Derived, Graph, Type
from backlit.ops.record import OPS


class Native(Executor):
    """Runs every op, compiled for a target: by default, for the machine at hand.

    `winograd=False` takes every convolution as the sums that it is: slower, but with the least rounding errors, and
    infinities stay what they are.
    """

    name = "native"

    def __init__(self, target: str = "host", *, winograd: bool = True) -> None:
        self.target: Target = known(target)
        self.winograd = winograd

    def supports(self, op: str) -> bool:
        return op in OPS and (
            op in VIEWS | BLOCKS | {*COMBINERS, "contract", "gather", "iota"} or OPS[op].scalar is not None
        )

    def refuse_unsupported(self, graph: Graph) -> None:
        """As for every executor; values that no address reaches; and float16 where the processor lacks it."""
        super().refuse_unsupported(graph)
        for node in graph.nodes:
            for t in node.types:
                if t.size * t.dtype.itemsize >= 2**63:
                    raise ShapeError(
                        f"a value of {t} has more bytes than can be counted in 64 bits", op=node.op, site=node.site
                    )
        for node in () if self.target.half else graph.nodes:
            if any(t.dtype == np.float16 for t in node.types):
                raise UnsupportedError(
                    f"the native executor has no float16 on {self.target.name}", op=node.op, site=node.site,
                    fix='use float32, or executor="reference"',
                )  # fmt: skip

    def plan(self, graph: Graph) -> Plan:
        """The kernels that a graph becomes, in order. Print it."""
        self.refuse_unsupported(graph)
        found = plan(prepared(graph), winograd=self.winograd)
        found.text = table(found, self.target, shares_for(found))
        return found

    def llvm(self, graph: Graph) -> str:
        """The program of a graph in LLVM's language."""
        return Program(self.plan(graph), self.target).text

    def assembly(self, graph: Graph) -> str:
        """The program of a graph in the target's assembly language."""
        return jit.assembly(self.llvm(graph), self.target)

    def compile(self, graph: Graph, donate: Sequence[int] = ()) -> Run:
        self.refuse_unsupported(graph)

        def make() -> Plan:
            return plan(prepared(graph), donate, sources=False, winograd=self.winograd)

        return Compiled(graph, compiled(graph, self.target, make, "call", self.winograd, *donate))

    def compile_loop(self, step: Graph, carry: int, rows: int) -> RunLoop:
        steps = Steps(step, carry, rows, self.target, self.refuse_unsupported, self.winograd)
        if not isinstance(step, Derived):
            steps.check_step()
        return steps

    def copies(self, arrays: Sequence[Array]) -> list[Array]:
        """As for every executor: from cache lines on, in large pages, side by side."""
        return storage([Type(a.dtype, a.shape) for a in arrays]).copies(arrays)[0]


class Compiled:
    """A graph as a function of arrays."""

    def __init__(self, graph: Graph, code: Code) -> None:
        self.graph, self.code = graph, code
        taken = code.artifact.taken
        self._given_away = set(taken.values())
        self._outputs = [(taken.get(k), o.type.shape, o.type.dtype) for k, o in enumerate(graph.outputs)]

    def __call__(self, *arrays: Array) -> list[Array]:
        check_arguments(self.graph.inputs, arrays)
        given = [usable(a, writeable=k in self._given_away) for k, a in enumerate(arrays)]
        if self._given_away:
            self._refuse_shared(given)
        results = [np.empty(shape, dtype) if k is None else given[k] for k, shape, dtype in self._outputs]
        self.code.run([*given, *results], 0, 1, whole=bool(self._given_away))
        return results

    def _refuse_shared(self, given: Sequence[Array]) -> None:
        """Raise DonationError where an input that is written over shares memory with another one."""
        taken = sorted(self._given_away)
        others = [a for k, a in enumerate(given) if k not in self._given_away]
        nodes, arrays = [self.graph.inputs[k] for k in taken], [given[k] for k in taken]
        donated(nodes, arrays, others, addresses(others))
