"""What parameters are before training: rules that draw an array of a shape from a random key.

The variance of a layer's result is fan_in times the variance of its weights, times the mean square of its inputs; so
weights of variance 1 / fan_in neither blow up nor fade what passes through many layers (LeCun et al., Efficient
BackProp, 1998, section 4.6). relu drops half of it, which He makes up for with a 2; Glorot takes the mean of what the
forward and the backward pass want.

Weights have the shape (*window, inputs, outputs): fan_in is inputs times the window's size, fan_out outputs times it.
Wherever a layer takes an initialiser, a name from `INITIALIZERS`, a number (all elements) or an array will do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import SettingError, ShapeError
from backlit.settings import Settings, choice, number, setting
from backlit.tracing import is_traced

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Initializer(Settings, ABC):
    """A rule that gives the first values of a parameter."""

    @abstractmethod
    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        """An array of the shape, drawn from a random key; its dtype is float32 or float64."""


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """fan_in and fan_out of weights (*window, inputs, outputs)."""
    if len(shape) < 2:
        n = math.prod(shape)
        return n, n
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Random numbers of mean 0 and variance scale / fan.

    LeCun: scale 1, fan_in (LeCun et al. 1998). He: scale 2, fan_in (He et al. 2015, equation 10). Glorot: scale 1, the
    mean of fan_in and fan_out (Glorot & Bengio 2010, equation 12). "uniform" draws from (-a, a), a^2 = 3 scale / fan.
    """

    scale: float = number(1.0, above=0)
    fan: str = choice("in", "out", "mean")
    distribution: str = choice("normal", "uniform")

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        fan_in, fan_out = fans(shape)
        fan = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[self.fan]
        deviation = math.sqrt(self.scale / max(fan, 1))
        if self.distribution == "normal":
            return Normal(deviation)(key, shape)
        limit = math.sqrt(3) * deviation
        return Uniform(-limit, limit)(key, shape)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normally distributed numbers."""

    deviation: float = number(0.05, at_least=0)
    mean: float = number(0.0)

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        drawn: Array = ops.random.normal(key, shape) * self.deviation + self.mean
        return drawn


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniformly distributed numbers in [low, high)."""

    low: float = number(-0.05)
    high: float = number(0.05)

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        drawn: Array = ops.random.uniform(key, shape, low=self.low, high=self.high)
        return drawn


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A matrix with orthonormal rows or columns (whichever are fewer), times `gain`: keeps lengths.

    Weights of more than two axes count as a matrix of the last axis against all others. Drawn uniformly among all such
    matrices: the Q of a normal matrix, with the signs of R's diagonal (Saxe et al. 2014; Mezzadri 2007).
    """

    gain: float = number(1.0)

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        if len(shape) < 2:
            raise ShapeError(f"an orthogonal parameter has at least two axes, and this one has the shape {shape}")
        if is_traced(key):  # only the shape is asked for: there is no decomposition among the ops
            return Normal()(key, shape)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        drawn = ops.random.normal(key, (max(rows, columns), min(rows, columns))).astype(np.float64)
        q, r = np.linalg.qr(drawn)
        q = q * np.sign(np.diag(r))
        matrix: Array = self.gain * (q if rows >= columns else q.T)
        return matrix.reshape(shape)


def _numbers(name: str, value: Any) -> Any:
    """A number, or nested tuples of numbers."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise SettingError(f"{name} is no number and no array of numbers: {value!r}") from None
    return _nested(array.tolist())


def _nested(value: Any) -> Any:
    return tuple(_nested(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Given(Initializer):
    """The values themselves: an array of the parameter's shape, or one number for all elements."""

    values: Any = setting(_numbers)

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        array = np.asarray(self.values, np.float64)
        if array.shape not in ((), shape):
            raise ShapeError(f"the parameter has the shape {shape}, and the values given for it {array.shape}")
        return np.array(np.broadcast_to(array, shape))


INITIALIZERS: dict[str, Initializer] = {
    "he_normal": VarianceScaling(2.0),
    "he_uniform": VarianceScaling(2.0, distribution="uniform"),
    "glorot_normal": VarianceScaling(1.0, "mean"),
    "glorot_uniform": VarianceScaling(1.0, "mean", "uniform"),
    "lecun_normal": VarianceScaling(1.0),
    "lecun_uniform": VarianceScaling(1.0, distribution="uniform"),
    "orthogonal": Orthogonal(),
    "normal": Normal(),
    "uniform": Uniform(),
    "zeros": Given(0.0),
    "ones": Given(1.0),
}
"""Initialisers by name."""


def get(value: Any) -> Initializer:
    """The initialiser that a name, a number, an array or an initialiser stands for. Raises SettingError for others."""
    if isinstance(value, Initializer):
        return value
    if not isinstance(value, str):
        return Given(value)
    if value not in INITIALIZERS:
        raise SettingError(f"there is no initialiser {value!r}", fix=f"use one of {', '.join(INITIALIZERS)}")
    return INITIALIZERS[value]


def initializer(default: Any) -> Any:
    """A field that holds an initialiser, or what `get` makes one of."""

    def check(name: str, value: Any) -> Any:
        try:
            found = get(value)
        except SettingError as e:
            what = (
                e.what if isinstance(value, str) else f"{value!r} is no initialiser, no number and no array of numbers"
            )
            raise SettingError(f"{name}: {what}", fix=e.fix) from None
        return value if isinstance(value, str) else found

    return setting(check, default)
