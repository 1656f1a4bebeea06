"""exp, log, tanh and their kin as straight-line code: the same for a number and for a vector, without branches.

Each reduces its argument to a small interval, where a polynomial is accurate to rounding, and undoes the reduction:

    exp x     x = n ln 2 + r, |r| <= ln 2 / 2:      e^x = 2^n e^r
    log x     x = 2^n m, sqrt(1/2) <= m < sqrt 2:   log x = n ln 2 + 2 artanh(s), s = (m - 1) / (m + 1)
    sigmoid   x = n ln 2 + r:                       2^-k / (2^-k + 2^(-n - k) e^-r), where no power leaves the range
    tanh x    = h / (1 - h), h = (1 - e^(-2 |x|)) / 2, with the sign of x

Errors are at most 2 units in the last place (3 for tanh and sigmoid); nan, infinities, signed zeros and denormals come
out as IEEE 754 wants. ln 2 is split in two numbers of which the first has trailing zeros, so that n times it is exact
(Cody & Waite 1980). sin, cos and pow are the C library's, one lane at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.executors.native.names import F32, F64
from backlit.executors.native.value import Value


@dataclass(frozen=True)
class _Format:
    """A floating-point format: bits of the fraction, bias of the exponent, and the numbers that depend on them."""

    integer: np.dtype[Any]
    bits: int
    bias: int
    magic: float  # added and taken away again, it rounds to an integer; the low bits of n lie in the lowest of the sum
    ln2: tuple[float, float]
    largest: float  # e^x overflows above
    smallest: float  # e^x is 0 below
    exp: Sequence[float]  # (e^r - 1 - r) / r^2, lowest power first
    log: Sequence[float]  # (2 artanh(s) / s - 2) / s^2 in powers of s^2
    least: float  # the smallest normal number
    scale: float  # brings denormals into the normal range
    shift: int  # its logarithm


_SINGLE = _Format(
    np.dtype(np.int32), 23, 127, 1.5 * 2.0**23, (0.693145751953125, 1.42860682030941723e-06), 88.8, -104.0,
    [0.5, 0.16666519, 0.04166621, 0.00836889, 0.00139505],  # least error of e^r for |r| <= ln 2 / 2: 4e-9
    [2 / (2 * k + 1) for k in range(1, 6)], 2.0**-126, 2.0**24, 24,
)  # fmt: skip
_DOUBLE = _Format(
    np.dtype(np.int64), 52, 1023, 1.5 * 2.0**52, (6.9314718036912382e-01, 1.90821492927058770e-10), 709.8, -746.0,
    [1 / math.factorial(k) for k in range(2, 15)], [2 / (2 * k + 1) for k in range(1, 12)], 2.0**-1022, 2.0**54, 54,
)  # fmt: skip
_FORMATS = {F32: _SINGLE, F64: _DOUBLE}


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """By Estrin's rule: neighbours are joined in pairs, which need not wait for one another, then pairs of pairs with
    x^2, and so on. Coefficients from the lowest power."""
    terms: list[Any] = list(coefficients)
    while len(terms) > 1:
        joined = [_join(x, low, high) for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = joined + terms[2 * len(joined) :]
        if len(terms) > 1:
            x = x * x
    return terms[0]  # type: ignore[no-any-return]


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule: the fewest instructions, each of which waits for the one before it."""
    *lower, total = coefficients
    value = x.f.const(total, x.dtype, x.lanes)
    for c in reversed(lower):
        value = _join(x, c, value)
    return value


def _join(x: Value, low: Any, high: Any) -> Value:
    """low + high x, of which both may be numbers."""
    high = high if isinstance(high, Value) else x.f.const(high, x.dtype, x.lanes)
    return x.f.fma(high, x, low)


def absolute(x: Value) -> Value:
    """|x|: the sign bit off."""
    return x.f.call("fabs", x.dtype, x.lanes, [x])


def copysign(size: Value, sign: Value) -> Value:
    """`size` with the sign of `sign`."""
    return size.f.call("copysign", size.dtype, size.lanes, [size, sign])


def clamp(x: Value, low: float, high: float) -> Value:
    """x within the bounds; nan stays."""
    x = (x > high).select(high, x)
    return (x < low).select(low, x)


def _reduced(x: Value) -> tuple[Value, Value, Value]:
    """n (a number, and in the low bits of an integer) and r with x = n ln 2 + r, for x of moderate size."""
    form = _FORMATS[x.dtype]
    shifted = x.f.fma(x, 1 / math.log(2), form.magic)
    n = shifted - form.magic
    r = x.f.fma(n, -form.ln2[0], x)
    return n, shifted.bitcast(form.integer), x.f.fma(n, -form.ln2[1], r)


def _power_of_two(n: Value, form: _Format, dtype: np.dtype[Any]) -> Value:
    """2^n for an integer n in the range of normal exponents."""
    return ((n + form.bias) << form.bits).bitcast(dtype)


def _expm1_reduced(r: Value) -> Value:
    """e^r - 1 for |r| <= ln 2 / 2."""
    return r.f.fma(r * r, polynomial(r, _FORMATS[r.dtype].exp), r)


def exp(x: Value) -> Value:
    """e^x: inf above the range, gradual underflow to 0 below it."""
    form = _FORMATS[x.dtype]
    _, bits, r = _reduced(clamp(x, form.smallest, form.largest))
    # n and n / 2 where exponents are, the rest is shifted out; in two steps, since 2^n itself may leave the range
    whole, half, one = bits << form.bits, (bits >> 1) << form.bits, form.bias << form.bits
    power = (half + one).bitcast(x.dtype)
    return x.f.fma(_expm1_reduced(r), power, power) * (whole - half + one).bitcast(x.dtype)


def expm1(x: Value) -> Value:
    """e^x - 1 = 2^n (e^r - 1) + (2^n - 1)."""
    form = _FORMATS[x.dtype]
    _, bits, r = _reduced(clamp(x, -60.0, form.largest))
    n = bits - _bits(form.magic, x.dtype)
    top = n > form.bias  # 2^n would overflow although the result may not
    n = top.select(n - 1, n)
    power = _power_of_two(n, form, x.dtype)
    value = x.f.fma(power, _expm1_reduced(r), power - 1.0)
    value = top.select(value * 2.0 + 1.0, value)
    return (x == 0.0).select(x, value)  # keeps -0.0


def log(x: Value) -> Value:
    """-inf at 0, nan below, inf at inf."""
    form = _FORMATS[x.dtype]
    tiny = x < form.least
    scaled = tiny.select(x * form.scale, x)
    offset = _bits(math.sqrt(0.5), x.dtype)
    bits = scaled.bitcast(form.integer) - offset
    exponent = bits >> form.bits
    m = (scaled.bitcast(form.integer) - (exponent << form.bits)).bitcast(x.dtype)
    n = tiny.select(exponent - form.shift, exponent).convert("sitofp", x.dtype)
    value = _log_near_one(m - 1.0, n, form)
    value = (x == math.inf).select(x, value)
    value = (x == 0.0).select(-math.inf, value)
    return (x < 0.0).select(math.nan, (x == x).select(value, x))


def _log_near_one(g: Value, n: Value, form: _Format) -> Value:
    """log(1 + g) + n ln 2, for 1 + g between sqrt(1/2) and sqrt(2).

    2 artanh(s) = g - (g^2 / 2 - s (g^2 / 2 + R)), s = g / (g + 2): the large part g is exact.
    """
    f = g.f
    s = g / (g + 2.0)
    square = s * s
    rest = polynomial(square, form.log) * square
    half = g * g * 0.5
    low = f.fma(n, form.ln2[1], s * (half + rest))
    return f.fma(n, form.ln2[0], g - (half - low))


def log1p(x: Value) -> Value:
    """log(u) + (what rounding u = 1 + x lost) / u."""
    u = x + 1.0
    lost = x - (u - 1.0)
    lost = (absolute(x) > 1.0).select(1.0 - (u - x), lost)
    value = log(u) + lost / u
    value = (absolute(u) == math.inf).select(log(u), value)
    value = (u == 0.0).select(-math.inf, value)
    return (absolute(x) < (2.0**-24 if x.dtype == F32 else 2.0**-53)).select(x, value)


def sigmoid(x: Value) -> Value:
    """1 / (1 + e^-x), both times 2^-k: then 2^-n need not be within the range for the quotient to be."""
    form, k = _FORMATS[x.dtype], _FORMATS[x.dtype].bits + 1
    _, bits, r = _reduced(clamp(x, form.smallest, k * math.log(2) + 1))
    power = ((form.bias - k + _bits(form.magic, x.dtype) - bits) << form.bits).bitcast(x.dtype)
    e = horner(-r, [1.0, 1.0, *form.exp])
    return 2.0**-k / x.f.fma(e, power, 2.0**-k)


def tanh(x: Value) -> Value:
    """The same on both sides of 0; 1 from where it rounds to 1."""
    form, a = _FORMATS[x.dtype], absolute(x)
    a = (a > form.bits).select(float(form.bits), a)
    shifted = x.f.fma(a, -2 / math.log(2), form.magic)  # -2 a = n ln 2 - 2 s; one number for ln 2 is enough, since
    s = x.f.fma(shifted - form.magic, math.log(2) / 2, a)  # its error grows with n, while 2^n gets smaller
    power = ((shifted.bitcast(form.integer) << form.bits) + (form.bias << form.bits)).bitcast(x.dtype)
    rest = x.f.fma(s * s, horner(s, [c * (-2.0) ** (k + 1) for k, c in enumerate(form.exp)]), s)  # (1 - e^(-2 s)) / 2
    h = x.f.fma(power, rest, x.f.fma(power, -0.5, 0.5))
    return copysign(h / (1.0 - h), x)


def _bits(number: float, dtype: np.dtype[Any]) -> int:
    """The integer with the same bits."""
    return int(np.asarray(number, dtype).view(_FORMATS[dtype].integer))
