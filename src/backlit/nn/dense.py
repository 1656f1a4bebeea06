"""The dense (fully connected) layer: every result depends on every input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backlit import ops
from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.nn import activations, initializers
from backlit.nn.activations import activation
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import flag, whole


@dataclass(frozen=True)
class Dense(Layer):
    """z = x W + b, a = f(z), along the last axis.

    x (batch, ..., inputs) gives (batch, ..., units).
    Parameters: weight W (inputs, units), bias b (units,).
    """

    units: int = whole(at_least=1)
    activation: str | Callable[[Value], Value] | None = activation()
    bias: bool = flag(True)
    weight_init: Any = initializer("glorot_uniform")
    bias_init: Any = initializer("zeros")

    def init(self, key: Value, input_type: Type) -> Values:
        if not input_type.ndim:
            raise ShapeError("an example has no axis of features", fix="put nn.Reshape((1,)) before")
        keys = ops.random.split(key)
        params = {"weight": initializers.get(self.weight_init)(keys[0], (input_type.shape[-1], self.units))}
        if self.bias:
            params["bias"] = initializers.get(self.bias_init)(keys[1], (self.units,))
        return params

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        W = params["weight"]
        if self.bias:
            b = params["bias"]
            z = x @ W + b
        else:
            z = x @ W
        if self.activation is None:
            return z
        f = activations.get(self.activation)
        a = f(z)
        return a
