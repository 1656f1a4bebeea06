"""Callbacks: when they stop, keep, lower, save and log; held against what the history says."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

import backlit as bl
from backlit import nn, optim
from backlit.errors import Error
from backlit.train import (
    BestWeights,
    Callback,
    Checkpoint,
    EarlyStopping,
    Epoch,
    Log,
    ReduceOnPlateau,
    Trainer,
    callbacks,
    load,
)
from backlit.train.history import figure


class Stage:
    """Plays a trainer to a callback: a list of values of one column, and what was asked of it."""

    def __init__(self, metrics=()):
        from backlit.train.step import Objective, metrics_by_name

        self.objective = Objective(None, None, *metrics_by_name(metrics))
        self.stopped, self.learning_rate, self.finished = "", 1.0, False

    def stop(self, why):
        self.stopped = why

    def scale_learning_rate(self, factor):
        self.learning_rate *= factor

    def play(self, callback, values, name="val_loss"):
        """The number of the epoch that it was stopped after, or 0; and the rate after each epoch."""
        rates = []
        for i, value in enumerate(values, start=1):
            callback.on_epoch(self, Epoch(i, i, {"epoch": i, "step": i, "loss": 1.0, name: value}))
            rates.append(self.learning_rate)
            if self.stopped:
                return i, rates
        return 0, rates


@pytest.mark.parametrize(
    ("values", "patience", "ends"),
    [
        ([3, 2, 1, 1, 1, 1], 2, 5),
        ([3, 2, 1, 1.5, 0.9, 1, 1, 1], 2, 7),
        ([1, 0.99, 0.98, 0.97], 5, 0),
        ([math.nan, math.nan, math.nan], 2, 2),
        ([math.nan, 1, math.nan, 0.5, 2, 2], 2, 6),
        ([1, 1], 1, 2),
    ],
)
def test_early_stopping_waits_for_its_patience(values, patience, ends):
    assert Stage().play(EarlyStopping(patience=patience), values)[0] == ends


def test_better_is_larger_for_scores_and_at_least_min_delta():
    scores = [0.5, 0.6, 0.7, 0.70001, 0.70002, 0.1]
    assert Stage(["accuracy"]).play(EarlyStopping("val_accuracy", patience=2), scores, "val_accuracy")[0] == 0
    stopping = EarlyStopping("val_accuracy", min_delta=0.01, patience=2)
    assert Stage(["accuracy"]).play(stopping, scores, "val_accuracy")[0] == 5
    assert stopping.best == 0.7
    assert Stage().play(EarlyStopping("val_mae", patience=2), scores, "val_mae")[0] == 3  # mae: smaller is better
    mine = Stage({"mine": lambda p, t: p})
    with pytest.raises(Error, match="whether a small or a large 'mine'"):
        mine.play(EarlyStopping("val_mine"), scores, "val_mine")
    assert mine.play(EarlyStopping("val_mine", mode="max", patience=9), scores, "val_mine")[0] == 0


def test_reduce_on_plateau_lowers_again_and_again_to_the_least():
    callback = ReduceOnPlateau(factor=0.1, patience=2, min_rate=0.005)
    _, rates = Stage().play(callback, [1.0] * 9)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005, 0.005])


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping(mode="best"),
        lambda: EarlyStopping(min_delta=-1),
        lambda: EarlyStopping(patience=0),
        lambda: ReduceOnPlateau(factor=1.0),
        lambda: ReduceOnPlateau(patience=0),
        lambda: Checkpoint("x", every_epochs=0),
        lambda: callbacks.as_callback(3),
    ],
)
def test_wrong_settings_are_refused(make):
    with pytest.raises(Error):
        make()


X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def trainer(rate=0.05):
    return Trainer(bl.Network([nn.Dense(8, "relu"), nn.Dense(2)], (4,)), "crossentropy", optim.Adam(rate), ["accuracy"])


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    t, best = trainer(2.0), BestWeights()
    history = t.fit(X, Y, epochs=8, validation=(X[:20], 1 - Y[:20]), callbacks=[best])
    assert best.epoch == history.best("val_loss")["epoch"] < 8
    assert t.evaluate(X[:20], 1 - Y[:20])["loss"] == pytest.approx(history["val_loss"].min(), rel=1e-6)


def test_early_stopping_ends_a_run_and_says_why():
    t = trainer(2.0)
    history = t.fit(X, Y, epochs=50, validation=(X[:20], 1 - Y[:20]), callbacks=[EarlyStopping(patience=3)])
    best = int(history["val_loss"].argmin())
    assert history.epochs == best + 4
    assert t.stopped == f"val_loss has not improved on {figure(history['val_loss'][best])} for 3 epochs"
    assert t.finished


def test_a_callback_forgets_between_runs():
    t, stopping = trainer(), EarlyStopping(watch="loss", patience=3)
    t.fit(X, Y, epochs=2, callbacks=[stopping])
    first = stopping.best
    other = Trainer(bl.Network([nn.Dense(2)], (4,)), "crossentropy", optim.SGD(1e-9))
    other.fit(X, Y, epochs=2, callbacks=[stopping])
    assert stopping.best > first


def test_what_is_watched_must_be_there():
    with pytest.raises(Error, match="EarlyStopping watches 'val_accuracy'") as caught:
        trainer().fit(X, Y, epochs=1, callbacks=[EarlyStopping("val_accuracy")])
    assert caught.value.fix == "pass validation= to fit"


def test_the_rate_falls_without_a_new_compilation():
    t = trainer()
    history = t.fit(X, Y, epochs=6, callbacks=[ReduceOnPlateau("loss", min_delta=9, patience=2, factor=0.5)])
    assert history["learning_rate"].tolist() == pytest.approx([0.05, 0.05, 0.05, 0.025, 0.025, 0.0125])
    assert len(t._programs) == 2  # batches of 32 and of 28


def test_checkpoints_of_every_epoch_can_all_be_kept(tmp_path):
    t = trainer()
    t.fit(X, Y, epochs=5, callbacks=[Checkpoint(tmp_path / "{epoch}.backlit", every_epochs=2)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.backlit", "4.backlit", "5.backlit"]
    assert np.array_equal(load(tmp_path / "5.backlit")(X), t.net(X))


def test_a_checkpoint_sees_what_the_other_callbacks_have_done(tmp_path):
    stopping = EarlyStopping(patience=1, watch="loss", min_delta=9)
    t = trainer()
    t.fit(X, Y, epochs=5, callbacks=[Checkpoint(tmp_path / "run.backlit"), stopping])
    again = Trainer.resume(tmp_path / "run.backlit")
    assert again.stopped == t.stopped != ""
    assert again.fit(X, Y).epochs == 2


def test_logs_have_a_row_an_epoch(tmp_path):
    history = trainer().fit(X, Y, epochs=3, callbacks=[Log(tmp_path / "log.csv"), Log(tmp_path / "log.jsonl")])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["loss"]) for r in rows] == history["loss"].tolist()
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["accuracy"] for line in lines] == history["accuracy"].tolist()


def test_records_cannot_be_changed_and_read_like_rows():
    seen = []
    history = trainer().fit(X, Y, epochs=2, validation=0.2, callbacks=[seen.append])
    assert [r["val_loss"] for r in seen] == history["val_loss"].tolist()
    assert seen[1].number == 2
    assert seen[0].loss == history["loss"][0]
    with pytest.raises(TypeError):
        seen[0].columns["loss"] = 0.0


def test_callbacks_act_through_the_trainer():
    class Halve(Callback):
        def on_epoch(self, trainer, record):
            trainer.scale_learning_rate(0.5)
            if record.number == 3:
                trainer.stop("enough")

    t = trainer()
    history = t.fit(X, Y, epochs=9, callbacks=[Halve()])
    assert history["learning_rate"].tolist() == pytest.approx([0.05, 0.025, 0.0125])
    assert t.learning_rate == pytest.approx(0.05 / 8)
    assert t.stopped == "enough"
