"""Convolution in one and two dimensions: one small set of weights slides over the input.

A result depends on a window of the input, and all windows share their weights (LeCun et al. 1989). Values are
(batch, *space, channels), weights (*window, input channels, filters). What neural networks call convolution is
cross-correlation: the window is not mirrored.

A sequence with a padding mask is put to 0 where it is padding, so that the windows at its end see what they would see
at the end of a shorter sequence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from backlit import ops
from backlit.errors import SettingError, ShapeError
from backlit.ir import Type
from backlit.nn import activations, initializers
from backlit.nn.activations import activation
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values, shown
from backlit.nn.masks import cleared, refuse_mask
from backlit.settings import checked_whole, flag, setting, whole, wholes


def padding(default: str = "valid") -> Any:
    """A field that holds "same", "valid", a number of zeros, or a number or pair (before, after) for each axis."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(check(name, v) for v in value)
        if isinstance(value, str):
            if value not in ("same", "valid"):
                raise SettingError(f'{name} is {value!r}: use "same", "valid" or numbers')
            return value
        return checked_whole(name, value)

    return setting(check, default)


@dataclass(frozen=True)
class _Convolution(Layer):
    """What all convolutions share."""

    filters: int = whole(at_least=1)
    size: int | tuple[int, ...] = wholes(at_least=1)
    stride: int | tuple[int, ...] = wholes(1, at_least=1)
    padding: Any = padding()
    dilation: int | tuple[int, ...] = wholes(1, at_least=1)
    activation: str | Callable[[Value], Value] | None = activation()
    bias: bool = flag(True)
    weight_init: Any = initializer("glorot_uniform")
    bias_init: Any = initializer("zeros")

    space: ClassVar[int]

    def _groups(self) -> int:
        return 1

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.ndim != self.space + 1:
            axes = ("length",) if self.space == 1 else ("height", "width")
            raise ShapeError(
                f"takes values {shown((*axes, 'channels'))}",  # type: ignore[arg-type]  # words in place of sizes
                fix="put nn.Reshape before: images without an axis of channels need one of size 1",
            )
        window = (self.size,) * self.space if isinstance(self.size, int) else self.size
        if len(window) != self.space:
            raise ShapeError(f"size={self.size} does not give one number for each of {self.space} axes")
        channels, groups = input_type.shape[-1], self._groups()
        if channels % groups or self.filters % groups:
            raise ShapeError(f"{channels} channels and {self.filters} filters cannot be cut into {groups} equal groups")
        keys = ops.random.split(key)
        shape = (*window, channels // groups, self.filters)
        params = {"weight": initializers.get(self.weight_init)(keys[0], shape)}
        if self.bias:
            params["bias"] = initializers.get(self.bias_init)(keys[1], (self.filters,))
        return params

    @abstractmethod
    def operation(self) -> Callable[[Value, Value], Value]:
        """The function of x and W that the layer is made around."""

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if self.space == 2:
            refuse_mask(ctx, "takes images, which have no padding mask")
        W, conv = params["weight"], self.operation()
        if self.bias:
            b = params["bias"]
            z = conv(x, W) + b
        else:
            z = conv(x, W)
        if self.activation is None:
            return z
        f = activations.get(self.activation)
        a = f(z)
        return a


@dataclass(frozen=True)
class Conv1d(_Convolution):
    """z[p, o] = sum over i, c of x[p s + i d, c] W[i, c, o] + b[o], a = f(z).

    s is the stride and d the dilation. With padding="same" and stride 1 the length stays. With groups, channels and
    filters are cut into so many equal groups, each convolved by itself; as many as channels is a depthwise convolution.
    x (batch, length, channels) gives (batch, windows, filters).
    Parameters: weight W (size, channels / groups, filters), bias b (filters,).
    """

    groups: int = whole(1, at_least=1)
    space = 1

    def _groups(self) -> int:
        return self.groups

    def operation(self) -> Callable[[Value, Value], Value]:
        return partial(ops.conv, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        mask, length = ctx.mask, x.shape[1]
        y = super().apply(params, cleared(x, mask), ctx)
        if mask is not None and self.padding == "same":
            ctx.mask = mask[:, :: self.stride if isinstance(self.stride, int) else self.stride[0]]
        elif y.shape[1] != length:
            refuse_mask(ctx, "changes the length of sequences, so their padding mask fits no more", 'padding="same"')
        return y


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """z[p, q, o] = sum over i, j, c of x[p s + i d, q s + j d, c] W[i, j, c, o] + b[o], a = f(z).

    s is the stride and d the dilation. With groups, channels and filters are cut into so many equal groups, each
    convolved by itself (Krizhevsky et al. 2012); as many as channels is a depthwise convolution.
    x (batch, height, width, channels) gives (batch, windows down, windows across, filters).
    Parameters: weight W (*size, channels / groups, filters), bias b (filters,).
    """

    groups: int = whole(1, at_least=1)
    space = 2

    def _groups(self) -> int:
        return self.groups

    def operation(self) -> Callable[[Value, Value], Value]:
        return partial(ops.conv, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)


@dataclass(frozen=True)
class ConvTranspose2d(_Convolution):
    """z[p s + i d, q s + j d, o] += x[p, q, c] W[i, j, c, o], then + b[o], a = f(z).

    A convolution run backwards: s is the stride and d the dilation.
    x (batch, height, width, channels) gives (batch, height s, width s, filters) with padding="same", and the whole
    reach of the windows with "valid".
    Parameters: weight W (*size, channels, filters), bias b (filters,).
    """

    space = 2

    def operation(self) -> Callable[[Value, Value], Value]:
        return partial(ops.conv_transpose, stride=self.stride, padding=self.padding, dilation=self.dilation)
