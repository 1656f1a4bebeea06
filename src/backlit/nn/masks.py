"""Padding masks: which positions of a batch of sequences are real. Booleans (batch, time), or None for all.

The rule: what stands at a padded position never changes what comes out for a real one. A layer that acts on each
position alone need not care; one that mixes positions leaves the padded ones out, or refuses.
"""

from __future__ import annotations

from typing import Any

from backlit import ops
from backlit.errors import ShapeError
from backlit.nn.layer import Context

Value = Any


def over(mask: Value, x: Value) -> Value:
    """The mask (batch, time) with further axes of size 1, so that it broadcasts against x (batch, time, ...)."""
    if x.ndim < 2 or x.shape[1] != mask.shape[1]:
        raise ShapeError(f"the padding mask has the shape {mask.shape}, which does not fit values {x.shape}")
    return ops.reshape(mask, (*mask.shape, *(1,) * (x.ndim - 2)))


def cleared(x: Value, mask: Value) -> Value:
    """x with 0 at padded positions."""
    return x if mask is None else ops.where(over(mask, x), x, 0.0)


def mean(x: Value, axes: tuple[int, ...], mask: Value) -> Value:
    """The mean along the axes, which are kept, over real positions only."""
    if mask is None:
        return ops.mean(x, axes, keepdims=True)
    return ops.sum(cleared(x, mask), axes, keepdims=True) / count(x, axes, mask)


def count(x: Value, axes: tuple[int, ...], mask: Value) -> Value:
    """How many numbers `mean` takes the mean of, at least 1."""
    real = ops.astype(ops.broadcast_to(over(mask, x), x.shape), x.dtype)
    return ops.maximum(ops.sum(real, axes, keepdims=True), 1.0)


def refuse_mask(ctx: Context, why: str, instead: str = "") -> None:
    """Raise ShapeError if there is a padding mask."""
    if ctx.mask is not None:
        raise ShapeError(why, fix=f"use {instead}" if instead else "give it sequences without a mask")
