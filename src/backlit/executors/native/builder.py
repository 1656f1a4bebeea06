"""Writing LLVM's language: functions, blocks, loops, and typed values with Python's operators.

A `Value` is one SSA value of a function: a number, or a vector of `lanes` numbers, of one dtype. Operators append
instructions to the function at its current block, so the arithmetic of a kernel reads as arithmetic. Integer constants
fold at once, which keeps address computations short. Vectors and numbers are written alike: the same Python code makes
either.

No fast-math flag is set anywhere: sums and products are IEEE's, `fma` is explicit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backlit.executors.native.names import (
    BOOL,
    F32,
    F64,
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

_OPPOSITE = {"add": "fadd", "sub": "fsub", "mul": "fmul"}
_COMPARE = {  # predicate for floats, signed and unsigned integers
    "eq": ("oeq", "eq", "eq"),
    "ne": ("une", "ne", "ne"),
    "lt": ("olt", "slt", "ult"),
    "le": ("ole", "sle", "ule"),
    "gt": ("ogt", "sgt", "ugt"),
    "ge": ("oge", "sge", "uge"),
}


class Value:
    """One SSA value. `const` is its number where it is known while the code is written."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("const", "dtype", "f", "lanes", "text")

    def __init__(self, f: Function, dtype: Any, text: str, lanes: int = 1, const: Any = None) -> None:
        self.f, self.dtype, self.text, self.lanes, self.const = f, dtype, text, lanes, const

    @property
    def type(self) -> str:
        return vector(element(self.dtype), self.lanes)

    def __str__(self) -> str:
        return f"{self.type} {self.text}"

    # --- arithmetic

    def _with(self, other: Any) -> Value:
        if isinstance(other, Value):
            return other.splat(self.lanes) if other.lanes < self.lanes else other
        return self.f.const(other, self.dtype, self.lanes)

    def _binary(self, op: str, other: Any, swapped: bool = False) -> Value:
        o = self._with(other)
        s = self.splat(o.lanes) if self.lanes < o.lanes else self
        a, b = (o, s) if swapped else (s, o)
        if a.dtype.kind in "iu" and (folded := _folded(op, a, b)) is not None:
            return folded
        if a.dtype.kind == "f":
            op = _OPPOSITE.get(op, op)
        return self.f.op(f"{op} {a}, {b.text}", a.dtype, a.lanes)

    def __add__(self, o: Any) -> Value:
        return self._binary("add", o)

    def __radd__(self, o: Any) -> Value:
        return self._binary("add", o, True)

    def __sub__(self, o: Any) -> Value:
        return self._binary("sub", o)

    def __rsub__(self, o: Any) -> Value:
        return self._binary("sub", o, True)

    def __mul__(self, o: Any) -> Value:
        return self._binary("mul", o)

    def __rmul__(self, o: Any) -> Value:
        return self._binary("mul", o, True)

    def __truediv__(self, o: Any) -> Value:
        other = o if isinstance(o, Value) else self.f.const(o, self.dtype)
        if other.lanes < self.lanes and self.dtype in (F32, F64) and self.f.module.target.fused:
            return self._divided(other)
        return self._binary("fdiv", o)

    def __rtruediv__(self, o: Any) -> Value:
        return self._binary("fdiv", o, True)

    def _divided(self, o: Value) -> Value:
        return self.divided(*o.reciprocal())

    def reciprocal(self) -> tuple[Value, Value, Value]:
        """What `divided` needs to know of a divisor: the divisor and 1 / divisor, both scaled, and the scale.

        Both are made larger if the divisor is so small that its reciprocal would overflow.
        """
        size = self.f.call("fabs", self.dtype, self.lanes, [self])
        scale = (size < 2.0**-60).select(self.f.const(2.0**60, self.dtype, self.lanes), 1.0)
        divisor = self * scale
        return divisor, 1.0 / divisor, scale

    def divided(self, divisor: Value, r: Value, scale: Value) -> Value:
        """Divided by what `reciprocal` was asked of: a product, and what that lacks made up for.

        q = x r,  q + (x - o q) r  is x / o correctly rounded (Markstein 1990). Where the correction is no number
        (o is 0 or infinite, q overflows) or would lose the sign of a zero, q is right already.
        """
        x = self * scale
        q = x * r
        better = self.f.fma(self.f.fma(-divisor, q, x), r, q)
        return ((better == better) & (q != 0.0)).select(better, q)

    def __floordiv__(self, o: Any) -> Value:
        """Of nonnegative integers."""
        return self._binary("udiv", o)

    def __mod__(self, o: Any) -> Value:
        """Of nonnegative integers."""
        return self._binary("urem", o)

    def __and__(self, o: Any) -> Value:
        return self._binary("and", o)

    def __rand__(self, o: Any) -> Value:
        return self._binary("and", o, True)

    def __or__(self, o: Any) -> Value:
        return self._binary("or", o)

    def __ror__(self, o: Any) -> Value:
        return self._binary("or", o, True)

    def __xor__(self, o: Any) -> Value:
        return self._binary("xor", o)

    def __rxor__(self, o: Any) -> Value:
        return self._binary("xor", o, True)

    def __lshift__(self, o: Any) -> Value:
        return self._shift("shl", o)

    def __rshift__(self, o: Any) -> Value:
        return self._shift("ashr" if self.dtype.kind == "i" else "lshr", o)

    def __rlshift__(self, o: Any) -> Value:
        return self._with(o)._shift("shl", self)

    def __rrshift__(self, o: Any) -> Value:
        return self._with(o)._shift("ashr" if self.dtype.kind == "i" else "lshr", self)

    def _shift(self, op: str, other: Any) -> Value:
        """As NumPy: a count that is negative or not below the width moves every bit out."""
        bits = 8 * self.dtype.itemsize
        o = self._with(other)
        if o.const is not None and 0 <= o.const < bits:
            return self._binary(op, o)
        unsigned = o.bitcast(np.dtype(f"uint{bits}"))
        inside: Value = unsigned < bits
        moved = self._binary(op, inside.select(o, 0))
        gone = self._binary("ashr", bits - 1) if op == "ashr" else self.f.const(0, self.dtype, self.lanes)
        return inside.select(moved, gone)

    def __neg__(self) -> Value:
        return self.f.op(f"fneg {self}", self.dtype, self.lanes) if self.dtype.kind == "f" else 0 - self

    def __invert__(self) -> Value:
        return self ^ (True if self.dtype == BOOL else -1)

    # --- comparison and choice

    def compare(self, predicate: str, other: Any) -> Value:
        """By LLVM's predicate: `olt`, `uno`, `slt`, ..."""
        o = self._with(other)
        s = self.splat(o.lanes) if self.lanes < o.lanes else self
        return self.f.op(f"{'fcmp' if s.dtype.kind == 'f' else 'icmp'} {predicate} {s}, {o.text}", BOOL, s.lanes)

    def _compare(self, name: str, other: Any) -> Value:
        return self.compare(_COMPARE[name]["fi".find(self.dtype.kind) if self.dtype.kind in "fi" else 2], other)

    def __eq__(self, o: object) -> Value:  # type: ignore[override]
        return self._compare("eq", o)

    def __ne__(self, o: object) -> Value:  # type: ignore[override]
        return self._compare("ne", o)

    def __lt__(self, o: Any) -> Value:
        return self._compare("lt", o)

    def __le__(self, o: Any) -> Value:
        return self._compare("le", o)

    def __gt__(self, o: Any) -> Value:
        return self._compare("gt", o)

    def __ge__(self, o: Any) -> Value:
        return self._compare("ge", o)

    def select(self, a: Any, b: Any) -> Value:
        """a where this boolean holds, else b; at least one of them is a Value."""
        like = a if isinstance(a, Value) else b
        a, b = (v if isinstance(v, Value) else self.f.const(v, like.dtype, like.lanes) for v in (a, b))
        lanes = max(self.lanes, a.lanes, b.lanes)
        a, b = a.splat(lanes), b.splat(lanes)
        return self.f.op(f"select {self}, {a}, {b}", a.dtype, lanes)

    # --- conversion

    def splat(self, lanes: int) -> Value:
        """The number in every lane."""
        if self.lanes == lanes:
            return self
        assert self.lanes == 1
        if self.const is not None:
            return self.f.const(self.const, self.dtype, lanes)
        wide = vector(element(self.dtype), lanes)
        first = self.f.op(f"insertelement {wide} poison, {self}, i64 0", self.dtype, lanes)
        return self.f.op(f"shufflevector {first}, {wide} poison, <{lanes} x i32> zeroinitializer", self.dtype, lanes)

    def convert(self, how: str, dtype: Any) -> Value:
        """By LLVM's conversion instruction: `sext`, `fptrunc`, `bitcast`, ..."""
        return self.f.op(f"{how} {self} to {vector(element(dtype), self.lanes)}", dtype, self.lanes)

    def bitcast(self, dtype: np.dtype[Any]) -> Value:
        if element(dtype) == element(self.dtype):
            return Value(self.f, dtype, self.text, self.lanes, self.const)
        return self.convert("bitcast", dtype)

    def lane(self, i: int) -> Value:
        """The number in one lane."""
        return self if self.lanes == 1 else self.f.op(f"extractelement {self}, i64 {i}", self.dtype)

    def shuffled(self, order: Sequence[int]) -> Value:
        """The lanes in another order."""
        if len(order) == 1:
            return self.lane(order[0])
        mask = ", ".join(f"i32 {i}" for i in order)
        return self.f.op(
            f"shufflevector {self}, {self.type} poison, <{len(order)} x i32> <{mask}>", self.dtype, len(order)
        )

    # --- memory (of a pointer)

    def at(self, offset: Any, dtype: np.dtype[Any]) -> Value:
        """The pointer moved by so many elements of dtype."""
        if (offset.const if isinstance(offset, Value) else offset) == 0:
            return self
        index = offset if isinstance(offset, Value) else self.f.const(offset, I64)
        wide = self.lanes if index.lanes == 1 else index.lanes
        return self.f.op(f"getelementptr {stored(dtype)}, {self}, {index}", POINTER, wide)


def _folded(op: str, a: Value, b: Value) -> Value | None:
    """Integer arithmetic on known numbers, and the neutral elements."""
    if a.const is not None and b.const is not None and op in ("add", "sub", "mul") and a.dtype == I64:
        x, y = int(a.const), int(b.const)
        return a.f.const({"add": x + y, "sub": x - y, "mul": x * y}[op], a.dtype, a.lanes)
    if b.const == 0 and op in ("add", "sub"):
        return a
    if a.const == 0 and op == "add":
        return b
    if b.const == 1 and op in ("mul", "udiv"):
        return a
    if a.const == 1 and op == "mul":
        return b
    if op == "mul" and (a.const == 0 or b.const == 0):
        return a.f.const(0, a.dtype, a.lanes)
    return None


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
        self.invoked: dict[str, None] = {}  # functions of this module that it calls
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
    ) -> list[Value]:
        """`for i in range(low, high, step): carry = body(i, *carry)`; gives the last carry."""
        a, b = self.index(low), self.index(high)
        known = a.const is not None and b.const is not None
        if known and a.const >= b.const:
            return list(carry)
        if known and b.const - a.const <= step:
            return list(body(a, *carry) or ())
        head, done = self.fresh(f"{name}.loop"), self.fresh(f"{name}.done")
        before = self.block
        if known:
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
        if known:
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

    def text(self, alone: bool = False) -> str:
        """The function; `alone`: where functions of other modules may call it."""
        linkage = "hidden" if alone and self.linkage else self.linkage
        inlined = "alwaysinline " if self.module.inline and self.linkage else ""
        head = f"define {linkage} {self.head} {inlined}#0 {{".replace("  ", " ")
        return "\n".join(
            [*(f"; {note}" for note in self.notes), head, "entry:", *self.entry, *self.lines, "  ret void", "}"]
        )


class Module:
    """A set of functions for one target. With `inline` all but those for outside become part of their callers."""

    def __init__(self, target: Any, inline: bool = False) -> None:
        self.target, self.inline = target, inline
        self.functions: list[Function] = []
        self._declarations: dict[str, str] = {}

    def declare(self, symbol: str, text: str) -> None:
        self._declarations.setdefault(symbol, text)

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
