"""Embeddings: vectors for tokens and for positions; and the layers that say which positions are padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import DtypeError, ShapeError
from backlit.ir import Type
from backlit.nn import initializers
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import number, whole


@dataclass(frozen=True)
class Embedding(Layer):
    """A learned vector for each token: y = W[x].

    x (batch, ...) of integers from 0 to tokens - 1 gives (batch, ..., units). Where x is `padding`, the sequence is
    padding for all layers that follow (see `Context.mask`).
    Parameters: weight W (tokens, units). An integer out of range raises IndexingError when it runs.
    """

    tokens: int = whole(at_least=1)
    units: int = whole(at_least=1)
    padding: int | None = whole(None)
    weight_init: Any = initializer("normal")

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.dtype.kind not in "iu":
            raise DtypeError(
                f"takes integers, not {input_type.dtype.name}",
                fix="an Embedding stands first in a network, whose inputs are then integers",
            )
        return {"weight": initializers.get(self.weight_init)(key, (self.tokens, self.units))}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if self.padding is not None:
            if x.ndim != 2:
                raise ShapeError("padding is for sequences (batch, time)")
            ctx.mask = x != self.padding
        W = params["weight"]
        y = ops.gather(W, x)
        return y


@dataclass(frozen=True)
class PositionEmbedding(Layer):
    """A learned vector for each position, added: y[t] = x[t] + W[t].

    x (batch, time, units), of at most `length` positions, keeps its shape. Parameters: weight W (length, units).
    """

    length: int = whole(at_least=1)
    weight_init: Any = initializer("normal")

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.ndim != 2 or input_type.shape[0] > self.length:
            raise ShapeError(f"takes sequences (batch, time, units) of at most {self.length} positions")
        return {"weight": initializers.get(self.weight_init)(key, (self.length, input_type.shape[-1]))}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if x.shape[1] > self.length:
            raise ShapeError(f"the sequence has {x.shape[1]} positions, and there are vectors for {self.length}")
        W = params["weight"]
        y = x + W[: x.shape[1]]
        return y


@dataclass(frozen=True)
class PositionEncoding(Layer):
    """Sines and cosines of each position, added (Vaswani et al. 2017, section 3.5).

        y[t, 2 i] = x[t, 2 i] + sin(t / base^(2 i / units))
        y[t, 2 i + 1] = x[t, 2 i + 1] + cos(t / base^(2 i / units))

    x (batch, time, units) keeps its shape. No parameters.
    """

    base: float = number(10000.0, above=1)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if x.ndim != 3:
            raise ShapeError("takes sequences (batch, time, units)")
        _, time, units = x.shape
        even = np.arange(units) // 2 * 2
        angle = np.arange(time)[:, None] / self.base ** (even / units)
        waves = np.where(np.arange(units) % 2 == 0, np.sin(angle), np.cos(angle))
        y = x + waves.astype(x.dtype)
        return y


@dataclass(frozen=True)
class Masking(Layer):
    """Positions whose features all are `value` are padding for the layers that follow; x stays as it is.

    x (batch, time, features). No parameters.
    """

    value: float = number(0.0)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if x.ndim != 3:
            raise ShapeError("takes sequences (batch, time, features)")
        real = ops.any(x != self.value, axis=2)
        ctx.mask = real if ctx.mask is None else ops.logical_and(ctx.mask, real)
        return x
