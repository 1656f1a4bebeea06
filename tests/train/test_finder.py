"""The learning-rate finder: its rates, what it leaves alone, and that its suggestion learns."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import nn, optim
from backlit.errors import Error
from backlit.train import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [3.0], [0.5]], np.float32)


def trainer(optimizer):
    return Trainer(bl.Network([nn.Dense(1)], (4,)), "mse", optimizer)


@pytest.mark.parametrize("optimizer", [optim.SGD(0.1), optim.EMA(optim.Adam(optim.Cosine(0.3, 50)), decay=0.9)])
def test_the_suggestion_learns_and_the_trainer_stays_as_it_was(optimizer):
    t = trainer(optimizer)
    before = {k: v.copy() for k, v in t.net.params.items()}
    found = t.find_learning_rate(X, Y)
    assert all(np.array_equal(before[k], t.net.params[k]) for k in before)
    assert (t.step, t.epoch, t.history.epochs) == (0, 0, 0)
    start = t.evaluate(X, Y)["loss"]
    assert found.losses[0] == pytest.approx(start, rel=0.8)
    good = trainer(optimizer.with_learning_rate(found.suggestion))
    good.fit(X, Y, epochs=20)
    assert good.evaluate(X, Y)["loss"] < 0.1 * start


def test_rates_grow_by_a_factor_and_the_search_ends_where_the_loss_explodes():
    found = trainer(optim.SGD()).find_learning_rate(X, Y, lowest=1e-4, highest=100.0, steps=50)
    ratios = found.rates[1:] / found.rates[:-1]
    assert np.allclose(ratios, (1e6) ** (1 / 49))
    assert found.rates[0] == 1e-4
    assert len(found.rates) < 50
    assert found.suggestion == pytest.approx(found.rates[found.smoothed.argmin()] / 10)
    assert "suggested learning rate" in str(found)


def test_the_first_step_is_plain_gradient_descent_at_the_lowest_rate():
    found = trainer(optim.SGD()).find_learning_rate(X, Y, lowest=1e-3, highest=1e-2, steps=10, batch_size=200)
    t = trainer(optim.SGD(1e-3))
    losses = [t.evaluate(X, Y)["loss"]]
    t.fit(X, Y, epochs=1, batch_size=200)
    losses.append(t.evaluate(X, Y)["loss"])
    assert found.losses[:2].tolist() == pytest.approx(losses, rel=1e-5)


def test_it_is_drawn(tmp_path):
    found = trainer(optim.SGD()).find_learning_rate(X, Y)
    drawn = found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 1000
    assert drawn.axes[0].get_xscale() == "log"


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(Error, match="the loss fell at no learning rate"):
        trainer(optim.SGD()).find_learning_rate(X, Y, lowest=10, highest=100)
    with pytest.raises(Error, match="0 < lowest < highest"):
        trainer(optim.SGD()).find_learning_rate(X, Y, lowest=1, highest=0.1)
