"""Mixed precision through XLA: master weights in float32, and a loss scale where products are computed in float16."""

import numpy as np
import pytest

import backlit as bl
from backlit import data, nn, ops, optim
from backlit.errors import DivergenceError, SettingError
from backlit.executors.xla import XLA
from backlit.pytree import flatten
from backlit.train import LambdaCallback, Trainer


class Unscaled(XLA):
    """float16 as it would be without a loss scale."""

    needs_loss_scale = False


def tiny(predicted, target):
    """Its gradient by a prediction is about 1e-9: float16 knows nothing between 0 and 6e-8."""
    return 1e-8 * ops.mean((predicted - target) ** 2)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("f4")
Y = np.tanh(X @ RNG.normal(size=(6, 2))).astype("f4")


def trainer(executor, loss=tiny, optimizer=None):
    net = bl.Network([nn.Dense(16, "tanh"), nn.Dense(2)], (6,), seed=3)
    return Trainer(net, loss, optimizer or optim.SGD(2e7), executor=executor)


def fitted(executor, epochs=30, **kwargs):
    made = trainer(executor, **kwargs)
    made.fit(X, Y, epochs=epochs, batch_size=16, progress=False)
    return made


def test_gradients_that_vanish_in_float16_train_with_a_loss_scale():
    whole, half, lost = (fitted(e) for e in ("reference", XLA(compute="float16"), Unscaled(compute="float16")))
    assert isinstance(half.optimizer, optim.LossScale)
    assert all(v.dtype == np.float32 for v in half.params.values())
    start, end = whole.history["loss"][[0, -1]]
    assert end < 0.2 * start
    np.testing.assert_allclose(half.history["loss"], whole.history["loss"], rtol=0.02)
    # nothing comes through the last product
    before = trainer("reference").params
    assert np.array_equal(lost.params["dense_1.weight"], before["dense_1.weight"])
    assert lost.history["loss"][-1] > 2 * end


def test_overflow_leaves_steps_out_until_the_scale_fits():
    def huge(predicted, target):
        return 1e4 * ops.mean((predicted - target) ** 2)

    at = optim.SGD(1e-5)
    whole = fitted("reference", loss=huge, optimizer=at)
    lost = trainer(Unscaled(compute="float16"), lambda p, t: 2.0**15 * huge(p, t), at)
    with pytest.raises(DivergenceError):  # what the first scaled loss would do
        lost.fit(X, Y, epochs=1, batch_size=16, progress=False)
    half = fitted(XLA(compute="float16"), loss=huge, optimizer=at)
    state = half.moment.carry[2]
    left_out = half.step - int(state["step"])
    assert 0 < left_out < 16
    assert state["loss_scale"] == 2.0 ** (15 - left_out)
    assert half.history["loss"][-1] < 0.5 * whole.history["loss"][0]
    np.testing.assert_allclose(half.history["loss"][-1], whole.history["loss"][-1], rtol=0.2)


def test_the_scale_follows_its_rule():
    optimizer = optim.LossScale(optim.Momentum(0.5), initial=4.0, growth=2)
    params = {"w": np.array([1.0, 2.0], np.float32)}
    state = optimizer.init(params)
    assert optimizer.scaled(state, np.float32(3.0)) == 12
    update = bl.compile(optimizer.update, "reference")
    good, bad, seen = np.ones(2, np.float32), np.array([np.inf, 0], np.float32), []
    for g in (good, good, bad, good, bad, bad, bad, good):
        before = params
        params, state = update({"w": g * state["loss_scale"]}, state, params)
        seen.append((float(state["loss_scale"]), int(state["good_steps"]), int(state["step"])))
        if seen[-1][2] == (seen[-2][2] if seen[1:] else 0):  # no update was done
            assert g is bad
            assert np.array_equal(params["w"], before["w"])
    # twice after two good ones; half after a bad one, which counts as no step; at 1 a bad one is the network's own
    assert seen == [(4, 1, 1), (8, 0, 2), (4, 0, 2), (4, 1, 3), (2, 0, 3), (1, 0, 3), (1, 0, 4), (1, 1, 5)]
    assert not np.isfinite(params["w"][0])


def test_a_scale_changes_no_bit_where_nothing_overflows():
    plain, scaled = fitted("reference"), fitted("reference", optimizer=optim.LossScale(optim.SGD(2e7), growth=7))
    assert scaled.moment.carry[2]["loss_scale"] == 2.0 ** (15 + 120 // 7)
    for name, value in plain.params.items():
        assert np.array_equal(scaled.params[name], value)


@pytest.mark.parametrize("later", ["reference", "float16"])
def test_a_run_goes_on_with_its_scale_on_any_executor_and_with_the_same_bits(later, tmp_path):
    half = XLA(compute="float16")
    at = LambdaCallback(steps=lambda t: t.save(tmp_path / "at") if t.step == 6 else None, every_steps=6)
    whole = trainer(half, optimizer=optim.LossScale(optim.Adam(0.01, epsilon=1e-12), growth=5))
    whole.fit(X, Y, epochs=3, batch_size=16, progress=False, callbacks=[at])
    cut = Trainer.resume(tmp_path / "at", loss=tiny, executor=half if later == "float16" else later)
    assert cut.optimizer == whole.optimizer
    assert cut.moment.carry[2]["loss_scale"] == 2.0**16
    cut.fit(X, Y, progress=False)
    assert cut.moment.carry[2]["loss_scale"] == 2.0**17
    for name, value in whole.params.items():
        if later == "float16":
            assert np.array_equal(cut.params[name], value)
        else:
            np.testing.assert_allclose(cut.params[name], value, rtol=0.05, atol=0.01)


def test_a_run_that_began_without_a_scale_gets_one(tmp_path):
    at = LambdaCallback(steps=lambda t: t.save(tmp_path / "at") if t.step == 6 else None, every_steps=6)
    whole = trainer("reference", optimizer=optim.SGD(2e7))
    whole.fit(X, Y, epochs=3, batch_size=16, progress=False, callbacks=[at])
    cut = Trainer.resume(tmp_path / "at", loss=tiny, executor=XLA(compute="float16"))
    assert cut.moment.carry[2]["loss_scale"] == 2.0**15
    cut.fit(X, Y, progress=False)
    np.testing.assert_allclose(cut.history["loss"], whole.history["loss"], rtol=0.01)


def test_a_loss_scale_stands_outside_and_is_a_power_of_two():
    with pytest.raises(SettingError, match="around everything"):
        optim.EMA(optim.LossScale(optim.SGD()))
    with pytest.raises(SettingError, match="power of two"):
        optim.LossScale(optim.SGD(), initial=1000.0)


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_digits_are_learnt_in_half_precision_as_in_float32(compute):
    digits = data.digits()
    x, y = digits.images.reshape(-1, 64)[:600], digits.labels[:600]
    losses = []
    for executor in (XLA(), XLA(compute=compute)):
        net = bl.Network([nn.Dense(64, "relu"), nn.Dense(10)], (64,), seed=0)
        made = Trainer(net, "crossentropy", optim.Adam(3e-3), ["accuracy"], executor=executor)
        made.fit(x, y, epochs=8, batch_size=50, progress=False)
        assert {a.dtype.name for a in flatten(made.moment.carry[:2])[0]} == {"float32"}
        losses.append(made.history["loss"])
        assert made.history["accuracy"][-1] > 0.95
    assert not np.array_equal(*losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)


def test_small_updates_are_not_lost_in_the_weights():
    """1 + 2^-12 is 1 in bfloat16. A weight kept in that would never move; the master weight adds the steps up."""
    net = bl.Network([nn.Dense(1, bias=False)], (1,))
    net.params = {"dense_1.weight": [[1.0]]}
    made = Trainer(net, lambda p, t: ops.mean(p), optim.SGD(2.0**-12), executor=XLA(compute="bfloat16"))
    ones = np.ones((64, 1), "f4")
    made.fit(ones, ones, epochs=1, batch_size=1, progress=False)
    assert made.params["dense_1.weight"] == 1 - 64 * 2.0**-12


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_convolutions_are_summed_in_float32(compute):
    """Of 300 ones, float16 would sum 1 + 300 · 2^-11 to 1."""
    x, w = np.full((1, 17, 18, 1), 2.0**-11, "f4"), np.ones((17, 18, 1, 1), "f4")
    x[0, 0, 0, 0] = 1.0
    y = bl.compile(lambda x, w: ops.conv(x, w), XLA(compute=compute))(x, w)
    assert y.item() == 1 + 305 * 2.0**-11
