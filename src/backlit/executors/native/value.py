"""Typed values with Python's operators: the arithmetic of a kernel reads as arithmetic.

A `Value` is one SSA value of a function: a number, or a vector of `lanes` numbers, of one dtype. Operators append
instructions to the function at its current block. Integer constants fold at once, which keeps address computations
short. Vectors and numbers are written alike: the same Python code makes either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.executors.native.names import (
    BOOL,
    F32,
    F64,
    I64,
    POINTER,
    element,
    stored,
    typed,
)

if TYPE_CHECKING:
    from backlit.executors.native.builder import Function

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
    __slots__ = ("_spread", "const", "dtype", "f", "lanes", "text")

    def __init__(self, f: Function, dtype: Any, text: str, lanes: int = 1, const: Any = None) -> None:
        self.f, self.dtype, self.text, self.lanes, self.const = f, dtype, text, lanes, const
        self._spread: tuple[str, Value] | None = None  # the number in every lane, and the block where that was made

    @property
    def type(self) -> str:
        return typed(self.dtype, self.lanes)

    def __str__(self) -> str:
        return f"{typed(self.dtype, self.lanes)} {self.text}"

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
        """What `divided` needs to know of a divisor: its size and 1 / size, both scaled, and the scale with its sign.

        The size is made larger if it is so small that its reciprocal would overflow.
        """
        size = self.f.call("fabs", self.dtype, self.lanes, [self])
        scale = (size < 2.0**-60).select(self.f.const(2.0**60, self.dtype, self.lanes), 1.0)
        signed = self.f.call("copysign", self.dtype, self.lanes, [scale, self])
        size = size * scale
        return size, 1.0 / size, signed

    def divided(self, size: Value, r: Value, scale: Value) -> Value:
        """Divided by what `reciprocal` was asked of: a product, and what that lacks made up for.

        q = x r,  q - (o q - x) r  is x / o correctly rounded (Markstein 1990), with the sign of x where it is 0, since
        o and r are positive. Where the correction is no number (o is 0 or infinite, q overflows) q is right already.
        """
        x = self * scale
        q = x * r
        better = self.f.fma(-self.f.fma(size, q, -x), r, q)
        return (better == better).select(better, q)

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
        if self._spread is not None and self._spread[0] == self.f.block and self._spread[1].lanes == lanes:
            return self._spread[1]
        wide = typed(self.dtype, lanes)
        first = self.f.op(f"insertelement {wide} poison, {self}, i64 0", self.dtype, lanes)
        all_alike = f"shufflevector {first}, {wide} poison, <{lanes} x i32> zeroinitializer"
        self._spread = self.f.block, self.f.op(all_alike, self.dtype, lanes)
        return self._spread[1]

    def convert(self, how: str, dtype: Any) -> Value:
        """By LLVM's conversion instruction: `sext`, `fptrunc`, `bitcast`, ..."""
        return self.f.op(f"{how} {self} to {typed(dtype, self.lanes)}", dtype, self.lanes)

    def bitcast(self, dtype: np.dtype[Any]) -> Value:
        if element(dtype) == element(self.dtype):
            return Value(self.f, dtype, self.text, self.lanes, self.const)
        return self.convert("bitcast", dtype)

    def lane(self, i: int) -> Value:
        """The number in one lane."""
        return self if self.lanes == 1 else self.f.op(f"extractelement {self}, i64 {i}", self.dtype)

    def shuffled(self, order: Sequence[int], other: Value | None = None) -> Value:
        """These lanes, in this order; those of another vector are counted on."""
        if len(order) == 1:
            return self.lane(order[0])
        mask = ", ".join(f"i32 {i}" for i in order)
        more = other or f"{self.type} poison"
        return self.f.op(f"shufflevector {self}, {more}, <{len(order)} x i32> <{mask}>", self.dtype, len(order))

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
