"""Gradient descent, plain and with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.ir import Type
from backlit.ops.record import Array, Value
from backlit.optim.optimizer import Descent
from backlit.settings import number


def zeros(theta: Type) -> Array:
    """What most rules remember before the first step."""
    return np.zeros(theta.shape, theta.dtype)


@dataclass(frozen=True)
class SGD(Descent):
    """θ ← θ - α g. Robbins & Monro 1951; with a minibatch's gradient, stochastic gradient descent."""

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, **slots: Any) -> tuple[Value, dict[str, Value]]:
        theta = theta - alpha * g
        return theta, {}


@dataclass(frozen=True)
class Momentum(Descent):
    """v ← μ v + g;  θ ← θ - α v. Polyak 1964.

    As in PyTorch and optax, the learning rate multiplies the velocity when it is used. Sutskever et al. 2013 (equation
    1) and Keras multiply each gradient as it enters, v ← μ v - α g: the same as long as α does not change.
    """

    momentum: float = number(0.9, at_least=0, below=1)

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"v": zeros(theta)}

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, v: Value) -> tuple[Value, dict[str, Value]]:
        v = self.momentum * v + g
        theta = theta - alpha * v
        return theta, {"v": v}


@dataclass(frozen=True)
class Nesterov(Momentum):
    """v ← μ v + g;  θ ← θ - α (g + μ v). Nesterov 1983.

    The form of PyTorch, optax and Keras (Bengio et al. 2013): θ stands for the point looked ahead to, so
    the gradient is taken where the parameters are. Sutskever et al. 2013 (equation 3) take it at θ + μ v.
    """

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, v: Value) -> tuple[Value, dict[str, Value]]:
        v = self.momentum * v + g
        theta = theta - alpha * (g + self.momentum * v)
        return theta, {"v": v}
