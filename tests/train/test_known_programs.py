"""Training steps whose program is on disk: only their forward part is traced, and they train to the same bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops, optim
from backlit.errors import Error, IndexingError
from backlit.executors import get
from backlit.ir import Derived
from backlit.ops.record import OPS, elementwise, function
from backlit.pytree import leaves

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 5)).astype(np.float32), np.arange(24) % 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path))
    return tmp_path


def network(hidden="tanh"):
    return bl.Network([nn.Dense(4, hidden), nn.Dropout(0.3), nn.Dense(3)], input_shape=(5,), seed=1)


WEIGHT = "dense_1.weight"
START = network().params[WEIGHT]


def trained(optimizer="adam", loss="crossentropy", hidden="tanh", executor="native", **how):
    """A trainer after three steps, two of them of one batch size."""
    trainer = bl.Trainer(network(hidden), loss, optimizer, executor=executor, **how)
    trainer.fit(X, Y, epochs=1, batch_size=10, progress=False)
    return trainer


def was_made(trainer):
    """Whether the whole step has been traced."""
    graph = trainer.graph
    return not isinstance(graph, Derived) or "made" in vars(graph)


def same(a, b):
    for x, y in zip(leaves(a.moment.carry), leaves(b.moment.carry), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_second_time_no_gradient_is_traced_and_the_bits_are_the_same():
    first, second = trained(metrics=["accuracy"]), trained(metrics=["accuracy"])
    assert was_made(first)
    assert not was_made(second)
    same(first, second)
    assert first.history["accuracy"].tolist() == second.history["accuracy"].tolist()
    assert second.graph == first.graph  # made now, to be looked at
    assert was_made(second)


def test_a_derived_step_is_the_step_that_other_executors_run(cache):
    trained()
    known = trained()
    plain = trained(executor="reference")
    for a, b in zip(leaves(plain.moment.carry), leaves(known.moment.carry), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


OPTIMIZERS = [
    optim.Adam(0.01), optim.Adam(0.02), optim.Adam(0.01, beta1=0.8), optim.Adam(0.01, clip_norm=0.1),
    optim.Adam(0.01, clip_global_norm=0.1), optim.Adam(0.01, weight_decay=0.1), optim.AdamW(0.01),
    optim.Adam(0.01, groups={"*.bias": {"frozen": True}}), optim.Adam(0.01, groups={"*.bias": {"learning_rate": 0.1}}),
    optim.Adam(optim.Exponential(0.01, 0.9)), optim.Adam(optim.Exponential(0.01, 0.8)), optim.SGD(0.01),
    optim.EMA(optim.Adam(0.01)), optim.EMA(optim.Adam(0.01), decay=0.9), optim.Accumulate(optim.Adam(0.01), steps=2),
    optim.LossScale(optim.Adam(0.01)),
]  # fmt: skip


def test_other_settings_are_other_programs(cache, monkeypatch):
    for optimizer in OPTIMIZERS:
        trained(optimizer)
    for optimizer in OPTIMIZERS:
        known = trained(optimizer)
        assert not was_made(known), optimizer
        with monkeypatch.context() as patched:
            patched.setenv("BACKLIT_CACHE", "")
            fresh = trained(optimizer)
        assert was_made(fresh)
        same(known, fresh)


def test_what_else_a_step_is_made_of_counts(monkeypatch):
    trained()
    for how in (
        {"penalty": lambda p: 0.1 * ops.sum(p[WEIGHT] ** 2)},
        {"on_nan": "skip"},
        {"loss": nn.losses.CrossEntropy(label_smoothing=0.1)},
        {"hidden": "relu"},
    ):
        found = trained(**how)
        with monkeypatch.context() as patched:
            patched.setenv("BACKLIT_CACHE", "")
            same(found, trained(**how))


def test_a_rule_of_ones_own_is_always_traced():
    def made(sign):
        @dataclass(frozen=True)
        class OwnRule(optim.Descent):
            def step(self, g, theta, alpha, t):
                return theta + sign * alpha * g, {}

        return OwnRule(0.1)

    down, up = trained(made(-1.0)), trained(made(1.0))
    assert was_made(down)
    assert was_made(up)
    assert made(1.0).description() is None
    assert optim.EMA(made(1.0)).description() is None
    moved = [t.params[WEIGHT] - START for t in (down, up)]
    assert np.sum(moved[0] * moved[1]) < 0


def test_a_method_that_was_replaced_is_traced(monkeypatch):
    before = trained("sgd")
    monkeypatch.setattr(optim.SGD, "step", lambda self, g, theta, alpha, t: (theta, {}))
    after = trained("sgd")
    assert was_made(after)
    np.testing.assert_array_equal(after.params[WEIGHT], START)
    assert np.any(before.params[WEIGHT] != START)


def test_a_loss_of_ones_own_is_traced_every_time():
    def made(factor):
        return lambda predicted, target: factor * ops.mean(predicted**2)

    first, second = trained(loss=made(1.0)), trained(loss=made(2.0))
    assert second.history["loss"][0] > 1.5 * first.history["loss"][0]
    assert not was_made(trained(loss=made(1.0)))


def test_an_op_of_ones_own_has_no_name_on_disk():
    def made(factor):
        OPS.pop("ownscale", None)
        return elementwise(
            "ownscale", numpy=lambda x: factor * x, scalar=lambda s, x: x * factor,
            vjp=lambda ctx, g: (g * factor,), notation=function("ownscale"), doc="x times a factor.",
        )  # fmt: skip

    try:
        found = []
        for factor in (1.0, 3.0):
            op = made(factor)
            found.append(bl.compile(lambda x, op=op: op(x), get("native"))(X))
        np.testing.assert_array_equal(found[1], np.float32(3) * X)
        np.testing.assert_array_equal(found[0], X)
    finally:
        OPS.pop("ownscale", None)


def test_errors_of_a_known_program_name_the_line():
    table = np.arange(30, dtype=np.float32).reshape(10, 3)

    def loss(predicted, target):
        return ops.mean((predicted - ops.take(table, target, 0)) ** 2)

    def run(y):
        net = bl.Network([nn.Dense(3)], input_shape=(5,), seed=1)
        trainer = bl.Trainer(net, loss, "sgd", executor="native")
        with pytest.raises(IndexingError) as found:
            trainer.fit(X, y, epochs=1, batch_size=24, progress=False, check=False)
        return trainer, found.value

    first, second = run(np.arange(24)), run(np.arange(24))
    assert not was_made(second[0])
    assert first[1].site is not None
    assert (second[1].site, str(second[1])) == (first[1].site, str(first[1]))


def test_a_step_that_gives_another_structure_is_refused():
    @dataclass(frozen=True)
    class Growing(optim.SGD):
        def update(self, gradients, state, params):
            new, state = super().update(gradients, state, params)
            return new, state | {"more": np.float32(1)}

    with pytest.raises(Error, match="another structure"):
        trained(Growing(0.1))


def test_every_op_of_backlit_may_be_named():
    from backlit.executors.native.digest import _is_builtin

    assert not [op.name for op in OPS.values() if not _is_builtin(op)]
