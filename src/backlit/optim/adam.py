"""Adam and its kin: steps of about the size of the learning rate, along a running mean of the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from backlit import ops
from backlit.ir import Type
from backlit.ops.record import Array, Value
from backlit.optim.optimizer import Descent
from backlit.optim.schedules import Schedule, rate
from backlit.optim.sgd import zeros
from backlit.settings import number


@dataclass(frozen=True)
class Adam(Descent):
    """Kingma & Ba 2015, algorithm 1:

        m ← β₁ m + (1 - β₁) g        m̂ = m / (1 - β₁ᵗ)
        v ← β₂ v + (1 - β₂) g²       v̂ = v / (1 - β₂ᵗ)
        θ ← θ - α m̂ / (√v̂ + ε)

    ε stands outside the root and after the correction of v, as in the algorithm, PyTorch and optax; TensorFlow and
    Keras have the form of the end of section 2, with ε̂ = ε √(1 - β₂ᵗ). In float32 the corrections of the first steps
    are exact to about 2e-5, because β₂ is rounded and 1 - β₂ᵗ cancels.
    """

    learning_rate: float | Schedule = rate(0.001)
    beta1: float = number(0.9, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    epsilon: float = number(1e-8, at_least=0)

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"m": zeros(theta), "v": zeros(theta)}

    def step(
        self, g: Value, theta: Value, alpha: Value, t: Value, m: Value, v: Value
    ) -> tuple[Value, dict[str, Value]]:
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * (g * g)
        m_hat = m / (1 - self.beta1**t)
        v_hat = v / (1 - self.beta2**t)
        theta = theta - alpha * m_hat / (ops.sqrt(v_hat) + self.epsilon)
        return theta, {"m": m, "v": v}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay: θ ← θ - α λ θ before Adam's step. Loshchilov & Hutter 2019, algorithm 2.

    As in PyTorch and optax the decay is multiplied by the learning rate; in the paper by the schedule alone. λ is 0.01
    as in PyTorch, where optax takes 0.0001.
    """

    weight_decay: float = number(0.01, at_least=0)

    decoupled: ClassVar[bool] = True


@dataclass(frozen=True)
class Adamax(Descent):
    """Kingma & Ba 2015, algorithm 2: v is replaced by the infinity norm of the gradients so far.

        m ← β₁ m + (1 - β₁) g
        u ← max(β₂ u, |g| + ε)
        θ ← θ - α / (1 - β₁ᵗ) · m / u

    The paper has no ε; it stands beside |g| as in PyTorch and optax, where Keras adds it to u.
    """

    learning_rate: float | Schedule = rate(0.002)
    beta1: float = number(0.9, at_least=0, below=1)
    beta2: float = number(0.999, at_least=0, below=1)
    epsilon: float = number(1e-8, at_least=0)

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"m": zeros(theta), "u": zeros(theta)}

    def step(
        self, g: Value, theta: Value, alpha: Value, t: Value, m: Value, u: Value
    ) -> tuple[Value, dict[str, Value]]:
        m = self.beta1 * m + (1 - self.beta1) * g
        u = ops.maximum(self.beta2 * u, ops.abs(g) + self.epsilon)
        theta = theta - alpha / (1 - self.beta1**t) * m / u
        return theta, {"m": m, "u": u}


@dataclass(frozen=True)
class NAdam(Adam):
    """Adam with Nesterov's momentum. Dozat 2016, algorithm 2; the schedule of μ is that of his report:

        μₜ = β₁ (1 - 0.96^(t ψ) / 2)
        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        m̂ = μₜ₊₁ m / (1 - μ₁ ⋯ μₜ₊₁) + (1 - μₜ) g / (1 - μ₁ ⋯ μₜ)
        v̂ = v / (1 - β₂ᵗ)
        θ ← θ - α m̂ / (√v̂ + ε)

    ψ is `momentum_decay`, 0.004 as in Dozat's report, PyTorch and Keras. None keeps μ at β₁, as optax does. The factor
    β₂ that the paper's algorithm has before v̂ is left out, as everywhere.
    """

    learning_rate: float | Schedule = rate(0.002)
    momentum_decay: float | None = number(0.004, at_least=0, optional=True)

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"m": zeros(theta), "v": zeros(theta), "mu_product": np.ones((), theta.dtype)}

    def step(  # type: ignore[override]
        self, g: Value, theta: Value, alpha: Value, t: Value, m: Value, v: Value, mu_product: Value
    ) -> tuple[Value, dict[str, Value]]:
        mu, mu_next = self._mu(t), self._mu(t + 1)
        mu_product = mu_product * mu
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * (g * g)
        m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
        v_hat = v / (1 - self.beta2**t)
        theta = theta - alpha * m_hat / (ops.sqrt(v_hat) + self.epsilon)
        return theta, {"m": m, "v": v, "mu_product": mu_product}

    def _mu(self, t: Value) -> Value:
        """The momentum of step t."""
        if self.momentum_decay is None:
            return self.beta1
        return self.beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))
