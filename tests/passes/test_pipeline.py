"""All passes together, on random programs, gradients, loops and a graph of many nodes."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from passes.random_programs import (
    EXACT_BINARY,
    EXACT_UNARY,
    SMOOTH_BINARY,
    SMOOTH_UNARY,
    STEPS,
    inputs,
    program,
)

import backlit as bl
from backlit import ops
from backlit.ir import Graph, Type, make_node
from backlit.legality import check
from backlit.ops.interpret import interpreter
from backlit.passes import simplify
from backlit.passes.canonical import canonicalise
from backlit.passes.cse import eliminate_common
from backlit.passes.fold import fold_constants
from backlit.passes.loops import batch_loops, simplify_loops
from backlit.passes.stable import stabilise

DTYPES = st.sampled_from([np.float32, np.float64])
PASSES = [canonicalise, fold_constants, eliminate_common, simplify_loops, batch_loops, stabilise, simplify]
examples = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bits(array):
    """Equal for arrays of the same bits, nan being one number."""
    return np.isnan(array), np.where(np.isnan(array), 0, array), np.signbit(array) & ~np.isnan(array)


def assert_signature_kept(before: Graph, after: Graph):
    assert after.inputs == before.inputs
    assert [o.type for o in after.outputs] == [o.type for o in before.outputs]
    check(after)


@examples
@given(STEPS, DTYPES, st.integers(0, 999))
def test_exact_rewrites_keep_every_bit(steps, dtype, seed):
    arrays = inputs(seed, dtype, special=True)
    graph = bl.trace(program(steps, EXACT_UNARY, EXACT_BINARY), *arrays)
    expected = interpreter(graph)(arrays)
    for transform in PASSES:
        after = transform(graph)
        assert_signature_kept(graph, after)
        for x, y in zip(expected, interpreter(after)(arrays), strict=True):
            np.testing.assert_equal(bits(y), bits(x), err_msg=transform.__name__)


def assert_same_up_to_rounding(graph, arrays, transforms=PASSES):
    tolerance = 2e-4 if arrays[0].dtype == np.float32 else 1e-11
    expected = interpreter(graph)(arrays)
    for transform in transforms:
        after = transform(graph)
        assert_signature_kept(graph, after)
        for x, y in zip(expected, interpreter(after)(arrays), strict=True):
            np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance, err_msg=transform.__name__)


@examples
@given(STEPS, DTYPES, st.integers(0, 999))
def test_every_pass_keeps_results_up_to_rounding(steps, dtype, seed):
    arrays = inputs(seed, dtype)
    assert_same_up_to_rounding(bl.trace(program(steps, SMOOTH_UNARY, SMOOTH_BINARY), *arrays), arrays)


@settings(examples, max_examples=50)
@given(STEPS, DTYPES, st.integers(0, 999), st.booleans())
def test_gradients_keep_their_values(steps, dtype, seed, second):
    arrays = inputs(seed, dtype)
    run = program(steps[:10], SMOOTH_UNARY, SMOOTH_BINARY)

    def loss(*values):
        return sum(ops.mean(v) for v in run(*values))

    def along(*values):
        gradients = bl.grad(loss, argnums=range(len(values)))(*values)
        return sum(ops.sum(g * ops.cos(v)) for g, v in zip(gradients, values, strict=True))

    f = bl.value_and_grad(along if second else loss, argnums=(0, 1, 2))
    assert_same_up_to_rounding(bl.trace(f, *arrays), arrays, [simplify_loops, batch_loops, simplify])


@examples
@example([(0, 0, 0)] * 5 + [(147, 257, 0), (0, 0, 0), (973, 0, 0)], np.float32)  # equal nodes of two sweeps
@given(STEPS, DTYPES)
def test_simplifying_comes_to_rest(steps, dtype):
    arrays = inputs(0, dtype)
    for unary, binary in [(EXACT_UNARY, EXACT_BINARY), (SMOOTH_UNARY, SMOOTH_BINARY)]:
        simple = simplify(bl.trace(program(steps, unary, binary), *arrays))
        assert simplify(simple) is simple


@given(STEPS)
@settings(examples, max_examples=20)
def test_a_simplified_graph_has_no_more_nodes_of_any_costly_op(steps):
    arrays = inputs(0, np.float32)
    graph = bl.trace(program(steps, EXACT_UNARY, EXACT_BINARY), *arrays)
    before, after = ([n.op for n in g.nodes] for g in (graph, simplify(graph)))
    for op in ("divide", "pow", "where", "gather", "concat", "maximum"):
        assert after.count(op) <= before.count(op)


def perceptron(p, x, y):
    h = ops.tanh(x @ p["w1"] + p["b1"])
    logits = h @ p["w2"] + p["b2"]
    return -ops.mean(ops.sum(y * ops.log_softmax(logits), axis=-1))


def arguments(dtype=np.float32):
    random = np.random.default_rng(0)
    p = {"w1": random.normal(size=(4, 5)), "b1": np.zeros(5), "w2": random.normal(size=(5, 3)), "b2": np.zeros(3)}
    x, y = random.normal(size=(8, 4)), np.eye(3)[random.integers(0, 3, 8)]
    return {k: v.astype(dtype) for k, v in p.items()}, x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_training_step_keeps_its_values_and_sheds_nodes(dtype):
    p, x, y = arguments(dtype)

    def step(p, x, y):
        value, gradient = bl.value_and_grad(perceptron)(p, x, y)
        return value, {k: p[k] - 0.1 * gradient[k] for k in p}

    graph = bl.trace(step, p, x, y)
    assert_same_up_to_rounding(graph, [*p.values(), x, y])
    assert len(simplify(graph).nodes) <= 0.85 * len(graph.nodes)


def test_names_scopes_sites_and_origins_are_kept():
    p, x, y = arguments()
    graph = bl.trace(bl.value_and_grad(perceptron), p, x, y)
    simple = simplify(graph)
    assert {"h", "logits"} <= {*graph.names().values()} & {*simple.names().values()}
    assert all(n.site is not None for n in simple.nodes if n.op != "input")
    assert {n.scope.name for n in simple.nodes if n.scope} == {"mean", "log_softmax", "logsumexp"}
    assert {n.origin.op for n in simple.nodes if n.origin} <= {n.op for n in graph.nodes}


def test_a_node_that_replaces_a_named_one_takes_its_name():
    x = np.ones(3, np.float32)
    graph = simplify(bl.trace(lambda x: ops.exp(ops.named(x**2.0, "square")), x))
    (square,) = [n for n in graph.nodes if n.op == "multiply"]
    assert square.name == "square"


def test_the_order_of_the_program_is_kept():
    x = np.ones(3, np.float32)
    functions = [ops.exp, ops.sin, ops.cos, ops.tanh, ops.sqrt]

    def f(x):
        values = [g(x) for g in functions[:2]]
        values.append(x * 1.0 + 2.0)
        return [*values, *(g(x) for g in functions[2:])]

    order = [n.op for n in simplify(bl.trace(f, x)).nodes]
    assert [o for o in order if o not in ("input", "constant")] == ["exp", "sin", "add", "cos", "tanh", "sqrt"]


def test_a_long_chain_takes_linear_work_and_no_recursion():
    def nodes_visited(n):
        """How many Python calls simplifying a chain of n links makes."""

        def f(x):
            for _ in range(n):
                x = ops.tanh(ops.negative(-x) * 1.0) + ops.broadcast_to(0.5, (3,))
            return x

        graph = bl.trace(f, np.ones(3, np.float32))
        calls = 0

        def count(frame, event, arg):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            simple = simplify(graph)
        finally:
            sys.setprofile(None)
        return len(graph.nodes), len(simple.nodes), calls

    before, after, calls = nodes_visited(500)
    assert (before, after) == (1 + 500 * 7, 2 + 500 * 2)
    assert nodes_visited(1000)[2] < 2.1 * calls


def test_a_hundred_thousand_nodes():
    f32 = Type(np.dtype(np.float32), (3,))
    x = node = make_node("input", (), (f32,), name="x")
    one = make_node("constant", (), (f32.with_shape(()),), {"value": np.broadcast_to(np.float32(1), ())})
    for _ in range(50_000):
        node = make_node("sin", (make_node("multiply", (node, one), (f32,)),), (f32,))
    graph = Graph((x,), (node,))
    assert len(graph.nodes) == 100_002
    assert len(simplify(graph).nodes) == 50_001
