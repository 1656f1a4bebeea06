"""Ops that combine the elements along axes, and those that rank them.

Primitives take `axis` as a sorted tuple; the public functions take an int, a tuple or None (all axes), as in the array
API standard. A gradient is spread back over what was reduced: g is given the reduced axes again, as size 1, and
broadcasts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backlit.errors import DtypeError, ShapeError
from backlit.ir import Type
from backlit.ops import elementwise as ew
from backlit.ops.movement import broadcast_to, concat, flip, reshape, shaped
from backlit.ops.record import (
    NUMBERS,
    Case,
    Notation,
    Op,
    Spec,
    Value,
    composite,
    constant_like,
    function,
    normal_axes,
    normal_axis,
    reduced_shape,
    reduction,
    refuse_axes,
    told_as,
)
from backlit.tracing import type_of

Axis = int | tuple[int, ...] | list[int] | None


def _kept(value: Value, ctx: Any) -> Value:
    """A reduced value with the reduced axes put back as size 1."""
    return shaped(value, reduced_shape(ctx.x.shape, ctx.params["axis"], True))


def _accumulator(dtype: np.dtype[Any]) -> Any:
    return {"i": np.int64, "u": np.uint64}.get(dtype.kind, dtype)


_sum = reduction(
    "sum",
    numpy=lambda x, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims, dtype=_accumulator(x.dtype)),
    scalar=lambda s, a, b: a + b,
    vjp=lambda ctx, g: (broadcast_to(_kept(g, ctx), ctx.x.shape),),
    notation=function("sum", r"\sum"),
    doc="The sum along the axes. Integers are summed in 64 bits.",
    result=_accumulator,
)


def _extreme_vjp(ctx: Any, g: Value) -> tuple[Value]:
    """To the winning element; elements that tie share equally."""
    won = ew.stop_gradient(ew.equal(ctx.x, _kept(ctx.y, ctx)))
    count = sum(ew.astype(won, g.dtype), ctx.params["axis"], keepdims=True)
    return (ew.where(won, _kept(g, ctx) / count, 0.0),)


_max = reduction(
    "max",
    numpy=lambda x, axis, keepdims: np.max(x, axis=axis, keepdims=keepdims) if axis else x.copy(),
    scalar=lambda s, a, b: s.maximum(a, b),
    vjp=_extreme_vjp,
    notation=function("max", r"\max"),
    doc="The largest element along the axes; nan if there is one. Elements that tie share the gradient.",
    of_empty=False,
)

_min = reduction(
    "min",
    numpy=lambda x, axis, keepdims: np.min(x, axis=axis, keepdims=keepdims) if axis else x.copy(),
    scalar=lambda s, a, b: s.minimum(a, b),
    vjp=_extreme_vjp,
    notation=function("min", r"\min"),
    doc="The smallest element along the axes; nan if there is one. Elements that tie share the gradient.",
    of_empty=False,
)


def sum(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The sum of the elements along `axis` (all by default). Integers are summed in 64 bits; booleans are refused."""
    return _reduce(_sum, x, axis, keepdims)


def max(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The largest element along `axis` (all by default); nan if there is one. An axis of size 0 raises ShapeError."""
    return _reduce(_max, x, axis, keepdims)


def min(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The smallest element along `axis` (all by default); nan if there is one. An axis of size 0 raises ShapeError."""
    return _reduce(_min, x, axis, keepdims)


def _reduce(op: Op, x: Value, axis: Axis, keepdims: bool) -> Value:
    with told_as(op.name, x):
        axes = normal_axes(axis, type_of(x).ndim)
    return op(x, axis=axes, keepdims=bool(keepdims))


def _count(x: Value, axis: Axis) -> int:
    t = type_of(x)
    return math.prod(t.shape[a] for a in normal_axes(axis, t.ndim))


@composite
def mean(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The sum along `axis` divided by the number n of elements, sum(x) / n; nan when there are none.

    Takes floating-point values; count booleans with `mean(astype(x, "float32"))`.
    """
    _floating("mean", x)
    return sum(x, axis, keepdims) / float(_count(x, axis))


@composite
def var(x: Value, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Value:
    """The mean squared distance from the mean, sum((x - mean(x))^2) / (n - correction).

    `correction=1` gives the unbiased estimate of a sample's variance.
    """
    _floating("var", x)
    distance = x - mean(x, axis, keepdims=True)
    return sum(distance * distance, axis, keepdims) / (_count(x, axis) - float(correction))


def std(x: Value, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Value:
    """The standard deviation, sqrt(var(x))."""
    return ew.sqrt(var(x, axis, correction, keepdims))


@composite
def prod(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The product of the elements along `axis` (all by default), multiplied pair by pair; 1 when there are none.

    Its gradient is right where elements are 0, which y / x is not.
    """
    t = type_of(x)
    with told_as("prod", x):
        if t.dtype.kind not in NUMBERS:
            raise DtypeError("takes numbers, not booleans", fix="convert with ops.astype(x, 'int64')")
        axes = normal_axes(axis, t.ndim)
    if t.dtype.kind in "iu":
        x = ew.astype(x, _accumulator(t.dtype))
    for a in axes:
        x = _product(x, a)
    return x if keepdims else reshape(x, reduced_shape(t.shape, axes, False))


def _product(x: Value, axis: int) -> Value:
    """The product along one axis, kept as size 1: halves are multiplied until one is left."""
    shape = type_of(x).shape
    before = (slice(None),) * axis
    if shape[axis] == 0:
        return constant_like(x, 1.0, (*shape[:axis], 1, *shape[axis + 1 :]))
    while (n := type_of(x).shape[axis]) > 1:
        half, odd = divmod(n, 2)
        paired = x[(*before, slice(0, half))] * x[(*before, slice(half, 2 * half))]
        if odd:
            first = paired[(*before, slice(0, 1))] * x[(*before, slice(2 * half, n))]
            paired = concat([first, paired[(*before, slice(1, half))]], axis)
        x = paired
    return x


@composite
def logsumexp(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """log(sum(e^x)) along `axis`, without overflow: the largest element is taken out first."""
    _floating("logsumexp", x)
    top = ew.stop_gradient(max(x, axis, keepdims=True))
    top = ew.where(ew.less(ew.abs(top), math.inf), top, 0.0)  # inf - inf would be nan
    total = ew.log(sum(ew.exp(x - top), axis, keepdims=True)) + top
    t = type_of(x)
    return total if keepdims else reshape(total, reduced_shape(t.shape, normal_axes(axis, t.ndim), False))


@composite
def any(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """Whether at least one boolean along `axis` is true."""
    return ew.not_equal(sum(ew.astype(ew.logical_or(x, x), np.int64), axis, keepdims), 0)


@composite
def all(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """Whether every boolean along `axis` is true."""
    return ew.logical_not(any(ew.logical_not(x), axis, keepdims))


def _floating(op: str, x: Value) -> None:
    if type_of(x).dtype.kind != "f":
        with told_as(op, x):
            raise DtypeError("takes floating-point values", fix="convert with ops.astype(x, 'float32')")


# --- rank and running sums --------------------------------------------------------------------------------------------


def _position(name: str, numpy: Any, doc: str) -> Op:
    def rule(x: Type, axis: int) -> Type:
        refuse_axes(x, (axis,))
        if x.shape[axis] == 0:
            raise ShapeError("nothing to search: the axis has size 0")
        return Type(np.dtype(np.int64), reduced_shape(x.shape, (axis,), False))

    cases = tuple(
        Case((Spec(s),), {"axis": a}) for s, a in [((3,), 0), ((2, 3), 1), ((2, 3, 2), 1), ((1,), 0), ((0, 2), 1)]
    )
    return Op(name, "reduction", doc, rule, numpy, None, function(name), cases, kinds=NUMBERS)


_argmax = _position("argmax", lambda x, axis: np.argmax(x, axis), "The index of the first largest element of an axis.")
_argmin = _position("argmin", lambda x, axis: np.argmin(x, axis), "The index of the first smallest element of an axis.")


def _search(op: Op, x: Value, axis: int | None, keepdims: bool) -> Value:
    t = type_of(x)
    if axis is None:
        found = op(reshape(x, (t.size,)), axis=0)
        return reshape(found, (1,) * t.ndim) if keepdims else found
    with told_as(op.name, x):
        axis = normal_axis(axis, t.ndim)
    found = op(x, axis=axis)
    return reshape(found, reduced_shape(t.shape, (axis,), True)) if keepdims else found


def argmax(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """The index (int64) of the first largest element along `axis`; of the flattened value by default. No gradient."""
    return _search(_argmax, x, axis, keepdims)


def argmin(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """The index (int64) of the first smallest element along `axis`; of the flattened value by default. No gradient."""
    return _search(_argmin, x, axis, keepdims)


def _argsort_rule(x: Type, axis: int) -> Type:
    refuse_axes(x, (axis,))
    return x.with_dtype(np.int64)


_argsort = Op(
    "argsort",
    "reduction",
    "The indices that sort an axis, smallest first; equal elements keep their order; nan comes last.",
    rule=_argsort_rule,
    numpy=lambda x, axis: np.argsort(x, axis, kind="stable"),
    vjp=None,
    notation=function("argsort"),
    samples=tuple(
        Case((Spec(s),), {"axis": a}) for s, a in [((3,), 0), ((2, 3), 1), ((4, 2), 0), ((0,), 0), ((1,), 0)]
    ),
    kinds=NUMBERS,
)


def argsort(x: Value, axis: int = -1) -> Value:
    """The indices (int64) that sort `axis`, smallest first; equal elements keep their order. No gradient."""
    with told_as("argsort", x):
        axis = normal_axis(axis, type_of(x).ndim)
    return _argsort(x, axis=axis)


def _cumulative_vjp(ctx: Any, g: Value) -> tuple[Value]:
    """Element i is in the sums i, i + 1, ...: the running sum of g from the other end."""
    axis = ctx.params["axis"]
    return (flip(cumulative_sum(flip(g, axis), axis), axis),)


def _cumulative_rule(x: Type, axis: int) -> Type:
    refuse_axes(x, (axis,))
    return x.with_dtype(_accumulator(x.dtype))


_cumulative_sum = Op(
    "cumulative_sum",
    "reduction",
    "The sums of the first 1, 2, 3, ... elements of an axis.",
    rule=_cumulative_rule,
    numpy=lambda x, axis: np.cumsum(x, axis, dtype=_accumulator(x.dtype)),
    vjp=_cumulative_vjp,
    notation=Notation("cumulative_sum"),
    samples=tuple(
        Case((Spec(s),), {"axis": a}) for s, a in [((4,), 0), ((2, 3), 1), ((2, 3), 0), ((0,), 0), ((1,), 0)]
    ),
    kinds=NUMBERS,
)


def cumulative_sum(x: Value, axis: int | None = None) -> Value:
    """The sums of the first 1, 2, 3, ... elements along `axis`, which may be left out for 1-d values."""
    t = type_of(x)
    with told_as("cumulative_sum", x):
        if axis is None and t.ndim != 1:
            raise ShapeError("the axis is not given", fix="name it: only 1-d values have just one")
        axis = normal_axis(axis or 0, t.ndim)
    return _cumulative_sum(x, axis=axis)
