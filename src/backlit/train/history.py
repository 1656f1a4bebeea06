"""History: what was measured after each epoch, as a table of columns.

A mapping of column name -> float64 array with one entry an epoch; an entry that was not measured is nan, so all columns
have one length. `epoch` and `step` count from 1 over the whole life of a trainer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backlit.errors import Error
from backlit.extras import require

Array = np.ndarray[Any, np.dtype[Any]]

_NOT_CURVES = ("epoch", "step", "seconds", "skipped")


class History(Mapping[str, Array]):
    """A table of epochs. `history["loss"]` is an array; `print(history)` shows the last epochs."""

    def __init__(self, columns: Mapping[str, Iterable[float]] | None = None) -> None:
        self._columns = {name: [float(v) for v in values] for name, values in (columns or {}).items()}
        if len({len(c) for c in self._columns.values()}) > 1:
            raise Error("the columns of a history have different lengths")

    def __getitem__(self, name: str) -> Array:
        if name not in self._columns:
            known = ", ".join(self._columns) or "none: no epoch has ended"
            raise KeyError(f"the history has no column {name!r}; its columns are {known}")
        return np.array(self._columns[name], np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def epochs(self) -> int:
        """How many epochs the table has."""
        return len(next(iter(self._columns.values()), []))

    def append(self, row: Mapping[str, float]) -> None:
        """Add an epoch. What the row lacks is nan there; a new column is nan in the epochs before."""
        count = self.epochs
        for name in row:
            self._columns.setdefault(name, [math.nan] * count)
        for name, column in self._columns.items():
            column.append(float(row.get(name, math.nan)))

    def best(self, name: str = "val_loss", mode: str = "") -> dict[str, float]:
        """The row in which column `name` is best: smallest, or largest for a score (`mode` "min" or "max" decides)."""
        column = self[name]
        if np.isnan(column).all():
            raise Error(f"the column {name!r} holds no number")
        at = np.nanargmin(column) if (mode or direction(name)) == "min" else np.nanargmax(column)
        return {n: c[at] for n, c in self._columns.items()}

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame, one row an epoch. Needs pandas."""
        frame = require("pandas", "tables").DataFrame(dict(self))
        return frame.astype({n: "int64" for n in ("epoch", "step") if n in self})

    def to_json(self, path: str | Path | None = None) -> str:
        """The table as JSON, {"loss": [...], ...} with null for nan; written to `path` if one is given."""
        plain = {n: [v if math.isfinite(v) else None for v in c] for n, c in self._columns.items()}
        text = json.dumps(plain, indent=1)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    def plot(self, path: str | Path | None = None, columns: Iterable[str] | None = None) -> Any:
        """The curves, as a matplotlib Figure: the loss and each metric by epoch, training and validation together.

        `columns` chooses names such as ["loss", "accuracy"]; `path` saves it (PNG, SVG or PDF by its suffix). Needs
        matplotlib.
        """
        figures, ticker = require("matplotlib.figure", "plot"), require("matplotlib.ticker", "plot")
        if not self.epochs:
            raise Error("there is nothing to plot: no epoch has ended", fix="call fit first")
        names = [n for n in self if n not in _NOT_CURVES and not n.startswith("val_")]
        if columns is None:
            varied = len(set(self._columns.get("learning_rate", []))) > 1
            chosen = [n for n in names if n != "learning_rate" or varied]
        else:
            chosen = list(columns)
        figure = figures.Figure(
            figsize=(4.8 * min(len(chosen), 3), 3.4 * math.ceil(len(chosen) / 3)), layout="constrained"
        )
        axes = figure.subplots(math.ceil(len(chosen) / 3), min(len(chosen), 3), squeeze=False)
        marker = "o" if self.epochs == 1 else ""
        for ax in axes.flat[len(chosen) :]:
            ax.set_axis_off()
        for ax, name in zip(axes.flat, chosen, strict=False):
            ax.plot(self["epoch"], self[name], label="training", marker=marker)
            if f"val_{name}" in self:
                ax.plot(self["epoch"], self[f"val_{name}"], label="validation", marker=marker)
                ax.legend(frameon=False)
            ax.set_xlabel("epoch")
            ax.set_title(name.replace("_", " "))
            ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __str__(self) -> str:
        if not self.epochs:
            return "no epochs yet"
        names = list(self)
        shown = range(max(0, self.epochs - 20), self.epochs)
        rows = [names] + [[_figure(n, self._columns[n][i]) for n in names] for i in shown]
        widths = [max(len(r[c]) for r in rows) for c in range(len(names))]
        lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
        if shown.start:
            lines.insert(1, f"  ({shown.start} epochs before)")
        return "\n".join(lines)

    __repr__ = __str__


def direction(name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """Whether a smaller ("min") or a larger ("max") value of a column is better.

    `metrics` are those of a trainer; without them backlit's own are known by their names. Error for others.
    """
    from backlit.nn.losses import LOSSES
    from backlit.nn.metrics import METRICS

    base = name.removeprefix("val_")
    if base in ("loss", "penalty", "seconds", "skipped", *LOSSES):
        return "min"
    higher = getattr({**METRICS, **(metrics or {})}.get(base), "higher_is_better", None)
    if higher is None:
        raise Error(f"it is not known whether a small or a large {base!r} is better", fix='say so: mode="min" or "max"')
    return "max" if higher else "min"


def _figure(name: str, value: float) -> str:
    if name in ("epoch", "step", "skipped") and math.isfinite(value):
        return str(int(value))
    return figure(value) if name != "seconds" else f"{value:.2f}"


def figure(value: float) -> str:
    """A number in at most about eight characters, for people."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
    return f"{value:.2e}"
