"""Constant folding."""

import numpy as np

import backlit as bl
from backlit import ops
from backlit.legality import check
from backlit.ops.interpret import interpreter
from backlit.passes.fold import LIMIT, fold_constants
from backlit.passes.pipeline import simplify
from backlit.tracing import lift

X = np.arange(3, dtype=np.float32)


def folded(f, *arrays):
    after = fold_constants(bl.trace(f, *arrays))
    check(after)
    return after


def ops_of(graph):
    return [n.op for n in graph.nodes if n.op not in ("input", "constant")]


def test_numbers_are_computed():
    after = folded(lambda x: x * ops.exp(ops.sqrt(lift(np.float32(4.0))) + 1.0), X)
    assert after == bl.trace(lambda x: x * np.exp(np.float32(3.0)), X)


def test_the_value_is_that_of_the_reference():
    table = np.linspace(-3, 3, 7).astype(np.float32)
    graph = bl.trace(lambda x: ops.sum(ops.erf(lift(table)) * ops.softplus(lift(table)), keepdims=True) + x, X)
    assert ops_of(simplify(graph)) == ["add"]
    np.testing.assert_array_equal(interpreter(simplify(graph))([X])[0], interpreter(graph)([X])[0])


def test_inputs_are_never_touched():
    graph = bl.trace(lambda x: ops.exp(x), X)
    assert fold_constants(graph) is graph


def test_a_number_that_is_stretched_stays_a_number():
    graph = bl.trace(lambda x: ops.broadcast_to(lift(1.5), (100, 3)) @ x, X)
    assert fold_constants(graph) is graph
    after = folded(lambda x: x @ np.full((3, 500), 1.5, np.float32), X)
    assert ops_of(after) == ["broadcast_to", "contract"]
    assert max(n.type.size for n in after.nodes if n.op == "constant") == 1


def test_a_constant_of_equal_bits_only_becomes_a_number():
    zeros = np.array([0.0, -0.0, 0.0], np.float32)
    graph = bl.trace(lambda x: x / zeros, X)
    assert fold_constants(graph) is graph
    nans = np.full(3, np.nan, np.float32)
    assert ops_of(folded(lambda x: x + nans, X)) == ["broadcast_to", "add"]
    flags = np.ones(3, bool)
    assert ops_of(folded(lambda x: ops.where(flags, x, 0.0), X)) == ["broadcast_to", "where"]


def test_a_range_stays_where_it_feeds_something_and_is_computed_with():
    graph = bl.trace(lambda x: ops.one_hot(ops.astype(x, "int32"), 8), X)
    assert "iota" in ops_of(fold_constants(graph))
    mask = bl.trace(lambda q: ops.attention(q, q, q, causal=True), np.ones((4, 2), np.float32))
    assert "iota" not in ops_of(simplify(mask))
    assert "less_equal" not in ops_of(simplify(mask))


def test_no_large_constant_is_made():
    n = LIMIT + 1

    def f(x):
        q = ops.broadcast_to(x, (n, 3))
        return ops.attention(q, q, q, causal=True)

    after = simplify(bl.trace(f, X))
    assert max(n.type.size for n in after.nodes if n.op == "constant") <= LIMIT
    large = np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)
    after = folded(lambda x: x @ lift(np.ascontiguousarray(large[:3])) + ops.sum(ops.exp(lift(large)), 0), X)
    assert ops_of(after) == ["contract", "add"]  # smaller than what it is made of


def test_an_index_out_of_range_is_told_when_the_graph_runs():
    graph = bl.trace(lambda x: x + ops.take(lift(X), lift(np.array([0, 1, 7])), 0), X)
    assert "gather" in ops_of(simplify(graph))


def test_loops_are_left_alone():
    def f(x):
        return x + ops.scan(lambda c, _: (c * 1.5, None), lift(np.float32(1.0)), length=10**9)[0]

    assert "scan" in ops_of(simplify(bl.trace(f, X)))


def test_folded_constants_cannot_be_changed_from_outside():
    table = np.arange(3.0, dtype=np.float32)
    after = folded(lambda x: x + ops.reshape(lift(table), (3, 1)), X)
    assert all(not n.params["value"].flags.writeable for n in after.nodes if n.op == "constant")
