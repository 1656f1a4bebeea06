"""The history: a table whose columns always have one length; its plot; and the live display of a run."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from backlit.errors import Error
from backlit.train import History
from backlit.train.history import figure
from backlit.train.progress import Progress, duration


def table():
    history = History()
    history.append({"epoch": 1, "step": 10, "loss": 0.5, "learning_rate": 0.1, "seconds": 1.0})
    history.append({"epoch": 2, "step": 20, "loss": 0.25, "val_loss": 0.4, "learning_rate": 0.1, "seconds": 1.0})
    return history


def test_columns_that_come_later_are_nan_before():
    history = table()
    assert history.epochs == 2
    assert math.isnan(history["val_loss"][0])
    assert history["loss"].tolist() == [0.5, 0.25]
    assert list(history) == ["epoch", "step", "loss", "learning_rate", "seconds", "val_loss"]
    with pytest.raises(KeyError, match="no column 'accuracy'; its columns are epoch, step"):
        history["accuracy"]
    history["loss"][0] = 9  # a copy
    assert history["loss"][0] == 0.5


def test_best():
    history = table()
    assert history.best("loss")["epoch"] == 2
    assert history.best("val_loss")["val_loss"] == 0.4
    assert history.best("loss", mode="max")["epoch"] == 1


def test_it_goes_to_pandas_and_json(tmp_path):
    history = table()
    frame = history.to_pandas()
    assert frame["epoch"].tolist() == [1, 2]
    assert frame["loss"].tolist() == [0.5, 0.25]
    found = json.loads(history.to_json(tmp_path / "h.json"))
    assert found == json.loads((tmp_path / "h.json").read_text())
    assert found["val_loss"] == [None, 0.4]


def test_it_prints_as_a_table():
    lines = str(table()).splitlines()
    assert lines[0].split() == ["epoch", "step", "loss", "learning_rate", "seconds", "val_loss"]
    assert lines[2].split() == ["2", "20", "0.2500", "0.1000", "1.00", "0.4000"]
    assert str(History()) == "no epochs yet"


def test_the_plot_has_a_panel_for_each_metric_and_lines_with_the_numbers(tmp_path):
    history = History(
        {"epoch": [1, 2], "loss": [2, 1], "val_loss": [3, 2], "accuracy": [0, 1], "learning_rate": [1, 1]}
    )
    drawn = history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    panels = {ax.get_title(): ax for ax in drawn.axes}
    assert list(panels) == ["loss", "accuracy"]  # a rate that stays says nothing
    assert [line.get_ydata().tolist() for line in panels["loss"].lines] == [[2, 1], [3, 2]]
    assert [ax.get_title() for ax in history.plot(columns=["learning_rate"]).axes] == ["learning rate"]
    with pytest.raises(Error, match="nothing to plot"):
        History().plot()


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5000"), (0.0, "0.0000"), (1e-5, "1.00e-05"), (math.nan, "-"), (12345.6, "12345.6")]
)
def test_figures(value, text):
    assert figure(value) == text


def test_durations():
    assert [duration(s) for s in (0, 7, 760, 11100)] == ["0:00", "0:07", "12:40", "3:05:00"]


# --- the display ------------------------------------------------------------------------------------------------------


def shown(width, terminal=True):
    """What a run of three epochs shows at the end."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, force_interactive=terminal)
    with Progress(3, 10, console) as display:
        display.advance(5, 5, lambda: {"loss": 0.7, "accuracy": 0.5})
        for epoch in (1, 2, 3):
            display.epoch(
                epoch, {"epoch": epoch, "loss": 0.5, "accuracy": 0.75, "val_loss": 0.6, "learning_rate": 1e-3}
            )
        display.finish("val_loss has not improved for 3 epochs")
    plain = Console(file=io.StringIO(), width=width)
    with plain.capture() as capture:
        plain.print(display)
    return out.getvalue(), capture.get()


@pytest.mark.parametrize("width", [120, 60, 40])
def test_the_display_fits_its_terminal_and_says_everything(width):
    live, text = shown(width)
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "epoch 3/3" in lines[0]
    assert "100%" in lines[0]
    for word in (
        "loss 0.5000",
        "accuracy 0.7500",
        "val_loss 0.6000",
    ):
        assert word in text
    assert "not improved" in text
    assert "epoch 3/3" in live


def test_nothing_is_shown_where_there_is_no_terminal():
    assert shown(80, terminal=False)[0] == ""


def test_time_left_comes_from_the_pace(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("backlit.train.progress.time.monotonic", lambda: now[0])
    out = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(4, 100, out) as display:
        for _ in range(10):
            now[0] += 1.0
            display.advance(display._step + 10, 10, dict)
        display.epoch(1, {})
        assert display._left() == "0:30 left"
        assert display._rate() == pytest.approx(10)
    assert np.isclose(display._share(), 0.25)
