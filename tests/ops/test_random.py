"""Random numbers: JAX's bits for the same key, and the statistics that their names promise."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_oracle import in_x64
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError, SettingError, ShapeError
from backlit.ops import random

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32 + 5, 2**40 + 3, -1]
SHAPES = [(), (1,), (7,), (3, 5), (2, 0), (128,), (2, 3, 4)]


def jax_key(key):
    return jax.random.wrap_key_data(np.asarray(key))


def in_graph(f, *args):
    return bl.compile(f, executor="reference")(*args)


def test_the_threefry_is_jaxs_partitionable_one():
    assert jax.config.jax_threefry_partitionable


@pytest.mark.parametrize("seed", SEEDS)
def test_keys(seed):
    wanted = in_x64(lambda: jax.random.key_data(jax.random.key(seed)))()
    np.testing.assert_array_equal(random.key(seed), wanted)
    assert random.key(np.int64(seed)).dtype == np.uint32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 2**40 + 3])
def test_bits_and_uniform_are_jaxs(seed, shape):
    key = random.key(seed)
    for draw in (random.bits, lambda k, s: in_graph(lambda k: random.bits(k, s), k)):
        np.testing.assert_array_equal(draw(key, shape), jax.random.bits(jax_key(key), shape))
    np.testing.assert_array_equal(random.uniform(key, shape), jax.random.uniform(jax_key(key), shape))
    ranged = jax.random.uniform(jax_key(key), shape, minval=-3.0, maxval=0.5)  # with a product fused into a sum
    np.testing.assert_allclose(random.uniform(key, shape, low=-3.0, high=0.5), ranged, rtol=0, atol=3e-7)
    wide = in_x64(lambda k: jax.random.uniform(jax.random.wrap_key_data(k), shape, np.float64))(key)
    found = random.uniform(key, shape, "float64")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wide)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(-(2**63), 2**63 - 1), count=st.integers(1, 5), number=st.integers(0, 2**32 - 1))
def test_new_keys_are_jaxs(seed, count, number):
    key = random.key(seed)
    np.testing.assert_array_equal(random.split(key, count), jax.random.key_data(jax.random.split(jax_key(key), count)))
    folded = jax.random.key_data(jax.random.fold_in(jax_key(key), np.uint32(number)))
    np.testing.assert_array_equal(random.fold_in(key, number), folded)
    np.testing.assert_array_equal(in_graph(random.fold_in, key, np.uint32(number)), folded)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_is_jaxs_up_to_rounding(dtype):
    key = random.key(5)
    wanted = in_x64(lambda k: jax.random.normal(jax.random.wrap_key_data(k), (4000,), np.dtype(dtype)))(key)
    found = random.normal(key, (4000,), dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, wanted, rtol=2e-5 if dtype == "float32" else 1e-12, atol=1e-6 if dtype == "float32" else 0
    )


def test_bernoulli_is_jaxs():
    key = random.key(6)
    p = np.array([[0.0], [0.2], [1.0]], np.float32)
    np.testing.assert_array_equal(random.bernoulli(key, 0.3, (100,)), jax.random.bernoulli(jax_key(key), 0.3, (100,)))
    np.testing.assert_array_equal(random.bernoulli(key, p, (3, 50)), jax.random.bernoulli(jax_key(key), p, (3, 50)))
    assert random.bernoulli(key, p).shape == (3, 1)
    assert not random.bernoulli(key, np.float32(0), (1000,)).any()
    assert random.bernoulli(key, np.float32(1), (1000,)).all()


@pytest.mark.parametrize("n", [0, 1, 2, 10, 3000])
def test_permutation_is_jaxs(n):
    key = random.key(7)
    wanted = in_x64(lambda k: jax.random.permutation(jax.random.wrap_key_data(k), n))(key)
    np.testing.assert_array_equal(random.permutation(key, n), wanted)
    np.testing.assert_array_equal(in_graph(lambda k: random.permutation(k, n), key), wanted)
    x = np.arange(2 * n).reshape(2, n)
    np.testing.assert_array_equal(random.permutation(key, x, axis=1), x[:, wanted])


@pytest.mark.parametrize("n", [0, 1, 4, 5, 70])
def test_what_is_drawn_at_once_is_what_a_program_draws(n):
    def drawn(key):
        new = random.split(key, n), random.fold_in(key, n), random.fold_in(key, np.arange(n))
        return *new, random.permutation(key, n), random.bits(key, (n,)), random.bits(key)

    key = random.key(2**33 + n)
    program = bl.compile(drawn, executor="reference")(key)
    for at_once, wanted in zip(drawn(key), program, strict=True):
        np.testing.assert_array_equal(at_once, wanted, strict=True)


def test_statistics():
    """Means, variances and correlations within 4.5 standard errors (once in 150,000 by chance; the seed is fixed)."""
    n = 200_000
    keys = random.split(random.key(11), 4)
    u, z = random.uniform(keys[0], (n,), "float64"), random.normal(keys[1], (n,))
    b, w = random.bernoulli(keys[2], 0.3, (n,)), random.uniform(keys[3], (n,), "float64")
    assert u.min() >= 0
    assert u.max() < 1
    for x, mean, variance in [(u, 1 / 2, 1 / 12), (z, 0, 1), (b, 0.3, 0.21)]:
        assert abs(x.mean() - mean) < 4.5 * np.sqrt(variance / n)
    for x, variance, fourth in [(u, 1 / 12, 1 / 80), (z, 1, 3)]:
        assert abs(x.var() - variance) < 4.5 * np.sqrt((fourth - variance**2) / n)
    assert abs(np.corrcoef(u, w)[0, 1]) < 4.5 / np.sqrt(n)
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4.5 / np.sqrt(n)
    counts = np.bincount((u * 50).astype(int), minlength=50)
    assert ((counts - n / 50) ** 2 / (n / 50)).sum() < 49 + 4.5 * np.sqrt(2 * 49)
    places = np.zeros((5, 5))
    for key in random.split(random.key(12), 2000):
        places[np.arange(5), random.permutation(key, 5)] += 1
    assert ((places - 400) ** 2 / 400).sum() < 16 + 4.5 * np.sqrt(2 * 16) + 9


def test_a_part_of_a_draw_is_the_draw_of_the_part():
    key = random.key(1)
    np.testing.assert_array_equal(random.bits(key, (10,))[:4], random.bits(key, (4,)))


def test_the_gradient_passes_by_random_numbers():
    """As in dropout: the mask is no function of x."""
    key, x = random.key(3), np.arange(6.0)

    def f(x):
        keep = random.bernoulli(key, np.float64(0.5), (6,))
        return ops.sum(ops.where(keep, x * x, 0.0))

    np.testing.assert_array_equal(bl.grad(f)(x), 2 * x * random.bernoulli(key, np.float64(0.5), (6,)))


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda: random.key(1.5), DtypeError, "a seed is an integer, not 1.5"),
        (lambda: random.bits(np.zeros(3, np.uint32)), DtypeError, r"a key is a uint32 array of shape \(2,\)"),
        (lambda: random.uniform(7, (3,)), DtypeError, r"ops.random.key\(seed\)"),
        (lambda: random.uniform(random.key(0), (3,), "int32"), DtypeError, "int32 is not drawn"),
        (lambda: random.uniform(random.key(0), (3,), low=2.0, high=1.0), SettingError, "low=2.0"),
        (lambda: random.permutation(random.key(0), np.arange(3), axis=1), ShapeError, "axis 1 is out of range"),
        (lambda: random.permutation(random.key(0), -1), ShapeError, "there are no -1 numbers"),
        (lambda: random.normal(random.key(0), (-1,)), ShapeError, "-1"),
    ],
)
def test_what_is_refused(f, error, message):
    with refuses(error, message):
        f()
