"""Stable forms: equal in the ordinary range, right at the extremes."""

import math

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.legality import check
from backlit.ops.interpret import interpreter
from backlit.passes import simplify
from backlit.passes.stable import stabilise

BIG = [-2000.0, -800.0, -100.0, 100.0, 800.0, 2000.0]
TINY = [1e-30, -1e-30, 1e-20, -1e-19, 3e-12, 0.0, -0.0]


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def logsumexp(x):
    return max(x) + math.log(math.fsum(math.exp(a - max(x)) for a in x))


def each(f):
    return lambda x: [f(a) for a in x]


# name, what is written, what is true (by the math module, one row of numbers at a time), where it was wrong
ONE_BY_ONE = [
    ("log(exp(x))", lambda x: ops.log(ops.exp(x)), each(float), BIG + TINY),
    ("log(1 + x)", lambda x: ops.log(1.0 + x), each(math.log1p), TINY),
    ("log(x + 1)", lambda x: ops.log(x + 1.0), each(math.log1p), TINY),
    ("log(1 - x)", lambda x: ops.log(1.0 - x), each(lambda a: math.log1p(-a)), TINY),
    ("log(1 + exp(x))", lambda x: ops.log(1.0 + ops.exp(x)), each(softplus), BIG),
    ("log1p(exp(x))", lambda x: ops.log1p(ops.exp(x)), each(softplus), BIG),
    ("log(sigmoid(x))", lambda x: ops.log(ops.sigmoid(x)), each(lambda a: -softplus(-a)), BIG),
    ("log(1 - sigmoid(x))", lambda x: ops.log(1.0 - ops.sigmoid(x)), each(lambda a: -softplus(a)), BIG),
    ("log1p(-sigmoid(x))", lambda x: ops.log1p(-ops.sigmoid(x)), each(lambda a: -softplus(a)), BIG),
    ("exp(x) - 1", lambda x: ops.exp(x) - 1.0, each(math.expm1), TINY),
    ("1 - exp(x)", lambda x: 1.0 - ops.exp(x), each(lambda a: -math.expm1(a)), TINY),
    ("exp(x) / (1 + exp(x))", lambda x: naive_sigmoid(x), each(lambda a: math.exp(-softplus(-a))), BIG),
]


def rows(f):
    return lambda x: [f(row) for row in x]


def log_softmax_of(row):
    """With the largest element out first: log(sum(e^x)) of large x has rounded too much to be a truth."""
    shifted = [a - max(row) for a in row]
    return [a - logsumexp(shifted) for a in shifted]


def softmax_of(row):
    return [math.exp(a) for a in log_softmax_of(row)]


def naive_sigmoid(x):
    e = ops.exp(x)
    return e / (1.0 + e)


def naive_softmax(x, axis=-1):
    e = ops.exp(x)
    return e / ops.sum(e, axis, keepdims=True)


ROWS = [[-2000.0, -2001.0, -2003.0], [1000.0, 0.0, 999.0], [-1000.0, 1000.0, 5.0], [0.0, 300.0, -700.0]]

BY_ROWS = [
    ("log(sum(exp(x)))", lambda x: ops.log(ops.sum(ops.exp(x), 1)), rows(logsumexp)),
    (
        "log(sum(exp(x), keepdims))",
        lambda x: ops.log(ops.sum(ops.exp(x), 1, keepdims=True)),
        rows(lambda row: [logsumexp(row)]),
    ),
    ("log(sum(exp(x), all))", lambda x: ops.log(ops.sum(ops.exp(x))), lambda x: logsumexp([a for r in x for a in r])),
    ("exp(x) / sum(exp(x))", naive_softmax, rows(softmax_of)),
    ("log(exp(x) / sum(exp(x)))", lambda x: ops.log(naive_softmax(x)), rows(log_softmax_of)),
    ("log(softmax(x))", lambda x: ops.log(ops.softmax(x)), rows(log_softmax_of)),
]


def run(graph, x):
    check(graph)
    return interpreter(graph)([x])[0]


def assert_ordinary(written, x, expected):
    """Equal, in the ordinary range, to the truth and to what was written, up to the rounding of what was written."""
    graph = bl.trace(written, x)
    scale = np.finfo(x.dtype).eps * 16
    for transform in (stabilise, simplify):
        np.testing.assert_allclose(run(transform(graph), x), expected, rtol=scale, atol=scale)
        np.testing.assert_allclose(run(transform(graph), x), run(graph, x), rtol=scale, atol=scale)


def assert_extreme(written, x, expected):
    """Right where what was written is wrong: relative to the truth, which underflows where the dtype does."""
    graph = bl.trace(written, x)
    tolerance = {"rtol": np.finfo(x.dtype).eps * 64, "atol": float(np.finfo(x.dtype).smallest_normal)}
    assert not np.allclose(run(graph, x), expected, **tolerance)
    for transform in (stabilise, simplify):
        np.testing.assert_allclose(run(transform(graph), x), expected, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("written", "true", "extremes"), [pytest.param(*row[1:], id=row[0]) for row in ONE_BY_ONE])
def test_one_by_one(written, true, extremes, dtype):
    ordinary = np.linspace(-0.9, 0.9, 13).astype(dtype)
    assert_ordinary(written, ordinary, true(ordinary.tolist()))
    x = np.array(extremes, dtype)
    assert_extreme(written, x, true(x.tolist()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("written", "true"), [pytest.param(*row[1:], id=row[0]) for row in BY_ROWS])
def test_by_rows(written, true, dtype):
    ordinary = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype)
    assert_ordinary(written, ordinary, true(ordinary.tolist()))
    x = np.array(ROWS, dtype)
    assert_extreme(written, x, true(x.tolist()))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (lambda x: ops.log(ops.exp(x)), lambda x: x),
        (lambda x: ops.log(1.0 + x), lambda x: ops.log1p(x)),
        (lambda x: ops.log(1.0 + ops.exp(x)), lambda x: ops.softplus(x)),
        (lambda x: ops.log(ops.sigmoid(x)), lambda x: -ops.softplus(-x)),
        (lambda x: ops.log(1.0 - ops.sigmoid(x)), lambda x: -ops.softplus(x)),
        (lambda x: ops.exp(x) - 1.0, lambda x: ops.expm1(x)),
        (naive_softmax, lambda x: ops.softmax(x)),
        (lambda x: ops.log(ops.sum(ops.exp(x), 1)), lambda x: ops.logsumexp(x, 1)),
        (lambda x: ops.exp(x) / (ops.exp(x) + 1.0), lambda x: ops.sigmoid(x)),
    ],
)
def test_stable_forms_are_the_named_functions(written, meant):
    x = np.ones((2, 3), np.float32)
    assert simplify(bl.trace(written, x)) == simplify(bl.trace(meant, x))


@pytest.mark.parametrize(
    "kept",
    [
        lambda x: ops.log(2.0 + x),
        lambda x: ops.log(1.0 + x - x),
        lambda x: ops.log(ops.sum(x * x, 1)),
        lambda x: ops.exp(x) - 2.0,
        lambda x: ops.softmax(x),
        lambda x: ops.log_softmax(x),
        lambda x: ops.logsumexp(x, 1),
        lambda x: ops.exp(x) / ops.sum(ops.exp(x * 2.0), 1, keepdims=True),
        lambda x: (lambda e: e / ops.sum(e, 1))(ops.exp(x[:, :2])),  # a square, divided along the wrong axis
        lambda x: ops.log(ops.exp(x) / ops.sum(ops.exp(x * 2.0), 1, keepdims=True)),
        lambda x: ops.exp(x) / (1.0 + ops.exp(-x)),
        lambda x: ops.log(ops.exp(x) / (x * x)),
        lambda x: ops.log(ops.tanh(x)),
    ],
)
def test_what_is_no_such_pattern_or_is_stable_already_stays(kept):
    x = np.ones((2, 3), np.float32)
    graph = bl.trace(kept, x)
    assert stabilise(graph) is graph


def test_several_axes_and_empty_ones():
    x = np.array(ROWS, np.float32) + np.zeros((2, 1, 1), np.float32)
    graph = bl.trace(lambda x: ops.exp(x) / ops.sum(ops.exp(x), (1, 2), keepdims=True), x)
    total = run(simplify(graph), x).sum((1, 2))
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    empty = np.zeros((2, 0), np.float32)
    graph = bl.trace(lambda x: (naive_softmax(x), ops.log(ops.sum(ops.exp(x), 1))), empty)
    assert run(simplify(graph), empty).shape == (2, 0)


def test_a_value_from_a_graph_that_was_stabilised_first_has_a_stable_gradient():
    from backlit.autodiff import gradient_graph

    def loss(x):
        return -ops.sum(ops.log(naive_softmax(x))[:, 0])

    x = np.array(ROWS, np.float64)
    graph = bl.trace(loss, x)
    expected = interpreter(gradient_graph(bl.trace(lambda x: -ops.sum(ops.log_softmax(x)[:, 0]), x), [0]))([x])[1]
    found = interpreter(gradient_graph(simplify_locally(graph), [0]))([x])[1]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isnan(interpreter(gradient_graph(graph, [0]))([x])[1]).any()


def simplify_locally(graph):
    """Stabilised until nothing changes; nothing else, since the graph is still to be differentiated."""
    while (after := stabilise(graph)) is not graph:
        graph = after
    return graph
