"""The data sets. Each function reads afresh, so a caller may overwrite what it was given."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Images:
    """Labelled grey images.

    images       (count, height, width) float32, 0 is paper and 1 is full ink
    labels       (count,) int64, an index into class_names
    class_names  what each label stands for
    name         a short name
    description  what is seen, who made it, and under which licence
    """

    images: np.ndarray[Any, np.dtype[np.float32]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    class_names: tuple[str, ...]
    name: str
    description: str


def digits() -> Images:
    """1,797 handwritten digits: images (1797, 8, 8) with ink from 0 to 1 in steps of 1/16, labels 0 to 9.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine Learning Repository,
    1998, CC BY 4.0. Each pixel counts the inked ones among 4 x 4 of the scan.
    """
    with gzip.open(_FOLDER / "digits.csv.gz", "rt", encoding="ascii") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    return Images(
        images=(table[:, :64] / 16).astype(np.float32).reshape(-1, 8, 8),
        labels=table[:, 64].copy(),
        class_names=tuple("0123456789"),
        name="digits",
        description=(
            "Optical Recognition of Handwritten Digits, test part: 1,797 images of 8 x 8 pixels by 13 writers. "
            "E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository, https://doi.org/10.24432/C50P49. "
            "Licence: CC BY 4.0."
        ),
    )


def penguins() -> Path:
    """The CSV file of 344 penguins of three species, with missing values: a table to classify or to regress.

    Columns: species, island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex, year. K. B. Gorman,
    T. D. Williams and W. R. Fraser (2014), prepared by A. M. Horst, A. P. Hill and K. B. Gorman; CC0.
    """
    return _FOLDER / "penguins.csv"


def python_reference() -> str:
    """About 460,000 characters of English: the language reference that Python's own `help()` shows.

    It is read from the standard library (`pydoc_data.topics`), so it differs a little from one Python to the next.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
