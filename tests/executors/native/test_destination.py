"""Values written straight into the memory of what is made from them: where they are, where not, and the numbers."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.reference import Reference

from . import programs

N = programs.Normal("float32")


def kernels(graph):
    return [" ".join(dict.fromkeys(n.op for n in c.nodes)) for c in Native().plan(graph).calls()]


def check(graph, *args):
    for got, wanted in zip(Native().compile(graph)(*args), Reference().compile(graph)(*args), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_joined_is_computed_in_place(axis):
    x, y = N(3, 5, 7), N(3, 5, 7)
    graph = bl.trace(lambda x, y: ops.concat([ops.tanh(x), ops.exp(y), x * y], axis), x, y)
    assert sorted(kernels(graph)) == ["exp", "multiply", "tanh"]
    check(graph, x, y)


def test_what_is_joined_twice_is_computed_in_place():
    x, y = N(3, 4, 5), N(3, 4, 5)

    def f(x, y):
        parts = [ops.tanh(x), x], [ops.exp(y), x * y]
        return ops.concat([*(ops.concat(list(p), 1) for p in parts), ops.concat([ops.flip(y, 1), -x], 1)], 2) * 2.0

    graph = bl.trace(f, x, y)
    assert sorted(kernels(graph)) == ["concat", "concat", "exp", "multiply", "multiply", "negative", "tanh"]
    check(graph, x, y)


def test_products_and_sums_are_joined_in_place():
    x, w = N(9, 5), N(5, 4)
    graph = bl.trace(lambda x, w: ops.concat([x @ w, ops.sum(ops.expand_dims(x, 2) * w, 1) + 1.0], 1), x, w)
    assert not any("concat" in k for k in kernels(graph))
    check(graph, x, w)


def test_what_is_joined_twice_is_written_twice():
    def f(x, y):
        a = ops.tanh(x)
        return ops.concat([a, ops.exp(y)], 1), ops.concat([ops.sin(y), a], 1)

    x, y = N(4, 6), N(4, 6)
    graph = bl.trace(f, x, y)
    assert not any("concat" in k for k in kernels(graph))
    check(graph, x, y)
    also_read = bl.trace(lambda x, y: (*f(x, y), ops.sum(ops.tanh(x), 0)), x, y)
    assert any("concat" in k for k in kernels(also_read))
    check(also_read, x, y)


def test_what_others_read_is_copied():
    x = N(4, 6)
    joined = bl.trace(lambda x: (ops.concat([ops.tanh(x), x], 0), ops.sum(ops.tanh(x), 0)), x)
    twice = bl.trace(lambda x: ops.concat([y := ops.tanh(x), y], 1), x)
    result = bl.trace(lambda x: (y := ops.tanh(x), ops.concat([y, x], 1)), x)
    for graph in (joined, twice, result):
        assert any("concat" in k for k in kernels(graph))
        check(graph, x)


def test_a_product_is_stored_with_its_axes_in_another_order():
    a, b, w = N(3, 4, 5, 6), N(3, 4, 6, 7), N(28, 9)

    def heads(a, b, w):
        return ops.reshape(ops.permute_dims(a @ b, (0, 2, 1, 3)), (3, 5, 28)) @ w

    graph = bl.trace(heads, a, b, w)
    assert kernels(graph) == ["contract", "contract"]
    check(graph, a, b, w)


def test_neighbours_stay_neighbours():
    """A value whose last axis moves is turned in squares instead."""
    a, b, w = N(3, 5, 6), N(3, 6, 7), N(15, 9)

    def turned(a, b, w):
        return ops.reshape(ops.permute_dims(a @ b, (2, 0, 1)), (7, 15)) @ w

    graph = bl.trace(turned, a, b, w)
    assert len(kernels(graph)) == 3
    check(graph, a, b, w)
