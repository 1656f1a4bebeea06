"""Every example through the executor "xla": what it trains has the losses of the reference, step by step.

In float64: where a gradient is zero but for rounding, Adam makes whole steps of what float32 leaves.
"""

import importlib

import numpy as np
import pytest

import backlit as bl
from backlit.executors import api, get
from backlit.executors.api import Processes
from backlit.pytree import map_leaves
from backlit.train import Trainer, checks
from backlit.train.feeding import Stretch
from backlit.train.step import TrainingStep, compile_step

TRAINED = [
    "mlp_digits", "cnn_digits", "gru_digits", "char_transformer", "regression_table",
    pytest.param("vanishing_gradients", marks=pytest.mark.full), pytest.param("overfitting", marks=pytest.mark.full),
]  # fmt: skip
STEPS = 3


def losses(trainer, executor, stretch):
    """The loss of each step, with all that is floating-point in float64."""

    def cast(a):
        return np.asarray(a, np.float64 if a.dtype.kind == "f" else a.dtype)

    carry = map_leaves(cast, trainer.moment.carry)
    stretch = Stretch({role: cast(a) for role, a in stretch.data.items()}, stretch.rows)
    program = compile_step(
        TrainingStep(trainer.objective, trainer.optimizer, skip=False), get(executor), carry, stretch
    )
    total, weight = program(carry, stretch)[1]["loss"]
    return total / weight


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_steps_of_an_example_have_the_losses_of_the_reference(name, monkeypatch):
    compared = []
    fit = Trainer.fit

    def watched(self, x, y=None, **how):
        given = how.get("sample_weight"), how.get("mask")
        examples = checks.examples(self.objective, (x, y, *given))
        stretch = examples.feed(how.get("batch_size") or 32, Processes()).take(0, 0, STEPS)
        expected, found = (losses(self, executor, stretch) for executor in ("reference", "xla"))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        compared.append(len(found))
        return fit(self, x, y, **how | {"epochs": 1, "progress": False})

    monkeypatch.setattr(Trainer, "fit", watched)
    importlib.import_module(name).main(quick=True)
    assert compared == [STEPS] * {"vanishing_gradients": 2, "overfitting": 2}.get(name, 1)


@pytest.fixture
def by_default(monkeypatch):
    """Makes an executor the one that is taken where none is named."""

    def choose(name):
        monkeypatch.setattr(api, "_best", lambda: name)
        get.cache_clear()

    yield choose
    get.cache_clear()


@pytest.mark.parametrize("name", ["worked_two_two_one", "worked_two_two_two"])
def test_examples_worked_by_hand_go_the_same_way(name, by_default):
    errors = []
    for executor in ("reference", "xla"):
        by_default(executor)
        errors.append(importlib.import_module(name).train(most=200)[1])
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-10)


def test_the_first_gradient_is_the_same(by_default):
    by_default("xla")
    from first_gradient import loss, main

    gradient = main()
    random = np.random.default_rng(0)
    p = {"w1": random.normal(size=(2, 3)), "b1": np.zeros(3), "w2": random.normal(size=(3, 1))}
    x, y = random.normal(size=(4, 2)), random.normal(size=(4, 1))
    found = bl.compile(bl.grad(loss))(p, x, y)
    assert bl.executors.get().name == "xla"
    for key, value in gradient.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12)
