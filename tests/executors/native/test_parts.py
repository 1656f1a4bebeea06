"""Long sums of few results: what is cut into parts, and that the parts make up the whole."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.kernels import Nest
from backlit.executors.reference import Reference

from . import programs

NATIVE = Native("avx512", winograd=False)


def reductions(function, *args):
    return [c.kernel for c in NATIVE.plan(bl.trace(function, *args)).calls() if c.kernel.prologue]


def test_a_long_sum_of_few_results_is_taken_in_parts():
    first, second = reductions(lambda x: ops.sum(x, (0, 1, 2)) * 2.0, np.zeros((32, 24, 24, 16), np.float32))
    assert first.space[1:] == second.space == (16,)
    assert first.space[0] * first.steps == 32 * 24 * 24
    assert second.reduced == first.space[:1]


@pytest.mark.parametrize("shape", [(128, 16), (4096, 64), (61 * 61, 8)])
def test_rows_are_not_cut(shape):
    (kernel,) = reductions(lambda x: ops.sum(x, 1), np.zeros(shape, np.float32))
    assert kernel.space == shape[:1]


@pytest.mark.parametrize(("shape", "size", "count"), [
    ((64, 20, 20, 8), (3, 3, 8, 16), 16), ((33, 20, 20, 8), (3, 3, 8, 16), 11), ((8, 30, 30, 4), (5, 5, 4, 6), 13),
])  # fmt: skip
def test_the_gradient_by_few_rows_of_weights_is_taken_in_equal_parts(shape, size, count):
    x, w = np.zeros(shape, np.float32), np.zeros(size, np.float32)
    first, second = reductions(bl.grad(lambda w, x: ops.sum(ops.conv(x, w) ** 2)), w, x)[-2:]
    assert first.space[0] == second.reduced[0] == count
    assert first.space[1:] == second.space
    assert count * first.steps == shape[0] * (shape[1] - size[0] + 1) * (shape[2] - size[1] + 1)


@pytest.mark.parametrize(("shape", "size"), [((33, 13, 17, 5), (3, 3, 5, 7)), ((1, 41, 43, 3), (5, 5, 3, 6)),
                                         ((7, 500, 6), (3, 6, 9)), ((31, 11, 13, 17), (3, 5, 17, 33))])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_of_a_gradient_make_up_the_whole(shape, size, dtype):
    normal = programs.Normal(dtype)
    x, w = normal(*shape), normal(*size)

    def f(w, x):
        return ops.mean(ops.tanh(ops.conv(x, w)) ** 2)

    exact = [a.astype("float64") for a in (w, x)]
    (got,) = Native().compile(bl.trace(bl.grad(f), w, x))(w, x)
    (wanted,) = Reference().compile(bl.trace(bl.grad(f), *exact))(*exact)
    tolerance = 3e-5 if dtype == "float32" else 1e-11
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * float(np.abs(wanted).max()))


@pytest.mark.parametrize("shape", [(64, 17, 19, 3), (37, 40, 41, 5), (3000, 30), (131071,), (300, 20, 17)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_are_exact_to_rounding(shape, dtype):
    x = programs.Normal(dtype)(*shape) + 3.0
    axes = tuple(range(len(shape) - 1)) or (0,)

    def f(x):
        mean = ops.mean(x, axes)
        centred = x - mean
        variance = ops.mean(centred * centred, axes)
        return variance, ops.max(x, axes) + mean, ops.sum(centred / ops.sqrt(variance + 1e-5) * x, axes), centred

    exact = x.astype("float64")
    found = Native().compile(bl.trace(f, x))(x)
    for got, wanted in zip(found, Reference().compile(bl.trace(f, exact))(exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5 if dtype == "float32" else 1e-10, atol=2e-6)


def test_dividing_all_rows_by_the_same_numbers_rounds_as_dividing_does():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 40)) * 10.0 ** rng.integers(-20, 20, (300, 40))).astype(np.float32)
    d = (rng.standard_normal(40) * 10.0 ** rng.integers(-15, 15, 40)).astype(np.float32)
    x[0], x[1], x[2], x[3] = 0.0, -0.0, np.inf, np.nan
    d[:5] = 0.0, -0.0, np.inf, np.nan, -3.0
    with np.errstate(all="ignore"):
        (got,) = Native().compile(bl.trace(lambda x, d: x / d, x, d))(x, d)
        wanted = x / d
    normal = ~(np.abs(wanted) < 1e-37) | (wanted == 0)
    np.testing.assert_array_equal(got[normal], wanted[normal])
    zero = wanted == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(wanted[zero]))


def several(x, y):
    """Sums over the same rows that need one another or do not."""
    first, second = ops.sum(x * y, (0, 1)), ops.sum(x - y, (0, 1))
    high, low = ops.max(x, (0, 1)), ops.min(x * 2.0 - first, (0, 1))
    return first * second + low, ops.exp(-high), ops.sum(ops.tanh(x - second), (0, 1)), x / (high + 3.0)


def test_sums_of_the_same_elements_are_taken_in_one_pass():
    x = np.zeros((64, 90, 16), np.float32)
    found = [tuple(i.op for i in k.prologue if i.op in ("sum", "max", "min")) for k in reductions(several, x, x)]
    assert found[0] == found[1] == ("sum", "sum", "max")  # in parts, and their sums
    assert found[2:] == [("min", "sum")] * 2  # which need those


@pytest.mark.parametrize("shape", [(64, 90, 16), (33, 41, 7), (3, 5, 33), (1000, 17, 1)])
@pytest.mark.parametrize("target", ["host", "avx2", "sse2"])
def test_sums_in_one_pass_are_what_each_is_alone(shape, target):
    normal = programs.Normal("float32")
    x, y = normal(*shape), normal(*shape)
    exact = [a.astype("float64") for a in (x, y)]
    found = Native(target).compile(bl.trace(several, x, y))(x, y)
    for got, wanted in zip(found, Reference().compile(bl.trace(several, *exact))(*exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(np.abs(wanted).max()))


def normed(w, scale, shift, x):
    """A convolution, batch norm, ReLU and pooling."""
    z = ops.conv(x, w, padding="same")
    centred = z - ops.mean(z, (0, 1, 2))
    h = ops.relu(scale * centred / ops.sqrt(ops.mean(centred * centred, (0, 1, 2)) + 1e-5) + shift)
    return ops.mean(ops.tanh(ops.max_pool(h, 2)) ** 2)


def test_batch_norm_is_made_again_from_what_it_normalises():
    like = [np.zeros(s, np.float32) for s in ((3, 3, 8, 64), (64,), (64,), (16, 32, 32, 8))]
    plan = NATIVE.plan(bl.trace(bl.grad(normed, argnums=(0, 1, 2)), *like))
    size = 4 * 16 * 32 * 32 * 64
    written = [b.bytes for c in plan.calls() for b in c.written()]
    assert sum(n >= size for n in written) == 3  # the product, the gradient of ReLU, the gradient of the product
    cut = [c for c in plan.calls() if isinstance(c.kernel, Nest) and c.kernel.reduced and c.label.endswith("in parts")]
    reads = [c for c in cut if "contract" not in {n.op for n in c.nodes}]
    assert len(reads) == 4  # mean; variance; by scale, by shift and for the variance; for the mean


@pytest.mark.parametrize("shape", [(16, 32, 32, 8), (5, 13, 17, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_through_batch_norm_is_the_reference_executors(shape, dtype):
    normal, channels = programs.Normal(dtype), 64 if shape[-1] == 8 else 7
    args = [normal(3, 3, shape[-1], channels), normal(channels), normal(channels), normal(*shape)]
    exact = [a.astype("float64") for a in args]
    step = bl.grad(normed, argnums=(0, 1, 2))
    found = Native().compile(bl.trace(step, *args))(*args)
    for got, wanted in zip(found, Reference().compile(bl.trace(step, *exact))(*exact), strict=True):
        tolerance = 1e-4 if dtype == "float32" else 1e-10
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * float(np.abs(wanted).max()))


def test_what_dot_products_read_again_stays_near():
    """With the batch last, as of a first convolution of few channels: each part is summed for all 25 places."""
    x, w = np.zeros((128, 28, 28, 1), np.float32), np.zeros((5, 5, 1, 6), np.float32)
    first, second = reductions(bl.grad(lambda w, x: ops.sum(ops.conv(x, w, padding="same") ** 2)), w, x)[-2:]
    assert (first.space, first.reduced) == ((28, 4, 5, 5, 6), (7, 128))
    assert (second.space, second.reduced) == ((5, 5, 6), (112,))
