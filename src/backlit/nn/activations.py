"""Activation functions by name, and the layers that apply one.

Wherever a layer takes an activation, a name from `ACTIVATIONS`, the name of a function registered with
`backlit.nn.register`, or any function of a value will do. Only registered functions can be written to a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backlit import ops
from backlit.errors import SettingError
from backlit.ir import Type
from backlit.nn.initializers import get as initializer_of
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import FUNCTIONS, function, setting


def linear(x: Value) -> Value:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "linear": linear,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "leaky_relu": ops.leaky_relu,
    "elu": ops.elu,
    "selu": ops.selu,
    "celu": ops.celu,
    "gelu": ops.gelu,
    "silu": ops.silu,
    "mish": ops.mish,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "hard_tanh": ops.hard_tanh,
    "hard_sigmoid": ops.hard_sigmoid,
    "hard_silu": ops.hard_silu,
    "log_sigmoid": ops.log_sigmoid,
    "exp": ops.exp,
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
}
"""backlit's own activations. softmax and log_softmax act along the last axis, all others on each element."""

FUNCTIONS.update(ACTIVATIONS)


def get(value: str | Callable[[Value], Value]) -> Callable[[Value], Value]:
    """The function that a name stands for; a function as it is. Raises SettingError for an unknown name."""
    return function(value) if isinstance(value, str) else value


def activation(default: str | None = None) -> Any:
    """A field that holds an activation; None, which means none, only if that is the default."""

    def check(name: str, value: Any) -> Any:
        if value is None and default is None:
            return None
        if not callable(value) and not isinstance(value, str):
            raise SettingError(f"{name} is the name of a function, or a function, not {value!r}")
        get(value)
        return value

    return setting(check, default)


@dataclass(frozen=True)
class Activation(Layer):
    """Any function of a value as a layer: a = f(x)."""

    function: str | Callable[[Value], Value] = activation("relu")

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        f = get(self.function)
        a = f(x)
        return a


@dataclass(frozen=True)
class PReLU(Layer):
    """x where x > 0, slope x elsewhere, with a learned slope for each feature (He et al. 2015, equation 1).

    Parameters: slope (features,), at first 0.25.
    """

    slope_init: Any = initializer(0.25)

    def init(self, key: Value, input_type: Type) -> Values:
        return {"slope": initializer_of(self.slope_init)(key, input_type.shape[-1:])}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        a = ops.where(ops.greater(x, 0.0), x, params["slope"] * x)
        return a
