"""Pooling: each channel is summed up by its largest or its mean element, window by window or as a whole.

Values are (batch, length, channels) or (batch, height, width, channels). Padded positions of a sequence take no part; a
window that holds nothing else gives 0, and is padding in turn.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from backlit import ops
from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.nn import masks
from backlit.nn.convolution import padding
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import wholes


@dataclass(frozen=True)
class _Pool(Layer):
    """What windowed pooling shares."""

    size: int | tuple[int, ...] = wholes(2, at_least=1)
    stride: int | tuple[int, ...] | None = wholes(None, at_least=1)
    padding: Any = padding()

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if ctx.mask is None:
            return self.pool(x)
        real = ops.astype(masks.over(ctx.mask, x), x.dtype)
        seen = ops.max_pool(real, self.size, self.stride, self.padding) > 0.0
        y = ops.where(seen, self.pool_real(x, real), 0.0)
        ctx.mask = seen[:, :, 0]
        return y

    @abstractmethod
    def pool(self, x: Value) -> Value:
        """The result, all of x being real."""

    @abstractmethod
    def pool_real(self, x: Value, real: Value) -> Value:
        """The result for a sequence, `real` (batch, time, 1) being 1 at real positions and 0 at padding."""


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest element of each window; windows lie side by side unless a stride is given.

    x (batch, *space, channels) gives (batch, *windows, channels). No parameters.
    """

    def pool(self, x: Value) -> Value:
        y = ops.max_pool(x, self.size, self.stride, self.padding)
        return y

    def pool_real(self, x: Value, real: Value) -> Value:
        return self.pool(ops.where(real > 0.0, x, -math.inf))


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean of each window; windows lie side by side unless a stride is given. Zeros around x do not count.

    x (batch, *space, channels) gives (batch, *windows, channels). No parameters.
    """

    def pool(self, x: Value) -> Value:
        y = ops.avg_pool(x, self.size, self.stride, self.padding)
        return y

    def pool_real(self, x: Value, real: Value) -> Value:
        share = self.pool(real)
        return self.pool(ops.where(real > 0.0, x, 0.0)) / ops.where(share > 0.0, share, 1.0)


@dataclass(frozen=True)
class _GlobalPool(Layer):
    """What pooling over the whole of space shares."""

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.ndim < 2:
            raise ShapeError("takes values (batch, *space, channels)")
        return {}


@dataclass(frozen=True)
class GlobalAvgPool(_GlobalPool):
    """The mean of each channel: (batch, *space, channels) gives (batch, channels). No parameters."""

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        axes = tuple(range(1, x.ndim - 1))
        y = ops.squeeze(masks.mean(x, axes, ctx.mask), axes)
        ctx.mask = None
        return y


@dataclass(frozen=True)
class GlobalMaxPool(_GlobalPool):
    """The largest element of each channel: (batch, *space, channels) gives (batch, channels). No parameters."""

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if ctx.mask is None:
            y = ops.global_max_pool(x)
            return y
        real = masks.over(ctx.mask, x)
        largest = ops.global_max_pool(ops.where(real, x, -math.inf))
        y = ops.where(ops.any(ctx.mask, 1)[:, None], largest, 0.0)
        ctx.mask = None
        return y
