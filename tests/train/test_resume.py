"""Going on: a run that is cut anywhere, even by kill -9, ends with the bits of the one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops, optim
from backlit.train import (
    BestWeights,
    Checkpoint,
    EarlyStopping,
    LambdaCallback,
    Log,
    ReduceOnPlateau,
    Trainer,
    load,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int) ^ (RNG.random(90) < 0.2)


def trainer(**how):
    layers = [nn.Dense(6, "relu"), nn.BatchNorm(), nn.Dropout(0.3), nn.Dense(2)]
    return Trainer(
        bl.Network(layers, (4,)), "crossentropy", optim.EMA(optim.Adam(0.02), decay=0.9), ["accuracy"], **how
    )


def callbacks(folder):
    return [
        BestWeights(),
        EarlyStopping(watch="val_accuracy", patience=4),
        ReduceOnPlateau(patience=2, factor=0.5),
        Log(folder / "log.csv"),
    ]


def ends(t, history):
    """Everything that a run ends with, except how long it took."""
    found = {f"params/{k}": v for k, v in t.net.params.items()} | {f"trained/{k}": v for k, v in t.params.items()}
    found |= {f"state/{k}": v for k, v in t.net.state.items()}
    return found | {f"history/{k}": v for k, v in history.items() if k != "seconds"}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


@pytest.mark.parametrize("step", [1, 5, 6, 17, 29, 30])
def test_a_run_resumed_from_any_step_ends_with_the_same_bits(tmp_path, step):
    """With dropout, running statistics, averaged weights, shuffling, a hold-out and callbacks that remember."""
    how = {"epochs": 6, "batch_size": 16, "validation": 0.2, "seed": 3}
    kept = LambdaCallback(steps=lambda t: t.save(tmp_path / "at.backlit") if t.step == step else None, every_steps=step)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = trainer()
    expected = ends(whole, whole.fit(X, Y, **how, callbacks=[*callbacks(tmp_path / "a"), kept]))
    (tmp_path / "b" / "log.csv").write_bytes((tmp_path / "a" / "log.csv").read_bytes())
    cut = Trainer.resume(tmp_path / "at.backlit")
    assert cut.step == step
    assert equal(expected, ends(cut, cut.fit(X, Y, validation=0.2, callbacks=callbacks(tmp_path / "b"))))
    rows = [[line.split(",")[:-1] for line in (tmp_path / f / "log.csv").read_text().splitlines()] for f in "ab"]
    assert rows[0] == rows[1]
    assert len(rows[0]) == whole.history.epochs + 1


def test_a_run_that_rolls_back_resumes_with_the_same_bits(tmp_path):
    """The start of the epoch is part of a checkpoint in its middle."""

    def exploding(predicted, target):
        return ops.mean(ops.exp(predicted**2))

    def one():
        net = bl.Network([nn.Dense(4), nn.Dense(1)], (4,))
        return Trainer(net, exploding, optim.SGD(0.01), on_nan="rollback")

    how = {"epochs": 3, "batch_size": 16}

    def keep(t):
        if t.step == 1:
            t.save(tmp_path / f"{t.rollbacks}.backlit")

    whole, kept = one(), LambdaCallback(steps=keep, every_steps=1)
    expected = ends(whole, whole.fit(X, X[:, :1], **how, callbacks=[kept]))
    assert whole.history["learning_rate"][-1] == pytest.approx(0.0025)  # halved twice
    for rollbacks in range(3):
        cut = Trainer.resume(tmp_path / f"{rollbacks}.backlit", loss=exploding)
        assert equal(expected, ends(cut, cut.fit(X, X[:, :1])))


def test_a_finished_run_is_prolonged_by_naming_more_epochs(tmp_path):
    short, long = trainer(), trainer()
    short.fit(X, Y, epochs=2, callbacks=[Checkpoint(tmp_path / "run.backlit")])
    expected = ends(long, long.fit(X, Y, epochs=4))
    again = Trainer.resume(tmp_path / "run.backlit")
    assert again.finished
    assert again.fit(X, Y).epochs == 2  # there is nothing left to do
    again = Trainer.resume(tmp_path / "run.backlit")
    assert equal(expected, ends(again, again.fit(X, Y, epochs=4)))


def test_a_run_on_batches_resumes_where_it_was(tmp_path):
    def batches(epoch):
        order = np.random.default_rng(epoch).permutation(90)
        for i in range(0, 90, 16):
            yield X[order[i : i + 16]], Y[order[i : i + 16]]

    kept = LambdaCallback(steps=lambda t: t.save(tmp_path / "at.backlit") if t.step == 8 else None, every_steps=8)
    whole = trainer()
    expected = ends(whole, whole.fit(batches, epochs=3, callbacks=[kept]))
    cut = Trainer.resume(tmp_path / "at.backlit")
    assert equal(expected, ends(cut, cut.fit(batches)))


# --- kill -9 ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, pathlib
sys.path.insert(0, {here!r})
from test_resume import *
path = pathlib.Path(sys.argv[1])
on = {{"executor": "reference"}}
t = Trainer.resume(path, **on) if path.exists() else trainer(**on)
callbacks = [BestWeights(), Checkpoint(path, every_steps=2)]
history = t.fit(X, Y, epochs=12, batch_size=8, validation=0.2, callbacks=callbacks)
found = ends(t, history)
np.savez(sys.argv[2], **{{k.replace("/", "|"): v for k, v in found.items()}})
"""


@pytest.mark.parametrize("times", [3, pytest.param(25, marks=pytest.mark.full)])
def test_kill_9_at_random_moments_leaves_a_good_file_and_the_same_bits_in_the_end(tmp_path, times):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(here=str(__import__("pathlib").Path(__file__).parent)))
    path, out = tmp_path / "run.backlit", tmp_path / "out.npz"
    rng = random.Random(0)
    kills, steps = 0, []
    for _ in range(times + 2):
        process = subprocess.Popen([sys.executable, str(program), str(path), str(out)], stderr=subprocess.PIPE)
        start = path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == start):
            time.sleep(0.001)  # until it trains
        if kills < times:
            time.sleep(rng.uniform(0, 0.4 / times))
            process.send_signal(signal.SIGKILL)
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
        kills += 1
        steps.append(Trainer.resume(path).step)  # whole, whatever the moment
        load(path)
    assert kills == times
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]
    t = trainer()
    kept = Checkpoint(tmp_path / "other.backlit", every_steps=2)
    history = t.fit(X, Y, epochs=12, batch_size=8, validation=0.2, callbacks=[BestWeights(), kept])
    expected = ends(t, history)
    found = {k.replace("|", "/"): v for k, v in np.load(out).items()}
    assert equal(expected, found)
    assert json.loads(history.to_json())["epoch"] == list(range(1, 13))
