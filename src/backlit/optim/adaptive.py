"""Rules that divide each element's step by the size of its gradients so far: Adagrad, RMSProp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit import ops
from backlit.ir import Type
from backlit.ops.record import Array, Value
from backlit.optim.optimizer import Descent
from backlit.optim.schedules import Schedule, rate
from backlit.optim.sgd import zeros
from backlit.settings import flag, number


@dataclass(frozen=True)
class Adagrad(Descent):
    """v ← v + g²;  θ ← θ - α g / (√v + ε). Duchi et al. 2011, equation 1 in its diagonal form.

    v starts at `initial_accumulator`: 0 as in the paper and PyTorch, where optax and Keras take 0.1. ε stands outside
    the root, as in PyTorch; optax and Keras have it inside.
    """

    initial_accumulator: float = number(0.0, at_least=0)
    epsilon: float = number(1e-10, at_least=0)

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"v": np.full(theta.shape, self.initial_accumulator, theta.dtype)}

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, v: Value) -> tuple[Value, dict[str, Value]]:
        v = v + g * g
        theta = theta - alpha * g / (ops.sqrt(v) + self.epsilon)
        return theta, {"v": v}


@dataclass(frozen=True)
class RMSProp(Descent):
    """v ← ρ v + (1 - ρ) g²;  θ ← θ - α g / (√v + ε). Hinton 2012 (Neural Networks for Machine Learning, lecture 6e).

    With `centered`, v is replaced under the root by v - m², m ← ρ m + (1 - ρ) g, an estimate of the variance; with
    `momentum` μ the quotient q = g / (√v + ε) enters a velocity, b ← μ b + q;  θ ← θ - α b (Graves 2013, equations 38
    to 41, has both). ρ is 0.9 as in the lecture, optax and Keras, where PyTorch takes 0.99 and calls it alpha. ε stands
    outside the root, as in PyTorch; optax has it inside unless eps_in_sqrt=False. v starts at 0, uncorrected.
    """

    learning_rate: float | Schedule = rate(0.001)
    rho: float = number(0.9, at_least=0, below=1)
    epsilon: float = number(1e-8, at_least=0)
    momentum: float = number(0.0, at_least=0, below=1)
    centered: bool = flag(False)

    def slots(self, theta: Type) -> dict[str, Array]:
        names = ["v"] + ["m"] * self.centered + ["b"] * (self.momentum > 0)
        return {name: zeros(theta) for name in names}

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, **slots: Any) -> tuple[Value, dict[str, Value]]:
        v = self.rho * slots["v"] + (1 - self.rho) * (g * g)
        new, variance = {"v": v}, v
        if self.centered:
            m = self.rho * slots["m"] + (1 - self.rho) * g
            variance = ops.maximum(v - m * m, 0.0)  # rounding can take it below 0 when gradients hardly change
            new["m"] = m
        q = g / (ops.sqrt(variance) + self.epsilon)
        if self.momentum > 0:
            b = self.momentum * slots["b"] + q
            new["b"] = q = b
        theta = theta - alpha * q
        return theta, new
