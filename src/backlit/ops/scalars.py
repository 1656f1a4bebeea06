"""The instruction set of scalar forms: all that a compiler must be able to do with one number.

The scalar form of an op is a Python function `(s, *numbers) -> number`, `s` being a `Scalars`. A compiler calls it
once, with its own numbers (registers of a machine, values of another library); what the form asks of them becomes code.
So a form has no branches and no loops over numbers: only these functions and Python's operators.

A number has a `dtype` (NumPy's) and

    + - *   unary -            the four kinds of arithmetic; integers wrap around
    /                          of floating-point numbers
    < <= > >= == !=            give booleans; every comparison with nan is false, but `!=` is true
    & | ^   unary ~            on booleans and integers
    << >>                      on integers; `>>` keeps the sign of signed ones; a shift by the width or more moves every
                               bit out (0, or -1 for negative numbers to the right); negative shifts are unspecified

Both operands have one dtype. A Python number takes the dtype of the number beside it, also among the arguments of the
functions below, and is never of another kind than that dtype (an int may stand for a float).

Floating-point results follow IEEE 754: overflow gives inf, an invalid operation nan, nothing traps, and denormals are
numbers like others. A product may be fused with the sum that it goes into, but nothing is reassociated. `exp`, `sin`,
... are right to a few units in the last place.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

Number: TypeAlias = Any
"""A number of a compiler, or a Python number beside one."""


class Scalars(Protocol):
    """Functions of numbers. Where nothing is said of dtypes, floating-point numbers go in and come out."""

    def abs(self, x: Number) -> Number:
        """|x|, for any number; the smallest signed integer is its own."""

    def sign(self, x: Number) -> Number:
        """-1, 0 or 1, for any number; nan for nan."""

    def maximum(self, a: Number, b: Number) -> Number:
        """The larger, for any numbers; nan if one is nan; of 0.0 and -0.0 either."""

    def minimum(self, a: Number, b: Number) -> Number:
        """The smaller, for any numbers; nan if one is nan; of 0.0 and -0.0 either."""

    def floor(self, x: Number) -> Number:
        """The largest integer that is at most x."""

    def round(self, x: Number) -> Number:
        """The nearest integer, halves to the even one."""

    def floor_divide(self, a: Number, b: Number) -> Number:
        """The largest integer that is at most a / b, for any numbers.

        Integers: 0 for b = 0, and the smallest divided by -1 is itself. Floating-point: a / b (inf or nan) for b = 0,
        else (a - remainder(a, b)) / b, rounded to the nearest integer; a zero has the sign of a / b.
        """

    def remainder(self, a: Number, b: Number) -> Number:
        """a - b floor(a / b), exact, for any numbers: it has the sign of b.

        Integers: 0 for b = 0. Floating-point: nan for b = 0 or infinite a; for infinite b it is a, or b where the signs
        differ; a zero has the sign of b.
        """

    def fma(self, a: Number, b: Number, c: Number) -> Number:
        """a b + c, rounded once where a machine can, else twice. `a` is no Python number."""

    def sqrt(self, x: Number) -> Number:
        """The square root, correctly rounded; nan for x < 0."""

    def exp(self, x: Number) -> Number:
        """e^x."""

    def expm1(self, x: Number) -> Number:
        """e^x - 1, accurate near 0."""

    def log(self, x: Number) -> Number:
        """The natural logarithm: -inf at 0, nan for x < 0."""

    def log1p(self, x: Number) -> Number:
        """log(1 + x), accurate near 0: -inf at -1, nan below."""

    def pow(self, x: Number, n: Number) -> Number:
        """x to the power n, with the special cases of C's pow."""

    def sin(self, x: Number) -> Number:
        """The sine of x radians; nan for infinite x."""

    def cos(self, x: Number) -> Number:
        """The cosine of x radians; nan for infinite x."""

    def sigmoid(self, x: Number) -> Number:
        """1 / (1 + e^-x)."""

    def tanh(self, x: Number) -> Number:
        """(e^x - e^-x) / (e^x + e^-x)."""

    def where(self, condition: Number, a: Number, b: Number) -> Number:
        """a if the condition (a boolean) holds, else b, of any dtype; both have been computed."""

    def cast(self, x: Number, dtype: Any) -> Number:
        """x in another dtype.

        To floating-point: the nearest, halves to even. From floating-point to integer: cut towards 0, unspecified where
        that does not fit. Between integers: the low bits. To boolean: x != 0. From boolean: 0 or 1.
        """
