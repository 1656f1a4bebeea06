"""Holding out: which rows train and which rows test.

A score on rows that were trained on says nothing, so some rows are set aside first. With classes, each class gives the
same share of its rows (a stratified split): otherwise a rare class may be missing from one side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from backlit.errors import Error, ShapeError
from backlit.ops import random

Rows = np.ndarray[Any, np.dtype[np.int64]]


def random_split(count: int, test: float = 0.2, seed: int = 0) -> tuple[Rows, Rows]:
    """The rows 0 .. count - 1 in two parts: (training rows, test rows), each ascending.

    `test` is the share of the second part, rounded to whole rows; both parts get at least one row. Raises Error unless
    0 < test < 1 and count is at least 2.
    """
    _check_share(test)
    if count < 2:
        raise Error(f"{count} rows cannot be split in two", fix="give at least 2 rows")
    size = min(max(round(count * test), 1), count - 1)
    order = _shuffled(np.arange(count), random.key(seed))
    return np.sort(order[size:]), np.sort(order[:size])


def stratified_split(labels: ArrayLike, test: float = 0.2, seed: int = 0) -> tuple[Rows, Rows]:
    """The rows of the labels in two parts: (training rows, test rows), each ascending, with equal shares of each class.

    labels (count,): numbers or strings. The test part holds round(count * test) rows, give or take those that the
    following moves: of each class that has two rows or more at least one row is on each side, and a class with one row
    is in the training part. Raises Error unless 0 < test < 1, ShapeError unless the labels are one row each.
    """
    _check_share(test)
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) < 2:
        raise ShapeError(f"labels of the shape {labels.shape} cannot be split", fix="give one label a row, 2 or more")
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    ideal = counts * test
    sizes = np.floor(ideal).astype(np.int64)
    # the rows that rounding down left over go to the classes that lost most by it
    missing = round(len(labels) * test) - int(sizes.sum())
    sizes[np.argsort(sizes - ideal, kind="stable")[:missing]] += 1
    sizes = np.minimum(np.maximum(sizes, 1), counts - 1)
    held_out = np.zeros(len(labels), np.bool_)
    key = random.key(seed)
    for number, size in enumerate(sizes):
        rows = np.flatnonzero(classes == number)
        held_out[_shuffled(rows, random.fold_in(key, np.uint32(number)))[:size]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _shuffled(rows: Rows, key: Any) -> Rows:
    """In random order. By ops.random and not by NumPy, whose streams may change between versions."""
    return rows[np.asarray(random.permutation(key, len(rows)))]


def _check_share(test: float) -> None:
    if not 0 < test < 1:
        raise Error(f"test={test} is no share of the rows", fix="give a number between 0 and 1, such as 0.2")
