"""Metrics: numbers that say how good predictions are, made to be read.

Most are fractions of sums, so they are computed inside the training step, batch by batch: a `Metric` gives the sums of
a batch, the sums of all batches are added up, and `result` makes the number of them. Those that need all predictions at
once (`WholeMetric`: the area under the ROC curve, the confusion matrix) are scikit-learn's.

Like losses, metrics of classes take logits: several along the last axis, or one that is above `threshold` (0: as likely
as not) for class 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from backlit import ops
from backlit.errors import Error, SettingError, ShapeError
from backlit.extras import require
from backlit.nn import losses, targets
from backlit.nn.losses import Loss
from backlit.nn.targets import columns, labels_of, numbers_like, weighted_mean, weights_like
from backlit.settings import Settings, choice, number, setting, whole
from backlit.tracing import type_of

Value = Any
Sums = tuple[Value, ...]


@dataclass(frozen=True)
class Metric(Settings, ABC):
    """Base of metrics that add up. Call one with (predicted, target, sample_weight=None) for the sums of a batch.

    `label` is the metric's short name, `higher_is_better` which way is good.
    """

    label: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    def __call__(self, predicted: Value, target: Value, sample_weight: Value = None) -> Sums:
        predicted = columns(predicted)
        try:
            return self.sums(predicted, target, sample_weight)
        except Error as e:
            raise e.within(f"metric {self.label}", [type_of(predicted), type_of(target)]) from None

    @abstractmethod
    def sums(self, predicted: Value, target: Value, sample_weight: Value) -> Sums:
        """Scalars that add up over batches, by default a sum and a count. `predicted` has an axis of outputs."""

    def result(self, *sums: Any) -> float:
        """The metric, of the sums of all batches."""
        total, count = (float(s) for s in sums)
        return total / count if count else float("nan")


def _mean(values: Value, sample_weight: Value) -> Sums:
    return weighted_mean(values, None if sample_weight is None else weights_like(values, sample_weight))


@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of examples whose class is right; for several labels at once (binary outputs), the share of labels."""

    threshold: float = number(0.0)
    label = "accuracy"

    def sums(self, predicted: Value, target: Value, sample_weight: Value) -> Sums:
        t = type_of(predicted)
        if t.shape[-1] == 1:
            right = ops.equal(predicted > self.threshold, numbers_like(predicted, target) > 0.5)
            right = ops.squeeze(right, -1)
        else:
            right = ops.equal(ops.argmax(predicted, -1), labels_of(predicted, target))
        return _mean(ops.astype(right, t.dtype), sample_weight)


@dataclass(frozen=True)
class TopK(Metric):
    """The share of examples whose label is among the k classes of the largest logits."""

    k: int = whole(5, at_least=1)
    label = "top_k"

    def sums(self, predicted: Value, target: Value, sample_weight: Value) -> Sums:
        t = type_of(predicted)
        if t.shape[-1] < self.k:
            raise ShapeError(f"there are {t.shape[-1]} classes, and k is {self.k}")
        y = labels_of(predicted, target)
        own = ops.take_along_axis(predicted, ops.expand_dims(y, y.ndim))
        above = ops.sum(ops.astype(predicted > own, t.dtype), -1)
        return _mean(ops.astype(above < float(self.k), t.dtype), sample_weight)


@dataclass(frozen=True)
class R2(Metric):
    """1 - Σ (y - ŷ)² / Σ (y - ȳ)²: the share of the targets' variance that is explained; several outputs count alike.

    Adds up in float64, as Σ (y - ȳ)² is worked out from Σ y and Σ y².
    """

    label = "r2"

    def sums(self, predicted: Value, target: Value, sample_weight: Value) -> Sums:
        y = ops.astype(numbers_like(predicted, target), np.float64)
        error = y - ops.astype(predicted, np.float64)
        weight = np.ones((), np.float64)
        if sample_weight is not None:
            weight = weights_like(y, sample_weight)
        count = ops.sum(ops.broadcast_to(weight, y.shape))
        return ops.sum(weight * error * error), ops.sum(weight * y), ops.sum(weight * y * y), count

    def result(self, *sums: Any) -> float:
        errors, total, squares, count = (float(s) for s in sums)
        spread = squares - total * total / count if count else 0.0
        return 1 - errors / spread if spread > 0 else float("nan")


def _loss(name: str, value: Any) -> Loss:
    found = losses.get(value)
    if isinstance(found, losses.Custom):
        raise SettingError(f"{name} is the name of a loss, or a loss")
    return found


@dataclass(frozen=True)
class Average(Metric):
    """The mean of a loss over the examples, as a metric: Average("mae")."""

    loss: Loss = setting(_loss)
    higher_is_better = False

    @property
    def label(self) -> str:  # type: ignore[override]  # the loss's own
        return self.loss.label

    def sums(self, predicted: Value, target: Value, sample_weight: Value) -> Sums:
        self.loss.check(predicted, target)
        each, weight = self.loss.each(predicted, target)
        if sample_weight is not None:
            sample_weight = weights_like(each, sample_weight)
            weight = sample_weight if weight is None else weight * sample_weight
        return weighted_mean(each, weight)


@dataclass(frozen=True)
class WholeMetric(Settings, ABC):
    """Base of metrics of all predictions at once. Call one with arrays (predicted, target) for a number or an array.

    Raises MissingExtraError where scikit-learn is not installed.
    """

    label: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, predicted: Value, target: Value) -> Any: ...


def _classes(predicted: Value, target: Value, threshold: float) -> tuple[Any, Any]:
    """Predicted and true classes, flat."""
    predicted = columns(np.asarray(predicted))
    if predicted.shape[-1] == 1:
        true = numbers_like(predicted, np.asarray(target)) > 0.5
        return (predicted > threshold).astype(int).ravel(), true.astype(int).ravel()
    return np.argmax(predicted, -1).ravel(), labels_of(predicted, np.asarray(target)).ravel()


@dataclass(frozen=True)
class RocAuc(WholeMetric):
    """The area under the ROC curve, from logits; for several classes the mean of each against the rest."""

    label = "roc_auc"

    def __call__(self, predicted: Value, target: Value) -> float:
        sklearn = require("sklearn.metrics", "metrics")
        predicted = columns(np.asarray(predicted, np.float64))
        if predicted.shape[-1] == 1:
            true = numbers_like(predicted, np.asarray(target)).ravel() > 0.5
            return float(sklearn.roc_auc_score(true, predicted.ravel()))
        classes = predicted.shape[-1]
        true = labels_of(predicted, np.asarray(target)).ravel()
        p = ops.softmax(predicted).reshape(-1, classes)
        if classes == 2:
            return float(sklearn.roc_auc_score(true, p[:, 1]))
        return float(sklearn.roc_auc_score(true, p, multi_class="ovr", labels=np.arange(classes)))


@dataclass(frozen=True)
class ConfusionMatrix(WholeMetric):
    """How many examples of class i (row) were taken for class j (column): an array (classes, classes)."""

    threshold: float = number(0.0)
    label = "confusion_matrix"

    def __call__(self, predicted: Value, target: Value) -> Any:
        sklearn = require("sklearn.metrics", "metrics")
        found, true = _classes(predicted, target, self.threshold)
        classes = max(2, columns(np.asarray(predicted)).shape[-1])
        return sklearn.confusion_matrix(true, found, labels=np.arange(classes))


@dataclass(frozen=True)
class _Scores(WholeMetric):
    """Precision, recall and F1: of class 1 of two; for more classes the mean over them ("macro")."""

    threshold: float = number(0.0)
    average: str = choice("macro", "micro", "weighted")

    def __call__(self, predicted: Value, target: Value) -> float:
        sklearn = require("sklearn.metrics", "metrics")
        found, true = _classes(predicted, target, self.threshold)
        several = columns(np.asarray(predicted)).shape[-1] > 2
        score = getattr(sklearn, f"{self.label}_score")
        return float(score(true, found, average=self.average if several else "binary", zero_division=0.0))


@dataclass(frozen=True)
class Precision(_Scores):
    """Of the examples taken for a class, the share that is of it."""

    label = "precision"


@dataclass(frozen=True)
class Recall(_Scores):
    """Of the examples of a class, the share that is taken for it."""

    label = "recall"


@dataclass(frozen=True)
class F1(_Scores):
    """2 / (1 / precision + 1 / recall)."""

    label = "f1"


METRICS: dict[str, Metric | WholeMetric] = {
    metric.label: metric
    for metric in (Accuracy(), TopK(), R2(), RocAuc(), ConfusionMatrix(), Precision(), Recall(), F1())
}
"""Metrics by their short names, with their usual settings; every loss's name is that of its mean as a metric."""


def get(value: str | Metric | WholeMetric | Callable[..., Any]) -> Metric | WholeMetric:
    """The metric that a name stands for; a metric as it is. Raises SettingError for anything else."""
    if isinstance(value, Metric | WholeMetric):
        return value
    if isinstance(value, type) and issubclass(value, Metric | WholeMetric):
        return value()
    if isinstance(value, Loss) or value in losses.LOSSES:
        return Average(value)  # type: ignore[arg-type]  # a name is looked up
    if not isinstance(value, str) or value not in METRICS:
        known = ", ".join((*METRICS, *losses.LOSSES))
        raise SettingError(f"there is no metric {value!r}", fix=f"use one of {known}, or a subclass of metrics.Metric")
    return METRICS[value]


def check(metric: Metric | WholeMetric, predicted: Value, target: Value) -> None:
    """Raise ShapeError, DtypeError or DataError unless the metric can take these; `predicted` needs a shape only."""
    if isinstance(metric, Average):
        metric.loss.check(predicted, target)
    elif not isinstance(metric, R2) and type_of(columns(predicted)).shape[-1] > 1:
        targets.are_labels(predicted, target)
