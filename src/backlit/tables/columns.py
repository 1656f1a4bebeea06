"""A column of a table as inputs of a network: one class a kind of column, fitted on the training rows only.

Each is a frozen record of what was learnt from the training part, gives its inputs as float32 with about unit scale,
and goes into the saved model as JSON.

    Number    (x - mean) / std, a missing cell becomes the median; and 1 where it was missing
    Category  one input a value, 1 for the cell's own; one for rare values, one for missing cells
    Date      the time, standardised; and sine and cosine of the year, the week and the day as far as they vary

A missing cell or an unknown category met only after training never fails: it is encoded as the most ordinary one, and
`surprises` counts it so that the user hears of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from backlit.errors import CheckpointError
from backlit.tables.kinds import Kind, convert

if TYPE_CHECKING:
    import polars as pl

Matrix = np.ndarray[Any, np.dtype[np.float32]]

MOST_VALUES = 50  # of a category that get an input of their own
_FARTHEST = 1e4  # standard deviations: what lies beyond counts as this far
_DAY = 86_400.0  # seconds
_CYCLES = {"year": 365.2425 * _DAY, "week": 7 * _DAY, "day": _DAY}


@dataclass(frozen=True)
class Column(ABC):
    """What was learnt about a column; `name` is its header."""

    name: str
    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs that the column gives."""

    @abstractmethod
    def encode(self, cells: pl.Series) -> Matrix:
        """(rows, inputs) of the raw cells. Raises DataError naming the row for a cell that is not of the kind."""

    def surprises(self, cells: pl.Series) -> str:
        """What these cells hold that the training part did not, or ""."""
        return ""

    def config(self) -> dict[str, Any]:
        """As JSON takes it; `column_from_config` is the inverse."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Number(Column):
    """An amount. `mean` and `std` of the known cells, their `median`; `flag`: an input says where it was missing."""

    mean: float
    std: float
    median: float
    flag: bool
    kind = "number"

    @staticmethod
    def fit(cells: pl.Series) -> Number:
        """From converted cells of the training part, of which at least two differ."""
        known = cells.drop_nulls().to_numpy()
        return Number(
            cells.name, float(known.mean()), float(known.std()), float(np.median(known)), cells.null_count() > 0
        )

    @property
    def varies(self) -> bool:
        """Whether the cells differ by more than rounding."""
        return self.std > 1e-100 and self.std > 1e-12 * abs(self.mean)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name, f"{self.name} missing") if self.flag else (self.name,)

    def encode(self, cells: pl.Series) -> Matrix:
        numbers = convert(cells, "number")
        z = (numbers.fill_null(self.median).to_numpy() - self.mean) / self.std
        z = np.clip(z, -_FARTHEST, _FARTHEST)
        if self.flag:
            return np.stack([z, numbers.is_null().to_numpy()], axis=1).astype(np.float32)
        return z[:, None].astype(np.float32)

    def surprises(self, cells: pl.Series) -> str:
        return _missing_note(self.name, cells) if not self.flag else ""


@dataclass(frozen=True)
class Category(Column):
    """One of several. `values` have an input each; `rare`: one input stands for all others; `flag`: as for Number."""

    values: tuple[str, ...]
    rare: bool
    flag: bool
    kind = "category"

    @staticmethod
    def fit(cells: pl.Series) -> Category:
        """From converted cells of the training part: the values that occur most, at most MOST_VALUES of them."""
        counts: dict[str, int] = {}
        for cell in cells.drop_nulls():
            counts[cell] = counts.get(cell, 0) + 1
        ranked = sorted(counts, key=lambda value: (-counts[value], value))
        return Category(
            cells.name, tuple(sorted(ranked[:MOST_VALUES])), len(ranked) > MOST_VALUES, cells.null_count() > 0
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        extra = (("other",) if self.rare else ()) + (("missing",) if self.flag else ())
        return tuple(f"{self.name}={v}" for v in self.values) + tuple(f"{self.name} {e}" for e in extra)

    def encode(self, cells: pl.Series) -> Matrix:
        count = len(self.values)
        index = {value: i for i, value in enumerate(self.values)}
        # an unknown value counts as a rare one; without rare or missing ones in training it has no input: all zeros
        other = count if self.rare else -1
        missing = count + self.rare if self.flag else -1
        text = convert(cells, "category")
        places = np.array([missing if cell is None else index.get(cell, other) for cell in text], np.int64)
        encoded = np.zeros((len(places), len(self.inputs)), np.float32)
        rows = np.flatnonzero(places >= 0)
        encoded[rows, places[rows]] = 1
        return encoded

    def surprises(self, cells: pl.Series) -> str:
        notes = [] if self.flag else [_missing_note(self.name, cells)]
        if not self.rare:
            known = set(self.values)
            strange = [cell for cell in convert(cells, "category").drop_nulls() if cell not in known]
            if strange:
                rows = "row holds a value" if len(strange) == 1 else "rows hold values"
                notes.append(
                    f"column {self.name!r}: {len(strange)} {rows} that training did not see, "
                    f"such as {sorted(set(strange))[0]!r}; taken as none of the known ones"
                )
        return "; ".join(note for note in notes if note)


@dataclass(frozen=True)
class Date(Column):
    """A moment. In seconds since 1970: `mean`, `std`, `median`; `cycles` among year, week and day; `flag` as above."""

    mean: float
    std: float
    median: float
    cycles: tuple[str, ...]
    flag: bool
    kind = "date"

    @staticmethod
    def fit(cells: pl.Series) -> Date:
        """From converted cells of the training part, of which at least two differ."""
        seconds = _seconds(cells.drop_nulls())
        span = float(seconds.max() - seconds.min())
        varies = {
            "year": span > 60 * _DAY,
            "week": span > _DAY and bool(np.ptp(seconds // _DAY % 7)),
            "day": bool((seconds % _DAY).any()),
        }
        return Date(
            cells.name,
            float(seconds.mean()),
            float(seconds.std()),
            float(np.median(seconds)),
            tuple(c for c in _CYCLES if varies[c]),
            cells.null_count() > 0,
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        waves = tuple(f"{self.name} {wave} of {cycle}" for cycle in self.cycles for wave in ("sin", "cos"))
        return (self.name, *waves, f"{self.name} missing") if self.flag else (self.name, *waves)

    def encode(self, cells: pl.Series) -> Matrix:
        dates = convert(cells, "date")
        missing = dates.is_null().to_numpy()
        seconds = np.where(missing, self.median, _seconds(dates))
        columns = [(seconds - self.mean) / self.std]
        for cycle in self.cycles:
            angle = seconds / _CYCLES[cycle] % 1 * 2 * math.pi
            columns += [np.sin(angle), np.cos(angle)]
        if self.flag:
            columns.append(missing)
        return np.stack(columns, axis=1).astype(np.float32)

    def surprises(self, cells: pl.Series) -> str:
        return _missing_note(self.name, cells) if not self.flag else ""


def _seconds(dates: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Since 1970-01-01; 0 where missing."""
    return dates.dt.epoch("us").fill_null(0).to_numpy() / 1e6


def _missing_note(name: str, cells: pl.Series) -> str:
    count = cells.null_count()
    if not count:
        return ""
    rows = "row lacks" if count == 1 else "rows lack"
    return f"column {name!r}: {count} {rows} a value, which training never saw; taken as the most ordinary one"


_KINDS: dict[str, type[Column]] = {"number": Number, "category": Category, "date": Date}


def column_from_config(config: Mapping[str, Any]) -> Column:
    """The column of a saved model. Raises CheckpointError unless every field is there with its type."""
    try:
        cls = _KINDS[config["kind"]]
        values = {f.name: _checked(f.name, config[f.name]) for f in fields(cls)}
        if set(config) != {"kind", *values}:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError("the saved model describes a column that backlit does not understand") from None
    return cls(**values)


def _checked(field: str, value: Any) -> Any:
    match field, value:
        case "name", str():
            return value
        case "flag" | "rare", bool():
            return value
        case "mean" | "median", float() if math.isfinite(value):
            return value
        case "std", float() if 0 < value < math.inf:
            return value
        case "values" | "cycles", [*texts] if all(isinstance(t, str) for t in texts):
            if field == "values" or set(texts) <= set(_CYCLES):
                return tuple(texts)
    raise ValueError(field)
