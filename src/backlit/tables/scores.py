"""How good predictions are, on rows that were not trained on, beside what guessing without looking would give.

The rule: a score never stands alone. An accuracy of 95 percent is worth nothing where 96 percent of the rows are of one
class, so every score comes with its baseline: the commonest class, or the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ClassScores:
    """Of a classification.

    classes    the k class names
    confusion  (k, k) int64: rows of class i (down) that were taken for class j (across)
    log_loss   mean of -ln(probability given to the right class), natural logarithm
    roc_auc    of two classes: the chance that a row of the second gets a higher probability of it than a row of the
               first (ties count half); None for more classes, or where one of the two is absent
    """

    classes: tuple[str, ...]
    confusion: Array
    log_loss: float
    roc_auc: float | None

    @property
    def rows(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The share of rows that are right."""
        return float(np.trace(self.confusion) / self.rows)

    @property
    def baseline(self) -> float:
        """The accuracy of always answering the commonest class of these rows."""
        return float(self.confusion.sum(axis=1).max() / self.rows)

    @property
    def precision(self) -> Array:
        """(k,): of the rows taken for a class, the share that is of it; nan where none was."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Array:
        """(k,): of the rows of a class, the share that was found; nan where there is none."""
        return _ratio(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> Array:
        """(k,): the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); nan where neither is known."""
        return _ratio(2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    def figures(self) -> dict[str, float]:
        """The scores by name, for tables and JSON."""
        found = {
            "accuracy": self.accuracy,
            "baseline accuracy": self.baseline,
            "macro F1": float(np.nanmean(self.f1)),
            "log loss": self.log_loss,
        }
        return found if self.roc_auc is None else {**found, "ROC AUC": self.roc_auc}


@dataclass(frozen=True)
class QuantityScores:
    """Of a regression, in the units of the target.

    rows  how many
    r2    1 - (sum of squared errors) / (sum of squared distances from the mean of these rows); nan if they are equal
    rmse  root of the mean squared error
    mae   mean absolute error
    std   the standard deviation of these rows: the RMSE of answering their mean
    """

    rows: int
    r2: float
    rmse: float
    mae: float
    std: float

    def figures(self) -> dict[str, float]:
        """The scores by name, for tables and JSON."""
        return {"R2": self.r2, "RMSE": self.rmse, "baseline RMSE": self.std, "MAE": self.mae}


Scores = ClassScores | QuantityScores


def score_classes(probabilities: Array, labels: Array, classes: tuple[str, ...]) -> ClassScores:
    """The scores of probabilities (rows, k) where `labels` (rows,) are the right classes."""
    count = len(classes)
    confusion = np.bincount(labels * count + probabilities.argmax(axis=1), minlength=count * count)
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    log_loss = float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())
    auc = _roc_auc(probabilities[:, 1], labels) if count == 2 else None
    return ClassScores(classes, confusion.reshape(count, count), log_loss, auc)


def score_quantity(predicted: Array, amounts: Array) -> QuantityScores:
    """The scores of predictions (rows,) of the amounts (rows,)."""
    errors = predicted.astype(np.float64) - amounts
    spread = float(np.square(amounts - amounts.mean()).sum())
    squares = float(np.square(errors).sum())
    return QuantityScores(
        rows=len(amounts),
        r2=1 - squares / spread if spread > 0 else float("nan"),
        rmse=float(np.sqrt(squares / len(amounts))),
        mae=float(np.abs(errors).mean()),
        std=float(np.sqrt(spread / len(amounts))),
    )


def _roc_auc(scores: Array, labels: Array) -> float | None:
    """By the rank sum (Mann and Whitney 1947): (R - n1 (n1 + 1) / 2) / (n0 n1), tied scores sharing their mean rank."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive = labels == 1
    n1 = int(positive.sum())
    n0 = len(labels) - n1
    return float((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n0 * n1)) if n0 and n1 else None


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
