"""Calls over the same rows as one: what joins them, and that results and bits are what they were apart."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.kernels import Rows
from backlit.executors.native.table import describe
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import programs, random_runs

NATIVE = Native("avx512")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", "")


def runs(graph):
    return [c for c in NATIVE.plan(graph).calls() if isinstance(c.kernel, Rows)]


def normalised(x, w, scale, shift):
    """Rows of all lengths: sums that follow sums, a gradient, a mask, whole numbers and answers."""
    y = ops.layer_norm(x, scale, shift)
    p = ops.softmax(ops.where(w > 0.0, y, -9.0))
    g = bl.vjp(ops.layer_norm, x, scale, shift)[1](w)
    q = bl.vjp(lambda x: ops.log_softmax(x), y)[1](w)
    top = ops.max(w, -1, keepdims=True)
    n = ops.astype(x * 4.0, np.int32)
    lowest = n - ops.min(n, -1, keepdims=True)
    return y, p, g, q, w == top, w - top, lowest, ops.sum(p * y, -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape",
    [
        (9, 1),
        (8, 3),
        (33, 10),
        (101, 10),
        (40, 16),
        (17, 65),
        (21, 130),
        (9, 1100),
        (3, 5, 7, 33),
        (2, 3),
        (0, 4),
        (9, 0),
    ],
)
def test_rows_of_any_length(shape, dtype):
    n = programs.Normal(dtype)
    arguments = [n(*shape), n(*shape), n(shape[-1]), n(shape[-1])]
    if shape[-1] == 0:
        arguments, graph = (
            arguments[:1],
            bl.trace(lambda x: (x - ops.sum(x, -1, keepdims=True), ops.sum(x, -1)), arguments[0]),
        )
    else:
        graph = bl.trace(lambda *a: normalised(*a), *arguments)
    random_runs.check(graph, arguments, len(shape), random_runs.close)


def test_what_is_joined():
    n = programs.Normal("float32")
    x, w, scale, shift = n(64, 32), n(64, 32), n(32), n(32)
    (only,) = NATIVE.plan(bl.trace(ops.layer_norm, x, scale, shift)).calls()
    assert describe(only, known("avx512")) == ("rows", "64: [32/16], [32/16], 32/16")
    short = NATIVE.plan(bl.trace(ops.log_softmax, x[:, :10])).calls()
    assert [describe(c, known("avx512")) for c in short] == [("rows", "64/16: [10], [10], 10/16")]
    gradient = bl.trace(lambda *a: bl.vjp(ops.layer_norm, *a[:3])[1](a[3]), x, scale, shift, w)
    assert len(runs(gradient)) >= 1  # with sums over all rows between the sums along rows
    assert not runs(bl.trace(lambda x: (ops.sum(x, 1), ops.sum(x, 0)), x))
    assert not runs(bl.trace(lambda x, w: ops.sum(x, 1) @ w, x, w))


def test_what_only_a_row_needs_has_no_memory():
    x = programs.Normal("float32")(64, 32)
    assert NATIVE.plan(bl.trace(ops.softmax, x)).arena == 0


def test_a_run_does_not_pass_what_it_needs():
    """x is read by the sum along rows and again for the result, but not before sums down the columns are there."""
    x = programs.Normal("float32")(24, 24)
    graph = bl.trace(lambda x: x * ops.cumulative_sum(ops.sum(x, 1, keepdims=True), 0), x)
    random_runs.check(graph, [x], 1, random_runs.close)
    assert not runs(graph)


def test_a_run_passes_what_it_does_not_need():
    n = programs.Normal("float32")
    x, w = n(24, 24), n(24, 24)

    def f(x, w):
        s = ops.sum(x, 1, keepdims=True)
        return ops.cumulative_sum(w, 0), x * ops.exp(x - s)

    graph = bl.trace(f, x, w)
    random_runs.check(graph, [x, w], 1, random_runs.close)
    assert len(runs(graph)) == 1


@pytest.mark.parametrize("columns", [3, 10, 40, 300])
def test_numbers_that_are_none(columns):
    """Rows with nan and infinities, among others."""
    x = programs.Normal("float32")(16, columns)
    x[1, 0], x[2, -1], x[3], x[4, 1], x[5] = np.nan, np.inf, -np.inf, -np.inf, np.nan
    graph = bl.trace(lambda x: (ops.softmax(x), ops.log_softmax(x), ops.layer_norm(x)), x)
    assert runs(graph)
    for found, wanted in zip(Native().compile(graph)(x), Reference().compile(graph)(x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
