"""Composites against JAX: values and gradients to second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import assert_same
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError, ShapeError

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(3, 4))
Y = RANDOM.normal(size=(4,))


def dot_product_attention(q, k, v, mask=None, causal=False, scale=None):
    """Written out: jax.nn.dot_product_attention wants another layout."""
    scores = jnp.einsum("...nd,...md->...nm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    may = jnp.ones(scores.shape[-2:], bool) if mask is None else mask
    if causal:
        may = may & jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jax.nn.softmax(jnp.where(may, scores, -jnp.inf), -1) @ v


def jax_layer_norm(x, scale, shift, axis):
    centred = x - x.mean(axis, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axis, keepdims=True) + 1e-5) * scale + shift


Q, K, V = RANDOM.normal(size=(2, 3, 5)), RANDOM.normal(size=(2, 4, 5)), RANDOM.normal(size=(2, 4, 6))
MASK = np.array([[True, False, True, True], [True, True, False, False], [False, False, False, True]])

CASES = {
    "rsqrt": (ops.rsqrt, jax.lax.rsqrt, np.abs(X)),
    "clip": (lambda x: ops.clip(x, -0.5, 0.7), lambda x: jnp.clip(x, -0.5, 0.7), X),
    "clip below": (lambda x: ops.clip(x, min=0.1), lambda x: jnp.clip(x, min=0.1), X),
    "clip above by an array": (lambda x, y: ops.clip(x, max=y), lambda x, y: jnp.clip(x, max=y), X, Y),
    "gelu": (ops.gelu, lambda x: jax.nn.gelu(x, approximate=False), X),
    "gelu by tanh": (lambda x: ops.gelu(x, approximate=True), jax.nn.gelu, X),
    "silu": (ops.silu, jax.nn.silu, X),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.2), lambda x: jax.nn.leaky_relu(x, 0.2), X),
    "elu": (lambda x: ops.elu(x, 1.3), lambda x: jax.nn.elu(x, 1.3), X * 3),
    "selu": (ops.selu, jax.nn.selu, X * 3),
    "celu": (lambda x: ops.celu(x, 1.3), lambda x: jax.nn.celu(x, 1.3), X * 3),
    "mish": (ops.mish, jax.nn.mish, X),
    "softsign": (ops.softsign, jax.nn.soft_sign, X),
    "log_sigmoid": (ops.log_sigmoid, jax.nn.log_sigmoid, X * 30),
    "hard_tanh": (ops.hard_tanh, jax.nn.hard_tanh, X),
    "hard_sigmoid": (ops.hard_sigmoid, jax.nn.hard_sigmoid, X * 3),
    "hard_silu": (ops.hard_silu, jax.nn.hard_silu, X * 3),
    "relu6": (ops.relu6, jax.nn.relu6, X * 5),
    "softmax": (ops.softmax, jax.nn.softmax, X),
    "softmax, axis 0": (lambda x: ops.softmax(x, 0), lambda x: jax.nn.softmax(x, 0), X),
    "softmax of large": (ops.softmax, jax.nn.softmax, X * 1e4),
    "log_softmax": (ops.log_softmax, jax.nn.log_softmax, X),
    "log_softmax of large": (ops.log_softmax, jax.nn.log_softmax, X * 1e4),
    "layer_norm": (ops.layer_norm, lambda x: jax_layer_norm(x, 1.0, 0.0, -1), X),
    "layer_norm, whole": (
        lambda x, a, b: ops.layer_norm(x, a, b, axis=(0, 1)),
        lambda x, a, b: jax_layer_norm(x, a, b, (0, 1)),
        X, RANDOM.normal(size=(3, 4)), Y,
    ),
    "attention": (ops.attention, dot_product_attention, Q, K, V),
    "attention, scaled": (
        lambda *a: ops.attention(*a, scale=0.3), lambda *a: dot_product_attention(*a, scale=0.3), Q, K, V
    ),
    "attention, masked": (
        lambda *a: ops.attention(*a, mask=MASK), lambda *a: dot_product_attention(*a, mask=MASK), Q, K, V
    ),
    "attention, causal": (
        lambda *a: ops.attention(*a, causal=True), lambda *a: dot_product_attention(*a, causal=True), Q, K, V
    ),
    "attention, both": (
        lambda *a: ops.attention(*a, mask=MASK | True, causal=True),
        lambda *a: dot_product_attention(*a, causal=True), Q, K, V,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    ours, theirs, *arrays = CASES[name]
    assert_same(ours, theirs, *arrays, order=2)


@pytest.mark.parametrize("f", [ops.softmax, ops.log_softmax, ops.gelu, ops.silu, ops.elu, ops.layer_norm])
def test_float32_stays_float32(f):
    found = f(X.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, f(X), rtol=1e-5, atol=1e-6)


def test_infinite_scores():
    """A logit of -inf is a class that cannot be."""
    x = np.array([[1.0, -np.inf, 2.0]])
    np.testing.assert_allclose(ops.softmax(x), jax.nn.softmax(x), rtol=1e-6)
    np.testing.assert_allclose(ops.log_softmax(x), jax.nn.log_softmax(x), rtol=1e-6)


def test_a_query_that_may_look_nowhere_gives_no_nan():
    mask = MASK & np.array([[True], [False], [True]])
    found = ops.attention(Q, K, V, mask=mask)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 1], V.mean(axis=1))
    gradients = bl.grad(lambda *a: ops.sum(ops.attention(*a, mask=mask) ** 2), (0, 1, 2))(Q, K, V)
    assert all(np.isfinite(g).all() for g in gradients)


def test_classification_of_numbers():
    x = np.array([0.0, -np.inf, np.inf, np.nan, 1.0], np.float32)
    np.testing.assert_array_equal(ops.isnan(x), np.isnan(x))
    np.testing.assert_array_equal(ops.isinf(x), np.isinf(x))
    np.testing.assert_array_equal(ops.isfinite(x), np.isfinite(x))


def test_logic_takes_booleans_only():
    a, b = np.array([True, True, False]), np.array([True, False, False])
    np.testing.assert_array_equal(ops.logical_and(a, b), a & b)
    np.testing.assert_array_equal(ops.logical_or(a, b), a | b)
    np.testing.assert_array_equal(ops.logical_xor(a, b), a ^ b)
    np.testing.assert_array_equal(ops.logical_not(a), ~a)
    with refuses(DtypeError, "logical_and: takes booleans"):
        ops.logical_and(a, np.array([1, 0, 1]))


def test_attention_refuses_shapes_that_do_not_fit():
    with refuses(ShapeError, "attention"):
        ops.attention(Q, K[..., :3], V)
    with refuses(ShapeError, "attention"):
        ops.attention(Q, K, V[:, :2])
