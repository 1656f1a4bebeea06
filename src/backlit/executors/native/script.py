"""The calls of a program as data, and the few functions that carry them out.

A program that is not small is a list of rows of 64-bit words, among the constants of its object code. So what it takes
in code depends on its different kernels, not on how often they are called. The rule that holds: a row begins with the
address of the function that carries it out, as f(row, frame), and the number of words up to the next row:

    shares of a kernel   its address, size and extent, number of the first check and of the arguments; for each of them
                         its place and an offset in bytes
    barrier              nothing
    loop                 length, whether it runs backwards, the words at the end of its body that the last step leaves
                         out, the number of values that move with its steps; for each of them its place, the place that
                         it starts from, and its bytes; then the rows of the body

A place from 0 on is a number in the program's table of addresses, one below 0 a word before the frame: the first one
is the arena, the others are values that move with the steps of a loop. The words of the frame from 0 on are `_FRAME`,
then comes room for the addresses of a kernel's arguments.
Every thread has a frame of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.executors.native.barrier import emit_barrier, together
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.kernels import Buffer, Call, Loop
from backlit.executors.native.names import BOOL, I64, POINTER, element
from backlit.executors.native.sharing import Pending, flows, share_of
from backlit.executors.native.target import Target
from backlit.executors.native.value import Value
from backlit.once import once

if TYPE_CHECKING:
    from backlit.executors.native.clock import Clock
    from backlit.executors.native.program import Program

_U8 = np.dtype(np.uint8)
_FRAME = ("table", "status", "meeting", "threads", "low", "high", "first", "last", "left")
STOP = 4  # the word of the status that tells a run to stop
_ARENA = -1  # its place
_ANY = -1  # the length of a loop from step `first` to `last`
_ROW: list[tuple[Any, str]] = [(POINTER, "row"), (POINTER, "frame")]


@dataclass(frozen=True)
class Row:
    """One row; with `body`, the rows of a loop. A word that is a name is the address of that function."""

    function: str
    words: Sequence[int | str] = ()
    note: str = ""
    body: Sequence[Row] = ()

    @once
    def size(self) -> int:
        """Words up to the next row."""
        return 2 + len(self.words) + sum(r.size for r in self.body)

    def all(self) -> Iterator[Row]:
        """The row and those of its body."""
        yield self
        for row in self.body:
            yield from row.all()

    def text(self) -> str:
        """As LLVM's constants."""
        words = [
            f"i64 ptrtoint (ptr @{w} to i64), " if isinstance(w, str) else f"i64 {w}, "
            for w in (self.function, self.size, *self.words)
        ]
        return (f"  ; {self.note}\n" if self.note else "") + f"  {''.join(words)}"


class Script:
    """The rows of a program. Checks are numbered in their order, after those that the program has."""

    def __init__(self, program: Program) -> None:
        self.program, self._pending = program, Pending(program.target, program.shares)
        self._moving: dict[Buffer, int] = {}  # places of what moves with a loop
        self.rows = [*self._rows(program.plan.steps), *([Row("wait_for_all")] if program.threaded else [])]

    def emit(self, f: Function) -> None:
        """The body of the program's function, which carries out all rows."""
        shares, clock = self.program.shares, self.program.clock
        everything = [r for row in self.rows for r in row.all()]
        if clock is not None:
            clock.prepare(everything, shares)
            emit_machinery(f.module, clock)
        table, arena, status, meeting, thread, threads, first, last = f.arguments
        below, most = 1 + len(self._moving), max((len(c.arguments) for c in self.program.plan.calls()), default=0)
        frame = f.slot(I64, below + len(_FRAME) + most, "frame").at(below, I64)
        rows, size = Value(f, POINTER, "@rows"), sum(r.size for r in self.rows)

        def work(threads: Value) -> None:
            low, high = (thread * shares) // threads, ((thread + 1) * shares) // threads
            for k, value in enumerate((table, status, meeting, threads, low, high, first, last, f.index(0))):
                f.line(f"store {value}, {frame.at(k, I64)}, align 8")
            f.line(f"store {arena}, {frame.at(_ARENA, I64)}, align 8")
            f.invoke("run_rows", [rows, rows.at(size, I64), frame])

        if self.program.threaded:
            together(f, meeting, thread, threads, work)
        else:
            work(threads)
        f.invoked |= dict.fromkeys(w for r in everything for w in (r.function, *r.words) if isinstance(w, str))
        text = "\n".join(r.text() for r in everything)
        f.data = f"@rows = internal constant [{size + 1} x i64] [\n{text}\n  i64 0 ]"

    def _rows(self, steps: Sequence[Any]) -> Iterator[Row]:
        for step in steps:
            yield from self._call(step) if isinstance(step, Call) else self._loop(step)

    def _call(self, call: Call) -> Iterator[Row]:
        program, share = self.program, share_of(call, self.program.target)
        if program.threaded and self._pending.add(call):
            yield Row("wait_for_all")
        size, extent = (share.size(program.shares), share.extent) if share.axis >= 0 else (1, 1)
        places = [w for b, offset in call.arguments for w in self._place(b, offset * b.type.dtype.itemsize)]
        words: list[int | str] = [
            program.name_of(call),
            size,
            extent,
            len(program.checks),
            len(call.arguments),
            *places,
        ]
        yield Row("run_shares", words, call.note)
        program.checks += call.checked

    def _loop(self, loop: Loop) -> Iterator[Row]:
        program = self.program
        yield from self._rows(loop.start)
        yield from self._settled()
        moving: list[int] = []
        for b in loop.rows:
            assert b.base is not None
            moving += [self._moving.setdefault(b, _ARENA - 1 - len(self._moving)), *self._place(b.base, 0), b.bytes]
        every, others = (list(self._rows(calls)) for calls in loop.body)
        if loop.length is None:
            self._pending.clear()  # run_loop itself waits after each step
        elif not (program.threaded and flows(loop, program.target, program.shares)):
            (others if others else every).extend(self._settled())
        length = _ANY if loop.length is None else loop.length
        note, idle = f"{loop.label}: {loop.steps}", sum(r.size for r in others)
        yield Row("run_loop", [length, int(loop.reverse), idle, len(loop.rows), *moving], note, [*every, *others])
        if any(r.function == "wait_for_all" for r in others):  # the last step has not waited
            self._pending.clear()
            yield Row("wait_for_all")
        yield from self._settled()

    def _place(self, buffer: Buffer, offset: int) -> tuple[int, int]:
        """The place of an address, and bytes to add to it."""
        if buffer.kind == "slice":
            return self._moving[buffer], offset
        if buffer.kind == "arena":
            return _ARENA, buffer.offset + offset
        if buffer.kind == "part":
            assert buffer.base is not None
            return self._place(buffer.base, buffer.offset + offset)
        return self.program.slot(buffer), offset

    def _settled(self) -> Iterator[Row]:
        """Before and after a loop, and between its steps unless they flow: whatever was written is there for all."""
        if self.program.threaded and self._pending:
            self._pending.clear()
            yield Row("wait_for_all")


# --- what carries out the rows ----------------------------------------------------------------------------------------


def emit_machinery(module: Module, clock: Clock | None = None) -> None:
    """The functions that do. They know nothing of the program, unless a clock counts its rows."""
    _emit_rows(module, clock)
    _emit_shares(module)
    _emit_barrier(module)
    _emit_loop(module)


@cache
def machinery(target: Target) -> str:
    """These functions as a module: the first part of any program in parts."""
    module = Module(target)
    emit_machinery(module)
    return module.text(module.functions)


class _Reader:
    """The words of a row, and the frame, in a function that carries rows out."""

    def __init__(self, f: Function, row: Value, frame: Value) -> None:
        self.f, self.row, self.frame = f, row, frame

    def word(self, number: int | Value, hint: str, dtype: Any = I64) -> Value:
        """A word of the row."""
        with self.f.naming(hint):
            return self._load(self.row.at(number, I64), dtype)

    def held(self, name: str) -> Value:
        """A word of the frame."""
        dtype = POINTER if name in ("table", "status", "meeting") else I64
        with self.f.naming(name):
            return self._load(self.frame.at(_FRAME.index(name), I64), dtype)

    def stays(self) -> Value:
        """Whether the threads have not left at a barrier."""
        return self.held("left") == 0

    def address(self, table: Value, number: int | Value, hint: str) -> Value:
        """The address whose place and offset are these two words of the row."""
        place, offset = self.word(number, f"{hint}.place"), self.word(number + 1, f"{hint}.offset")
        with self.f.naming(hint):
            base = self._load((place < 0).select(self.frame, table).at(place, I64), POINTER)
            return base.at(offset, _U8)

    def _load(self, pointer: Value, dtype: Any) -> Value:
        return self.f.op(f"load {element(dtype)}, {pointer}, align 8", dtype)


def _emit_shares(module: Module) -> None:
    """Run a kernel for the shares of this thread.

    The shares `low` to `high` are each of `size` of the kernel's `extent` points.
    """
    f = Function(module, "run_shares", _ROW)
    r = _Reader(f, *f.arguments)
    table, low, high, status = r.held("table"), r.held("low"), r.held("high"), r.held("status")
    kernel, size, extent = r.word(2, "kernel", POINTER), r.word(3, "size"), r.word(4, "extent")
    check, count = r.word(5, "check"), r.word(6, "count")
    pointers = r.frame.at(len(_FRAME), I64)

    def point(k: Value) -> None:
        f.line(f"store {r.address(table, k * 2 + 7, 'p')}, {pointers.at(k, I64)}, align 8")

    f.loop(0, count, 1, point, name="k")

    def share(s: Value) -> None:
        begin, end = s * size, (s + 1) * size
        end = (end < extent).select(end, extent)
        given = ", ".join(str(v) for v in (pointers, begin, end, status, check))
        f.when(begin < end, lambda: f.line(f"call void {kernel.text}({given})"), "share")

    f.loop(low, high, 1, share, name="s")


def _emit_rows(module: Module, clock: Clock | None) -> None:
    """Carry out all rows from `first` up to `end`."""
    f = Function(module, "run_rows", [(POINTER, "first"), (POINTER, "end"), (POINTER, "frame")])
    first, end, frame = f.arguments

    def carry_out(row: Value) -> Value:
        """Carry out one row; the next one."""
        r = _Reader(f, row, frame)

        def work() -> Value:
            size, function = r.word(1, "words"), r.word(0, "function", POINTER)
            f.line(f"call void {function.text}({row}, {frame})")
            return row.at(size, I64)

        return work() if clock is None else clock.around(f, row, r.held("low"), work)

    def more(row: Value) -> Value:
        return f.op(f"icmp ult {row}, {end.text}", BOOL) & _Reader(f, row, frame).stays()

    _while(f, first, more, carry_out)


def _while(f: Function, first: Value, more: Callable[[Value], Value], body: Callable[[Value], Value]) -> None:
    """`v = first; while more(v): v = body(v)`."""
    head, inside, done = (f.fresh(n) for n in ("while", "do", "done"))
    before = f.block
    f.jump(head)
    f.start(head)
    v = Value(f, first.dtype, f"%{f.fresh('at')}")
    place = len(f.lines)
    f.branch(more(v), inside, done)
    f.start(inside)
    new = body(v)
    f.lines[place:place] = [f"  {v.text} = phi {v.type} [ {first.text}, %{before} ], [ {new.text}, %{f.block} ]"]
    f.jump(head)
    f.start(done)


def _emit_loop(module: Module) -> None:
    """Carry out the rows of a loop's body for each step.

    After an index was out of range no more steps are begun in a loop of any number of steps. All threads have to agree
    on this, since they wait for one another within a step. So each says before the barrier at the end of a step what
    it has seen, and what is said is read after the barrier: in turns at one of two words, since a thread may be at the
    end of the next step when another one reads.
    """
    f = Function(module, "run_loop", _ROW)
    row, frame = f.arguments
    r = _Reader(f, row, frame)
    words, length = r.word(1, "words"), r.word(2, "length")
    backwards, idle, count = r.word(3, "backwards"), r.word(4, "idle"), r.word(5, "moving")
    table, status = r.held("table"), r.held("status")
    any_number = length < 0
    low = any_number.select(r.held("first"), 0)
    high = any_number.select(r.held("last"), length)
    body = row.at(count * 4 + 6, I64)

    def go(t: Value) -> Value:
        at = (backwards != 0).select(length - 1 - t, t)

        def move(k: Value) -> None:
            start = k * 4 + 6
            base = r.address(table, start + 1, "base")
            moved = base.at(at * r.word(start + 3, "bytes"), _U8)
            f.line(f"store {moved}, {frame.at(r.word(start, 'moves'), I64)}, align 8")

        f.loop(0, count, 1, move, name="k")
        end = (t + 1 == high).select(words - idle, words)
        f.invoke("run_rows", [body, row.at(end, I64), frame])
        said = status.at((t & 1) + 2, I64)

        def agree() -> None:
            f.when(f.load(status, I64) != 0, lambda: f.store(f.const(1, I64), said), "stop")
            f.invoke("wait_for_all", [row, frame])

        stays = r.stays()  # who has left finds nobody at a barrier, and the caller's memory may be gone
        f.when(any_number & stays, agree, "agree")
        stopped = any_number & (f.load(stays.select(said, frame), I64) != 0)
        return (stopped | ~stays).select(high, t + 1)

    _while(f, low, lambda t: t < high, go)


def _emit_barrier(module: Module) -> None:
    """Wait until all threads are here; they may leave there."""
    f = Function(module, "wait_for_all", _ROW)
    row, frame = f.arguments
    r = _Reader(f, row, frame)
    stop, left = r.held("status").at(STOP, I64), frame.at(_FRAME.index("left"), I64)
    emit_barrier(f, r.held("meeting"), r.held("threads"), r.held("low") == 0, stop, left)
