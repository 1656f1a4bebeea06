"""What a user hands over, as one array with what is needed to speak about it: `read` takes arrays, lists and tables.

The rule: memory-mapped arrays are never copied whole, tables are read column by column, and nothing is guessed: a
column of words, a ragged list or an object that is no number is refused with its column, its row and a remedy. Missing
values of tables become nan, which `checks` finds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from backlit.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

CHUNK_BYTES = 32 * 2**20
"""Roughly how much of an array is looked at, or read from a file, at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """One argument: its name for messages ("x"), the array, and the names of its columns if it was a table."""

    name: str
    array: Array
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.array)

    def place(self, index: Sequence[int]) -> str:
        """`x, column 'age', row 17`: where an element stands, for messages. Rows count from 0, as in Python."""
        row, *rest = index
        if self.columns and len(rest) == 1:
            return f"{self.name}, column {self.columns[rest[0]]!r}, row {row}"
        if len(rest) == 1:
            return f"{self.name}, column {rest[0]}, row {row}"
        return f"{self.name}, row {row}" + (f", element {tuple(map(int, rest))}" if rest else "")


def is_memory_mapped(array: Array) -> bool:
    """Whether the numbers lie in a file: an np.memmap, or a view of one."""
    base: Any = array
    while base is not None:
        if isinstance(base, np.memmap | mmap.mmap):
            return True
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return False


def chunks(array: Array) -> Iterator[slice]:
    """Slices of rows that cover the array, each of about CHUNK_BYTES."""
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield slice(start, min(start + rows, len(array)))


def read(value: Any, name: str) -> Given:
    """The argument `name` as an array of numbers, one row an example.

    Takes ndarrays and memory-mapped arrays (kept as they are), pandas and polars tables and columns, nested lists of
    numbers, and anything with `__array__`. Raises DataError for everything else, naming the place and a remedy.
    """
    if isinstance(value, Given):
        return value
    library = type(value).__module__.partition(".")[0]
    if library == "pandas":
        return _pandas(value, name)
    if library == "polars":
        return _polars(value, name)
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            index = tuple(int(i) for i in np.argwhere(np.ma.getmaskarray(value))[0])
            raise DataError(
                f"{Given(name, value.data).place(index)} is masked",
                fix="fill the masked values (array.filled(...)) or leave those rows out",
            )
        value = value.data
    if hasattr(value, "tocsr"):
        raise DataError(f"{name} is a sparse matrix", fix=f"make it dense, if it fits in memory: {name}.toarray()")
    if isinstance(value, list | tuple):
        value = _nested(value, name)
    elif not isinstance(value, np.ndarray):
        if not hasattr(value, "__array__"):
            raise DataError(
                f"{name} is a {type(value).__name__}",
                fix="pass an array, a list of numbers, or a pandas or polars table",
            )
        value = np.asarray(value)
    given = Given(name, value)
    if value.ndim == 0:
        raise DataError(f"{name} is a single number", fix="pass an array with one row for each example")
    if value.dtype.names:
        raise DataError(
            f"{name} is a structured array with the fields {', '.join(value.dtype.names)}",
            fix="stack its fields as columns: numpy.lib.recfunctions.structured_to_unstructured",
        )
    if value.dtype.kind not in "biuf":
        _refuse_kind(given)
    return given


def _nested(value: Sequence[Any], name: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError:
        pass
    lengths = [np.shape(row)[:1] if not isinstance(row, list | tuple) else (len(row),) for row in value]
    odd = next((i for i, n in enumerate(lengths) if n != lengths[0]), None)
    if odd is None:
        raise DataError(f"{name} is a list whose rows differ in shape inside", fix="give all rows the same shape")

    def said(n: tuple[int, ...]) -> str:
        return f"{n[0]} elements" if n else "a single number"

    raise DataError(
        f"{name}, row {odd} has {said(lengths[odd])} where row 0 has {said(lengths[0])}",
        fix="give all rows the same length (pad shorter sequences, and pass mask= to say which elements count)",
    )


def _refuse_kind(given: Given) -> NoReturn:
    array = given.array
    kinds = {"U": "text", "S": "bytes", "M": "dates", "m": "durations", "c": "complex numbers", "O": "Python objects"}
    what = kinds.get(array.dtype.kind, f"values of dtype {array.dtype}")
    if array.dtype.kind in "USO":
        for index in np.ndindex(array.shape):
            element = array[index]
            if array.dtype.kind == "O" and isinstance(element, bool | int | float | np.number):
                continue
            _refuse_element(given, index, element)
        raise DataError(f"{given.name} holds {what}", fix=f"convert it: {given.name}.astype('float64')")
    raise DataError(f"{given.name} holds {what}", fix="convert it to numbers first")


def _refuse_element(given: Given, index: Sequence[int], element: Any) -> NoReturn:
    place = given.place(index)
    if element is None:
        raise DataError(f"{place} is None", fix="fill missing values, or leave those rows out")
    shown = repr(element if not isinstance(element, np.generic) else element.item())
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    if not isinstance(element, str | bytes):
        raise DataError(f"{place} is {shown}, a {type(element).__name__}: no number", fix="convert it to numbers first")
    if _is_number(element):
        fix = "it is a number written as text: convert the column with .astype(float)"
    elif given.name == "y":
        fix = "number the classes: classes, y = numpy.unique(y, return_inverse=True)"
    else:
        fix = "turn categories into columns of 0 and 1 (one-hot), or leave the column out"
    raise DataError(f"{place} is the text {shown}, no number", fix=fix)


def _is_number(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _pandas(table: Any, name: str) -> Given:
    if hasattr(table, "columns"):
        columns = [(str(label), table.iloc[:, i]) for i, label in enumerate(table.columns)]
    elif hasattr(table, "to_numpy"):
        columns = [("" if table.name is None else str(table.name), table)]
    else:
        raise DataError(f"{name} is a pandas {type(table).__name__}", fix="pass a DataFrame or a Series")

    def numbers(column: Any) -> Array:
        if getattr(column.dtype, "kind", "O") in "biuf":  # NumPy's own dtypes and pandas' nullable ones
            if column.isna().any():
                return column.to_numpy(dtype=np.float64, na_value=np.nan)
            kind = np.dtype(getattr(column.dtype, "numpy_dtype", column.dtype))
            return column.to_numpy(dtype=kind)
        return column.to_numpy(dtype=object)

    return _columns([(label, numbers(c)) for label, c in columns], name, hasattr(table, "columns"))


def _polars(table: Any, name: str) -> Given:
    if hasattr(table, "collect"):
        table = table.collect()
    whole = hasattr(table, "get_columns")

    def numbers(column: Any) -> Array:
        import polars

        if column.dtype.is_decimal() or (
            (column.dtype.is_numeric() or column.dtype == polars.Boolean) and column.null_count()
        ):
            column = column.cast(polars.Float64)
        if column.dtype.is_numeric() or column.dtype == polars.Boolean:
            return column.to_numpy()
        return np.array(column.to_list(), dtype=object)

    return _columns([(c.name, numbers(c)) for c in (table.get_columns() if whole else [table])], name, whole)


def _plain(column: Array, label: str, name: str, whole: bool) -> Array:
    """A column of Python objects as numbers, None and NA as nan; DataError at the first that is no number."""
    if column.dtype.kind != "O":
        return column
    missing = np.array([e is None or type(e).__name__ in ("NAType", "NaTType") for e in column], bool)
    for i in map(int, np.flatnonzero(~missing)):
        if not isinstance(column[i], bool | int | float | np.number | np.bool_):
            part = Given(name, column[:, None], (label,)) if whole else Given(name, column)
            _refuse_element(part, (i, 0) if whole else (i,), column[i])
    return np.where(missing, np.nan, column).astype(np.float64)


def _columns(columns: list[tuple[str, Array]], name: str, whole: bool) -> Given:
    """The columns side by side as one array of their common dtype; one column alone (no table) stays 1-d."""
    if not columns:
        raise DataError(f"{name} is a table without columns", fix="choose the columns to learn from")
    labels = tuple(label for label, _ in columns)
    columns = [(label, _plain(column, label, name, whole)) for label, column in columns]
    if not whole:
        return Given(name, columns[0][1])
    kinds = [np.dtype(np.int64) if c.dtype.kind == "b" else c.dtype for _, c in columns]
    array = np.empty((len(columns[0][1]), len(columns)), np.result_type(*kinds))
    for i, (_, column) in enumerate(columns):
        array[:, i] = column
    return Given(name, array, labels)
