"""The function that runs a whole program: every kernel in order, loops around them, on one thread or several.

    step(table, arena, status, meeting, thread, threads, first, last)

`table` holds the addresses of inputs, outputs and constants, `arena` that of the intermediate values. Every thread
runs this function with its own number. A kernel's outermost axis is cut into `Program.shares` shares, each thread
takes its own (with fewer threads, several), and they wait for one another at a barrier only before a kernel that
touches what another thread's share has written or still reads. What a share computes does not depend on who computes
it, so results do not depend on the number of threads. `first` and `last` are the steps of a loop whose length is not
known when code is made.

`status` holds five words: number of a failed check and 1, the index that failed, two that `script` explains, and one
that is not 0 where the run is to stop at the next barrier, in the middle of a step: what it has written is of no use.
Where threads meet is explained by `barrier`; a thread alone needs no such place.
A small program is one function (`whole`), any other one a list of calls as data (`script`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from backlit.executors.native import blocks
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.clock import Clock
from backlit.executors.native.kernels import Buffer, Call, Nest, Rows
from backlit.executors.native.method import emit_nest
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.plan import Plan
from backlit.executors.native.rows import emit_rows
from backlit.executors.native.schedule import of_any_length
from backlit.executors.native.script import Script, emit_machinery
from backlit.executors.native.sharing import share_of
from backlit.executors.native.target import Target
from backlit.executors.native.whole import Whole, is_small
from backlit.once import once

ENTRY = "step"


class Program:
    """LLVM's text of a plan, whole or in parts; `checks`, when it is written, say what each failed check means."""

    def __init__(self, plan: Plan, target: Target, shares: int = 1, clock: Clock | None = None) -> None:
        self.plan, self.target, self.shares, self.clock = plan, target, shares, clock
        self.small = shares == 1 and clock is None and is_small(plan)
        self.module = Module(target, inline=self.small)
        self.names: dict[Any, str] = {}
        self.checks: list[tuple[Any, int, int]] = []
        self.lengths: dict[Any, list[int]] = {}  # of the ranges that a kernel is called for
        self._kernels: dict[Call, Any] = {}  # what stands for the kernel of a call among the functions
        shared: dict[Any, Any] = {}
        for call in plan.calls():
            kernel = call.kernel
            if kernel not in shared:
                shared[kernel] = of_any_length(kernel, target) if isinstance(kernel, Nest) else kernel
            self._kernels[call] = shared[kernel]
            self.lengths.setdefault(self._kernels[call], []).extend(share_of(call, target).lengths(shares))

    @once
    def text(self) -> str:
        """The whole module."""
        for _ in self.parts():
            pass
        return self.module.text()

    def parts(self, lines: int = 0) -> Iterator[str]:
        """The program in parts of at least so many lines, each as soon as it is written, and a short one to begin with.

        A small program has one part.
        """
        functions, first = self.module.functions, 0
        for step in self._writing():
            step()
            enough = lines if first else 1
            if not self.small and sum(len(f.lines) for f in functions[first:]) >= enough <= lines:
                yield self.module.text(functions[first:])
                first = len(functions)
        if first < len(functions):
            yield self.module.text(functions[first:] if first else None)

    def _writing(self) -> Iterator[Callable[[], None]]:
        if not self.small and self.clock is None:  # first, to be compiled while kernels are being written
            yield partial(emit_machinery, self.module)
        for call in self.plan.calls():
            yield partial(self._kernel, call)
        yield self._entry

    @property
    def threaded(self) -> bool:
        return self.shares > 1

    def _kernel(self, call: Call) -> None:
        kernel = self._kernels[call]
        if kernel in self.names:
            return
        name = f"k{len(self.names)}_{_word(call.label)}"
        self.names[kernel] = name
        at = len(self.module.functions)
        if isinstance(kernel, Nest):
            emit_nest(self.module, name, kernel, self.lengths[kernel])
        elif isinstance(kernel, Rows):
            emit_rows(self.module, name, kernel, self.lengths[kernel])
        else:
            blocks.EMIT[type(kernel)](self.module, name, kernel)
        self.module.functions[at].notes = _notes(call)

    def name_of(self, call: Call) -> str:
        """The function of a call's kernel."""
        return self.names[self._kernels[call]]

    def _entry(self) -> None:
        parameters: list[tuple[Any, str]] = [(POINTER, n) for n in ("table", "arena", "status", "meeting")]
        parameters += [(I64, n) for n in ("thread", "threads", "first", "last")]
        written = Whole(self) if self.small else Script(self)
        written.emit(Function(self.module, ENTRY, parameters, linkage=""))

    def slot(self, buffer: Buffer) -> int:
        """The place of an address in the table: inputs, then outputs, then constants."""
        graph = self.plan.graph
        before = {"input": 0, "output": len(graph.inputs), "constant": len(graph.inputs) + len(graph.outputs)}
        return before[buffer.kind] + buffer.number


def _notes(call: Call) -> list[str]:
    """What a kernel computes and where it was written, for who reads the program."""
    sites = dict.fromkeys(n.site.short() for n in call.nodes if n.site is not None and n.origin is None)
    arguments = ", ".join(f"%p{k} {b.name} {b.type}" for k, (b, _) in enumerate(call.arguments))
    ops = ", ".join(dict.fromkeys(n.op for n in call.nodes))
    where = f"  ({', '.join(sites)})" if sites else ""
    return [f"{call.label} = {ops}{where}", arguments]


def _word(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)[:24]
