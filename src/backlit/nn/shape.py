"""Layers that change the shape of examples and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from backlit import ops
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.nn.masks import cleared
from backlit.settings import Check, checked_whole, setting


def _sizes(at_least: int) -> Check:
    def check(name: str, value: object) -> tuple[int, ...]:
        return tuple(
            checked_whole(name, n, at_least=at_least) for n in (value if isinstance(value, list | tuple) else [value])
        )

    return check


@dataclass(frozen=True)
class Flatten(Layer):
    """All numbers of an example in one row: (batch, ...) gives (batch, features). Padded positions give 0."""

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        y = ops.reshape(cleared(x, ctx.mask), (x.shape[0], -1))
        ctx.mask = None
        return y


@dataclass(frozen=True)
class Reshape(Layer):
    """The same numbers, in row-major order, in another shape: (batch, ...) gives (batch, *shape).

    One size may be -1 and is worked out. Padded positions give 0.
    """

    shape: tuple[int, ...] = setting(_sizes(-1))

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        y = ops.reshape(cleared(x, ctx.mask), (x.shape[0], *self.shape))
        ctx.mask = None
        return y


@dataclass(frozen=True)
class Permute(Layer):
    """The axes of examples in another order: axes (2, 1) of (batch, 8, 3) give (batch, 3, 8). The batch is axis 0."""

    axes: tuple[int, ...] = setting(_sizes(1))

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        y = ops.permute_dims(cleared(x, ctx.mask), (0, *self.axes))
        if self.axes[:1] != (1,):
            ctx.mask = None
        return y
