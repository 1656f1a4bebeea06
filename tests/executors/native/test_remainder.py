"""Products whose last columns, left over by whole vectors, have a kernel of their own."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.dots import Dots
from backlit.executors.native.kernels import Nest
from backlit.executors.native.method import method
from backlit.executors.native.target import known
from backlit.executors.native.tiling import Tiling, is_product
from backlit.executors.reference import Reference

from . import programs, random_runs

NATIVE = Native("avx512")


def products(graph, native=NATIVE):
    return [c.kernel for c in native.plan(graph).calls() if isinstance(c.kernel, Nest) and is_product(c.kernel)]


def dense(x, w, b):
    return ops.relu(x @ w + b)


def strided(x, w, b):
    return ops.conv(x, w, stride=2) + b


def dilated(x, w, b):
    return ops.where(ops.conv(x, w, padding="same", dilation=2) > b, 1.0, ops.conv(x, w, padding="same", dilation=2))


def by_weights(x, w, b):
    return bl.grad(lambda w: ops.sum(ops.conv(x, w, stride=2) * b))(w)


def from_few(x, w, b):
    return ops.transpose(x) @ w - b


def by_input(x, w, b):
    return bl.grad(lambda x: ops.sum(ops.tanh(x @ w) * b))(x)


def by_input_of_groups(x, w, b):
    return bl.grad(lambda x: ops.sum(ops.conv(x, w, padding="same", groups=2) ** 2.0 * b))(x)


CASES = {
    "dense": (dense, (120, 300), (300, 33), 33, 2),
    "dense of two": (dense, (130, 270), (270, 18), 18, 2),
    "strided": (strided, (3, 25, 26, 17), (3, 3, 17, 17), 17, 2),
    "dilated": (dilated, (2, 20, 21, 33), (3, 3, 33, 34), 34, 2),
    "by weights": (by_weights, (3, 25, 26, 17), (3, 3, 17, 34), 34, 2),
    "by weights of one": (by_weights, (7, 25, 26, 33), (1, 1, 33, 33), 33, 2),
    "by weights along the others": (by_weights, (3, 25, 26, 32), (3, 3, 32, 17), 17, 1),
    "by input": (by_input, (500, 17), (17, 70), 70, 3),
    "two in all": (dense, (370, 41), (41, 2), 2, 1),
    "two of short sums": (dense, (37, 5), (5, 2), 2, 1),
    "three in all": (dense, (130, 270), (270, 3), 3, 1),
    "two by input": (by_input, (257, 2), (2, 3), 3, 2),
    "from few": (from_few, (31, 513), (31, 33), 33, 2),
    "two of a window": (strided, (3, 15, 16, 5), (3, 3, 5, 2), 2, 1),
    "by input of groups": (by_input_of_groups, (2, 16, 5, 34), (3, 3, 17, 64), 64, 2),
}


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse2"])
@pytest.mark.parametrize("name", CASES)
def test_their_numbers_in_any_number_of_shares(name, target):
    f, *sizes, n, count = CASES[name]
    normal = programs.Normal("float32")
    arguments = [*(normal(*size) for size in sizes), normal(n)]
    graph = bl.trace(f, *arguments)
    assert len(products(graph)) == count
    results = [random_runs.results(graph, arguments, target, shares) for shares in (1, 2, 3)]
    for others in results[1:]:
        random_runs.same(results[0][0], others[0])
    precise = [a.astype(np.float64) for a in arguments]
    (wanted,) = Reference().compile(bl.trace(f, *precise))(*precise)
    assert np.abs(results[0][0] - wanted).max() <= np.abs(wanted).max() * 2e-6


@pytest.mark.parametrize(("size", "count"), [
    ((120, 300, 33), 2), ((120, 300, 32), 1), ((120, 300, 38), 1), ((120, 300, 49), 2), ((4, 30, 33), 1),
    ((500, 300, 20), 2), ((4000, 17, 17), 2), ((4000, 17, 18), 1),
])  # fmt: skip
def test_columns_are_summed_apart_where_that_takes_less_time(size, count):
    m, k, n = size
    normal = programs.Normal("float32")
    assert len(products(bl.trace(dense, normal(m, k), normal(k, n), normal(n)))) == count


@pytest.mark.parametrize(("size", "kind"), [
    ((130, 270, 3), Dots), ((257, 31, 2), Dots), ((257, 10, 2), Tiling), ((257, 31, 3), Tiling),
    ((130, 270, 8), Tiling), ((4, 31, 2), Tiling),
])  # fmt: skip
def test_a_few_columns_of_long_sums_are_dot_products(size, kind):
    m, k, n = size
    normal = programs.Normal("float32")
    *copies, last = NATIVE.plan(bl.trace(dense, normal(m, k), normal(k, n), normal(n))).calls()
    assert isinstance(method(last.kernel, known("avx512")), kind)
    assert len(copies) == (kind is Dots)  # of the weights


def test_a_matrix_that_may_be_updated_where_it_lies_stays_whole():
    normal = programs.Normal("float32")
    w, x, g = normal(33, 33), normal(2000, 33), normal(2000, 33)
    graph = bl.trace(lambda w, x, g: w - 0.1 * (ops.transpose(x) @ g), w, x, g)
    assert len(products(graph)) == 1
    assert len(products(bl.trace(lambda x, g: ops.transpose(x) @ g, x, g))) == 2


def test_what_is_no_number_is_none_in_its_row_alone():
    normal = programs.Normal("float32")
    x, w, b = normal(120, 300), normal(300, 33), normal(33)
    x[7, 299], x[9, 0] = np.nan, np.inf
    graph = bl.trace(dense, x, w, b)
    (found,), (wanted,) = Native().compile(graph)(x, w, b), Reference().compile(graph)(x, w, b)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
