"""The average of the weights and the accumulation of gradients."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops, optim
from backlit.errors import SettingError

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
PARAMS = {"weight": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2)}


def loss(p, x, y):
    return ops.mean((ops.tanh(x @ p["weight"] + p["bias"]) - y) ** 2)


def run(optimizer, batches, params=PARAMS):
    """The parameters and states after each batch, the start first."""
    update = bl.compile(optimizer.update, "reference")
    seen = [(params, optimizer.init(params))]
    for chosen in batches:
        params, state = seen[-1]
        seen.append(update(bl.grad(loss)(params, X[chosen], Y[chosen]), state, params))
    return seen


WHOLE = [np.arange(12)] * 20


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_corrected_average_is_the_weighted_mean_of_all_steps(decay):
    optimizer = optim.EMA(optim.Adam(0.1), decay)
    seen = run(optimizer, WHOLE)
    for t in range(1, 21):
        weights = decay ** np.arange(t - 1, -1, -1.0)
        params, state = seen[t]
        found = bl.compile(optimizer.averaged, "reference")(state, params)
        for name in PARAMS:
            past = np.stack([p[name] for p, _ in seen[1 : t + 1]])
            np.testing.assert_allclose(found[name], np.tensordot(weights / weights.sum(), past, 1), rtol=1e-10)


def test_the_plain_average_starts_at_the_initial_weights():
    optimizer = optim.EMA(optim.Adam(0.1), 0.9, bias_correction=False)
    seen = run(optimizer, WHOLE)
    a = dict(PARAMS)
    for params, state in seen[1:]:
        a = {name: 0.9 * a[name] + 0.1 * params[name] for name in a}
        found = optimizer.averaged(state, params)
        for name in PARAMS:
            np.testing.assert_allclose(found[name], a[name], rtol=1e-12)


@pytest.mark.parametrize("correction", [True, False])
def test_before_the_first_step_the_average_is_the_parameters(correction):
    optimizer = optim.EMA(optim.SGD(), bias_correction=correction)
    found = bl.compile(optimizer.averaged)(optimizer.init(PARAMS), PARAMS)
    assert all(np.array_equal(found[name], PARAMS[name]) for name in PARAMS)


def test_the_average_changes_nothing_in_training():
    plain, averaged = run(optim.Adam(0.1), WHOLE)[-1], run(optim.EMA(optim.Adam(0.1)), WHOLE)[-1]
    assert all(np.array_equal(plain[0][name], averaged[0][name]) for name in PARAMS)
    assert optim.Adam().averaged(plain[1], plain[0]) is plain[0]


def test_frozen_parameters_have_no_average():
    optimizer = optim.EMA(optim.SGD(groups={"bias": {"frozen": True}}))
    params, state = run(optimizer, WHOLE)[-1]
    assert list(state["average"]) == ["weight"]
    assert np.array_equal(optimizer.averaged(state, params)["bias"], PARAMS["bias"])


@pytest.mark.parametrize("inner", [optim.SGD(0.5), optim.Adam(0.1, clip_global_norm=0.1), optim.EMA(optim.Lion())])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_micro_batches_are_one_large_batch(inner, k):
    rounds = [RNG.permutation(12) for _ in range(5)]
    large = run(inner, rounds)
    small = run(optim.Accumulate(inner, k), [part for order in rounds for part in np.split(order, k)])
    for i, (params, state) in enumerate(small):
        large_params, large_state = large[i // k]  # nothing moves within a round
        for name in PARAMS:
            np.testing.assert_allclose(params[name], large_params[name], rtol=1e-12)
        assert state["step"] == large_state["step"] == i // k
        assert inner.rate(state) == inner.rate(large_state)
        assert state["micro_step"] == i % k
    found = optim.Accumulate(inner, k).averaged(state, params)
    wanted = inner.averaged(large_state, large_params)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-12)


def test_accumulation_leaves_frozen_parameters_out():
    optimizer = optim.Accumulate(optim.SGD(groups={"bias": {"frozen": True}}), 2)
    params, state = run(optimizer, WHOLE)[-1]
    assert list(state["gradient_sum"]) == ["weight"]
    assert np.array_equal(params["bias"], PARAMS["bias"])


def test_wrappers_that_make_no_sense_are_refused():
    with pytest.raises(SettingError, match=r"micro-batches\n.*\n.*Accumulate\(EMA"):
        optim.EMA(optim.Accumulate(optim.SGD(), 2))
    with pytest.raises(SettingError, match="EMA stands around EMA"):
        optim.EMA(optim.EMA(optim.SGD()))
    with pytest.raises(SettingError, match="Accumulate stands around Accumulate"):
        optim.Accumulate(optim.Accumulate(optim.SGD(), 2), 2)
    with pytest.raises(SettingError, match="optimizer is an optimiser, not 'adam'"):
        optim.EMA("adam")
