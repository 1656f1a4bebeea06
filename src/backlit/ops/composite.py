"""Functions of ops that readers know by name. They have no rules of their own: gradients, compilation and explanation
come from what they are made of. `@composite` keeps their nodes together under their name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backlit.errors import ShapeError
from backlit.ops import elementwise as ew
from backlit.ops.contraction import matmul
from backlit.ops.movement import expand_dims, iota, matrix_transpose
from backlit.ops.record import Value, composite, told_as
from backlit.ops.reduction import logsumexp, max, mean, sum
from backlit.tracing import type_of

# --- small elementwise functions --------------------------------------------------------------------------------------


@composite
def rsqrt(x: Value) -> Value:
    """1 / sqrt(x)."""
    return 1.0 / ew.sqrt(x)


@composite
def clip(x: Value, min: Value | None = None, max: Value | None = None) -> Value:
    """x, but at least `min` and at most `max` (each may be left out). At a bound half of the gradient passes."""
    if min is not None:
        x = ew.maximum(x, min)
    return x if max is None else ew.minimum(x, max)


def isnan(x: Value) -> Value:
    """Whether x is not a number."""
    return ew.not_equal(x, x)


def isfinite(x: Value) -> Value:
    """Whether x is neither infinite nor nan."""
    return ew.less(ew.abs(x), math.inf)


def isinf(x: Value) -> Value:
    """Whether x is infinite."""
    return ew.equal(ew.abs(x), math.inf)


# --- over an axis -----------------------------------------------------------------------------------------------------


@composite
def softmax(x: Value, axis: int = -1) -> Value:
    """e^x / sum(e^x) along an axis; the largest element is taken out first, so nothing overflows."""
    e = ew.exp(x - ew.stop_gradient(max(x, axis, keepdims=True)))
    return e / sum(e, axis, keepdims=True)


@composite
def log_softmax(x: Value, axis: int = -1) -> Value:
    """log(softmax(x)) = x - log(sum(e^x)) along an axis, without overflow."""
    return x - logsumexp(x, axis, keepdims=True)


@composite
def layer_norm(
    x: Value, scale: Value | None = None, shift: Value | None = None, axis: Any = -1, epsilon: float = 1e-5
) -> Value:
    """(x - mean) / sqrt(var + epsilon) along the axes, times `scale`, plus `shift` (Ba et al. 2016, equation 4)."""
    centred = x - mean(x, axis, keepdims=True)
    y = centred / ew.sqrt(mean(centred * centred, axis, keepdims=True) + epsilon)
    if scale is not None:
        y = y * scale
    return y if shift is None else y + shift


@composite
def attention(
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Value:
    """softmax(query key^T scale) value (Vaswani et al. 2017, equation 1); scale is 1 / sqrt(d) by default.

    query (..., n, d), key (..., m, d), value (..., m, v) give (..., n, v). `mask` (booleans that broadcast to (..., n,
    m)) is true where a query may look; `causal` lets query i look at keys 0 .. i only. Masked scores get a very large
    negative number, so a query that may look nowhere looks everywhere alike instead of giving nan.
    """
    q, k = type_of(query), type_of(key)
    with told_as("attention", query, key, value):
        if q.ndim < 2 or k.ndim < 2 or type_of(value).ndim < 2 or q.shape[-1] != k.shape[-1]:
            raise ShapeError("takes (..., n, d), (..., m, d) and (..., m, v)")
    scores = matmul(query, matrix_transpose(key)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    blocked = float(-0.7 * np.finfo(q.dtype).max)
    if causal:
        may = ew.less_equal(iota(k.shape[-2], query), expand_dims(iota(q.shape[-2], query), 1))
        mask = may if mask is None else ew.logical_and(may, mask)
    if mask is not None:
        scores = ew.where(mask, scores, blocked)
    return matmul(softmax(scores), value)
