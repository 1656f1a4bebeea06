"""What the cells of a column are: numbers, categories or dates; and the cells, converted.

The rule: a column is one kind of thing. If at least nine cells in ten are numbers (or dates), all must be; the others
are named in an error, since a single "12 kg" that turned the column into categories would spoil a model in silence.
Whoever means categories says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from backlit.errors import DataError
from backlit.extras import require

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["number", "category", "date", "empty"]

_MOSTLY = 0.9
_LARGEST = 1e100  # no measurement is larger; squares of such numbers are still finite
_DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y/%m/%d",
    "%Y-%m",
    "%H:%M",
    "%H:%M:%S",
)
# a number dressed for people: currency, thousands, per cent
_DRESSED = r"^[+-]?[$€£¥]?\s*[+-]?\d+(,\d{3})*(\.\d+)?\s*[%$€£¥]?$|^[+-]?\d+,\d+$"
_OTHER_DATE = r"^\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(\s.*)?$"


def infer(column: pl.Series) -> Kind:
    """What the column is, from all its cells. Raises DataError for nested or binary cells and for dressed numbers."""
    pl = require("polars", "tables")
    if column.null_count() == len(column):
        return "empty"
    if column.dtype.is_numeric() or column.dtype == pl.Duration:
        return "number"
    if column.dtype in (pl.Date, pl.Datetime, pl.Time):
        return "date"
    if column.dtype == pl.Boolean:
        return "category"
    if column.dtype != pl.String:
        raise DataError(f"column {column.name!r}: cells of the type {column.dtype} are not understood", fix=_LEAVE_OUT)
    cells = column.drop_nulls()
    if _share(_numbers(cells)) >= _MOSTLY:
        return "number"
    if max(_share(_moments(cells, f)) for f in _DATE_FORMATS) >= _MOSTLY:
        return "date"
    _refuse_dressed(column, cells)
    return "category"


_LEAVE_OUT = "convert the column, or leave it out (--drop)"


def convert(column: pl.Series, kind: Kind) -> pl.Series:
    """The column as Float64 (number), String (category) or Datetime (date); missing cells stay null.

    Raises DataError naming the first cell that is not of the kind.
    """
    pl = require("polars", "tables")
    if kind == "category":
        return _as_text(column)
    if kind == "number":
        if column.dtype == pl.String:
            numbers = _numbers(column)
        elif column.dtype == pl.Duration:
            numbers = column.dt.total_microseconds() / 1e6
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean or column.dtype == pl.Null:
            numbers = column.cast(pl.Float64)
        else:
            raise DataError(f"column {column.name!r} holds {column.dtype}, not numbers", fix=_LEAVE_OUT)
        _refuse_strays(column, numbers, "no number")
        absurd = (numbers.abs() > _LARGEST).fill_null(False).arg_true()
        if len(absurd):
            raise DataError(
                f"column {column.name!r}, row {absurd[0] + 1}: the number is infinite or beyond {_LARGEST:g}",
                fix="correct the cell, or leave it empty",
            )
        return numbers
    if column.dtype == pl.String:
        cells = column.drop_nulls()
        best = max(_DATE_FORMATS, key=lambda f: _share(_moments(cells, f)))
        dates = _moments(column, best)
        _refuse_strays(column, dates, "no date like the others")
        return dates
    if column.dtype == pl.Time:
        return _on_the_first_day(column)
    if column.dtype not in (pl.Date, pl.Datetime, pl.Null):
        raise DataError(f"column {column.name!r} holds {column.dtype}, not dates", fix=_LEAVE_OUT)
    return column.cast(pl.Datetime("us"))


def _moments(cells: pl.Series, form: str) -> pl.Series:
    """Text as Datetime, null where it has another form."""
    if form.startswith("%H"):
        return _on_the_first_day(cells.str.to_time(form, strict=False))
    return cells.str.to_datetime(form, strict=False, time_unit="us")


def _on_the_first_day(times: pl.Series) -> pl.Series:
    """Times of day as Datetime, on 1970-01-01."""
    pl = require("polars", "tables")
    return (times.cast(pl.Int64) // 1000).cast(pl.Datetime("us"))


def _numbers(cells: pl.Series) -> pl.Series:
    return cells.cast(require("polars", "tables").Float64, strict=False)


def _as_text(column: pl.Series) -> pl.Series:
    """Cells as text, the same for CSV and Parquet: whole numbers without a point, booleans in lower case."""
    pl = require("polars", "tables")
    if column.dtype == pl.String:
        return column
    if column.dtype.is_float():
        whole = column.drop_nulls()
        if (whole == whole.round()).all() and (whole.abs() < 2**53).all():
            return column.cast(pl.Int64).cast(pl.String)
    return column.cast(pl.String)


def _share(converted: pl.Series) -> float:
    """The share of cells that could be converted."""
    return 1 - converted.null_count() / max(len(converted), 1)


def _refuse_strays(column: pl.Series, converted: pl.Series, what: str) -> None:
    strays = (converted.is_null() & column.is_not_null()).arg_true()
    if not len(strays):
        return
    cell = column[int(strays[0])]
    more = f" (and {len(strays) - 1} more cells like it)" if len(strays) > 1 else ""
    raise DataError(
        f"column {column.name!r}, row {strays[0] + 1}: {_shown(cell)} is {what}{more}, "
        f"but {len(column) - column.null_count() - len(strays)} other cells are fine",
        fix=f"correct it, or say what it means: --missing {_quoted(cell)} if it stands for a missing value, "
        f"--category {_quoted(column.name)} if the column holds codes and not amounts",
    )


def _refuse_dressed(column: pl.Series, cells: pl.Series) -> None:
    for pattern, what, plain in (
        (_DRESSED, "a number written for people", "write plain numbers, such as 1234.5"),
        (_OTHER_DATE, "a date whose day and month could be swapped", "write dates as 2024-03-31"),
    ):
        matches = cells.str.contains(pattern)
        if matches.mean() >= _MOSTLY:  # type: ignore[operator]
            example = cells.filter(matches & (_numbers(cells).is_null()))[0]
            row = int((column == example).arg_true()[0]) + 1
            raise DataError(
                f"column {column.name!r}, row {row}: {_shown(example)} looks like {what}",
                fix=f"{plain}; or take the column as categories: --category {_quoted(column.name)}",
            )


def _shown(cell: object) -> str:
    text = str(cell)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _quoted(text: object) -> str:
    """As a shell takes it."""
    import shlex

    return shlex.quote(str(text))
