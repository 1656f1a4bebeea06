"""The function that runs a whole program: every kernel in order, loops around them, on one thread or several.

    step(table, arena, status, barrier, thread, threads, first, last)

`table` holds the addresses of inputs, outputs and constants, `arena` that of the intermediate values. Every thread
runs this function with its own number. A kernel's outermost axis is cut into `Program.shares` shares, each thread
takes its own (with fewer threads, several), and they wait for one another at a barrier only before a kernel that
touches what another thread's share has written or still reads. What a share computes does not depend on who computes
it, so results do not depend on the number of threads. `first` and `last` are the steps of a loop whose length is not
known when code is made.

A small program is one function: its kernels become part of it, where LLVM knows their sizes, and intermediate values
and carried state lie in its own frame, where LLVM can keep them in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from backlit.executors.native import blocks
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.kernels import Buffer, Call, Loop, Nest
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.nest import emit_nest, of_any_length
from backlit.executors.native.plan import Plan
from backlit.executors.native.sharing import Pending, flows, share_of
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value

ENTRY = "step"
_U8 = np.dtype(np.uint8)
_SMALL = 1 << 13  # bytes of intermediate values and state of a small program
_FEW = 32  # calls of kernels


class Program:
    """LLVM's text of a plan, whole or in parts; `checks`, when it is written, say what each failed check means."""

    def __init__(self, plan: Plan, target: Target, shares: int = 1) -> None:
        self.plan, self.target, self.shares = plan, target, shares
        self.small = shares == 1 and is_small(plan)
        self.module = Module(target, inline=self.small)
        self.names: dict[Any, str] = {}
        self.checks: list[tuple[Any, int, int]] = []
        self.lengths: dict[Any, list[int]] = {}  # of the ranges that a kernel is called for
        for call in plan.calls():
            self.lengths.setdefault(self._shared(call), []).extend(share_of(call, target).lengths(shares))

    @cached_property
    def text(self) -> str:
        """The whole module."""
        for _ in self.parts():
            pass
        return self.module.text()

    def parts(self, lines: int = 0) -> Iterator[str]:
        """The program in parts of at least so many lines, each as soon as it is written. A small one has one part."""
        functions, first = self.module.functions, 0
        for step in self._writing():
            step()
            if not self.small and sum(len(f.lines) for f in functions[first:]) >= lines > 0:
                yield self.module.text(functions[first:])
                first = len(functions)
        if first < len(functions):
            yield self.module.text(functions[first:] if first else None)

    def _writing(self) -> Iterator[Callable[[], None]]:
        for call in self.plan.calls():
            yield lambda call=call: self._kernel(call)  # type: ignore[misc]
        if self.threaded:
            yield lambda: _emit_barrier(self.module)
        yield self._entry

    @property
    def threaded(self) -> bool:
        return self.shares > 1

    def _kernel(self, call: Call) -> None:
        kernel = self._shared(call)
        if kernel in self.names:
            return
        name = f"k{len(self.names)}_{_word(call.label)}"
        self.names[kernel] = name
        if isinstance(kernel, Nest):
            emit_nest(self.module, name, kernel, self.lengths[kernel])
        else:
            blocks.EMIT[type(kernel)](self.module, name, kernel)
        self.module.functions[-1].notes = _notes(call)
        if self.threaded:
            self._emit_shares(name, len(call.arguments), bool(call.checked))

    def _emit_shares(self, name: str, pointers: int, checks: bool) -> None:
        """A function that calls a kernel for the shares `low` to `high`, each of `size` of its `extent` points."""
        parameters: list[tuple[Any, str]] = [(POINTER, f"p{k}") for k in range(pointers)]
        parameters += [(I64, n) for n in ("size", "extent", "low", "high")]
        parameters += [(POINTER, "status"), (I64, "check")] if checks else []
        f = Function(self.module, f"{name}_shares", parameters)
        size, extent, low, high = f.arguments[pointers : pointers + 4]

        def share(s: Value) -> None:
            begin, end = s * size, (s + 1) * size
            end = (end < extent).select(end, extent)
            arguments = [*f.arguments[:pointers], begin, end, *f.arguments[pointers + 4 :]]
            f.when(begin < end, lambda: f.invoke(name, arguments), "share")

        f.loop(low, high, 1, share, name="s")

    def _shared(self, call: Call) -> Any:
        """What stands for the kernel among the functions."""
        return of_any_length(call.kernel, self.target) if isinstance(call.kernel, Nest) else call.kernel

    def _entry(self) -> None:
        parameters: list[tuple[Any, str]] = [(POINTER, n) for n in ("table", "arena", "status", "barrier")]
        parameters += [(I64, n) for n in ("thread", "threads", "first", "last")]
        f = Function(self.module, ENTRY, parameters, linkage="")
        self.f = f
        (self.table, self.arena, self.status, self.barrier, self.thread, self.threads, self.first, self.last) = (
            f.arguments
        )
        if self.threaded:
            self.low = (self.thread * self.shares) // self.threads
            self.high = ((self.thread + 1) * self.shares) // self.threads
        self._pending = Pending(self.target, self.shares)
        states = carried(self.plan) if self.small else []
        at_home: dict[Buffer, Value] = {}
        if self.small:
            self.arena = f.slot(_U8, max(1, self.plan.arena), "arena")
        for b in states:
            at_home[b] = f.slot(_U8, max(1, b.bytes), f"carried.{b.number}")
            f.copy(at_home[b], self._address(b, {}), b.bytes)
        self._run(self.plan.steps, at_home)
        if self.threaded:
            self._wait()
        for b in states:
            f.copy(self._address(b, {}), at_home[b], b.bytes)

    def _slot(self, buffer: Buffer) -> int:
        """The place of an address in the table: inputs, then outputs, then constants."""
        graph = self.plan.graph
        before = {"input": 0, "output": len(graph.inputs), "constant": len(graph.inputs) + len(graph.outputs)}
        return before[buffer.kind] + buffer.number

    def _run(self, steps: Sequence[Any], rows: Mapping[Buffer, Value]) -> None:
        for step in steps:
            if isinstance(step, Call):
                self._call(step, rows)
            else:
                self._loop(step, rows)

    def _loop(self, loop: Loop, rows: Mapping[Buffer, Value]) -> None:
        f = self.f
        f.comment(f"{loop.label}: {loop.length if loop.length is not None else 'any number of'} steps")
        self._run(loop.start, rows)
        self._settle()
        free = self.threaded and flows(loop, self.target, self.shares)
        slices = {b for c in loop.calls + loop.moves for b in _slices(c)}
        low, high = (self.first, self.last) if loop.length is None else (f.index(0), f.index(loop.length))

        def body(t: Value) -> None:
            at = (loop.length - 1) - t if loop.reverse and loop.length is not None else t
            inner = dict(rows)
            for b in slices:
                if b.base is not None and (b.base in inner or b.base.kind != "slice"):
                    inner[b] = self._address(b.base, rows).at(at * b.bytes, _U8)

            def work() -> None:
                self._run([*loop.calls, *loop.moves], inner)
                if not free:
                    self._settle()

            if loop.length is None:
                f.when(f.load(self.status, I64) == 0, work, "go_on")
            else:
                work()

        f.loop(low, high, 1, body, name="t")
        self._settle()

    def _address(self, buffer: Buffer, rows: Mapping[Buffer, Value]) -> Value:
        """Where a buffer lies. Worked out where it is needed, so that few addresses are held at once."""
        if buffer in rows:
            return rows[buffer]
        if buffer.kind == "arena":
            return self.arena.at(buffer.offset, _U8)
        with self.f.naming(buffer.name):
            number = self.f.load(self.table.at(self._slot(buffer), I64), I64)
            return number.convert("inttoptr", POINTER)

    def _call(self, call: Call, rows: Mapping[Buffer, Value]) -> None:
        f = self.f
        share = share_of(call, self.target)
        if self.threaded and self._pending.add(call):
            self._wait()
        f.comment(f"{call.label} = {', '.join(n.op for n in call.nodes)}")
        arguments = [self._address(b, rows).at(offset, b.type.dtype) for b, offset in call.arguments]
        base = len(self.checks)
        self.checks += call.checked

        name = self.names[self._shared(call)]
        checks = [self.status, f.index(base)] if call.checked else []
        if not self.threaded:
            f.invoke(name, [*arguments, f.index(0), f.index(share.extent), *checks])
            return
        size, extent = (share.size(self.shares), share.extent) if share.axis >= 0 else (1, 1)
        f.invoke(f"{name}_shares", [*arguments, f.index(size), f.index(extent), self.low, self.high, *checks])

    def _wait(self) -> None:
        self.f.invoke("wait_for_all", [self.barrier, self.threads])

    def _settle(self) -> None:
        """Before and after a loop, and between its steps unless they flow: whatever was written is there for all."""
        if self.threaded and self._pending.calls:
            self._wait()
            self._pending.calls.clear()


def _notes(call: Call) -> list[str]:
    """What a kernel computes and where it was written, for who reads the program."""
    sites = dict.fromkeys(n.site.short() for n in call.nodes if n.site is not None and n.origin is None)
    arguments = ", ".join(f"%p{k} {b.name} {b.type}" for k, (b, _) in enumerate(call.arguments))
    ops = ", ".join(dict.fromkeys(n.op for n in call.nodes))
    where = f"  ({', '.join(sites)})" if sites else ""
    return [f"{call.label} = {ops}{where}", arguments]


def carried(plan: Plan) -> list[Buffer]:
    """The state of a plan that is a loop: results that hold the old values when it starts."""
    found: dict[Buffer, None] = {}
    for loop in plan.steps:
        if isinstance(loop, Loop) and loop.length is None:
            moving = {b.root() for b in _slices(loop)}
            for call in plan.calls():
                found |= dict.fromkeys(b for b, _ in call.arguments if b.kind == "output" and b not in moving)
    return list(found)


def is_small(plan: Plan) -> bool:
    """Whether a plan runs so briefly that calls of kernels and trips to memory are much of its time."""
    home = plan.arena + sum(b.bytes for b in carried(plan))
    return home <= _SMALL and plan.bytes <= 4 * _SMALL and len(plan.calls()) <= _FEW


def _slices(step: Any) -> list[Buffer]:
    calls = [step] if isinstance(step, Call) else [*step.start, *step.calls, *step.moves]
    found: list[Buffer] = []
    for c in calls:
        if not isinstance(c, Call):
            found += _slices(c)
            continue
        for b, _ in c.arguments:
            chain: Buffer | None = b
            while chain is not None and chain.kind == "slice":
                found.append(chain)
                chain = chain.base
    return found


def _word(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)[:24]


def _emit_barrier(module: Module) -> None:
    """Wait until all threads are here: a counter that only grows; each waits for the next multiple of their number."""
    f = Function(module, "wait_for_all", [(POINTER, "counter"), (I64, "threads")])
    counter, threads = f.arguments
    f.when(threads > 1, lambda: _spin(f, module, counter, threads), "several")


def _spin(f: Function, module: Module, counter: Value, threads: Value) -> None:
    arrived = f.op(f"atomicrmw add {counter}, i64 1 acq_rel", I64)
    goal = (f.op(f"udiv {arrived}, {threads.text}", I64) + 1) * threads
    spin, more, rest, done = (f.fresh(n) for n in ("spin", "more", "rest", "all_here"))
    module.declare("sched_yield", "declare i32 @sched_yield()")
    before = f.block
    f.jump(spin)
    f.start(spin)
    tries = Value(f, I64, f"%{f.fresh('tries')}")
    following = f"%{f.fresh('tries.next')}"
    f.line(f"{tries.text} = phi i64 [ 0, %{before} ], [ {following}, %{more} ], [ {following}, %{rest} ]")
    now = f.op(f"load atomic i64, {counter} acquire, align 8", I64)
    f.branch(now >= goal, done, f"{more}.pause")
    f.start(f"{more}.pause")
    f.line(f"{following} = add i64 {tries.text}, 1")
    triple = module.target.triple
    if triple.startswith("x86_64"):
        f.line("call void @llvm.x86.sse2.pause()")
        module.declare("llvm.x86.sse2.pause", "declare void @llvm.x86.sse2.pause()")
    elif triple.startswith(("aarch64", "arm64")):
        f.line('call void asm sideeffect "yield", ""()')
    patient = f.op(f"icmp ugt i64 {following}, 20000", "i1")
    f.branch(patient, rest, more)
    f.start(more)
    f.jump(spin)
    f.start(rest)
    f.line("call i32 @sched_yield()")
    f.jump(spin)
    f.start(done)
