"""Tiles of dot products, and the zeros around an image that nothing multiplies."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.dots import Dots
from backlit.executors.native.method import method
from backlit.executors.reference import Reference

from . import programs


def kernels(graph, target):
    return [c.kernel for c in Native(target).plan(graph).calls()]


def is_dots(kernel, target):
    return isinstance(method(kernel, Native(target).target), Dots)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("places", "rows", "columns", "n"), [
    (70, 5, 6, 32), (41, 3, 17, 33), (9, 7, 2, 250), (130, 2, 2, 19), (30, 25, 1, 64),
])  # fmt: skip
def test_sums_over_what_lies_side_by_side_in_both(places, rows, columns, n, dtype):
    normal = programs.Normal(dtype)
    a, b, c = normal(places, rows, n), normal(places, columns, n), normal(rows, columns)
    graph = bl.trace(lambda a, b, c: ops.tanh(ops.einsum("prn,pcn->rc", a, b) * 0.01 + c), a, b, c)
    wanted = np.tanh(np.einsum("prn,pcn->rc", a.astype("float64"), b.astype("float64")) * 0.01 + c)
    for target in ("avx512", "avx2", "sse2"):
        assert any(is_dots(k, target) for k in kernels(graph, target))
    for target in ("host", "avx2", "sse2"):
        (got,) = Native(target).compile(graph)(a, b, c)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "columns", "steps"), [
    (1, 4, 130), (1, 9, 61), (1, 300, 5), (1, 67, 33), (2, 131, 7), (3, 50, 100), (4, 4, 35), (7, 19, 300),
    (17, 33, 500),
])  # fmt: skip
def test_a_few_rows_times_a_matrix_that_lies_the_other_way(rows, columns, steps, dtype):
    normal = programs.Normal(dtype)
    g, w, c = normal(rows, steps), normal(columns, steps), normal(columns)
    w[3, steps - 1], w[columns - 1, 0] = np.inf, np.nan
    graph = bl.trace(lambda g, w, c: (g @ w.T + c) * 0.5, g, w, c)
    wanted = (g.astype("float64") @ w.T.astype("float64") + c) * 0.5
    for target in ("host", "avx2", "sse2"):
        (kernel,) = kernels(graph, target)
        assert is_dots(kernel, target)
        (got,) = Native(target).compile(graph)(g, w, c)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("target", ["host", "sse2"])
def test_results_that_are_not_neighbours(target):
    """A matrix times a vector is one of the joined columns, written where it belongs at once."""
    normal = programs.Normal("float32")
    x, v, c = normal(45, 29), normal(29, 1), normal(45, 1)
    graph = bl.trace(lambda x, v, c: ops.concat([c, ops.tanh(x @ v)], 1), x, v, c)
    first, _ = kernels(graph, target)
    assert is_dots(first, target)
    (got,) = Native(target).compile(graph)(x, v, c)
    np.testing.assert_allclose(got, np.hstack([c, np.tanh(x @ v)]), rtol=1e-5, atol=1e-5)


def test_the_plan_shows_the_axis_whose_partial_sums_are_vectors():
    graph = bl.trace(lambda g, w: g @ w.T, np.zeros((3, 100), "f"), np.zeros((50, 100), "f"))
    assert "3 50 [100/16]" in str(Native("avx512").plan(graph))


def test_tiles_of_any_size_give_the_same_bits():
    """A result does not depend on the share that it is in."""
    normal = programs.Normal("float32")
    g, w = normal(3, 333), normal(40, 333)
    (whole,) = Native().compile(bl.trace(lambda g, w: g @ w.T, g, w))(g, w)
    for n in (4, 5, 13, 39):
        (some,) = Native().compile(bl.trace(lambda g, w: g @ w.T, g, w[:n]))(g, w[:n])
        np.testing.assert_array_equal(some, whole[:, :n])
        (row,) = Native().compile(bl.trace(lambda g, w: g @ w.T, g[:1], w[:n]))(g[:1], w[:n])
        np.testing.assert_array_equal(row, whole[:1, :n])


@pytest.mark.parametrize(("shape", "size", "kw"), [
    ((16, 9, 8, 3), (5, 5, 3, 4), {}), ((3, 7, 9, 16), (3, 5, 16, 32), {}),
    ((16, 8, 9, 3), (5, 5, 3, 4), {"padding": 1}), ((16, 11, 10, 2), (4, 3, 2, 3), {"dilation": (1, 2)}),
    ((16, 12, 13, 2), (5, 3, 2, 3), {"stride": (1, 2)}),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_around_an_image_are_left_out(shape, size, kw, dtype):
    normal = programs.Normal(dtype)
    x, w = normal(*shape), normal(*size)
    graph = bl.trace(bl.grad(lambda x, w: ops.mean(ops.tanh(ops.conv(x, w, **kw)) ** 2.0)), x, w)
    limited = [k for k in kernels(graph, "avx512") if k.limits]
    assert limited
    for k in limited:
        assert k.flops < k.points * k.steps * 2
    exact = [a.astype("float64") for a in (x, w)]
    (wanted,) = Reference().compile(graph)(*exact) if dtype == "float64" else Reference().compile(graph)(x, w)
    for target in ("host", "avx2"):
        (got,) = Native(target).compile(graph)(x, w)
        tolerance = (2e-5 if dtype == "float32" else 1e-12) * float(np.abs(wanted).max())
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


def test_what_is_left_out_is_all_that_is_zero():
    """As many multiply-adds as the forward pass has, where an image is not padded."""
    x, w = np.zeros((16, 14, 12, 6), np.float32), np.zeros((5, 5, 6, 16), np.float32)
    graph = bl.trace(bl.grad(lambda x, w: ops.sum(ops.conv(x, w) ** 2.0)), x, w)
    backward = next(k for k in kernels(graph, "avx512") if k.limits)
    assert backward.flops == 2 * 16 * 10 * 8 * 16 * 5 * 5 * 6


def test_columns_that_will_be_one_axis_are_counted_together():
    x, w, g = np.zeros((7, 57, 57, 3), "f"), np.zeros((7, 7, 3, 17), "f"), np.zeros((7, 29, 29, 17), "f")
    graph = bl.trace(
        bl.grad(lambda x, w, g: ops.sum(ops.conv(x, w, stride=2, padding="same") * g)), x, w, g
    )  # 3 channels of 7 places: vectors of results, not dot products
    assert not any(is_dots(k, "avx512") for k in kernels(graph, "avx512") if k.reduced)
