"""The instruction set of scalar forms (`backlit.ops.scalars`) over LLVM values: an op's own formula becomes code.

`Native` is a `Scalars`. float16 is computed in float32 and rounded after every function, as NumPy does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlit.executors.native import functions
from backlit.executors.native.names import BOOL, F32, F64, I32, I64
from backlit.executors.native.value import Value

_F16 = np.dtype(np.float16)


class NativeScalars:
    """`Scalars` for values of a function that is being written."""

    # --- arithmetic

    def abs(self, x: Value) -> Value:
        if x.dtype.kind == "f":
            return functions.absolute(x)
        return x if x.dtype.kind == "u" else (x < 0).select(0 - x, x)

    def sign(self, x: Value) -> Value:
        one = x.f.const(1, x.dtype, x.lanes)
        size = (x > 0).select(one, 0)
        if x.dtype.kind == "u":
            return size
        size = (x < 0).select(-1, size)
        return (x == x).select(size, x) if x.dtype.kind == "f" else size

    def maximum(self, a: Any, b: Any) -> Value:
        return self._extreme(a, b, "gt", "lt")

    def minimum(self, a: Any, b: Any) -> Value:
        return self._extreme(a, b, "lt", "gt")

    def _extreme(self, a: Any, b: Any, better: str, worse: str) -> Value:
        if not isinstance(a, Value):
            a, b = b, a
        x: Value = a
        y: Any = b
        number = y.const if isinstance(y, Value) else y
        if number is not None and number == number:  # a comparison with nan is false, so nan stays
            return x._compare(worse, y).select(y, x)
        best = x._compare(better, y).select(x, y)
        return (x == x).select(best, x) if x.dtype.kind == "f" else best

    def where(self, condition: Value, a: Any, b: Any) -> Value:
        return condition.select(a, b)

    def floor(self, x: Value) -> Value:
        return self._intrinsic("floor", x)

    def round(self, x: Value) -> Value:
        return self._intrinsic("rint", x)

    def sqrt(self, x: Value) -> Value:
        return self._intrinsic("sqrt", x)

    def floor_divide(self, a: Any, b: Any) -> Value:
        x, y = self._pair(a, b)
        if x.dtype.kind != "f":
            return self._divided(x, y)[0]
        if x.dtype == _F16:
            return self._in_single(self.floor_divide, x, y)
        quotient = x / y
        rest = self._truncated_rest(x, y)
        exact = (x - rest) / y
        moved = (rest != 0.0) & ((rest < 0.0) ^ (y < 0.0))
        nearest = self.round(moved.select(exact - 1.0, exact))
        nearest = functions.copysign(nearest, (nearest == 0.0).select(quotient, nearest))
        return (y == 0.0).select(quotient, nearest)

    def remainder(self, a: Any, b: Any) -> Value:
        x, y = self._pair(a, b)
        if x.dtype.kind != "f":
            return self._divided(x, y)[1]
        return self._in_single(self.remainder, x, y) if x.dtype == _F16 else self._remainder(x, y)

    def _remainder(self, x: Value, y: Value) -> Value:
        """C's fmod has the sign of x: moved by y where that is not the sign of y."""
        rest = self._truncated_rest(x, y)
        moved = (rest < 0.0) ^ (y < 0.0)
        return (rest == 0.0).select(functions.copysign(rest, y), moved.select(rest + y, rest))

    def _truncated_rest(self, x: Value, y: Value) -> Value:
        return x.f.op(f"frem {x}, {y.text}", x.dtype, x.lanes)

    def _divided(self, x: Value, y: Value) -> tuple[Value, Value]:
        """Quotient, rounded down, and remainder of integers; both 0 for a divisor of 0."""
        f, signed = x.f, x.dtype.kind == "i"
        zero = y == 0
        safe = zero.select(1, y)
        if signed:  # the smallest integer by -1 would trap
            negated = y == -1
            safe = negated.select(1, safe)
        quotient = f.op(f"{'sdiv' if signed else 'udiv'} {x}, {safe.text}", x.dtype, x.lanes)
        if signed:
            quotient = negated.select(0 - x, quotient)
        rest = x - quotient * y
        if signed:
            low = (rest != 0) & ((rest < 0) ^ (y < 0))
            quotient, rest = low.select(quotient - 1, quotient), low.select(rest + y, rest)
        return zero.select(0, quotient), zero.select(0, rest)

    def fma(self, a: Value, b: Any, c: Any) -> Value:
        return a * b + c if a.dtype == _F16 else a.f.fma(a, b, c)

    # --- functions

    def exp(self, x: Value) -> Value:
        return self._function("exp", x)

    def expm1(self, x: Value) -> Value:
        return self._function("expm1", x)

    def log(self, x: Value) -> Value:
        return self._function("log", x)

    def log1p(self, x: Value) -> Value:
        return self._function("log1p", x)

    def sigmoid(self, x: Value) -> Value:
        return self._function("sigmoid", x)

    def tanh(self, x: Value) -> Value:
        return self._function("tanh", x)

    def sin(self, x: Value) -> Value:
        return self._in_single(self.sin, x) if x.dtype == _F16 else self._intrinsic("sin", x)

    def cos(self, x: Value) -> Value:
        return self._in_single(self.cos, x) if x.dtype == _F16 else self._intrinsic("cos", x)

    def pow(self, x: Any, n: Any) -> Value:
        a, b = self._pair(x, n)
        if a.dtype == _F16:
            return self._in_single(self.pow, a, b)
        if b.const in (1.0, 2.0, 3.0):
            return {1.0: a, 2.0: a * a, 3.0: a * a * a}[b.const]
        if b.const == 0.5:  # pow(-0.0, 0.5) is 0.0, pow(-inf, 0.5) inf
            return (a == -np.inf).select(np.inf, self.sqrt(a + 0.0))
        if b.const in (-1.0, -0.5):
            return 1.0 / self.pow(a, -b.const)
        return a.f.call("pow", a.dtype, a.lanes, [a, b])

    def _pair(self, a: Any, b: Any) -> tuple[Value, Value]:
        like = a if isinstance(a, Value) else b
        x, y = (v if isinstance(v, Value) else like.f.const(v, like.dtype, like.lanes) for v in (a, b))
        lanes = max(x.lanes, y.lanes)
        return x.splat(lanes), y.splat(lanes)

    def _intrinsic(self, name: str, x: Value) -> Value:
        return x.f.call(name, x.dtype, x.lanes, [x])

    def _function(self, name: str, x: Value) -> Value:
        if x.dtype == _F16:
            return self._in_single(lambda y: self._function(name, y), x)
        found: Value = getattr(functions, name)(x)
        return found

    def _in_single(self, function: Any, *values: Value) -> Value:
        return self.cast(function(*(self.cast(v, F32) for v in values)), _F16)

    # --- conversion

    def cast(self, x: Value, dtype: Any) -> Value:
        """As NumPy's astype; what is out of an integer dtype's range is unspecified."""
        to, kind = np.dtype(dtype), x.dtype.kind
        if to == x.dtype:
            return x
        if x.const is not None:
            with np.errstate(all="ignore"):
                return x.f.const(np.asarray(x.const, x.dtype).astype(to).item(), to, x.lanes)
        if to == BOOL:
            return x != 0
        if to == _F16 and x.dtype == F64:
            return _rounded_to_odd(x).convert("fptrunc", to)
        if kind == "f" and to.kind == "f":
            return x.convert("fptrunc" if to.itemsize < x.dtype.itemsize else "fpext", to)
        if kind == "f":
            if to.itemsize < 8:  # through 64 bits, which hold every value of both kinds
                return self.cast(x.convert("fptosi", I64), to)
            return x.convert("fptosi" if to.kind == "i" else "fptoui", to)
        if to.kind == "f":
            return x.convert("sitofp" if kind == "i" else "uitofp", to)
        if to.itemsize == x.dtype.itemsize and x.dtype != BOOL:
            return x.bitcast(to)
        if x.dtype != BOOL and to.itemsize < x.dtype.itemsize:
            return x.convert("trunc", to)
        return x.convert("sext" if kind == "i" else "zext", to)


def _rounded_to_odd(x: Value) -> Value:
    """float64 as float32, cut off, the last bit set if anything is lost: rounded once more, it is rounded correctly.

    Processors round to float16 from float32 only, and rounding twice may turn a number that lies just beside the middle
    of two the wrong way. (Boldo and Melquiond 2008.)
    """
    near = x.convert("fptrunc", F32)
    back = near.convert("fpext", F64)
    beyond = functions.absolute(back) > functions.absolute(x)
    bits = near.bitcast(I32)
    odd = (beyond.select(bits - 1, bits) | 1).bitcast(F32)
    return ((back == x) | (x != x)).select(near, odd)


SCALARS = NativeScalars()
