"""Schedules beside those of other libraries (see test_oracles): dtypes, compilation, ends, composition."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backlit as bl
from backlit import ops, optim

ALL = {
    "constant": optim.Constant(0.1),
    "stepdecay": optim.StepDecay(0.1, 10),
    "piecewise": optim.Piecewise([0.1, 0.2, 0.05], [10, 20]),
    "exponential": optim.Exponential(0.1, 0.9),
    "linear": optim.Linear(0.1, 30, 0.01),
    "cosine": optim.Cosine(0.1, 30, 0.01),
    "onecycle": optim.OneCycle(0.1, 30),
    "warmup": optim.Warmup(optim.Warmup(optim.Cosine(0.1, 30), 5, start=0.05), 5),
}


@pytest.mark.parametrize("name", ALL)
def test_compiled_is_as_called(name):
    schedule = ALL[name]
    compiled = bl.compile(lambda step: schedule(step), "reference")
    for t in (0, 1, 9, 10, 29, 30, 31, 1000):
        found = compiled(np.asarray(t, np.uint32))
        assert found.dtype == np.float32
        assert found.shape == ()
        np.testing.assert_allclose(found, schedule(np.float64(t)), rtol=2e-5, atol=1e-9)
        assert schedule(t).dtype == np.float32
        assert schedule(np.float64(t)).dtype == np.float64
    assert len(compiled.graphs) == 1


@pytest.mark.parametrize("name", ALL)
@given(t=st.integers(0, 2**32 - 1))
def test_rates_are_never_negative_and_never_nan(name, t):
    rate = float(ALL[name](np.asarray(t, np.uint32)))
    assert 0 <= rate <= 0.2 * (1 + 1e-6)


def test_the_ends():
    cosine = optim.Cosine(1.0, 10, 0.1)
    assert [float(cosine(np.float64(t))) for t in (0, 5, 10, 11)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    cycle = optim.OneCycle(1.0, 10, pct_start=0.5, div_factor=4, final_div_factor=25)
    assert [float(cycle(np.float64(t))) for t in (0, 5, 10, 99)] == pytest.approx([0.25, 1.0, 0.01, 0.01])
    piecewise = optim.Piecewise([1, 2, 3], [10, 20])
    assert [float(piecewise(np.float64(t))) for t in (0, 9, 10, 19, 20, 99)] == [1, 1, 2, 2, 3, 3]
    assert float(optim.Piecewise([1], [])(7)) == 1
    warm = optim.Warmup(optim.Constant(1.0), 4, start=0.2)
    assert [float(warm(np.float64(t))) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_schedule_of_ones_own():
    @dataclass(frozen=True)
    class InverseSqrt(optim.Schedule):
        """initial / sqrt(t + 1)."""

        initial: float

        def at(self, t):
            return self.initial / ops.sqrt(t + 1)

    optimizer = optim.SGD(optim.Warmup(InverseSqrt(1.0), 2))
    assert optim.from_config(optimizer.config()) == optimizer
    params = {"w": np.zeros(())}
    update = bl.compile(optimizer.update, "reference")
    state, seen = optimizer.init(params), []
    for _ in range(5):
        params, state = update({"w": np.ones(())}, state, params)
        seen.append(float(params["w"]))
    np.testing.assert_allclose(-np.diff([0.0, *seen]), [0.0, 0.5, 1.0, 1 / np.sqrt(2), 1 / np.sqrt(3)])
