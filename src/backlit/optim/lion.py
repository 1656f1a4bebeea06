"""Lion: only the sign of a running mean of the gradients counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from backlit import ops
from backlit.ir import Type
from backlit.ops.record import Array, Value
from backlit.optim.optimizer import Descent
from backlit.optim.schedules import Schedule, rate
from backlit.optim.sgd import zeros
from backlit.settings import number


@dataclass(frozen=True)
class Lion(Descent):
    """Chen et al. 2023, algorithm 2:

        c = β₁ m + (1 - β₁) g
        θ ← θ - α (sign(c) + λ θ)
        m ← β₂ m + (1 - β₂) g

    Every element moves by α in every step, so α is to be 3 to 10 times smaller, and the decoupled weight decay λ 3 to
    10 times larger, than for AdamW (section 5). λ is 0 unless given, as in the paper's code; optax takes 0.001.
    """

    learning_rate: float | Schedule = rate(0.0001)
    beta1: float = number(0.9, at_least=0, below=1)
    beta2: float = number(0.99, at_least=0, below=1)

    decoupled: ClassVar[bool] = True

    def slots(self, theta: Type) -> dict[str, Array]:
        return {"m": zeros(theta)}

    def step(self, g: Value, theta: Value, alpha: Value, t: Value, m: Value) -> tuple[Value, dict[str, Value]]:
        c = self.beta1 * m + (1 - self.beta1) * g
        theta = theta - alpha * ops.sign(c)
        m = self.beta2 * m + (1 - self.beta2) * g
        return theta, {"m": m}
