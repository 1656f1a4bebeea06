"""Common subexpressions."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.legality import check
from backlit.passes.cse import eliminate_common
from backlit.passes.pipeline import simplify

X, Y = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)


def shared(f, *arrays):
    after = eliminate_common(bl.trace(f, *arrays))
    check(after)
    return after


def count(graph, op):
    return [n.op for n in graph.nodes].count(op)


def test_equal_expressions_become_one():
    after = shared(lambda x, y: ops.exp(x * y) + ops.exp(x * y), X, Y)

    def meant(x, y):
        e = ops.exp(x * y)
        return e + e

    assert after == bl.trace(meant, X, Y)


@pytest.mark.parametrize("f", [ops.add, ops.multiply, ops.equal, ops.not_equal])
def test_the_order_of_operands_does_not_matter_where_it_changes_no_bit(f):
    assert len({*shared(lambda x, y: (f(x, y), f(y, x)), X, Y).outputs}) == 1


@pytest.mark.parametrize("f", [ops.subtract, ops.divide, ops.pow, ops.less, ops.maximum, ops.minimum])
def test_the_order_of_operands_matters_elsewhere(f):
    assert len({*shared(lambda x, y: (f(x, y), f(y, x)), X, Y).outputs}) == 2


def test_params_and_types_matter():
    def f(x, y):
        return (
            ops.sum(x, 0),
            ops.sum(x, 1),
            ops.sum(x, 1, keepdims=True),
            ops.astype(x, "float64"),
            ops.astype(x, "int32"),
            x * 0.0,
            x * -0.0,
            x * np.float32("nan"),
            x * np.float32("nan"),
        )

    graph = bl.trace(f, X, Y)
    after = eliminate_common(graph)
    assert len({*after.outputs}) == len(graph.outputs) - 1


def test_inputs_of_the_same_type_are_different_values():
    after = shared(lambda x, y: ops.exp(x) - ops.exp(y), X, Y)
    assert count(after, "exp") == 2


def test_equal_constants_are_one():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    after = shared(lambda x, y: (x + table) * (y - table.copy()), X, Y)
    assert count(after, "constant") == 1


def test_the_first_one_stays_so_forward_nodes_win_over_their_gradients():
    graph = bl.trace(bl.value_and_grad(lambda x: ops.sum(ops.exp(x) * ops.sigmoid(x))), X)
    after = simplify(graph)
    assert count(after, "exp") == count(after, "sigmoid") == 1
    assert all(n.origin is None for n in after.nodes if n.op in ("exp", "sigmoid"))


def test_equal_loops_are_one():
    def f(x, y):
        def step(c, e):
            return ops.tanh(c) + e, c * 2.0

        return ops.scan(step, y[0], x)[0] + ops.scan(step, y[0], x)[0]

    assert count(shared(f, X, Y), "scan") == 1


def test_bodies_are_graphs_like_any_other():
    def f(x, y):
        def step(c, e):
            return ops.tanh(c * e) + ops.tanh(c * e), None

        return ops.scan(step, y[0], x)[0]

    (loop,) = [n for n in simplify(bl.trace(f, X, Y)).nodes if n.op == "scan"]
    assert count(loop.params["body"], "tanh") == 1
