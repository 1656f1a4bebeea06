"""What a network is trained towards, brought into the form that losses and metrics compute with.

Predictions are (batch, ..., outputs) or (batch, ...). Targets are numbers of the same shape, or, for classes, labels
(batch, ...): integers from 0; or one-hot rows or probabilities (batch, ..., classes).

The rule: shapes never broadcast here. (batch,) against (batch, 1) would silently compare everybody with everybody, so
the missing axis is added, and anything else is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import DataError, DtypeError, ShapeError
from backlit.tracing import is_traced, type_of

Value = Any


def numbers_like(predicted: Value, target: Value) -> Value:
    """The target in the prediction's shape and dtype. Raises ShapeError where the shapes do not fit."""
    p, t = type_of(predicted), type_of(target)
    if t.shape != p.shape:
        if p.shape != (*t.shape, 1) and t.shape != (*p.shape, 1):
            raise ShapeError(f"the target has the shape {t.shape}, and the prediction {p.shape}")
        target = ops.reshape(target, p.shape)
    return ops.astype(target, p.dtype)


def columns(predicted: Value) -> Value:
    """The prediction with an axis of outputs: (batch,) becomes (batch, 1)."""
    t = type_of(predicted)
    if not t.ndim:
        raise ShapeError("a prediction has a batch axis, and this is one number")
    return predicted if t.ndim > 1 else ops.expand_dims(predicted, 1)


def are_labels(predicted: Value, target: Value) -> bool:
    """Whether the target holds labels, and not a row for each example.

    Raises ShapeError where it is neither, DtypeError where labels are no integers.
    """
    p, t = type_of(predicted), type_of(target)
    if t.shape in (p.shape[:-1], (*p.shape[:-1], 1)) and p.shape[-1] != 1:
        if t.dtype.kind == "f":
            raise DtypeError(f"labels are integers, and these are {t.dtype.name}", fix="convert them: y.astype(int)")
        return True
    if t.shape == p.shape:
        return False
    raise ShapeError(
        f"the target has the shape {t.shape}, and the prediction {p.shape}",
        fix=f"for {p.shape[-1]} classes give integer labels {p.shape[:-1]}, or one-hot rows {p.shape}",
    )


def labels_of(predicted: Value, target: Value) -> Value:
    """Labels (int64) of the shape predicted.shape[:-1]; the class of largest probability where the target is rows."""
    if are_labels(predicted, target):
        return ops.astype(ops.reshape(target, type_of(predicted).shape[:-1]), np.int64)
    if type_of(target).dtype.kind == "b":
        target = ops.astype(target, np.int64)
    return ops.argmax(target, -1)


def weights_like(values: Value, weight: Value) -> Value:
    """Sample weights (batch,), or one for each position, in the shape and dtype of the values (batch, ...)."""
    v, w = type_of(values), type_of(weight)
    if w.shape != v.shape[: w.ndim] or not w.ndim:
        raise ShapeError(f"the sample weights have the shape {w.shape}, and there are {v.shape} examples")
    weight = ops.reshape(ops.astype(weight, v.dtype), (*w.shape, *(1,) * (v.ndim - w.ndim)))
    return ops.broadcast_to(weight, v.shape)


def weighted_mean(values: Value, weight: Value = None) -> tuple[Value, Value]:
    """The sum of weight · values and the sum of the weights (the number of values without weights)."""
    if weight is None:
        return ops.sum(values), np.asarray(type_of(values).size, type_of(values).dtype)
    return ops.sum(values * weight), ops.sum(weight)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers that targets may be: looked at only where there are numbers


def check_labels(target: Value, classes: int, ignored: int | None = None) -> None:
    """Raise DataError at the first label that is no integer from 0 to classes - 1 (or the ignored one)."""
    if is_traced(target):
        return
    labels = np.asarray(target)
    bad = (labels < 0) | (labels >= classes)
    if ignored is not None:
        bad &= labels != ignored
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"the label {labels[row]} in row {row[0]} is none of the classes 0 to {classes - 1}",
            fix="labels count from 0; the last layer needs one unit for each class",
        )


def check_probabilities(target: Value, rows: bool) -> None:
    """Raise DataError at the first number outside 0 to 1 or, with `rows`, the first row whose sum is not 1."""
    if is_traced(target):
        return
    numbers = np.asarray(target, np.float64)
    bad = ~((numbers >= 0) & (numbers <= 1))
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(f"the target {numbers[row]} in row {row[0]} is no probability", fix="targets are from 0 to 1")
    if rows and (bad := abs(numbers.sum(-1) - 1) > 1e-3).any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"the target in row {row[0]} sums up to {numbers[row].sum():.4g}",
            fix="one-hot rows and probabilities sum up to 1; for several labels at once use binary_crossentropy",
        )
