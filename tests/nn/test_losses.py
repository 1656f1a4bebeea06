"""Losses: stable where logits are large, weights, what they refuse, penalties, and functions of the user's own."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import hinge_loss, log_loss

import backlit as bl
from backlit import nn, ops
from backlit.errors import DataError, DtypeError, Error, SettingError, ShapeError
from backlit.nn import losses
from backlit.nn.losses import LOSSES, BinaryCrossEntropy, CrossEntropy
from backlit.settings import kinds, revived

RANDOM = np.random.default_rng(0)
Z = RANDOM.standard_normal((6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 0])
ROWS = RANDOM.dirichlet(np.ones(4), 6)
WEIGHTS = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
TARGETS = {
    "mse": RANDOM.standard_normal((6, 4)),
    "half_mse": RANDOM.standard_normal((6, 4)),
    "mae": RANDOM.standard_normal((6, 4)),
    "huber": RANDOM.standard_normal((6, 4)),
    "binary_crossentropy": RANDOM.random((6, 4)),
    "crossentropy": LABELS,
    "hinge": LABELS,
    "kl": ROWS,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def test_every_loss_is_tested_here():
    assert set(TARGETS) == set(LOSSES)
    own = {c for c in kinds(losses.Loss).values() if c.__module__ == "backlit.nn.losses"}
    assert own == {type(loss) for loss in LOSSES.values()} | {losses.Custom}


@every_loss
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_gradients_agree_with_finite_differences(name, weights):
    bl.check_grads(lambda z: LOSSES[name](z, TARGETS[name], weights), Z, order=2 if name == "crossentropy" else 1)


@every_loss
def test_weights_are_a_weighted_mean_of_the_examples(name):
    loss, target = LOSSES[name], TARGETS[name]
    each = [float(loss(Z[i : i + 1], target[i : i + 1])) for i in range(6)]
    assert float(loss(Z, target)) == pytest.approx(np.mean(each), rel=1e-12)
    assert float(loss(Z, target, WEIGHTS)) == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-12)
    assert float(loss(Z, target, 7 * WEIGHTS)) == pytest.approx(np.average(each, weights=WEIGHTS), rel=1e-12)
    assert float(loss(Z, target, np.zeros(6))) == 0
    whole = loss(Z, target, np.array([1, 0, 2, 0, 0, 1]))  # integers will do
    assert float(whole) == pytest.approx(np.average(each, weights=[1, 0, 2, 0, 0, 1]), rel=1e-12)


@every_loss
def test_traced_and_computed_at_once_are_the_same(name):
    traced = bl.compile(LOSSES[name])(Z, TARGETS[name])
    assert float(traced) == pytest.approx(float(LOSSES[name](Z, TARGETS[name])), rel=1e-13)


@every_loss
def test_float32_stays_float32(name):
    target = TARGETS[name].astype(np.float32) if TARGETS[name].dtype.kind == "f" else TARGETS[name]
    assert bl.compile(LOSSES[name])(Z.astype(np.float32), target).dtype == np.float32


@every_loss
def test_losses_survive_json(name):
    for loss in (LOSSES[name], CrossEntropy(0.1, (1.0, 2.0), ignore=-1), losses.Huber(0.5)):
        assert revived(json.loads(json.dumps(loss.config())), losses.Loss) == loss


def test_scikit_learn_agrees():
    p = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    assert float(LOSSES["crossentropy"](Z, LABELS)) == pytest.approx(log_loss(LABELS, p), rel=1e-10)
    assert float(LOSSES["hinge"](Z, LABELS)) == pytest.approx(hinge_loss(LABELS, Z, labels=range(4)), rel=1e-10)
    sign = np.array([1, -1, 1, 1, -1, -1])
    assert float(LOSSES["hinge"](Z[:, 0], sign)) == pytest.approx(hinge_loss(sign, Z[:, 0]), rel=1e-10)
    assert float(LOSSES["hinge"](Z[:, 0], sign > 0)) == pytest.approx(hinge_loss(sign, Z[:, 0]), rel=1e-10)


# --- numbers that are hard --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits_neither_overflow_nor_lose_the_tail(dtype):
    z = np.array([[1e4, -1e4], [-30.0, 30.0], [88.0, 0.0]], dtype)
    y = np.array([0, 0, 1])
    each = [float(LOSSES["crossentropy"](z[i : i + 1], y[i : i + 1])) for i in range(3)]
    assert each == pytest.approx([0.0, 60.0, 88.0], rel=1e-6)
    gradient = bl.grad(LOSSES["crossentropy"])(z, y)
    np.testing.assert_allclose(3 * gradient, [[0, 0], [-1, 1], [1, -1]], atol=1e-12)
    binary = LOSSES["binary_crossentropy"]
    assert float(binary(dtype([1e4]), dtype([1]))) == 0
    assert float(binary(dtype([-1e4]), dtype([1]))) == pytest.approx(1e4)
    assert float(binary(dtype([20.0]), dtype([1]))) == pytest.approx(np.exp(-20.0), rel=1e-6)
    assert np.isfinite(bl.grad(binary)(dtype([1e4, -1e4]), dtype([0, 1]))).all()


def test_probability_zero_is_no_trouble_in_kl():
    y = np.array([[1.0, 0, 0, 0]] * 6)
    assert float(LOSSES["kl"](Z, y)) == pytest.approx(float(LOSSES["crossentropy"](Z, y)), rel=1e-12)
    assert np.isfinite(bl.grad(LOSSES["kl"])(Z, y)).all()


@given(st.integers(2, 6), st.integers(1, 5), st.floats(0, 0.9), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_labels_and_one_hot_rows_are_the_same(classes, batch, smoothing, seed):
    random = np.random.default_rng(seed)
    z, y = 5 * random.standard_normal((batch, classes)), random.integers(0, classes, batch)
    loss = CrossEntropy(smoothing, tuple(random.random(classes) + 0.1))
    rows = np.eye(classes)[y]
    assert float(loss(z, y)) == pytest.approx(float(loss(z, rows)), rel=1e-10)
    assert float(loss(z, y)) == pytest.approx(float(loss(z, rows.astype(int))), rel=1e-10)
    assert float(loss(z, y)) == pytest.approx(float(loss(z, y[:, None])), rel=1e-10)
    np.testing.assert_allclose(bl.grad(loss)(z, y), bl.grad(loss)(z, rows), rtol=1e-9, atol=1e-12)


def test_two_classes_are_one_logit():
    z, y = RANDOM.standard_normal(8), np.array([0, 1, 1, 0, 1, 0, 0, 1])
    both = np.stack([np.zeros(8), z], 1)
    for kwargs in ({}, {"label_smoothing": 0.2}, {"class_weight": (0.3, 2.0)}):
        one, two = BinaryCrossEntropy(**kwargs)(z, y), CrossEntropy(**kwargs)(both, y)
        assert float(one) == pytest.approx(float(two), rel=1e-10)
        assert float(BinaryCrossEntropy(**kwargs)(z[:, None], y)) == pytest.approx(float(one), rel=1e-12)


def test_sequences_count_every_position_and_weights_may_leave_some_out():
    z, y = RANDOM.standard_normal((2, 3, 4)), np.array([[0, 1, 2], [3, 0, 0]])
    real = np.array([[1.0, 1, 1], [1, 0, 0]])
    loss = LOSSES["crossentropy"]
    picked = np.concatenate([z[0], z[1, :1]])
    assert float(loss(z, y, real)) == pytest.approx(float(loss(picked, np.array([0, 1, 2, 3]))), rel=1e-12)
    ignoring = np.where(real > 0, y, -1)
    assert float(CrossEntropy(ignore=-1)(z, ignoring)) == pytest.approx(float(loss(z, y, real)), rel=1e-12)
    gradient = bl.grad(CrossEntropy(ignore=-1))(z, ignoring)
    assert not gradient[real == 0].any()
    whole = loss(z, y, np.array([2.0, 0]))
    assert float(whole) == pytest.approx(float(loss(z[:1], y[:1])), rel=1e-12)


# --- what is refused --------------------------------------------------------------------------------------------------

ZERO = np.zeros((5, 3))
REFUSED = [
    ("mse", ZERO, np.zeros(5), ShapeError, r"loss mse: the target has the shape \(5,\), and the prediction \(5, 3\)"),
    ("mse", np.zeros((5, 1)), np.zeros(4), ShapeError, r"\(4,\), and the prediction \(5, 1\)"),
    ("crossentropy", ZERO, np.zeros(5), DtypeError, "labels are integers, and these are float64"),
    ("crossentropy", ZERO, np.array([0, 1, 3, 0, 0]), DataError, "the label 3 in row 2 is none of the classes 0 to 2"),
    ("crossentropy", ZERO, np.array([0, 1, -1, 0, 0]), DataError, "the label -1 in row 2"),
    ("crossentropy", ZERO, np.zeros((5, 4), int), ShapeError, r"\(5, 4\), and the prediction \(5, 3\)"),
    ("crossentropy", np.zeros((5, 1)), np.zeros(5, int), ShapeError, "no axis of two classes"),
    ("crossentropy", np.zeros(5), np.zeros(5, int), ShapeError, "no axis of two classes"),
    ("crossentropy", ZERO, np.ones((5, 3)), DataError, "the target in row 0 sums up to 3"),
    ("crossentropy", ZERO, np.full((5, 3), [2.0, -1, 0]), DataError, r"the target 2.0 in row 0 is no probability"),
    ("binary_crossentropy", np.zeros(5), np.array([0, 1, 2, 0, 1]), DataError, "the target 2.0 in row 2"),
    ("binary_crossentropy", np.zeros(5), np.array([0, np.nan, 1, 0, 1]), DataError, "the target nan in row 1"),
    ("hinge", ZERO, np.array([0, 1, 3, 0, 0]), DataError, "the label 3 in row 2"),
    ("kl", ZERO, np.zeros((5, 3)), DataError, "sums up to 0"),
]


@pytest.mark.parametrize(("name", "z", "y", "error", "message"), REFUSED, ids=[r[-1][:40] for r in REFUSED])
def test_targets_that_do_not_fit_are_refused(name, z, y, error, message):
    with pytest.raises(error, match=message):
        LOSSES[name](z, y)
    if error is not DataError:  # numbers cannot be seen while tracing; shapes can
        with pytest.raises(error, match=message):
            bl.trace(LOSSES[name], z, y)


def test_a_label_out_of_range_is_found_when_a_compiled_loss_runs():
    compiled = bl.compile(LOSSES["crossentropy"])
    compiled(ZERO, np.zeros(5, int))
    with pytest.raises(Error, match="index 7 is out of range"):
        compiled(ZERO, np.array([0, 1, 7, 0, 0]))


def test_wrong_weights_are_refused():
    with pytest.raises(ShapeError, match=r"sample weights have the shape \(4,\)"):
        LOSSES["mse"](ZERO, ZERO, np.ones(4))
    with pytest.raises(ShapeError, match="class_weight has 2 weights for 3 classes"):
        CrossEntropy(class_weight=(1, 2))(ZERO, np.zeros(5, int))
    with pytest.raises(SettingError, match="one weight for 0 and one for 1"):
        BinaryCrossEntropy(class_weight=(1, 2, 3))(np.zeros(5), np.zeros(5))
    with pytest.raises(SettingError, match=r"label_smoothing is 1.0: it must be below 1"):
        CrossEntropy(label_smoothing=1)


# --- names, functions, penalties --------------------------------------------------------------------------------------


def test_losses_are_found_by_name():
    assert losses.get("mse") == losses.get("meansquarederror") == losses.MeanSquaredError()
    assert losses.get(losses.Huber) == losses.Huber()
    assert losses.get(losses.Huber(2.0)).delta == 2.0
    with pytest.raises(SettingError, match=r"there is no loss 'rmse'") as e:
        losses.get("rmse")
    assert "mse, half_mse" in str(e.value)


@nn.register
def quartic(predicted, target):
    return ops.mean((predicted - target) ** 4)


def test_any_function_is_a_loss():
    loss = losses.get(quartic)
    assert float(loss(np.full(3, 2.0), np.zeros(3))) == 16
    assert revived(json.loads(json.dumps(loss.config()))) == loss
    with pytest.raises(SettingError, match="quartic takes no sample weights"):
        loss(np.ones(3), np.ones(3), np.ones(3))
    weighted = losses.get(lambda p, t, w=1.0: ops.mean(w * (p - t)))
    assert float(weighted(np.ones(3), np.zeros(3), np.array([3.0, 0, 0]))) == 1
    with pytest.raises(ShapeError, match=r"<lambda> gives f64\[3\], not one"):
        losses.get(lambda p, t: p - t)(np.ones(3), np.ones(3))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("last", ["softmax", "sigmoid", ops.softmax])
def test_probabilities_in_place_of_logits_are_refused(name, last):
    for layers in ([nn.Dense(3, last)], [nn.Dense(3), nn.Activation(last)], [nn.Sequential([nn.Dense(3, last)])]):
        net = nn.Network(layers, (2,))
        if name in ("mse", "half_mse", "mae", "huber"):
            losses.refuse_probabilities(LOSSES[name], net.layers)
        else:
            message = f"_1.* ends in s.*, and the loss {name} takes logits"
            with pytest.raises(SettingError, match=message):
                losses.refuse_probabilities(LOSSES[name], net.layers)
            with pytest.raises(SettingError, match=message):
                bl.Trainer(net, name)
    for layers in ([], [nn.Dense(3)], [nn.Dense(3, last), nn.Dense(3)], [nn.Dense(3, "tanh"), nn.LSTM(2)][:1]):
        losses.refuse_probabilities(LOSSES[name], nn.Network(layers, (2,)).layers)


def test_penalties_leave_biases_alone():
    net = nn.Network([nn.Dense(3, bias_init=5.0), nn.GRU(2)][:1], (2,), dtype="float64")
    w = net.params["dense_1.weight"]
    assert float(losses.l2(net.params, 0.1)) == pytest.approx(0.1 * (w**2).sum())
    assert float(losses.l1(net.params, 0.1)) == pytest.approx(0.1 * abs(w).sum())
    assert float(losses.l1(net.params, 1.0, "*bias")) == pytest.approx(15)
    gradient = bl.grad(lambda p: losses.l2(p, 0.1))(net.params)
    np.testing.assert_allclose(gradient["dense_1.weight"], 0.2 * w)
    assert not gradient["dense_1.bias"].any()
    recurrent = nn.Network([nn.GRU(2)], (4, 3)).params
    both = sum((recurrent[f"gru_1.{n}"] ** 2).sum() for n in ("weight", "recurrent_weight"))
    assert float(losses.l2(recurrent, 1.0)) == pytest.approx(float(both), rel=1e-6)
    with pytest.raises(SettingError, match=r"no parameter is called 'conv\*'"):
        losses.l2(net.params, 0.1, "conv*")


def test_balanced_weights_give_each_class_the_same_say():
    from sklearn.utils.class_weight import compute_class_weight

    y = np.array([0, 0, 0, 1, 2, 2])
    assert losses.balanced(y) == pytest.approx(compute_class_weight("balanced", classes=np.unique(y), y=y))
    with pytest.raises(SettingError, match="no example of the class 1"):
        losses.balanced([0, 2])
