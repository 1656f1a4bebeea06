"""Ops that act on each element alone. Several inputs broadcast against each other and share one dtype.

A gradient rule gives, for each input, the incoming gradient g times the local derivative, at the full broadcast shape;
summing it back to the input's own shape is autodiff's business, in one place. Where a derivative does not exist (relu
and abs at 0, maximum at a tie) the rule names the value that is taken. Ops that are constant between jumps (sign,
floor, round) have the derivative 0; comparisons have booleans as results and none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlit.errors import DtypeError
from backlit.ir import Type
from backlit.ops.record import (
    ANY,
    BOOLS,
    INTEGERS,
    NUMBERS,
    Case,
    Context,
    Notation,
    Op,
    Spec,
    Value,
    broadcast_shapes,
    elementwise,
    function,
    infix,
    number_as,
    prefix,
    promote,
    told_as,
)
from backlit.tracing import type_of

# --- arithmetic -------------------------------------------------------------------------------------------------------

add = elementwise(
    "add",
    numpy=np.add,
    scalar=lambda s, a, b: a + b,
    vjp=lambda ctx, g: (g, g),
    notation=infix("+", 10),
    doc="a + b.",
    kinds=NUMBERS,
)

subtract = elementwise(
    "subtract",
    numpy=np.subtract,
    scalar=lambda s, a, b: a - b,
    vjp=lambda ctx, g: (g, -g),
    notation=infix("-", 10),
    doc="a - b.",
    kinds=NUMBERS,
)

multiply = elementwise(
    "multiply",
    numpy=np.multiply,
    scalar=lambda s, a, b: a * b,
    vjp=lambda ctx, g: (g * ctx.inputs[1], g * ctx.inputs[0]),
    notation=infix("*", 20, r"\,"),
    doc="a b.",
    kinds=NUMBERS,
)

divide = elementwise(
    "divide",
    numpy=np.divide,
    scalar=lambda s, a, b: a / b,
    vjp=lambda ctx, g: (g / ctx.inputs[1], -g * ctx.y / ctx.inputs[1]),
    notation=infix("/", 20),
    doc="a / b, for floating-point values; b = 0 gives inf or nan.",
    second=(0.5, 2.0),
)

negative = elementwise(
    "negative",
    numpy=np.negative,
    scalar=lambda s, x: -x,
    vjp=lambda ctx, g: (-g,),
    notation=prefix("-"),
    doc="-x.",
    kinds=NUMBERS,
)


def _pow_vjp(ctx: Context, g: Value) -> tuple[Value, Value]:
    x, n = ctx.inputs
    fixed = ctx.constant(1)
    if fixed is not None:  # d(x^n)/dx = n x^(n-1)
        return (None if fixed == 0 else g * (fixed * pow(x, fixed - 1.0))), g * ctx.y * log(x)
    safe_n = where(equal(n, 0.0), 1.0, n)  # 0 x^-1 is 0, also at x = 0
    safe_x = where(greater(x, 0.0), x, 1.0)  # the derivative by n is taken as 0 where x <= 0
    return g * n * pow(x, safe_n - 1.0), g * ctx.y * log(safe_x)


pow = elementwise(
    "pow",
    numpy=np.power,
    scalar=lambda s, x, n: s.pow(x, n),
    vjp=_pow_vjp,
    notation=infix("^", 40),
    doc="x to the power n, for floating-point values; nan for x < 0 and n no integer.",
    samples=(0.3, 2.0),
    second=(-2.0, 2.0),
)

remainder = elementwise(
    "remainder",
    numpy=np.remainder,
    scalar=lambda s, a, b: s.remainder(a, b),
    vjp=lambda ctx, g: (g, -g * floor(ctx.inputs[0] / ctx.inputs[1])),
    notation=infix("mod", 20, r"\bmod"),
    doc="a - b floor(a / b): has the sign of b. Integer division by 0 gives 0.",
    kinds=NUMBERS,
    samples=(1.1, 1.9),
    second=(2.1, 2.9),
)

floor_divide = elementwise(
    "floor_divide",
    numpy=np.floor_divide,
    scalar=lambda s, a, b: s.floor_divide(a, b),
    vjp=lambda ctx, g: (None, None),
    notation=infix("//", 20),
    doc="The largest integer that is at most a / b; its derivative is 0. Integer division by 0 gives 0.",
    kinds=NUMBERS,
    second=(0.7, 2.0),
)

# --- functions --------------------------------------------------------------------------------------------------------

exp = elementwise(
    "exp",
    numpy=np.exp,
    scalar=lambda s, x: s.exp(x),
    vjp=lambda ctx, g: (g * ctx.y,),
    notation=function("exp", r"\exp"),
    doc="e^x.",
)

expm1 = elementwise(
    "expm1",
    numpy=np.expm1,
    scalar=lambda s, x: s.expm1(x),
    vjp=lambda ctx, g: (g * (ctx.y + 1.0),),
    notation=function("expm1"),
    doc="e^x - 1, accurate near x = 0.",
)

log = elementwise(
    "log",
    numpy=np.log,
    scalar=lambda s, x: s.log(x),
    vjp=lambda ctx, g: (g / ctx.x,),
    notation=function("log", r"\ln"),
    doc="The natural logarithm of x.",
    samples=(0.3, 3.0),
)

log1p = elementwise(
    "log1p",
    numpy=np.log1p,
    scalar=lambda s, x: s.log1p(x),
    vjp=lambda ctx, g: (g / (ctx.x + 1.0),),
    notation=function("log1p"),
    doc="log(1 + x), accurate near x = 0.",
    samples=(-0.5, 2.0),
)

sqrt = elementwise(
    "sqrt",
    numpy=np.sqrt,
    scalar=lambda s, x: s.sqrt(x),
    vjp=lambda ctx, g: (g / (2.0 * ctx.y),),
    notation=function("sqrt", r"\sqrt"),
    doc="The square root of x.",
    samples=(0.3, 3.0),
)

sin = elementwise(
    "sin",
    numpy=np.sin,
    scalar=lambda s, x: s.sin(x),
    vjp=lambda ctx, g: (g * cos(ctx.x),),
    notation=function("sin", r"\sin"),
    doc="The sine of x, x in radians.",
)

cos: Op = elementwise(
    "cos",
    numpy=np.cos,
    scalar=lambda s, x: s.cos(x),
    vjp=lambda ctx, g: (-g * sin(ctx.x),),
    notation=function("cos", r"\cos"),
    doc="The cosine of x, x in radians.",
)

tanh = elementwise(
    "tanh",
    numpy=np.tanh,
    scalar=lambda s, x: s.tanh(x),
    vjp=lambda ctx, g: (g * (1.0 - ctx.y * ctx.y),),
    notation=function("tanh", r"\tanh"),
    doc="(e^x - e^-x) / (e^x + e^-x).",
    samples=(-3.0, 3.0),
)

sigmoid = elementwise(
    "sigmoid",
    numpy=lambda x: 1 / (1 + np.exp(-x)),
    scalar=lambda s, x: s.sigmoid(x),
    vjp=lambda ctx, g: (g * (ctx.y * (1.0 - ctx.y)),),
    notation=function("sigmoid", r"\sigma"),
    doc="The logistic function 1 / (1 + e^-x).",
    samples=(-3.0, 3.0),
)

relu = elementwise(
    "relu",
    numpy=lambda x: np.maximum(x, 0),
    scalar=lambda s, x: s.maximum(x, 0),
    vjp=lambda ctx, g: (where(greater(ctx.x, 0.0), g, 0.0),),
    notation=function("relu", r"\operatorname{ReLU}"),
    doc="max(x, 0). The derivative at 0 is taken as 0.",
)

softplus = elementwise(
    "softplus",
    numpy=lambda x: np.logaddexp(x, x.dtype.type(0)),
    scalar=lambda s, x: s.maximum(x, 0) + s.log1p(s.exp(-s.abs(x))),
    vjp=lambda ctx, g: (g * sigmoid(ctx.x),),
    notation=function("softplus"),
    doc="log(1 + e^x), without overflow.",
    samples=(-3.0, 3.0),
)

abs = elementwise(
    "abs",
    numpy=np.abs,
    scalar=lambda s, x: s.abs(x),
    vjp=lambda ctx, g: (g * sign(ctx.x),),
    notation=Notation("|", "around", latex=r"\lvert"),
    doc="|x|. The derivative at 0 is taken as 0.",
    kinds=NUMBERS,
)

sign: Op = elementwise(
    "sign",
    numpy=np.sign,
    scalar=lambda s, x: s.sign(x),
    vjp=lambda ctx, g: (None,),
    notation=function("sign"),
    doc="-1, 0 or 1; nan for nan. The derivative is 0.",
    kinds=NUMBERS,
)

floor: Op = elementwise(
    "floor",
    numpy=np.floor,
    scalar=lambda s, x: s.floor(x),
    vjp=lambda ctx, g: (None,),
    notation=function("floor"),
    doc="The largest integer that is at most x. The derivative is 0.",
)

round = elementwise(
    "round",
    numpy=np.rint,
    scalar=lambda s, x: s.round(x),
    vjp=lambda ctx, g: (None,),
    notation=function("round"),
    doc="The nearest integer; halves go to the even one. The derivative is 0.",
)


def _share(winner: Value, loser: Value, g: Value) -> Value:
    """The gradient where the winner is larger than the loser, half of it at a tie."""
    return where(greater(winner, loser), g, where(equal(winner, loser), 0.5 * g, 0.0))


def _maximum_vjp(ctx: Context, g: Value) -> tuple[Value, Value]:
    a, b = ctx.inputs
    return _share(a, b, g), _share(b, a, g)


def _minimum_vjp(ctx: Context, g: Value) -> tuple[Value, Value]:
    a, b = ctx.inputs
    return _share(b, a, g), _share(a, b, g)


maximum = elementwise(
    "maximum",
    numpy=np.maximum,
    scalar=lambda s, a, b: s.maximum(a, b),
    vjp=_maximum_vjp,
    notation=function("max", r"\max"),
    doc="The larger of a and b; nan if one is nan. At a tie each gets half of the gradient.",
    kinds=NUMBERS,
)

minimum = elementwise(
    "minimum",
    numpy=np.minimum,
    scalar=lambda s, a, b: s.minimum(a, b),
    vjp=_minimum_vjp,
    notation=function("min", r"\min"),
    doc="The smaller of a and b; nan if one is nan. At a tie each gets half of the gradient.",
    kinds=NUMBERS,
)

# --- comparisons, logic and bits --------------------------------------------------------------------------------------


def _comparison(name: str, numpy: Any, scalar: Any, glyph: str, latex: str, kinds: str = NUMBERS) -> Op:
    return elementwise(
        name, numpy, scalar, None, infix(glyph, 5, latex), f"a {glyph} b, as booleans.", kinds=kinds, result=np.bool_
    )


equal = _comparison("equal", np.equal, lambda s, a, b: a == b, "==", "=", ANY)
not_equal = _comparison("not_equal", np.not_equal, lambda s, a, b: a != b, "!=", r"\ne", ANY)
less = _comparison("less", np.less, lambda s, a, b: a < b, "<", "<")
less_equal = _comparison("less_equal", np.less_equal, lambda s, a, b: a <= b, "<=", r"\le")
greater: Op = _comparison("greater", np.greater, lambda s, a, b: a > b, ">", ">")
greater_equal = _comparison("greater_equal", np.greater_equal, lambda s, a, b: a >= b, ">=", r"\ge")


def _bits(name: str, numpy: Any, scalar: Any, glyph: str, kinds: str = BOOLS + INTEGERS, **samples: Any) -> Op:
    doc = f"a {glyph} b, bit by bit; for booleans, the logical operation."
    return elementwise(name, numpy, scalar, None, infix(glyph, 4), doc, kinds=kinds, **samples)


bitwise_and = _bits("bitwise_and", np.bitwise_and, lambda s, a, b: a & b, "&")
bitwise_or = _bits("bitwise_or", np.bitwise_or, lambda s, a, b: a | b, "|")
bitwise_xor = _bits("bitwise_xor", np.bitwise_xor, lambda s, a, b: a ^ b, "^")
bitwise_left_shift = _bits(
    "bitwise_left_shift", np.left_shift, lambda s, a, b: a << b, "<<", INTEGERS, samples=(0, 9), second=(0, 7)
)
bitwise_right_shift = _bits(
    "bitwise_right_shift", np.right_shift, lambda s, a, b: a >> b, ">>", INTEGERS, samples=(0, 9), second=(0, 7)
)
bitwise_invert = elementwise(
    "bitwise_invert",
    numpy=np.invert,
    scalar=lambda s, x: ~x,
    vjp=None,
    notation=prefix("~"),
    doc="Every bit the other way; for booleans, not x.",
    kinds=BOOLS + INTEGERS,
)


def _logical(op: Op, name: str, *values: Value) -> Value:
    with told_as(name, *values):
        for v in values:
            if type_of(v).dtype != np.bool_:
                raise DtypeError("takes booleans", fix="compare first, such as x != 0")
    return op(*values)


def logical_and(x1: Value, x2: Value) -> Value:
    """Both of two boolean values."""
    return _logical(bitwise_and, "logical_and", x1, x2)


def logical_or(x1: Value, x2: Value) -> Value:
    """At least one of two boolean values."""
    return _logical(bitwise_or, "logical_or", x1, x2)


def logical_xor(x1: Value, x2: Value) -> Value:
    """Just one of two boolean values."""
    return _logical(bitwise_xor, "logical_xor", x1, x2)


def logical_not(x: Value) -> Value:
    """The opposite of a boolean value."""
    return _logical(bitwise_invert, "logical_not", x)


# --- choice and conversion --------------------------------------------------------------------------------------------


def _where_rule(condition: Type, a: Type, b: Type) -> Type:
    if condition.dtype != np.bool_:
        raise DtypeError("the condition is no boolean", fix="compare first, such as x > 0")
    if a.dtype != b.dtype:
        raise DtypeError("the two branches differ in dtype", fix="convert one of them with ops.astype")
    return Type(a.dtype, broadcast_shapes(condition.shape, a.shape, b.shape))


_where = Op(
    "where",
    "elementwise",
    "a where the condition holds, b elsewhere; all three broadcast.",
    rule=_where_rule,
    numpy=np.where,
    vjp=lambda ctx, g: (None, where(ctx.x, g, 0.0), where(ctx.x, 0.0, g)),
    notation=Notation("where"),
    samples=tuple(
        Case((Spec(c, dtype="bool"), Spec(a), Spec(b)))
        for c, a, b in [((), (), ()), ((3,), (3,), (3,)), ((2, 1), (3,), ()), ((0,), (1,), (0,))]
    ),
    scalar=lambda s, c, a, b: s.where(c, a, b),
    signature="condition, x1, x2",
)


def where(condition: Value, x1: Value, x2: Value) -> Value:
    """x1 where the condition (booleans) holds, x2 elsewhere; all three broadcast.

    The gradient goes to the branch that was chosen, so a nan in the other branch does no harm in the result but does in
    the gradient of an op that made it: choose safe inputs first.
    """
    return _where(condition, *promote("where", x1, x2))


def _cast_rule(x: Type, dtype: np.dtype[Any]) -> Type:
    return x.with_dtype(dtype)


cast: Op = Op(
    "cast",
    "elementwise",
    "x converted to another dtype. The gradient passes between floating-point dtypes and nowhere else.",
    rule=_cast_rule,
    numpy=lambda x, dtype: x.astype(dtype),
    vjp=lambda ctx, g: (cast(g, dtype=ctx.x.dtype) if ctx.x.dtype.kind == "f" else None,),
    notation=Notation("cast"),
    samples=tuple(
        Case((Spec(shape),), {"dtype": np.dtype(d)})
        for shape, d in [((), "float32"), ((2, 3), "float64"), ((3,), "int32"), ((0,), "float64"), ((4,), "bool")]
    ),
    scalar=lambda s, x, dtype: s.cast(x, dtype),
)

_NAMES = ["bool", *(f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)), "float16", "float32", "float64"]
_DTYPES = frozenset(map(np.dtype, _NAMES))


def astype(x: Value, dtype: Any) -> Value:
    """x converted to `dtype`; x itself where it has that dtype.

    Floating-point values are cut towards zero on the way to integers; what is out of an integer dtype's range is
    unspecified. Only conversions between floating-point dtypes have a gradient.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in _DTYPES:
        raise DtypeError(f"astype: {dtype!r} is no dtype of backlit", fix=f"use one of {', '.join(sorted(_NAMES))}")
    if isinstance(x, bool | int | float) and not isinstance(x, np.generic):
        return number_as(x, found)
    return x if type_of(x).dtype == found else cast(x, dtype=found)


stop_gradient = elementwise(
    "stop_gradient",
    numpy=np.array,
    scalar=lambda s, x: x,
    vjp=lambda ctx, g: (None,),
    notation=function("stop_gradient", r"\operatorname{stop}"),
    doc="x itself, through which no gradient passes.",
    kinds=ANY,
)
