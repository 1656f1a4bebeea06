"""Reductions against NumPy and JAX: any axes, keepdims, dtypes, zeros, ties and infinities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_oracle import assert_same
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError, ShapeError

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(3, 2, 4))
ZEROS = np.array([[0.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0, 0.5]])
INF = np.array([[-np.inf, 1.0, 2.0], [0.0, 3.0, -1.0]])

axes = st.sampled_from([None, 0, 1, -1, (0, 1), (0, 2), (-1, 0), (0, 1, 2), ()])


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["sum", "mean", "max", "min", "prod", "var", "std", "any", "all"]),
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    axis=axes,
    keepdims=st.booleans(),
    seed=st.integers(0, 99),
)
def test_against_numpy(name, shape, axis, keepdims, seed):
    random = np.random.default_rng(seed)
    x = random.integers(0, 2, shape).astype(bool) if name in ("any", "all") else random.normal(size=shape)
    found = getattr(ops, name)(x, axis=axis, keepdims=keepdims)
    wanted = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


CASES = {
    "sum": (lambda x: ops.sum(x, (0, -1)), lambda x: jnp.sum(x, (0, -1)), X),
    "mean": (lambda x: ops.mean(x, 1, keepdims=True), lambda x: jnp.mean(x, 1, keepdims=True), X),
    "max": (lambda x: ops.max(x, (0, 2)), lambda x: jnp.max(x, (0, 2)), X),
    "min": (ops.min, jnp.min, X),
    "max at ties": (lambda x: ops.max(x, 1), lambda x: jnp.max(x, 1), np.array([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])),
    "prod": (lambda x: ops.prod(x, (0, 2)), lambda x: jnp.prod(x, (0, 2)), X),
    "prod with zeros": (lambda x: ops.prod(x, 1), lambda x: jnp.prod(x, 1), ZEROS),
    "prod of nothing": (lambda x: ops.prod(x, 1), lambda x: jnp.prod(x, 1), np.ones((2, 0, 3))),
    "var": (lambda x: ops.var(x, (1, 2)), lambda x: jnp.var(x, (1, 2)), X),
    "var of a sample": (lambda x: ops.var(x, 0, correction=1), lambda x: jnp.var(x, 0, ddof=1), X),
    "std": (lambda x: ops.std(x, 2), lambda x: jnp.std(x, 2), X),
    "logsumexp": (lambda x: ops.logsumexp(x, (0, 2)), lambda x: jax.nn.logsumexp(x, (0, 2)), X),
    "logsumexp of large": (ops.logsumexp, jax.nn.logsumexp, X * 1e4),
    "logsumexp with -inf": (lambda x: ops.logsumexp(x, 1), lambda x: jax.nn.logsumexp(x, 1), INF),
    "cumulative_sum": (lambda x: ops.cumulative_sum(x, 1), lambda x: jnp.cumsum(x, 1), X),
}


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    ours, theirs, *arrays = CASES[name]
    assert_same(ours, theirs, *arrays, order=1 if "inf" in name or "ties" in name else 2)


def test_logsumexp_of_infinities():
    np.testing.assert_array_equal(ops.logsumexp(np.full(3, -np.inf)), -np.inf)
    np.testing.assert_array_equal(ops.logsumexp(np.array([np.inf, 1.0])), np.inf)
    np.testing.assert_array_equal(ops.logsumexp(np.array([np.inf, -np.inf])), np.inf)
    assert np.isnan(ops.logsumexp(np.array([np.nan, 1.0])))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.uint32])
def test_integers_are_summed_in_64_bits(dtype):
    x = np.full(300, 100, dtype)
    for f in (ops.sum, ops.cumulative_sum):
        found = f(x)
        assert found.dtype == (np.int64 if np.dtype(dtype).kind == "i" else np.uint64)
        assert found.max() == 30000
    assert ops.prod(np.full(3, 100, dtype)) == 10**6
    assert ops.max(x).dtype == dtype


@pytest.mark.parametrize(("f", "g"), [(ops.argmax, np.argmax), (ops.argmin, np.argmin)])
@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_positions(f, g, axis, keepdims):
    x = RANDOM.integers(0, 4, (3, 5))  # with ties: the first one counts
    found = bl.compile(lambda x: f(x, axis, keepdims), executor="reference")(x)
    np.testing.assert_array_equal(found, g(x, axis, keepdims=keepdims))
    assert found.dtype == np.int64


def test_argsort_keeps_the_order_of_equals_and_puts_nan_last():
    x = np.array([[2.0, np.nan, 1.0, 2.0, -np.inf, 1.0]])
    np.testing.assert_array_equal(ops.argsort(x), np.argsort(x, kind="stable"))
    np.testing.assert_array_equal(ops.argsort(x, 0), np.zeros((1, 6), int))


def test_what_is_refused():
    with refuses(ShapeError, "max: nothing to reduce"):
        ops.max(np.zeros((2, 0)), 1)
    with refuses(ShapeError, "argmax: nothing to search"):
        ops.argmax(np.zeros((2, 0)), 1)
    with refuses(DtypeError, r"sum: takes .* not bool"):
        ops.sum(np.array([True]))
    with refuses(DtypeError, "mean: takes floating-point"):
        ops.mean(np.arange(3))
    with refuses(ShapeError, "sum: axis 2 is out of range"):
        ops.sum(np.zeros((2, 2)), 2)
    with refuses(ShapeError, "twice"):
        ops.sum(np.zeros((2, 2)), (0, -2))
    with refuses(ShapeError, "cumulative_sum: the axis is not given"):
        ops.cumulative_sum(np.zeros((2, 2)))
