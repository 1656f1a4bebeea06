"""Dropout: noise in training that keeps units from relying on each other."""

from __future__ import annotations

from dataclasses import dataclass

from backlit import ops
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import number


@dataclass(frozen=True)
class Dropout(Layer):
    """In training each element is 0 with probability `rate`, and the others are divided by 1 - rate.

    So the expected value stays what it is, and nothing is done outside training (Srivastava et al. 2014, section 10).
    The shape stays. No parameters; draws random numbers.
    """

    rate: float = number(0.5, at_least=0, below=1)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if not ctx.training or self.rate == 0:
            return x
        keep = ops.random.bernoulli(ctx.key(), 1 - self.rate, x.shape)
        y = ops.where(keep, x / (1 - self.rate), 0.0)
        return y
