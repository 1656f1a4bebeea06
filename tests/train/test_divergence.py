"""Values that are not finite: training stops before them, and the first cause is named; or they are left out."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops, optim
from backlit.errors import DivergenceError
from backlit.executors.reference import Reference
from backlit.train import LambdaCallback, Trainer, run
from backlit.train.divergence import find_origin, summary

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = X.sum(1, keepdims=True)


def origin(f, *args, watched=None):
    return find_origin(bl.trace(f, *args), args, watched)


ONE = np.ones(3, np.float32)


def test_the_first_cause_is_named_not_what_follows():
    def f(x):
        a = x - 1.0
        with ops.scope("middle"):
            b = ops.log(a)
        c = b * 2.0
        return c + 1.0

    found = origin(f, ONE)
    assert found.name == "middle.b"
    assert found.layer == "middle"
    assert found.node.op == "log"
    assert found.value.infinities == 3
    assert [(name, s.low, s.high) for name, s in found.inputs] == [("a", 0.0, 0.0)]
    assert "a logarithm of 0" in found.advice()


def test_what_is_masked_away_is_no_cause():
    def f(x):
        harmless = ops.where(x > 0.0, 0.0, ops.log(x - 1.0))
        guilty = ops.sqrt(x - 2.0)
        return harmless + guilty

    assert origin(f, ONE).name == "guilty"
    assert origin(lambda x: ops.where(x > 0.0, x, ops.log(x - 1.0)), ONE) is None
    assert origin(lambda x: ops.minimum(x, np.float32(np.inf)), ONE) is None


def test_only_the_watched_outputs_count():
    assert origin(lambda x: (x, ops.log(x - 1.0)), ONE, watched=[0]) is None
    assert origin(lambda x: (x, ops.log(x - 1.0)), ONE, watched=[1]).node.op == "log"


def test_an_input_that_was_wrong_before():
    found = origin(lambda x: x * 2.0, np.array([1, np.nan, 3], np.float32))
    assert found.phase == "input"
    assert "x is nan already" in found.describe()
    assert found.value.first == (1,)


def test_gradients_are_told_from_values():
    found = origin(bl.grad(lambda x: ops.sum(ops.sqrt(x))), np.zeros(3, np.float32))
    assert found.phase == "gradient"
    assert "the gradient of sqrt became infinite" in found.describe()


def test_loops_are_opened():
    def f(x):
        def step(carry, element):
            h = carry * element
            z = ops.log(h)
            return h, z

        return ops.scan(step, np.float32(1.0), x)

    found = origin(f, np.array([2, 3, -1, 4], np.float32))
    assert found.position == 2
    assert found.name == "z"
    assert "at element 2 of the sequence" in found.describe()
    assert f"{found.value}".startswith("f32[], 1 nan of 1")


def test_a_loop_that_is_given_something_wrong_is_not_blamed():
    def f(x):
        y = ops.log(x)
        return ops.scan(lambda c, e: (c + e, c), np.float32(0), y)[0]

    assert origin(f, -ONE).name == "y"


def test_summaries():
    found = summary(np.array([1.0, np.nan, np.inf, -3.0]))
    assert (found.nans, found.infinities, found.low, found.high, found.first) == (1, 1, -3.0, 1.0, (1,))
    assert str(found) == "f64[4], 1 nan and 1 infinite of 4, -3 to 1"
    assert summary(np.array([1, 2])).finite
    assert summary(np.empty(0)).finite


# --- in training ------------------------------------------------------------------------------------------------------


def network(*layers):
    return bl.Network([*layers, nn.Dense(1)], (4,))


def diverging(**how):
    return Trainer(network(nn.Dense(16, "relu")), "mse", optim.SGD(5.0), **how)


@pytest.mark.parametrize("stretch", [0.0, 1e9])
def test_a_run_stops_before_the_step_and_says_where(monkeypatch, stretch):
    monkeypatch.setattr(run, "STRETCH_SECONDS", stretch)
    trainer = diverging()
    with pytest.raises(DivergenceError, match=r"stopped at step \d+ \(epoch \d+\): ") as caught:
        trainer.fit(X, Y, epochs=50, batch_size=8)
    step = trainer.step
    assert f"step {step + 1} " in caught.value.what
    assert "lower the learning rate" in caught.value.fix
    assert all(np.isfinite(p).all() for p in trainer.net.params.values())
    assert trainer.history.epochs == step // 8
    again = diverging()  # the same steps without the bad one
    kept = {}
    with pytest.raises(DivergenceError):
        again.fit(
            X,
            Y,
            epochs=50,
            batch_size=8,
            callbacks=[LambdaCallback(steps=lambda t: kept.update({t.step: t.params}), every_steps=1)],
        )
    assert max(kept) == step
    assert all(np.array_equal(kept[step][k], trainer.params[k]) for k in trainer.params)


def test_the_layer_is_named():
    def risky(z):
        safe = ops.log(z - 1.0)
        return safe

    trainer = Trainer(network(nn.Dense(4), nn.Dense(4, risky)), "mse")
    with pytest.raises(DivergenceError, match=r"step 1 \(epoch 1\): in dense_2: dense_2.safe became nan"):
        trainer.fit(X, Y, epochs=1)


def test_an_update_that_overflows_is_named_with_its_parameter():
    trainer = Trainer(network(), "mse", optim.SGD(1e38))
    with pytest.raises(DivergenceError, match=r"step 1 .*: the update of dense_1\.(weight|bias): "):
        trainer.fit(X * 100, Y * 100, epochs=1)


def test_the_state_in_a_loop_of_a_recurrent_layer():
    x = np.ones((8, 6, 4), np.float32)
    net = bl.Network([nn.SimpleRNN(4, activation=lambda z: ops.exp(ops.abs(z) * 40.0)), nn.Dense(1)], (6, 4))
    with pytest.raises(DivergenceError, match=r"in simplernn_1: .* at element \d of the sequence"):
        Trainer(net, "mse").fit(x, Y[:8], epochs=1)


def some_bad(predicted, target):
    """Infinite for batches with a target above 3, as a rare bad example would make it."""
    worst = ops.max(target)
    return ops.mean((predicted - target) ** 2) + ops.where(worst > 5.0, 1.0, 0.0) / ops.where(worst > 5.0, 0.0, 1.0)


def test_skip_leaves_bad_steps_out_and_counts_them():
    y = Y.copy()
    y[5] = 6.0
    net = network()
    trainer = Trainer(net, some_bad, optim.SGD(0.05), on_nan="skip")
    history = trainer.fit(X, y, epochs=4, batch_size=8, shuffle=False)
    assert history["skipped"].tolist() == [1, 1, 1, 1]
    assert np.isfinite(history["loss"]).all()
    good = network()
    Trainer(good, some_bad, optim.SGD(0.05)).fit(X[8:], y[8:], epochs=4, batch_size=8, shuffle=False)
    for name in good.params:
        assert np.allclose(good.params[name], net.params[name], rtol=1e-6), name


def test_an_epoch_of_skipped_steps_stops():
    with pytest.raises(DivergenceError, match="every step of epoch 1 was skipped"):
        Trainer(network(), some_bad, on_nan="skip").fit(X, Y + 20, epochs=3)


def test_rollback_repeats_the_epoch_at_half_the_rate():
    trainer = diverging(on_nan="rollback")
    history = trainer.fit(X, Y, epochs=5, batch_size=8)
    assert history.epochs == 5
    assert history["step"].tolist() == [8, 16, 24, 32, 40]
    halvings = np.log2(5.0 / history["learning_rate"])
    assert halvings[-1] >= 1
    assert np.allclose(halvings, np.round(halvings))
    assert np.isfinite(history["loss"]).all()


def test_rollback_gives_up_where_it_does_not_help():
    with pytest.raises(DivergenceError, match="after 10 rollbacks: in loss: the result of divide became"):
        Trainer(network(), some_bad, on_nan="rollback").fit(X, Y + 20, epochs=3)


class Faulty(Reference):
    """An executor that computes nan where the reference does not."""

    name = "faulty"

    def compile_loop(self, step, carry, rows):
        loop = super().compile_loop(step, carry, rows)

        def wrong(state, data, index, **how):
            state, watched = loop(state, data, index, **how)
            watched[0][...] = np.nan
            return state, watched

        return wrong


def test_an_executor_that_disagrees_is_named():
    with pytest.raises(DivergenceError, match="the executor 'faulty' gave a value that is not finite, the reference"):
        Trainer(network(), "mse", executor=Faulty()).fit(X, Y, epochs=1)
