"""The schema: what each column of a table means to a network, fitted on the training rows only.

    frame = tables.read("penguins.csv")
    schema = tables.fit(frame, target="species", rows=train_rows)
    x, y = schema.features(frame), schema.labels(frame)

The rule: everything that prediction needs is in the schema, and the schema goes into the saved model as JSON, so a new
table is read as the first one was. Columns that cannot help (empty, constant, identifiers) are left out, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.errors import CheckpointError, DataError
from backlit.tables.columns import MOST_VALUES, Category, Column, Date, Matrix, Number, column_from_config
from backlit.tables.kinds import convert, infer
from backlit.tables.names import nearest
from backlit.tables.target import Array, Classes, Target, Task, fit_target, target_config, target_from_config

if TYPE_CHECKING:
    import polars as pl

_ENOUGH_TO_JUDGE = 20  # rows, before a column is called an identifier
_RARE = 5  # rows of a class
_FAR = 20  # standard deviations
_ID_NAME = re.compile(r"^$|^unnamed.*|^index$|^row(_?(id|number|nr|no))?$|^(.*[_ .-])?(id|uuid|guid)$", re.I)


@dataclass(frozen=True)
class Schema:
    """What the columns mean. Made by `fit` or `Schema.from_config`."""

    columns: tuple[Column, ...]
    target: Target

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs, in order."""
        return tuple(name for column in self.columns for name in column.inputs)

    def features(self, frame: pl.DataFrame) -> Matrix:
        """(rows, inputs) float32. Raises DataError where a column is absent or a cell is not of its kind."""
        self._check_columns(frame)
        return np.concatenate([column.encode(frame[column.name]) for column in self.columns], axis=1)

    def labels(self, frame: pl.DataFrame) -> Array:
        """What is trained on: class numbers (rows,) int64, or the standardised quantity (rows, 1) float32."""
        return self.target.encode(target_column(frame, self.target.name))

    def surprises(self, frame: pl.DataFrame) -> list[str]:
        """What these rows hold that the training rows did not, one line a column."""
        self._check_columns(frame)
        return [note for column in self.columns if (note := column.surprises(frame[column.name]))]

    def config(self) -> dict[str, Any]:
        """As JSON takes it; `from_config` is the inverse."""
        return {"columns": [column.config() for column in self.columns], "target": target_config(self.target)}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Schema:
        """The schema of a saved model. Raises CheckpointError for anything else."""
        match config:
            case {"columns": [_, *_] as columns, "target": dict(target), **rest} if not rest:
                if all(isinstance(column, dict) for column in columns):
                    return Schema(tuple(column_from_config(c) for c in columns), target_from_config(target))
        raise CheckpointError("the saved model describes no table")

    def _check_columns(self, frame: pl.DataFrame) -> None:
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            more = f" (and {len(absent) - 1} more of the model's columns)" if len(absent) > 1 else ""
            raise DataError(
                f"the table has no column {absent[0]!r}, which the model needs{more}",
                fix=nearest(absent[0], frame.columns),
            )


@dataclass(frozen=True)
class Fitted:
    """A schema, and what its user should know: why the task was chosen, and which columns were left out."""

    schema: Schema
    why: str
    notes: tuple[str, ...]


def target_column(frame: pl.DataFrame, target: str) -> pl.Series:
    """The column of that name. Raises DataError with the nearest names where there is none."""
    if target not in frame.columns:
        raise DataError(f"the table has no column {target!r}", fix=nearest(target, frame.columns))
    return frame[target]


def fit(
    frame: pl.DataFrame,
    target: str,
    rows: Array | None = None,
    *,
    task: Task | None = None,
    categories: Iterable[str] = (),
    drop: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> Fitted:
    """The schema of a table, its statistics taken from the training rows (all rows by default).

    categories  columns of numbers that are codes: one input a value
    drop        columns to leave out
    keep        columns to use although they look like identifiers

    Raises DataError for an unknown name, a cell that is not of its column's kind, a target that is missing somewhere
    or does not vary, fewer than 10 rows, and where no column is left to predict from.
    """
    categories, drop, keep = list(categories), list(drop), list(keep)
    cells = target_column(frame, target)
    for name in (*categories, *drop, *keep):
        if name not in frame.columns:
            raise DataError(f"the table has no column {name!r}", fix=nearest(name, frame.columns))
    rows = np.arange(frame.height) if rows is None else rows
    fitted_target, why = fit_target(cells, rows, task)
    columns: list[Column] = []
    notes = _rare_classes(cells, fitted_target)
    for name in frame.columns:
        if name == target or name in drop:
            continue
        column, note = _fit_column(frame[name], rows, name in categories, name in keep)
        columns += [column] if column is not None else []
        notes += [note] if note else []
    if not columns:
        raise DataError(
            "no column is left to predict from" + "".join(f"\n  {note}" for note in notes),
            fix="add columns, or keep one of those with --keep",
        )
    return Fitted(Schema(tuple(columns), fitted_target), why, tuple(notes))


def _rare_classes(cells: pl.Series, target: Target) -> list[str]:
    """A word about classes that have hardly any rows."""
    if not isinstance(target, Classes):
        return []
    counts = np.bincount(target.encode(cells), minlength=target.width)
    rare = [f"{name!r} ({count})" for name, count in zip(target.values, counts, strict=True) if count < _RARE]
    return [f"too few rows to learn or to test these classes: {', '.join(rare)}"] if rare else []


def _fit_column(cells: pl.Series, rows: Array, as_category: bool, keep: bool) -> tuple[Column | None, str]:
    """The column, or None where it cannot help; and what the user should know about it."""
    name = cells.name
    kind = "category" if as_category else infer(cells)
    if kind == "empty":
        return None, f"column {name!r} is empty: left out"
    converted = convert(cells, kind)
    training = converted.gather(rows)
    known = training.drop_nulls()
    if known.n_unique() < 2:
        shown = (
            f"always {cells.drop_nulls()[0]!r}" if converted.drop_nulls().n_unique() == 1 else "constant in training"
        )
        return None, f"column {name!r} is {shown}: left out"
    if not as_category and not keep and (why := _identifier(known, kind)):
        return None, f"column {name!r} {why}: left out (--keep {name!r} to use it)"
    notes = []
    if known.len() < training.len() / 2:
        notes.append(f"column {name!r}: {1 - known.len() / training.len():.0%} of the cells are missing")
    column: Column
    match kind:
        case "number":
            column = Number.fit(training)
            if not column.varies:
                return None, f"column {name!r} hardly varies: left out"
            notes.append(_far_note(column, converted))
        case "date":
            column = Date.fit(training)
        case _:
            column = Category.fit(training)
            if column.rare:
                count = known.n_unique()
                notes.append(f"column {name!r}: the {MOST_VALUES} commonest of {count} values have an input each")
    return column, "; ".join(note for note in notes if note)


def _identifier(known: pl.Series, kind: str) -> str:
    """Why the column looks like an identifier of the row, or ""."""
    count, distinct = known.len(), known.n_unique()
    if count < _ENOUGH_TO_JUDGE:
        return ""
    if kind == "category" and distinct > 0.9 * count:
        return "has a value of its own in almost every row (an identifier or free text)"
    if kind == "number" and distinct == count and (known == known.round()).all():
        numbers = known.to_numpy()
        if _ID_NAME.match(known.name) or ((np.diff(numbers) > 0).all() and np.ptp(numbers) < 2 * count):
            return "numbers the rows"
    return ""


def _far_note(column: Number, numbers: pl.Series) -> str:
    """A word about a number that is so far out that it may be a code for a missing value."""
    z = np.abs(numbers.fill_null(column.mean).to_numpy() - column.mean) / column.std
    row = int(z.argmax())
    if z[row] <= _FAR:
        return ""
    return (
        f"column {column.name!r}, row {row + 1}: {numbers[row]:g} lies {z[row]:.0f} standard deviations from the mean; "
        f"if it stands for a missing value: --missing {numbers[row]:g}"
    )
