"""Reading: a CSV or Parquet file becomes a frame whose cells are text (CSV) or typed (Parquet), or is refused.

The rule: nothing is guessed from a part of the file. CSV cells stay text here, and what a column means is decided from
all its cells (`kinds`), so a stray word in line 90,000 is found and named, and a file that is read for prediction is
read as the one for training was.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backlit.errors import DataError
from backlit.extras import require
from backlit.tables.names import nearest

if TYPE_CHECKING:
    import polars as pl

# Cells that mean "not known" (whatever their case), beside the empty one; `read` takes more.
MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MAGIC = {
    b"PK\x03\x04": "an Excel or zip file: save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save the sheet as CSV",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"ARROW1": "an Arrow file: save it as Parquet or CSV",
}


def read(
    path: str | Path, *, separator: str | None = None, encoding: str | None = None, missing: Iterable[str] = ()
) -> pl.DataFrame:
    """The table in a CSV or Parquet file, which may be gzipped. Missing cells are null; text is stripped.

    separator  of a CSV file; by default the one of , ; tab | that stands most often in the first line
    encoding   of a CSV file; by default UTF-8, or UTF-16 where the file says so
    missing    cells that mean "not known", beside the usual ones (`MISSING`)

    In a file separated by semicolons a comma between digits is a decimal comma. Raises DataError where the file is
    absent, no table, broken, without header or without rows, and MissingExtraError without polars.
    """
    pl = require("polars", "tables")
    path = Path(path)
    content = _content(path)
    if content.startswith(b"PAR1"):
        try:
            frame = pl.read_parquet(io.BytesIO(content))
        except Exception as error:  # polars raises errors of several families for broken files
            raise DataError(
                f"{path.name} is a damaged Parquet file: {_first_line(error)}", fix="write or copy it again"
            ) from None
    else:
        frame = _read_csv(pl, _decode(content, path.name, encoding), path.name, separator)
    if not frame.width:
        raise DataError(f"{path.name} has no columns", fix="give a table with a header line")
    if not frame.height:
        raise DataError(f"{path.name} has a header and no rows", fix="give at least one row below the header")
    return _clean(pl, frame, missing)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no file {path}", fix=nearest(path.name, siblings) if siblings else "check the path"
        ) from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", fix="give a CSV or Parquet file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", fix="check the path and its permissions") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise DataError(f"{path.name} is a damaged gzip file", fix="copy it again") from None
    for magic, what in _MAGIC.items():
        if content.startswith(magic):
            raise DataError(f"{path.name} is {what}")
    return content


def _decode(content: bytes, name: str, encoding: str | None) -> str:
    chosen = encoding or ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    try:
        text = content.decode(chosen)
    except LookupError:
        raise DataError(f"there is no encoding {encoding!r}", fix="use utf-8, latin-1 or cp1252") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: the byte 0x{content[error.start]:02x} is no {chosen.removesuffix('-sig')} text",
            fix="save the file as UTF-8, or say how it is encoded: --encoding cp1252 (or latin-1)",
        ) from None
    if "\0" in text:
        raise DataError(f"{name} is no text file", fix="give a CSV or Parquet file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_csv(pl: Any, text: str, name: str, separator: str | None) -> pl.DataFrame:
    if not text.strip():
        raise DataError(f"{name} is empty", fix="give a table with a header line and rows")
    text = text.lstrip("\n")
    separator = separator or _sniff(text)
    if len(separator) != 1 or separator in '"\n':
        raise DataError(f"{separator!r} cannot separate columns", fix="give one character, such as ';'")
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{name}, line 1: {error}", fix="check the quotes of the header") from None
    _check_header([cell.strip() for cell in header], name)
    try:
        rows = io.BytesIO(_without_blank_lines(text).encode())
        frame = pl.read_csv(rows, separator=separator, infer_schema_length=0)
    except Exception as error:  # as above
        raise _broken_line(text, separator, len(header), name) or DataError(
            f"{name} cannot be read: {_first_line(error)}", fix="check its quotes and separators"
        ) from None
    if frame.width != len(header) or frame.to_series(frame.width - 1).has_nulls():  # rows that end too early
        broken = _broken_line(text, separator, len(header), name)
        if broken is not None:
            raise broken
    frame.columns = [cell.strip() for cell in header]
    if separator == ";":
        text_columns = pl.col(pl.String)
        frame = frame.with_columns(text_columns.str.replace(r"^(\s*[+-]?\d+),(\d+\s*)$", "$1.$2"))
    return frame


def _without_blank_lines(text: str) -> str:
    """Blank lines are no rows; those inside quotes belong to a cell."""
    parts = text.split('"')
    parts[::2] = [re.sub(r"\n *(?=\n)", "", part) for part in parts[::2]]
    return '"'.join(parts)


def _sniff(text: str) -> str:
    """The separator that stands most often outside quotes in the first line."""
    outside = "".join(text.partition("\n")[0].split('"')[::2])
    return max(_SEPARATORS, key=outside.count)


def _check_header(header: list[str], name: str) -> None:
    double = next((cell for i, cell in enumerate(header) if cell in header[:i]), None)
    if double is not None:
        raise DataError(f"{name}: two columns are called {double!r}", fix="give each column a name of its own")
    if all(_is_number(cell) for cell in header):
        raise DataError(
            f"{name}: the first line holds numbers only ({', '.join(header[:4])} ...)",
            fix="put a line with the names of the columns above it",
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _broken_line(text: str, separator: str, width: int, name: str) -> DataError | None:
    """The error for the first line with more or fewer cells than the header, or with an open quote."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        start = 1
        for cells in reader:
            if cells and len(cells) != width:
                return DataError(
                    f"{name}, line {start}: {len(cells)} cells, but the header has {width}",
                    fix=f"check the {_SEPARATORS.get(separator, separator)}s and quotes of that line "
                    "(a cell that holds the separator needs quotes)",
                )
            start = reader.line_num + 1
    except csv.Error as error:
        return DataError(f"{name}, from line {start}: {error}", fix="check the quotes from that line on")
    return None


def _clean(pl: Any, frame: pl.DataFrame, missing: Iterable[str]) -> pl.DataFrame:
    """Text stripped, and the cells that mean "not known" null, NaN among them."""
    missing = list(missing)
    unknown = [*MISSING, *(m.strip().lower() for m in missing)]
    cleaned = []
    for series in frame.iter_columns():
        if series.dtype in (pl.Categorical, pl.Enum):
            series = series.cast(pl.String)
        if series.dtype == pl.String:
            series = series.str.strip_chars()
            series = series.set(series.str.to_lowercase().is_in(unknown), None)
        elif series.dtype.is_float():
            series = series.fill_nan(None)
        if series.dtype != pl.String and series.dtype.is_numeric():
            values = [float(m) for m in missing if _is_number(m)]
            series = series.set(series.cast(pl.Float64).is_in(values), None) if values else series
        cleaned.append(series)
    return frame.with_columns(cleaned)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
