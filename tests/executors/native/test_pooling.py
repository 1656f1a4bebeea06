"""The gradients of pooling: no window is ever stored, and every element gets what the reference executor gives it."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import legality, ops
from backlit.executors.native import Native
from backlit.executors.native.convolution import direct
from backlit.executors.native.kernels import Rows
from backlit.executors.native.pooling import spread_back
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.table import describe
from backlit.executors.native.target import known
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs, random_runs

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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "size", "made"),
    [
        ((4, 8, 8, 32), 2, "16 4 32/16: [2 2], [2 2], 2 2"),
        ((5, 9, 7, 17), 2, "5 4 3 17/16: [2 2], [2 2], 2 2"),  # a row and a column in no window: zeros there
        ((3, 6, 33), 3, "6 33/16: [3], [3], 3"),
        ((2, 8, 8, 3), (4, 2), "4 4 3/4: [4 2], [4 2], 4 2"),
    ],
)
def test_a_window_goes_through_pooling_and_back_while_it_is_in_registers(shape, size, made, dtype):
    """Its maximum, how many elements are that, and what each of them and the activation before it get."""
    n = programs.Normal("float32")
    arguments = [np.asarray(np.round(a * 2) / 2, dtype) for a in (n(shape[-1]), n(*shape))]

    def f(b, x):
        y = ops.max_pool(ops.relu(x + b), size)
        return ops.sum(y * y)

    graph = bl.trace(bl.grad(f, (0, 1)), *arguments)
    runs = [c for c in Native("avx512").plan(graph).calls() if isinstance(c.kernel, Rows)]
    found = [describe(c, known("avx512"))[1] for c in runs]
    assert [r.split("/")[0] for r in found] == [made.split("/")[0]]
    assert found[0].split(": ")[1] == made.split(": ")[1]
    random_runs.check(graph, arguments, len(shape), random_runs.close)


def test_windows_of_a_batch_that_comes_last_are_counted_in_the_pass_that_sends_to_them():
    """As in the first layers of a small network for images, where the batch goes behind few channels."""
    n = programs.Normal("float32")

    def f(w, v, u, x):
        y = ops.max_pool(ops.relu(ops.conv(x, w, padding="same")), 2)
        z = ops.max_pool(ops.relu(ops.conv(y, v)), (1, 2))
        return ops.sum(ops.tanh(ops.reshape(z, (33, -1)) @ u))

    graph = bl.trace(bl.grad(f, (0, 1, 2)), n(3, 3, 1, 5), n(3, 3, 5, 6), n(3 * 2 * 6, 4), n(33, 10, 12, 1))
    runs = [c for c in Native("avx512").plan(graph).calls() if isinstance(c.kernel, Rows)]
    assert [describe(c, known("avx512"))[1] for c in runs] == ["3 2 198/16: [2], 2", "5 6 165/16: [2 2], 2 2"]


def test_a_product_of_few_terms_does_not_join_the_windows_that_it_is_sent_to():
    n = programs.Normal("float32")

    def back(g, w, x):
        return bl.vjp(lambda x: ops.max_pool(x, 2), x)[1](ops.reshape(g @ w, (64, 8, 8, 16)))

    calls = Native("avx512").plan(bl.trace(back, n(64, 3), n(3, 8 * 8 * 16), np.round(n(64, 16, 16, 16)))).calls()
    nests = [[m.reduced for m in c.kernel.nests] for c in calls]
    assert [(3,)] in nests
    assert [(2, 2), ()] in nests or [(2, 2), (2, 2), ()] in nests


def test_other_sums_over_windows_are_left_alone():
    x = programs.Normal("float64")(1, 6, 6, 2)
    graph = simplify(bl.trace(bl.grad(lambda x: ops.sum(ops.sum(ops.windows(x, axes=(1, 2), size=(2, 2), stride=(2, 2),
        dilation=(1, 1)) ** 2.0, 5) ** 2.0)), x))  # fmt: skip
    assert spread_back(direct(graph)) is graph
