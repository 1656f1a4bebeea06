"""Losses: one number that says how wrong predictions are, made to be minimised.

A loss gives one number for each example (each position of a sequence counts as one) and takes their mean; with weights
w it is sum(w l) / sum(w), so the scale of the weights does not matter.

Losses for classes take logits z, the results of a last layer without an activation, and never probabilities: log and
softmax (or sigmoid) together are accurate where one after the other they would give log(0). So the last layer is
`nn.Dense(classes)` for "crossentropy" and "kl", `nn.Dense(1)` for "binary_crossentropy" and "hinge", and
`ops.softmax(z)` or `ops.sigmoid(z)` of the network's result are the probabilities. Losses of numbers ("mse", ...) take
any last layer.
"""

from __future__ import annotations

import fnmatch
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from backlit import ops
from backlit.errors import Error, SettingError, ShapeError
from backlit.nn import targets
from backlit.nn.activations import ACTIVATIONS, Activation
from backlit.nn.combinators import Sequential
from backlit.nn.layer import Layer, names_of
from backlit.nn.targets import are_labels, columns, numbers_like, weights_like
from backlit.settings import Settings, function, kind_of, number, numbers, setting, whole
from backlit.tracing import type_of

Value = Any


@dataclass(frozen=True)
class Loss(Settings, ABC):
    """Base of all losses: call one with (predicted, target, sample_weight=None) for the mean over the examples.

    `label` is the loss's short name, `takes_logits` whether probabilities would be wrong. Raises ShapeError and
    DtypeError where target and prediction do not fit, and DataError for target values that the loss cannot take, as far
    as they have numbers and are not traced.
    """

    label: ClassVar[str] = ""
    takes_logits: ClassVar[bool] = False

    def __call__(self, predicted: Value, target: Value, sample_weight: Value = None) -> Value:
        try:
            self.check(predicted, target)
            each, weight = self.each(columns(predicted), target)
            if sample_weight is not None:
                sample_weight = weights_like(each, sample_weight)
                weight = sample_weight if weight is None else weight * sample_weight
        except Error as e:
            raise e.within(f"loss {self.label}", [type_of(predicted), type_of(target)]) from None
        if weight is None:
            loss = ops.mean(each)
            return loss
        total = ops.sum(weight)
        loss = ops.sum(weight * each) / ops.where(total > 0.0, total, 1.0)
        return loss

    @abstractmethod
    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        """One number for each example (predicted.shape[:-1]), and their own weights or None."""

    def check(self, predicted: Value, target: Value) -> None:
        """Raise if the loss cannot take these. Only the shape of `predicted` is looked at."""
        numbers_like(columns(predicted), target)


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(1 / k) Σ_j (ŷ_j - y_j)² over the k outputs."""

    label = "mse"

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        error = predicted - numbers_like(predicted, target)
        return ops.mean(error * error, -1), None


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """½ Σ_j (ŷ_j - y_j)² over the outputs: the textbook's loss, whose gradient is ŷ - y."""

    label = "half_mse"

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        error = predicted - numbers_like(predicted, target)
        return 0.5 * ops.sum(error * error, -1), None


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """(1 / k) Σ_j |ŷ_j - y_j| over the k outputs."""

    label = "mae"

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        error = predicted - numbers_like(predicted, target)
        return ops.mean(ops.abs(error), -1), None


@dataclass(frozen=True)
class Huber(Loss):
    """The mean over the outputs of e²/2 where |e| = |ŷ - y| ≤ δ, and δ (|e| - δ/2) beyond (Huber 1964)."""

    delta: float = number(1.0, above=0)
    label = "huber"

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        error = ops.abs(predicted - numbers_like(predicted, target))
        near = ops.minimum(error, self.delta)
        return ops.mean(0.5 * near * near + self.delta * (error - near), -1), None


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The mean over the outputs of -y log σ(z) - (1 - y) log(1 - σ(z)), z being logits and y 0, 1 or between.

    Computed as y softplus(-z) + (1 - y) softplus(z). `label_smoothing` s makes y (1 - s) y + s / 2; `class_weight`
    (w₀, w₁) weights an output by (1 - y) w₀ + y w₁. Several outputs are several independent labels.
    """

    label_smoothing: float = number(0.0, at_least=0, below=1)
    class_weight: tuple[float, ...] | None = numbers(None, at_least=0)
    label, takes_logits = "binary_crossentropy", True

    def check(self, predicted: Value, target: Value) -> None:
        if self.class_weight is not None and len(self.class_weight) != 2:
            raise SettingError("class_weight has one weight for 0 and one for 1")
        numbers_like(columns(predicted), target)
        targets.check_probabilities(target, rows=False)

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        z, y = predicted, numbers_like(predicted, target)
        weight = None
        if self.class_weight is not None:
            none, one = self.class_weight
            weight = (1.0 - y) * none + y * one
        if self.label_smoothing:
            y = (1.0 - self.label_smoothing) * y + self.label_smoothing / 2
        loss = y * ops.softplus(-z) + (1.0 - y) * ops.softplus(z)
        if weight is None:
            return ops.mean(loss, -1), None
        total = ops.sum(weight, -1)
        return ops.sum(weight * loss, -1) / ops.where(total > 0.0, total, 1.0), ops.mean(weight, -1)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-Σ_k y_k log p_k, with p = softmax(z) and z the logits of the classes along the last axis.

    The target is integer labels, or rows y that are one-hot or probabilities. `label_smoothing` s makes y
    (1 - s) y + s / classes (Szegedy et al. 2016, section 7). `class_weight` w (one a class) weights an example by
    Σ_k w_k y_k. Examples whose label is `ignore` do not count.
    """

    label_smoothing: float = number(0.0, at_least=0, below=1)
    class_weight: tuple[float, ...] | None = numbers(None, at_least=0)
    ignore: int | None = whole(None, at_least=None)
    label, takes_logits = "crossentropy", True

    def check(self, predicted: Value, target: Value) -> None:
        shape = type_of(predicted).shape
        if len(shape) < 2 or shape[-1] < 2:
            raise ShapeError(
                f"the prediction has the shape {shape}, with no axis of two classes or more",
                fix="let the last layer have one unit for each class, or use binary_crossentropy for one unit",
            )
        if self.class_weight is not None and len(self.class_weight) != shape[-1]:
            raise ShapeError(f"class_weight has {len(self.class_weight)} weights for {shape[-1]} classes")
        if are_labels(predicted, target):
            targets.check_labels(target, shape[-1], self.ignore)
        else:
            targets.check_probabilities(target, rows=True)

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        z = predicted
        log_p = ops.log_softmax(z)
        weight = None
        if are_labels(z, target):
            y = targets.labels_of(z, target)
            if self.ignore is not None:
                counts = y != self.ignore
                y, weight = ops.where(counts, y, 0), ops.astype(counts, z.dtype)
            picked = ops.take_along_axis(log_p, ops.expand_dims(y, y.ndim))
            each = -ops.squeeze(picked, -1)
            of_class = None if self.class_weight is None else ops.take(self._weights(z), y, 0)
        else:
            y = numbers_like(z, target)
            each = -ops.sum(y * log_p, -1)
            of_class = None if self.class_weight is None else y @ self._weights(z)
        if self.label_smoothing:
            each = (1.0 - self.label_smoothing) * each - self.label_smoothing * ops.mean(log_p, -1)
        if of_class is not None:
            weight = of_class if weight is None else weight * of_class
        return each, weight

    def _weights(self, z: Value) -> Value:
        return np.asarray(self.class_weight, z.dtype)


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - y z) for one output z, y being 1 for targets above 0 and -1 for others (0 or -1).

    For several outputs the target is labels or one-hot rows, and it is max(0, 1 + max_{j ≠ k} z_j - z_k), k being the
    label (Crammer & Singer 2001).
    """

    label, takes_logits = "hinge", True

    def check(self, predicted: Value, target: Value) -> None:
        predicted = columns(predicted)
        classes = type_of(predicted).shape[-1]
        if classes == 1:
            numbers_like(predicted, target)
        elif are_labels(predicted, target):
            targets.check_labels(target, classes)

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        z = predicted
        if z.shape[-1] == 1:
            y = ops.where(numbers_like(z, target) > 0.0, 1.0, -1.0)
            margin = ops.squeeze(ops.astype(y, z.dtype) * z, -1)
        else:
            y = targets.labels_of(z, target)
            own = ops.one_hot(y, z.shape[-1], z.dtype) > 0.0
            margin = ops.sum(ops.where(own, z, 0.0), -1) - ops.max(ops.where(own, -np.inf, z), -1)
        return ops.relu(1.0 - margin), None


@dataclass(frozen=True)
class KullbackLeibler(Loss):
    """Σ_k y_k (log y_k - log p_k), with p = softmax(z) of the logits z and y rows of probabilities."""

    label, takes_logits = "kl", True

    def check(self, predicted: Value, target: Value) -> None:
        numbers_like(predicted, target)
        targets.check_probabilities(target, rows=True)

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        z, y = predicted, numbers_like(predicted, target)
        log_p = ops.log_softmax(z)
        log_y = ops.log(ops.where(y > 0.0, y, 1.0))  # 0 log 0 = 0
        return ops.sum(y * (log_y - log_p), -1), None


def _function(name: str, value: Any) -> Any:
    if not callable(value) and not isinstance(value, str):
        raise SettingError(f"{name} is a function of (predicted, target), not {value!r}")
    return function(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Custom(Loss):
    """Any function of (predicted, target) that gives one number, as a loss.

    It may take a third argument, the sample weights; otherwise there can be none.
    """

    function: Callable[..., Value] = setting(_function)
    label = "custom"

    def __call__(self, predicted: Value, target: Value, sample_weight: Value = None) -> Value:
        name = getattr(self.function, "__name__", "the function")
        if sample_weight is None:
            loss = self.function(predicted, target)
        elif self._takes_weights():
            loss = self.function(predicted, target, sample_weight)
        else:
            raise SettingError(f"{name} takes no sample weights", fix="give it a third argument, sample_weight")
        t = type_of(loss)
        if t.shape or t.dtype.kind != "f":
            raise ShapeError(f"the loss {name} gives {t}, not one floating-point number", fix="reduce it with ops.mean")
        return loss

    def _takes_weights(self) -> bool:
        try:
            inspect.signature(self.function).bind(None, None, None)
        except (TypeError, ValueError):
            return False
        return True

    def each(self, predicted: Value, target: Value) -> tuple[Value, Value]:
        raise SettingError("a function gives no loss for each example", fix="make it a subclass of losses.Loss")

    def check(self, predicted: Value, target: Value) -> None:
        pass


LOSSES: dict[str, Loss] = {
    loss.label: loss
    for loss in (
        MeanSquaredError(), HalfSquaredError(), MeanAbsoluteError(), Huber(), BinaryCrossEntropy(), CrossEntropy(),
        Hinge(), KullbackLeibler(),
    )
}  # fmt: skip
"""Losses by their short names, with their usual settings."""


def get(value: str | Loss | Callable[[Value, Value], Value]) -> Loss:
    """The loss that a name stands for; a loss as it is; a function of (predicted, target) as a loss.

    Raises SettingError for an unknown name.
    """
    if isinstance(value, Loss):
        return value
    if isinstance(value, type) and issubclass(value, Loss):
        return value()
    if not isinstance(value, str):
        return Custom(value)
    found = {**LOSSES, **{kind_of(type(loss)): loss for loss in LOSSES.values()}}
    if value not in found:
        raise SettingError(f"there is no loss {value!r}", fix=f"use one of {', '.join(LOSSES)}, or a function")
    return found[value]


def refuse_probabilities(loss: Loss, layers: Mapping[str, Layer]) -> None:
    """Raise SettingError if the loss takes logits and the last of a network's layers makes probabilities of them.

    Nothing would fail: the network would learn, only slowly and badly.
    """
    if not loss.takes_logits or not layers:
        return
    name, last = list(layers.items())[-1]
    if isinstance(last, Sequential):
        refuse_probabilities(loss, {f"{name}.{k}": v for k, v in names_of(last.layers)})
        return
    found = getattr(last, "function" if isinstance(last, Activation) else "activation", None)
    for made in ("sigmoid", "softmax"):
        if found == made or found is ACTIVATIONS[made]:
            raise SettingError(
                f"{name} ends in {made}, and the loss {loss.label} takes logits",
                fix=f"leave the activation of the last layer out, and take ops.{made} of the network's results",
            )


# ---------------------------------------------------------------------------------------------------------------------
# Penalties and class weights


def _penalised(params: Mapping[str, Value], names: str) -> list[Value]:
    found = [value for name, value in params.items() if fnmatch.fnmatchcase(name, names)]
    if not found:
        raise SettingError(f"no parameter is called {names!r}", fix=f"there are {', '.join(params)}")
    return found


def l1(params: Mapping[str, Value], rate: float, names: str = "*weight") -> Value:
    """rate Σ |w| over the parameters whose names match (all weights by default, no biases): add it to a loss."""
    return _total([ops.sum(ops.abs(w)) for w in _penalised(params, names)], rate)


def l2(params: Mapping[str, Value], rate: float, names: str = "*weight") -> Value:
    """rate Σ w² over the parameters whose names match (all weights by default, no biases): add it to a loss."""
    return _total([ops.sum(w * w) for w in _penalised(params, names)], rate)


def _total(sums: list[Value], rate: float) -> Value:
    penalty = sums[0]
    for value in sums[1:]:
        penalty = penalty + value
    return rate * penalty


def balanced(labels: Any) -> tuple[float, ...]:
    """Class weights that give all classes the same say: examples / (classes · examples of the class)."""
    counts = np.bincount(np.asarray(labels).ravel())
    if not counts.all():
        raise SettingError(f"there is no example of the class {int(np.argmin(counts))}")
    return tuple(float(n) for n in counts.sum() / (len(counts) * counts))
