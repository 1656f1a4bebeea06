"""Normalisation: numbers brought to mean 0 and variance 1 over some axes, then scaled and shifted by learned amounts.

    x_hat = (x - mean) / sqrt(variance + epsilon),   y = scale x_hat + shift

The layers differ in what they take the mean over: batch norm over the batch (each feature by itself), layer norm over
the features (each example by itself), group norm over groups of channels and space. epsilon keeps the root away from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlit import ops
from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.nn import masks
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.settings import flag, number, whole


@dataclass(frozen=True, kw_only=True)
class _Normalization(Layer):
    """What all of them share: a scale of 1 and a shift of 0 for each feature, unless `affine` is False."""

    epsilon: float = number(1e-5, above=0)
    affine: bool = flag(True)

    def init(self, key: Value, input_type: Type) -> Values:
        if not input_type.ndim:
            raise ShapeError("an example has no axis of features")
        features = input_type.shape[-1:]
        return {"scale": np.ones(features), "shift": np.zeros(features)} if self.affine else {}

    def affinely(self, params: Values, x_hat: Value) -> Value:
        if not self.affine:
            return x_hat
        y = params["scale"] * x_hat + params["shift"]
        return y


@dataclass(frozen=True)
class BatchNorm(_Normalization):
    """Each feature is normalised over the batch (and over space): Ioffe & Szegedy 2015, algorithms 1 and 2.

    In training mean and variance are the batch's own, and running ones are kept:
    running = momentum running + (1 - momentum) batch, the variance multiplied by n / (n - 1) so that it is unbiased.
    Outside training the running ones are used. Padded positions do not count.
    x (batch, ..., features) keeps its shape. Parameters: scale, shift (features,). State: mean, variance (features,).
    """

    momentum: float = number(0.9, at_least=0, below=1)

    def init_state(self, input_type: Type) -> Values:
        features = input_type.shape[-1:]
        return {"mean": np.zeros(features), "variance": np.ones(features)}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        if ctx.training:
            axes = tuple(range(x.ndim - 1))
            mean = masks.mean(x, axes, ctx.mask)
            centred = x - mean
            variance = masks.mean(centred * centred, axes, ctx.mask)
            self._keep(x, mean, variance, ctx)
        else:
            mean, variance = ctx.state("mean"), ctx.state("variance")
            centred = x - mean
        x_hat = centred / ops.sqrt(variance + self.epsilon)
        return self.affinely(params, x_hat)

    def _keep(self, x: Value, mean: Value, variance: Value, ctx: Context) -> None:
        axes = tuple(range(x.ndim - 1))
        if ctx.mask is None:
            n = float(np.prod(x.shape[:-1]))
            unbiased = variance * (n / max(n - 1, 1.0))
        else:
            n = masks.count(x, axes, ctx.mask)
            unbiased = variance * (n / ops.maximum(n - 1.0, 1.0))
        for name, batch in (("mean", mean), ("variance", unbiased)):
            running = self.momentum * ctx.state(name) + (1 - self.momentum) * ops.squeeze(batch, axes)
            ctx.set_state(name, ops.stop_gradient(running))


@dataclass(frozen=True)
class LayerNorm(_Normalization):
    """Each position of each example is normalised over its features (Ba et al. 2016, equation 4).

    x (batch, ..., features) keeps its shape. Parameters: scale, shift (features,).
    """

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        mean = ops.mean(x, -1, keepdims=True)
        centred = x - mean
        variance = ops.mean(centred * centred, -1, keepdims=True)
        x_hat = centred / ops.sqrt(variance + self.epsilon)
        return self.affinely(params, x_hat)


@dataclass(frozen=True)
class RMSNorm(Layer):
    """y = scale x / sqrt(mean(x^2) + epsilon), over the features (Zhang & Sennrich 2019, equation 4).

    No mean is taken out. x (batch, ..., features) keeps its shape. Parameters: scale (features,).
    """

    epsilon: float = number(1e-6, above=0)

    def init(self, key: Value, input_type: Type) -> Values:
        if not input_type.ndim:
            raise ShapeError("an example has no axis of features")
        return {"scale": np.ones(input_type.shape[-1:])}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        square = ops.mean(x * x, -1, keepdims=True)
        x_hat = x / ops.sqrt(square + self.epsilon)
        y = params["scale"] * x_hat
        return y


@dataclass(frozen=True)
class GroupNorm(_Normalization):
    """The channels are cut into groups; each group of each example is normalised over its channels and over space.

    Wu & He 2018, equation 7. One group is layer norm over channels and space, as many groups as channels instance norm.
    x (batch, *space, channels) keeps its shape. Padded positions do not count. Parameters: scale, shift (channels,).
    """

    groups: int = whole(8, at_least=1)

    def init(self, key: Value, input_type: Type) -> Values:
        params = super().init(key, input_type)
        if input_type.shape[-1] % self.groups:
            raise ShapeError(f"{input_type.shape[-1]} channels cannot be cut into {self.groups} equal groups")
        return params

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        grouped = ops.reshape(x, (*x.shape[:-1], self.groups, -1))
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean = masks.mean(grouped, axes, ctx.mask)
        centred = grouped - mean
        variance = masks.mean(centred * centred, axes, ctx.mask)
        x_hat = ops.reshape(centred / ops.sqrt(variance + self.epsilon), x.shape)
        return self.affinely(params, x_hat)
