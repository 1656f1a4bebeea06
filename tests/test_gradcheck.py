"""check_grads finds a wrong rule, wherever it stands, and lets right ones pass."""

import numpy as np
import pytest
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import GradientError
from backlit.ops.record import OPS, elementwise, function

X = np.random.default_rng(0).normal(size=(2, 3))


@pytest.fixture
def wrong_ops():
    """Ops with mistakes in their gradients: a sign; a part in a thousand; the derivative of the derivative."""
    slips = {
        "wrong_sign": lambda ctx, g: (-g * ops.cos(ctx.x),),
        "wrong_by_little": lambda ctx, g: (g * 1.001 * ops.cos(ctx.x),),
        "wrong_second": lambda ctx, g: (g * ops.stop_gradient(ops.cos(ctx.x)),),
    }
    made = {
        name: elementwise(name, np.sin, lambda s, x: s.sin(x), vjp, function("sin"), "A sine gone wrong.")
        for name, vjp in slips.items()
    }
    yield made
    for name in slips:
        del OPS[name]


def network(p, x):
    h = ops.tanh(x @ p["w"])
    return ops.mean(ops.softmax(h) ** 2)


def test_right_gradients_pass():
    p = {"w": X.T, "unused": np.ones(2), "labels": np.array([1, 2])}
    bl.check_grads(network, p, X, order=3)
    bl.check_grads(network, {"w": X.T.astype(np.float32)}, X.astype(np.float32), order=2)
    bl.check_grads(lambda x: x * x, 3.0, order=2)


@pytest.mark.parametrize("name", ["wrong_sign", "wrong_by_little"])
def test_a_wrong_rule_is_named(wrong_ops, name):
    op = wrong_ops[name]

    def f(p, x):
        h = op(x @ p["w"])
        return ops.sum(ops.exp(h) * h)

    with refuses(
        GradientError, rf"{name}: the gradient \(order 1\) with respect to p.w is .* finite differences give"
    ) as e:
        bl.check_grads(f, {"w": X.T}, X)
    text = str(e.value)
    assert f"the rule of {name} gives" in text
    assert "f64[2,2]" in text
    assert "test_gradcheck.py" in text
    assert "h = op(x @ p" in text


def test_a_wrong_second_derivative_is_found_at_second_order(wrong_ops):
    f = lambda x: ops.sum(wrong_ops["wrong_second"](x) ** 2)  # noqa: E731
    bl.check_grads(f, X, order=1)
    with refuses(GradientError, r"\(order 2\) with respect to x"):
        bl.check_grads(f, X, order=2)


@pytest.mark.parametrize("x", [0.0, 0.0005])
def test_a_kink_is_no_wrong_rule(x):
    with refuses(GradientError, "relu: .*; relu has a kink or a jump here\n.*\n.*choose other arguments"):
        bl.check_grads(lambda x: ops.sum(ops.relu(x)), np.array([x]))
    with refuses(GradientError, "each op is right by itself: is the function smooth at these arguments"):
        bl.check_grads(lambda x: ops.sum(ops.where(x > 0.0, 2.0, 1.0) * x), np.array([x]))


def test_stop_gradient_is_not_to_blame(wrong_ops):
    with refuses(GradientError, "wrong_sign"):
        bl.check_grads(lambda x: ops.sum(wrong_ops["wrong_sign"](x) * ops.stop_gradient(ops.max(x) * 0.0 + 2.0)), X)


def test_what_is_no_scalar_is_refused():
    with refuses(GradientError, "reduce it with ops.mean"):
        bl.check_grads(ops.tanh, X)
