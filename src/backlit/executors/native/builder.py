"""Writing LLVM's language: modules, functions, blocks and loops; what is computed in them are `Value`s.

No fast-math flag is set anywhere: sums and products are IEEE's, `fma` is explicit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backlit.executors.native.names import (
    BOOL,
    I32,
    I64,
    POINTER,
    element,
    literal,
    overload,
    stored,
    vector,
    word,
)
from backlit.executors.native.value import Value


class Function:
    """One function being written. `arguments` are its parameters as values."""

    def __init__(self, module: Module, name: str, parameters: Sequence[tuple[Any, str]], linkage: str = "internal"):
        self.module, self.name = module, name
        self.lines: list[str] = []
        self.entry: list[str] = []  # stack slots
        self._used: dict[str, int] = {}
        self._hint = ""
        self.block = "entry"
        self.arguments = [Value(self, dtype, f"%{self.fresh(label)}") for dtype, label in parameters]
        signature = ", ".join(f"ptr noundef {v.text}" if v.dtype == POINTER else str(v) for v in self.arguments)
        self.head = f"void @{name}({signature})"
        self.linkage = linkage
        self.notes: list[str] = []  # comments above it
        self.data = ""  # constants that it reads
        self.invoked: dict[str, None] = {}  # functions of this module that it calls
        self.given: list[Value] = []  # what says where a kernel's pointers are
        module.functions.append(self)

    # --- text

    def fresh(self, hint: str) -> str:
        """A name that was not used before."""
        hint = word(hint)
        n = self._used.get(hint)
        if n is None:
            self._used[hint] = 1
            return hint
        while (name := f"{hint}.{n}") in self._used:
            n += 1
        self._used[hint], self._used[name] = n + 1, 1
        return name

    @contextmanager
    def naming(self, hint: str) -> Any:
        """Values made inside are named after `hint`."""
        old, self._hint = self._hint, hint
        try:
            yield
        finally:
            self._hint = old

    def comment(self, text: str) -> None:
        self.lines.append(f"  ; {text}")

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def op(self, text: str, dtype: Any, lanes: int = 1) -> Value:
        """An instruction that has a result."""
        name = f"%{self.fresh(self._hint or 'v')}"
        self.lines.append(f"  {name} = {text}")
        return Value(self, dtype, name, lanes)

    def const(self, number: Any, dtype: Any, lanes: int = 1) -> Value:
        text = literal(number, dtype)
        if lanes > 1:
            text = f"splat ({element(dtype)} {text})"
        return Value(self, dtype, text, lanes, number)

    def index(self, number: int | Value) -> Value:
        return number if isinstance(number, Value) else self.const(number, I64)

    def constants(self, numbers: Sequence[Any], dtype: np.dtype[Any]) -> Value:
        """A vector of given numbers."""
        if len(numbers) == 1:
            return self.const(numbers[0], dtype)
        each = ", ".join(f"{element(dtype)} {literal(n, dtype)}" for n in numbers)
        return Value(self, dtype, f"<{each}>", len(numbers))

    def first(self, lanes: int, count: int = 1) -> Value:
        """A mask of so many lanes, of which the first `count` are switched on."""
        return self.constants([i < count for i in range(lanes)], BOOL)

    def last(self, count: int) -> tuple[int, Value | None]:
        """Lanes of a vector for a row's last `count` elements: as few as hold them, under a mask where that is more."""
        lanes = 1 << (count - 1).bit_length()
        return lanes, None if lanes == count else self.first(lanes, count)

    def slot(self, dtype: np.dtype[Any], count: int, hint: str) -> Value:
        """Memory on the stack for `count` elements."""
        name = f"%{self.fresh(hint)}"
        self.entry.append(f"  {name} = alloca {stored(dtype)}, i64 {count}, align 64")
        return Value(self, POINTER, name)

    # --- memory

    def load(self, pointer: Value, dtype: np.dtype[Any], lanes: int = 1, mask: Value | None = None) -> Value:
        """Neighbouring elements; lanes that the mask switches off are 0 and not read."""
        name, align = vector(stored(dtype), lanes), dtype.itemsize
        kept = np.dtype(np.uint8) if dtype == BOOL else dtype
        if mask is None or lanes == 1:
            got = self.op(f"load {name}, {pointer}, align {align}", kept, lanes)
        else:
            got = self.call(
                "masked.load",
                kept,
                lanes,
                [pointer, *self._align(align), mask, self.const(0, kept, lanes)],
                suffix=f"{overload(kept, lanes)}.p0",
            )
        return got != 0 if dtype == BOOL else got

    def store(self, value: Value, pointer: Value, mask: Value | None = None) -> None:
        align = value.dtype.itemsize
        if value.dtype == BOOL:
            value = value.convert("zext", np.dtype(np.uint8))
        if mask is not None and value.lanes > 1 and mask.text == self.first(value.lanes).text:
            value = value.lane(0)  # LLVM 22 writes past a truncated number whose lane is the only one that is on
        if mask is None or value.lanes == 1:
            self.line(f"store {value}, {pointer}, align {align}")
        else:
            self.call(
                "masked.store",
                None,
                1,
                [value, pointer, *self._align(align), mask],
                suffix=f"{overload(value.dtype, value.lanes)}.p0",
            )

    def gather(self, pointers: Value, dtype: np.dtype[Any], mask: Value | None = None) -> Value:
        """One element from each of a vector of places."""
        if pointers.lanes == 1:
            return self.load(pointers, dtype)
        lanes, kept = pointers.lanes, np.dtype(np.uint8) if dtype == BOOL else dtype
        mask = mask or self.const(True, BOOL, lanes)
        arguments = [pointers, *self._align(dtype.itemsize), mask, self.const(0, kept, lanes)]
        got = self.call("masked.gather", kept, lanes, arguments, suffix=f"{overload(kept, lanes)}.v{lanes}p0")
        return got != 0 if dtype == BOOL else got

    def scatter(self, value: Value, pointers: Value, mask: Value | None = None) -> None:
        """One element to each of a vector of places."""
        if pointers.lanes == 1:
            return self.store(value, pointers)
        align, lanes = value.dtype.itemsize, value.lanes
        if value.dtype == BOOL:
            value = value.convert("zext", np.dtype(np.uint8))
        arguments = [value, pointers, *self._align(align), mask or self.const(True, BOOL, lanes)]
        self.call("masked.scatter", None, 1, arguments, suffix=f"{overload(value.dtype, lanes)}.v{lanes}p0")
        return None

    def _align(self, align: int) -> list[Value]:
        return [self.const(align, I32)]

    def prefetch(self, pointer: Value) -> None:
        """Ask for the line at a place, whatever is there, into the second-level cache."""
        self.call("prefetch", None, 1, [pointer, *(self.const(n, I32) for n in (0, 2, 1))], suffix="p0")

    def copy(self, target: Value, source: Value, count: int) -> None:
        """So many bytes from one place to another."""
        arguments = [target, source, self.const(count, I64), self.const(False, BOOL)]
        self.call("memcpy", None, 1, arguments, suffix="p0.p0.i64")

    # --- calls

    def call(self, name: str, dtype: Any, lanes: int, arguments: Sequence[Value], suffix: str | None = None) -> Value:
        """One of LLVM's intrinsics; overloaded on its result unless a suffix says otherwise."""
        kind = overload(dtype, lanes) if suffix is None else suffix
        symbol = f"llvm.{name}.{kind}" if kind else f"llvm.{name}"
        result = "void" if dtype is None else vector(element(dtype), lanes)
        self.module.declare(symbol, f"declare {result} @{symbol}({', '.join(a.type for a in arguments)})")
        text = f"call {result} @{symbol}({', '.join(map(str, arguments))})"
        if dtype is None:
            self.line(text)
            return self.const(0, I64)
        return self.op(text, dtype, lanes)

    def invoke(self, name: str, arguments: Sequence[Value]) -> None:
        """A function of this module."""
        self.invoked[name] = None
        self.line(f"call void @{name}({', '.join(map(str, arguments))})")

    def fma(self, a: Value, b: Any, c: Any) -> Value:
        """a b + c, rounded once where the target can."""
        lanes = max(v.lanes if isinstance(v, Value) else 1 for v in (a, b, c))
        values = [v.splat(lanes) if isinstance(v, Value) else self.const(v, a.dtype, lanes) for v in (a, b, c)]
        return self.call("fma" if self.module.target.fused else "fmuladd", a.dtype, lanes, values)

    # --- control

    def start(self, label: str) -> None:
        """A new block, which becomes the current one."""
        self.lines.append(f"{label}:")
        self.block = label

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        self.line(f"br {condition}, label %{yes}, label %{no}")

    def loop(
        self,
        low: int | Value,
        high: int | Value,
        step: int,
        body: Callable[..., Sequence[Value] | None],
        carry: Sequence[Value] = (),
        name: str = "i",
        written_out: bool = False,
        entered: bool = False,
    ) -> list[Value]:
        """`for i in range(low, high, step): carry = body(i, *carry)`; gives the last carry.

        `written_out`: one turn after the other, if it is known how many there are. `entered`: there is a turn at least.
        """
        a, b = self.index(low), self.index(high)
        known = a.const is not None and b.const is not None
        if known and (written_out or b.const - a.const <= step):
            for turn in range(a.const, b.const, step):
                carry = body(self.index(turn), *carry) or ()
            return list(carry)
        head, done = self.fresh(f"{name}.loop"), self.fresh(f"{name}.done")
        before = self.block
        if known or entered:
            self.jump(head)
        else:
            self.branch(a < b, head, done)
        self.start(head)
        i = Value(self, I64, f"%{self.fresh(name)}")
        held = [Value(self, c.dtype, f"%{self.fresh(name + '.carry')}", c.lanes) for c in carry]
        place = len(self.lines)
        new = list(body(i, *held) or ())
        following = self.op(f"add nuw nsw {i}, {step}", I64)
        last = self.block
        self.branch(following < b, head, done)
        phis = [f"  {i.text} = phi i64 [ {a.text}, %{before} ], [ {following.text}, %{last} ]"]
        for h, old, c in zip(held, carry, new, strict=True):
            phis.append(f"  {h.text} = phi {h.type} [ {old.text}, %{before} ], [ {c.text}, %{last} ]")
        self.lines[place:place] = phis
        self.start(done)
        if known or entered:
            return new
        pairs = zip(carry, new, strict=True)
        return [
            self.op(f"phi {c.type} [ {old.text}, %{before} ], [ {c.text}, %{last} ]", c.dtype, c.lanes)
            for old, c in pairs
        ]

    def when(self, condition: Value, body: Callable[[], None], name: str = "then") -> None:
        """`if condition: body()`."""
        yes, done = self.fresh(name), self.fresh(f"{name}.done")
        self.branch(condition, yes, done)
        self.start(yes)
        body()
        self.jump(done)
        self.start(done)

    def meaning(self) -> str:
        """The function's text with numbers for all names of its own: equal ones do the same."""
        number: dict[str, str] = {}

        def unnamed(found: re.Match[str]) -> str:
            return number.setdefault(found[0].strip("%:"), f"%{len(number)}")

        arguments = self.head.partition("(")[2]
        return re.sub(r"%[\w.]+|^[\w.]+:", unnamed, "\n".join([arguments, *self.entry, *self.lines]), flags=re.M)

    def text(self, alone: bool = False) -> str:
        """The function; `alone`: where functions of other modules may call it."""
        linkage = "hidden" if alone and self.linkage else self.linkage
        inlined = "alwaysinline " if self.module.inline and self.linkage else ""
        head = f"define {linkage} {self.head} {inlined}#0 {{".replace("  ", " ")
        above = [*([self.data] if self.data else []), *(f"; {note}" for note in self.notes)]
        return "\n".join([*above, head, "entry:", *self.entry, *self.lines, "  ret void", "}"])


def kernel_function(
    module: Module, name: str, pointers: Sequence[str], more: Sequence[tuple[Any, str]] = ()
) -> Function:
    """The function of a kernel, or of a part of one. Its `arguments` are the pointers, the range that it is called for
    (begin, end), the status, the number of its first check, and what a part is given `more`.

    As a part of its caller it is given each of them. Otherwise all kernels are called alike, by their addresses, and
    find their pointers in a row. What was given for the pointers, `f.given`, is given to a part.
    """
    more = [(I64, "begin"), (I64, "end"), (POINTER, "status"), (I64, "check"), *more]
    if module.inline:
        f = Function(module, name, [*((POINTER, p) for p in pointers), *more])
        f.given = f.arguments[: len(pointers)]
        return f
    f = Function(module, name, [(POINTER, "pointers"), *more])
    row, *others = f.arguments
    f.given = [row]
    found = []
    for k, pointer in enumerate(pointers):
        with f.naming(pointer):
            found.append(f.op(f"load ptr, {row.at(k, I64)}, align 8", POINTER))
    f.arguments = [*found, *others]
    return f


def invoke_kernel(f: Function, name: str, pointers: Sequence[Value], others: Sequence[Value]) -> None:
    """Call a `kernel_function` of the module with pointers of the caller's own."""
    if not f.module.inline:
        row = f.slot(I64, len(pointers), "row")
        for k, pointer in enumerate(pointers):
            f.line(f"store {pointer}, {row.at(k, I64)}, align 8")
        pointers = [row]
    f.invoke(name, [*pointers, *others])


class Module:
    """A set of functions for one target. With `inline` all but those for outside become part of their callers."""

    def __init__(self, target: Any, inline: bool = False) -> None:
        self.target, self.inline = target, inline
        self.functions: list[Function] = []
        self._declarations: dict[str, str] = {}
        self._shared: dict[str, str] = {}  # names of functions by their meanings

    def declare(self, symbol: str, text: str) -> None:
        self._declarations.setdefault(symbol, text)

    def shared(self, f: Function) -> str:
        """The name of a function that does what this one does, which is dropped where that is another one."""
        name = self._shared.setdefault(f.meaning(), f.name)
        if name != f.name:
            self.functions.remove(f)
        return name

    def text(self, part: Sequence[Function] | None = None) -> str:
        """The module; or a part of its functions, as a module that is linked to the other parts."""
        functions = self.functions if part is None else part
        wanted = {name for f in functions for name in f.invoked} - {f.name for f in functions}
        others = {f.name: f"declare hidden {f.head} #0" for f in self.functions if f.name in wanted}
        declared = self._declarations | others
        bits = 8 * self.target.vector_bytes
        wide = f' "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"' if bits == 512 else ""
        parts = [
            f'target triple = "{self.target.triple}"',
            "\n\n".join(f.text(alone=part is not None) for f in functions),
            "\n".join(declared[k] for k in sorted(declared)),
            f'attributes #0 = {{ nounwind "target-cpu"="{self.target.cpu}"'
            f' "target-features"="{self.target.features}"{wide} }}',
        ]
        return "\n\n".join(parts) + "\n"
