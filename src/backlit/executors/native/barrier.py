"""How the threads of one run meet: they begin together, wait for one another, and end.

The words of a `MEETING`, one for each run, all 0 at first:

    counter   how many arrivals there have been at barriers; it only grows, each thread waits for the next multiple of
              their number
    gate      0, then `OPEN` from when the caller, thread 0, has come until its run is over, then `CLOSED`
    end       how many arrivals there will be at the barrier after which all leave, if the run was told to stop

Helpers wait at the gate. What is computed begins with the caller, so an interrupt that keeps it from coming has nothing
begun. Helpers that have waited too long close the gate and leave, and a caller who finds it closed runs alone: nobody
waits for a thread that may not come. The caller is the last who needs the memory that was worked on.

A run that is told to stop does so at a barrier: that is where all threads can agree on it.
"""

from __future__ import annotations

from collections.abc import Callable

from backlit.executors.native.builder import Function
from backlit.executors.native.names import BOOL, I64
from backlit.executors.native.value import Value

GATE, END, MEETING = 8, 9, 16  # places, and the size, in words: the counter has a cache line of its own
OPEN, CLOSED = 1, 2
_BRIEFLY = 20_000  # tries before a thread that waits lets others have its processor
_LONG = 100_000  # tries until helpers leave, some hundredths of a second


def together(f: Function, meeting: Value, thread: Value, threads: Value, work: Callable[[Value], None]) -> None:
    """`work(threads)`, if the caller and its helpers meet; by the caller alone if they do not, or there are none."""
    gate = meeting.at(GATE, I64)
    several, caller, helper, go, leave = (f.fresh(n) for n in ("several", "caller", "helper", "go", "leave"))
    before = f.block
    f.branch(threads > 1, several, go)
    f.start(several)
    f.branch(thread == 0, caller, helper)
    f.start(caller)
    found = _exchange(f, gate, OPEN)
    with f.naming("threads.met"):
        met = (found == 0).select(threads, 1)
    f.jump(go)
    f.start(helper)
    spin(f, lambda: f.op(f"load atomic i64, {gate} acquire, align 8", I64) != 0, _LONG)
    waited = f.block
    f.branch(_exchange(f, gate, CLOSED) == OPEN, go, leave)
    f.start(go)
    with f.naming("threads.now"):
        pairs = [(threads, before), (met, caller), (threads, waited)]
        now = f.op(f"phi i64 {', '.join(f'[ {v.text}, %{block} ]' for v, block in pairs)}", I64)
    work(now)
    with f.naming("over"):
        over = (thread == 0) & (threads > 1)
    f.when(over, lambda: f.line(f"store atomic i64 {CLOSED}, {gate} release, align 8"), "over")
    f.jump(leave)
    f.start(leave)


def _exchange(f: Function, gate: Value, state: int) -> Value:
    """The gate in this state if it was in none; what it was."""
    pair = f.op(f"cmpxchg {gate}, i64 0, i64 {state} acq_rel acquire", I64).text
    return f.op(f"extractvalue {{ i64, i1 }} {pair}, 0", I64)


def emit_barrier(f: Function, meeting: Value, threads: Value, decides: Value, stop: Value, left: Value) -> None:
    """Wait until all threads are here. Where the word at `stop` is not 0, they all leave: `left` becomes 1.

    The thread that `decides` says so before it arrives. Another one may read what it says at a later barrier, and
    knows by the arrivals that this one is not meant.
    """

    def leave() -> None:
        f.store(f.const(1, I64), left)

    def wait() -> None:
        def goal(arrived: Value) -> Value:
            return (f.op(f"udiv {arrived}, {threads.text}", I64) + 1) * threads

        def now() -> Value:
            return f.op(f"load atomic i64, {meeting} acquire, align 8", I64)

        def tell() -> None:
            f.line(f"store atomic {goal(now())}, {meeting.at(END, I64)} monotonic, align 8")

        f.when(decides & told(), tell, "told")
        met = goal(f.op(f"atomicrmw add {meeting}, i64 1 acq_rel", I64))
        spin(f, lambda: now() >= met)
        end = f.op(f"load atomic i64, {meeting.at(END, I64)} monotonic, align 8", I64)
        f.when((end != 0) & (end <= met), leave, "leave")

    def told() -> Value:
        return f.op(f"load atomic i64, {stop} monotonic, align 8", I64) != 0

    f.when(threads > 1, wait, "several")
    f.when(threads == 1, lambda: f.when(told(), leave, "leave"), "alone")  # of several, the caller's memory may be gone


def spin(f: Function, met: Callable[[], Value], most: int = 0) -> None:
    """`while not met()`; after many tries others get the processor; `most` tries, if they are limited."""
    module = f.module
    again, pause, rest, on, done = (f.fresh(n) for n in ("spin", "pause", "rest", "on", "met"))
    module.declare("sched_yield", "declare i32 @sched_yield()")
    before = f.block
    f.jump(again)
    f.start(again)
    tries, following = Value(f, I64, f"%{f.fresh('tries')}"), f"%{f.fresh('tries.next')}"
    f.line(f"{tries.text} = phi i64 [ 0, %{before} ], [ {following}, %{on} ]")
    f.branch(met(), done, pause)
    f.start(pause)
    f.line(f"{following} = add i64 {tries.text}, 1")
    triple = module.target.triple
    if triple.startswith("x86_64"):
        f.line("call void @llvm.x86.sse2.pause()")
        module.declare("llvm.x86.sse2.pause", "declare void @llvm.x86.sse2.pause()")
    elif triple.startswith(("aarch64", "arm64")):
        f.line("call void @llvm.aarch64.hint(i32 1)")  # yield
        module.declare("llvm.aarch64.hint", "declare void @llvm.aarch64.hint(i32)")
    f.branch(f.op(f"icmp ugt i64 {following}, {_BRIEFLY}", BOOL), rest, on)
    f.start(rest)
    f.line("call i32 @sched_yield()")
    f.jump(on)
    f.start(on)
    if most:
        f.branch(f.op(f"icmp ult i64 {following}, {most}", BOOL), again, done)
    else:
        f.jump(again)
    f.start(done)
