"""The gradients of pooling: no window is ever stored, and every element gets what the reference executor gives it."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import legality, ops
from backlit.executors.native import Native
from backlit.executors.native.convolution import direct, prepared
from backlit.executors.native.pooling import spread_back
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs

POOLS = [  # shape, size, stride, padding
    ((2, 8, 6, 5), 2, None, "valid"),
    ((2, 9, 7, 3), 2, None, "valid"),  # the last row and column are in no window
    ((2, 9, 7, 17), (3, 2), None, "same"),
    ((3, 10, 4), 2, None, "valid"),
    ((2, 7, 8, 3), 3, 1, "valid"),
    ((2, 9, 8, 16), 3, 2, "same"),
    ((1, 9, 9, 2), 2, 3, "valid"),
    ((3, 11, 4), 5, 2, 2),
]


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), POOLS)
def test_gradients_are_the_reference_executors(pool, shape, size, stride, padding):
    x = np.round(programs.Normal("float32")(*shape) * 2) / 2  # so that elements tie

    def f(x):
        a = ops.relu(x + 0.25)
        y = pool(a, size, stride, padding)
        return ops.sum(ops.tanh(y) * y) + ops.sum(a)

    graph = bl.trace(bl.value_and_grad(f), x)
    found = prepared(graph)
    legality.check(found)
    assert "fold" not in [n.op for n in found.nodes]
    for got, wanted in zip(Native().compile(graph)(x), Reference().compile(graph)(x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [None, 1])
def test_nan_and_infinity_in_a_window(stride):
    x = programs.Normal("float32")(1, 4, 6, 3)
    x[0, 0, 0, 0], x[0, 1, 2, 1], x[0, 3, 3, 2], x[0, :2, 4:, 2] = np.nan, np.inf, -np.inf, -np.inf
    graph = bl.trace(bl.grad(lambda x: ops.sum(ops.max_pool(x, 2, stride) * 3.0)), x)
    (got,), (wanted,) = Native().compile(graph)(x), Reference().compile(graph)(x)
    np.testing.assert_array_equal(got, wanted)


def test_the_gradient_of_pooling_is_two_passes():
    """One counts the ties of each window, one goes back through the windows and the activation."""
    n = programs.Normal("float32")

    def f(b, x):
        a = ops.relu(x + b)
        return ops.sum(ops.max_pool(a, 2) ** 2.0)

    calls = Native("avx512").plan(bl.trace(bl.grad(f), n(32), n(4, 8, 8, 32))).calls()
    assert [c.kernel.reduced for c in calls if c.kernel.prologue] == [(2, 2), (2, 2), (256,)]
    assert len(calls) <= 5


def test_other_sums_over_windows_are_left_alone():
    x = programs.Normal("float64")(1, 6, 6, 2)
    graph = simplify(bl.trace(bl.grad(lambda x: ops.sum(ops.sum(ops.windows(x, axes=(1, 2), size=(2, 2), stride=(2, 2),
        dilation=(1, 1)) ** 2.0, 5) ** 2.0)), x))  # fmt: skip
    assert spread_back(direct(graph)) is graph
