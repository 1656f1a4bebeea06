"""The column to predict: classes or a quantity, and what the network's outputs mean in its terms.

    Classes   y is the number of the class among `values`; the outputs are logits
    Quantity  y is (t - mean) / std of the training part; outputs are turned back

The rule: every row has a target that can be read, or the table is refused, since a guess there would be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from backlit.errors import CheckpointError, DataError
from backlit.tables.kinds import convert, infer

if TYPE_CHECKING:
    import polars as pl

Task = Literal["classification", "regression"]
Array = np.ndarray[Any, np.dtype[Any]]

_FEWEST_ROWS = 10
_FEW = 10  # whole numbers with at most so many values are taken as classes
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Classes:
    """A target that is one of several values, sorted (as numbers where all are numbers)."""

    name: str
    values: tuple[str, ...]
    task = "classification"

    @property
    def width(self) -> int:
        """The number of the network's outputs."""
        return len(self.values)

    def encode(self, cells: pl.Series) -> Array:
        """(rows,) int64, the number of each row's class. Raises DataError for a missing or an unknown one."""
        _refuse_missing(cells)
        index = {value: i for i, value in enumerate(self.values)}
        text = convert(cells, "category")
        for row, cell in enumerate(text, 1):
            if cell not in index:
                raise DataError(
                    f"column {self.name!r}, row {row}: {cell!r} is no class of the model",
                    fix=f"its classes are {', '.join(self.values[:20])}",
                )
        return np.array([index[cell] for cell in text], np.int64)


@dataclass(frozen=True)
class Quantity:
    """A target that is an amount; `mean` and `std` are those of the training part."""

    name: str
    mean: float
    std: float
    task = "regression"
    width = 1

    def encode(self, cells: pl.Series) -> Array:
        """(rows, 1) float32, standardised. Raises DataError for a missing cell or one that is no number."""
        return ((self.amounts(cells) - self.mean) / self.std).astype(np.float32)[:, None]

    def amounts(self, cells: pl.Series) -> Array:
        """(rows,) float64, in the units of the table."""
        _refuse_missing(cells)
        return convert(cells, "number").to_numpy()

    def decode(self, outputs: Array) -> Array:
        """(rows,) float64 in the units of the table, from the network's outputs (rows, 1)."""
        return outputs[:, 0].astype(np.float64) * self.std + self.mean


Target = Classes | Quantity


def fit_target(cells: pl.Series, rows: Array, task: Task | None = None) -> tuple[Target, str]:
    """The target that a column is, and in words why it was taken so.

    cells  the whole column, since classes that occur only in the test part are classes too
    rows   the training rows, from which mean and std are taken
    task   what it is; by default a regression if it holds numbers, unless these are whole and have few values
    """
    if len(cells) < _FEWEST_ROWS:
        raise DataError(f"{len(cells)} rows are too few to learn from", fix=f"give at least {_FEWEST_ROWS}")
    _refuse_missing(cells)
    chosen, why = (task, "as asked") if task else _infer_task(cells)
    if chosen == "regression":
        if infer(cells) == "category":
            example = convert(cells, "category")[0]
            raise DataError(
                f"column {cells.name!r}, row 1: {example!r} is no number, so there is nothing to regress",
                fix="use --task classification, or correct the column",
            )
        amounts = convert(cells, "number").to_numpy()
        if np.ptp(amounts) == 0:
            raise DataError(f"column {cells.name!r}: every row holds {amounts[0]:g}", fix="choose a target that varies")
        mean, std = float(amounts[rows].mean()), float(amounts[rows].std())
        if not std > 0 or not math.isfinite(std):
            raise DataError(f"column {cells.name!r}: the numbers of the training rows do not vary enough to learn from")
        return Quantity(cells.name, mean, std), why
    values = sorted(set(convert(cells, "category")), key=_by_number)
    if len(values) == 1:
        raise DataError(
            f"column {cells.name!r}: every row holds {values[0]!r}, and one class cannot be told from others",
            fix="give rows of at least two classes, or choose another target",
        )
    if len(values) > _MOST_CLASSES or len(values) > len(cells) / 2:
        raise DataError(
            f"column {cells.name!r}: {len(values)} classes in {len(cells)} rows leave too few rows for each",
            fix="choose another target, or --task regression if it is an amount",
        )
    return Classes(cells.name, tuple(values)), why


def _infer_task(cells: pl.Series) -> tuple[Task, str]:
    kind = infer(cells)
    if kind == "date":
        raise DataError(
            f"column {cells.name!r} holds dates, which are not predicted", fix="turn it into a number, such as days"
        )
    if kind == "category":
        return "classification", "its cells are words"
    numbers = convert(cells, "number")
    distinct = numbers.n_unique()
    if distinct <= _FEW and (numbers == numbers.round()).all():
        return "classification", f"whole numbers with {distinct} values; --task regression if they are amounts"
    return "regression", f"numbers with {distinct} values"


def _refuse_missing(cells: pl.Series) -> None:
    missing = cells.is_null().arg_true()
    if len(missing):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"column {cells.name!r}, row {missing[0] + 1}: the target is missing{more}",
            fix="fill it in, or leave such rows out with --drop-missing-target",
        )


def _by_number(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def target_config(target: Target) -> dict[str, Any]:
    """As JSON takes it."""
    config = {"task": target.task, **asdict(target)}
    if isinstance(target, Classes):
        config["values"] = list(target.values)
    return config


def target_from_config(config: Mapping[str, Any]) -> Target:
    """The target of a saved model. Raises CheckpointError for anything else."""
    match config:
        case {"task": "classification", "name": str(name), "values": list(values), **rest} if not rest:
            if len(values) >= 2 and all(isinstance(v, str) for v in values) and len(set(values)) == len(values):
                return Classes(name, tuple(values))
        case {"task": "regression", "name": str(name), "mean": float(mean), "std": float(std), **rest} if not rest:
            if math.isfinite(mean) and 0 < std < math.inf:
                return Quantity(name, mean, std)
    raise CheckpointError("the saved model describes a target that backlit does not understand")
