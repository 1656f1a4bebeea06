"""The trainer knows no executor: on each the numbers are those of the reference, and a run has the same bits again."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import nn, optim
from backlit.errors import Error
from backlit.executors import get
from backlit.train import Checkpoint, LambdaCallback, Trainer

NAMES = ["reference", "native", pytest.param("xla", marks=pytest.mark.full)]

X = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


def trainer(executor):
    layers = [nn.Dense(8, "tanh"), nn.BatchNorm(), nn.Dropout(0.2), nn.Dense(2)]
    net = bl.Network(layers, (5,))
    optimizer = optim.EMA(optim.Adam(0.01, clip_global_norm=1.0), decay=0.9)
    return Trainer(net, "crossentropy", optimizer, ["accuracy"], executor=executor)


def executor(name):
    try:
        return get(name)
    except (Error, ImportError) as e:
        pytest.skip(f"{name} is not here: {e}")


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_reference_and_resume_bit_for_bit(name, tmp_path):
    how = {"epochs": 3, "batch_size": 16, "validation": 0.2}
    keep = LambdaCallback(steps=lambda t: t.save(tmp_path / "at.backlit") if t.step == 6 else None, every_steps=6)
    seen = []

    def see(t):
        arrays = {**t.params, **t.moment.carry[2]["m"]}
        seen.append((arrays, {k: v.copy() for k, v in arrays.items()}))

    whole = trainer(executor(name))
    end = Checkpoint(tmp_path / "end.backlit")
    history = whole.fit(X, Y, **how, callbacks=[keep, end, LambdaCallback(steps=see, every_steps=2)])
    for arrays, copies in seen:  # what an executor gave is not written over by a later call
        assert all(np.array_equal(arrays[k], copies[k]) for k in arrays)
    cut = Trainer.resume(tmp_path / "at.backlit", executor=name)
    again = cut.fit(X, Y)
    for column in history:
        assert column == "seconds" or np.array_equal(history[column], again[column]), column
    for key, value in whole.net.params.items():
        assert np.array_equal(value, cut.net.params[key]), key
    oracle = trainer("reference")
    expected = oracle.fit(X, Y, **how)
    for column in history:
        assert column == "seconds" or np.allclose(history[column], expected[column], rtol=1e-3, atol=1e-4), column
    for key, value in oracle.net.params.items():
        assert np.allclose(value, whole.net.params[key], rtol=1e-2, atol=1e-3), key
    assert np.allclose(whole.predict(X), oracle.predict(X), rtol=1e-2, atol=1e-3)
