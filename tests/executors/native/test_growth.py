"""Large programs: kernels do not grow with them, and what it takes to compile them grows no faster than they do."""

from __future__ import annotations

import numpy as np
import pytest
from counting import calls

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.whole import is_small
from backlit.executors.reference import Reference


def chain(count):
    """Elementwise ops one after the other, some of which read what came long before."""

    def f(x):
        values = [x]
        for k in range(count):
            x = ops.tanh(x) * values[k * 7 % len(values)] + (k % 5)
            if k % 5 == 0:
                values.append(x)
        return x, values[len(values) // 2]

    return f


def tree(count):
    """A sum of many values, by pairs: its expression is wide and not deep."""

    def f(x):
        values = [ops.sin(x * k) for k in range(count)]
        while len(values) > 1:
            values = [*(a + b for a, b in zip(values[::2], values[1::2], strict=False)), *values[len(values) & ~1 :]]
        return values[0]

    return f


def products(count):
    """Small products, each added to the one before."""

    def f(x):
        before = x
        for _ in range(count):
            x, before = ops.tanh(x @ x.mT) + before, x
        return x

    return f


@pytest.mark.parametrize("make", [chain, tree])
@pytest.mark.parametrize("gradient", [False, True])
def test_kernels_do_not_grow_with_the_program(make, gradient):
    f = make(300)
    if gradient:
        f = bl.grad(lambda x, f=f: sum(map(ops.sum, v if isinstance(v := f(x), tuple) else (v,))))
    made = plan(prepared(bl.trace(f, np.ones((6, 5), np.float32))))
    assert max(len(c.nodes) for c in made.calls()) <= 130  # an expression of two that each fill a kernel


@pytest.mark.parametrize("make", [chain, tree])
def test_an_expression_of_several_kernels(make):
    x = np.linspace(-1, 1, 30).reshape(6, 5)
    graph = bl.trace(make(45), x)
    for got, wanted in zip(Native().compile(graph)(x), Reference().compile(graph)(x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_long_program_is_no_small_one():
    few, many = (plan(prepared(bl.trace(chain(n), np.ones((5, 4), np.float32)))) for n in (20, 300))
    assert len(many.calls()) < 32
    assert is_small(few)
    assert not is_small(many)


@pytest.mark.parametrize("make", [chain, tree, products])
def test_twice_the_program_is_twice_the_work(make):
    """Counted in function calls, from the traced graph to the plan."""
    found = []
    for count in (60, 120, 240):
        graph = bl.trace(make(count), np.ones((6, 6), np.float32))
        assert graph.nodes
        number, made = calls(lambda graph=graph: plan(prepared(graph)))
        assert made.steps
        found.append(number)
    few, many, more = found
    assert (more - many) / (many - few) < 2.4
