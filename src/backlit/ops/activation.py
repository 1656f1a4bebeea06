"""Activation functions that are composites, beside those that are ops (sigmoid, tanh, relu, softplus). They act on each
element alone.
"""

from __future__ import annotations

import math

from backlit.ops import elementwise as ew
from backlit.ops.composite import clip
from backlit.ops.record import Value, composite
from backlit.ops.special import erf

# Chosen so that mean 0 and variance 1 are a stable fixed point (Klambauer et al. 2017).
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@composite
def gelu(x: Value, approximate: bool = False) -> Value:
    """x Phi(x), Phi the normal distribution function: x (1 + erf(x / sqrt 2)) / 2.

    `approximate` takes x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks & Gimpel 2016, section 2).
    """
    if approximate:
        return 0.5 * x * (1.0 + ew.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


@composite
def silu(x: Value) -> Value:
    """x sigmoid(x), also called swish."""
    return x * ew.sigmoid(x)


@composite
def leaky_relu(x: Value, slope: float = 0.01) -> Value:
    """x where x > 0, slope x elsewhere."""
    return ew.where(ew.greater(x, 0.0), x, slope * x)


@composite
def elu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, alpha (e^x - 1) elsewhere."""
    return ew.where(ew.greater(x, 0.0), x, alpha * ew.expm1(ew.minimum(x, 0.0)))


@composite
def selu(x: Value) -> Value:
    """1.0507 x where x > 0, 1.0507 · 1.6733 (e^x - 1) elsewhere (Klambauer et al. 2017, equation 2)."""
    below = _SELU_ALPHA * ew.expm1(ew.minimum(x, 0.0))
    return _SELU_SCALE * ew.where(ew.greater(x, 0.0), x, below)


@composite
def celu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, alpha (e^(x / alpha) - 1) elsewhere: an elu whose slope is continuous (Barron 2017)."""
    return ew.where(ew.greater(x, 0.0), x, alpha * ew.expm1(ew.minimum(x, 0.0) / alpha))


@composite
def mish(x: Value) -> Value:
    """x tanh(softplus(x)) (Misra 2019)."""
    return x * ew.tanh(ew.softplus(x))


@composite
def softsign(x: Value) -> Value:
    """x / (1 + |x|)."""
    return x / (1.0 + ew.abs(x))


@composite
def log_sigmoid(x: Value) -> Value:
    """log(sigmoid(x)) = -softplus(-x), without overflow."""
    return -ew.softplus(-x)


@composite
def hard_tanh(x: Value) -> Value:
    """x, but at least -1 and at most 1."""
    return clip(x, -1.0, 1.0)


@composite
def hard_sigmoid(x: Value) -> Value:
    """x / 6 + 1/2, but at least 0 and at most 1."""
    return clip(x / 6.0 + 0.5, 0.0, 1.0)


@composite
def hard_silu(x: Value) -> Value:
    """x hard_sigmoid(x), also called hard swish (Howard et al. 2019, section 5.2)."""
    return x * hard_sigmoid(x)


@composite
def relu6(x: Value) -> Value:
    """x, but at least 0 and at most 6."""
    return clip(x, 0.0, 6.0)
