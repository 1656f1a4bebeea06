"""Loops: one instead of several, and nothing in it that need not be."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.ir import Graph, Type, make_node
from backlit.legality import check
from backlit.ops.interpret import interpreter
from backlit.passes import simplify
from backlit.passes.loops import batch_loops, simplify_loops
from backlit.tracing import input_node, lift

XS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
C0 = np.array([0.5, -0.25, 1.0], np.float32)
W = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)


def scans(graph):
    return [n for n in graph.nodes if n.op == "scan"]


def the_scan(graph):
    (found,) = scans(graph)
    return found


def body_ops(graph):
    return [n.op for n in the_scan(graph).params["body"].nodes if n.op not in ("input", "constant")]


def rewritten(f, *arrays, transform=simplify_loops):
    """The graph after the pass, held to the results of the graph before."""
    graph = bl.trace(f, *arrays)
    after = transform(graph)
    check(after)
    for found, expected in zip(interpreter(after)(arrays), interpreter(graph)(arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return after


def rnn(c, w, xs, reverse=False):
    def step(c, x):
        h = ops.tanh(c @ w + x)
        return h, ops.sum(h * h)

    return ops.scan(step, c, xs, reverse=reverse)


def rnn_loss(c, w, xs):
    h, ys = rnn(c, w, xs)
    return ops.sum(h) + ops.sum(ys)


# --- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [simplify_loops, simplify])
def test_the_gradient_of_a_scan_runs_the_loop_once_each_way(transform):
    f = bl.value_and_grad(rnn_loss, argnums=(0, 1, 2))
    assert len(scans(bl.trace(f, C0, W, XS))) == 3
    after = rewritten(f, C0, W, XS, transform=transform)
    forward, backward = scans(after)
    assert not forward.params["reverse"]
    assert backward.params["reverse"]
    assert [n.op for n in forward.params["body"].nodes].count("tanh") == 1
    assert [n.op for n in backward.params["body"].nodes].count("tanh") == 0


def test_second_derivatives_run_few_loops():
    def f(c, w, xs):
        return bl.hvp(lambda w: rnn_loss(c, w, xs), (w,), (w,))

    before = bl.trace(f, C0, W, XS)
    after = rewritten(f, C0, W, XS, transform=simplify)
    assert len(scans(after)) <= 4 < len(scans(before))


def test_loops_through_the_same_states_become_one():
    def f(c, w, xs):
        def first(c, x):
            return ops.tanh(c @ w + x), ops.exp(x)

        def second(c, x):
            return ops.tanh(c @ w + x), (ops.sin(c), ops.exp(x))

        a, ys = ops.scan(first, c, xs)
        b, (zs, us) = ops.scan(second, c, xs)
        return a, ys, b, zs, us

    after = rewritten(f, C0, W, XS)
    assert len(the_scan(after).types) == 1 + 3
    assert after.outputs[0] is after.outputs[2]
    simple = rewritten(f, C0, W, XS, transform=simplify)
    assert len(the_scan(simple).types) == 1 + 2  # exp(x) of both


@pytest.mark.parametrize(
    "other",
    [
        lambda c, w, xs: rnn(c, w, xs, reverse=True),
        lambda c, w, xs: rnn(c * 2.0, w, xs),
        lambda c, w, xs: rnn(c, w, xs[:4]),
        lambda c, w, xs: ops.scan(lambda h, x: (ops.tanh(h @ w - x), ops.sum(h * h)), c, xs),
    ],
)
def test_loops_that_differ_stay_apart(other):
    after = rewritten(lambda c, w, xs: (rnn(c, w, xs), other(c, w, xs)), C0, W, XS)
    assert len(scans(after)) == 2


def test_a_loop_that_needs_another_of_the_same_kind_waits_for_it():
    def f(c, w, xs):
        a, ys = rnn(c, w, xs)
        b, zs = rnn(a, w, xs)
        return b, rnn(c, w, xs)[1] + zs + ys

    assert len(scans(rewritten(f, C0, W, XS))) == 2


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_a_result_that_nobody_uses_goes_with_what_it_needs():
    def f(c, w, xs, unused):
        def step(carry, element):
            c, dead = carry
            x, y = element
            return (ops.tanh(c + x), ops.cos(dead) + y), (ops.exp(ops.sum(w) * x), c)

        (c, _), (_, cs) = ops.scan(step, (c, c), (xs, unused))
        return c, cs

    after = rewritten(f, C0, W, XS, XS + 1)
    loop = the_scan(after)
    assert (loop.params["carry"], loop.params["outside"], len(loop.types), len(loop.inputs)) == (1, 0, 2, 2)
    assert set(body_ops(after)) == {"tanh", "add"}


def test_a_carry_lives_as_long_as_another_that_reads_it():
    def f(c, xs):
        def step(carry, x):
            a, b, dead = carry
            return (b + x, ops.sin(b), a + dead), None

        return ops.scan(step, (c, c, c), xs)[0][0]

    assert the_scan(rewritten(f, C0, XS)).params["carry"] == 2


def test_dead_gradients_of_sequences_are_not_computed():
    f = bl.grad(rnn_loss, argnums=1)
    _, backward = scans(rewritten(f, C0, W, XS))
    assert len(backward.types) == 2  # the carry's and the weights' gradients; neither xs' nor ys'


def test_a_loop_all_of_whose_results_are_known_goes():
    def f(c, xs):
        (same, _), (elements, sames) = ops.scan(lambda k, x: ((k[0], k[1] + x), (x, k[0])), (c, c), xs)
        return same, elements, sames

    after = rewritten(f, C0, XS)
    assert not scans(after)
    assert after.outputs[:2] == after.inputs
    assert after.outputs[2].op == "broadcast_to"


# --- tidying ----------------------------------------------------------------------------------------------------------


def test_a_carry_that_never_changes_comes_from_outside():
    def f(c, w, xs):
        (h, _), ys = ops.scan(lambda k, x: ((ops.tanh(k[0] @ k[1] + x), k[1]), k[1] @ x), (c, w), xs)
        return h, ys

    loop = the_scan(rewritten(f, C0, W, XS))
    assert (loop.params["carry"], loop.params["outside"]) == (1, 1)


def test_a_sequence_of_equal_elements_comes_from_outside():
    def f(c, xs):
        same, numbers = ops.broadcast_to(c, (5, 3)), ops.broadcast_to(lift(np.float32(2.0)), (5,))
        row = ops.broadcast_to(ops.reshape(c, (1, 3)), (5, 3))
        return ops.scan(lambda k, x: (k * x[0] + x[1] * x[2] - x[3], None), c, (same, numbers, xs, row))[0]

    after = rewritten(f, C0, XS)
    loop = the_scan(after)
    assert (loop.params["outside"], len(loop.inputs)) == (2, 4)
    simple = the_scan(rewritten(f, C0, XS, transform=simplify))
    assert (simple.params["outside"], len(simple.inputs)) == (1, 3)


def test_a_sequence_whose_elements_are_broadcast_but_differ_stays_one():
    def f(c, xs):
        wide = ops.broadcast_to(xs[:, :, None], (5, 3, 2))
        return ops.scan(lambda k, x: (k + ops.sum(x, 1), None), c, wide)[0]

    assert the_scan(rewritten(f, C0, XS)).params["outside"] == 0


def test_what_comes_in_twice_comes_in_once():
    def f(c, xs):
        return ops.scan(lambda k, x: (ops.sin(k) * x[0] + x[1], None), c, (xs, xs))[0]

    after = rewritten(f, C0, XS)
    assert len(the_scan(after).inputs) == 2


def test_numbers_from_outside_are_made_inside():
    two = Type(np.dtype(np.float32), ())
    row = Type(np.dtype(np.float32), (3,))
    factor, c, x = input_node(two, "factor"), input_node(row, "c"), input_node(row, "x")
    new = make_node("add", (make_node("multiply", (c, factor), (row,)), x), (row,))
    body = Graph((factor, c, x), (new,), "step")
    first, xs = input_node(row, "first"), input_node(row.with_shape((5, 3)), "xs")
    params = {"body": body, "carry": 1, "outside": 1, "length": 5, "reverse": False}
    graph = Graph((first, xs), (make_node("scan", (lift(2.0).node, first, xs), (row,), params),))
    check(graph)
    after = simplify_loops(graph)
    check(after)
    assert len(the_scan(after).inputs) == 2
    np.testing.assert_array_equal(interpreter(after)([C0, XS])[0], interpreter(graph)([C0, XS])[0])


# --- hoisting ---------------------------------------------------------------------------------------------------------


def invariant_loop(length=5, xs=XS):
    """A scan whose body squares a matrix from outside at each step; built by hand, since tracing would hoist it."""
    matrix, row = Type(np.dtype(np.float32), (3, 3)), Type(np.dtype(np.float32), (3,))
    w, c, x = input_node(matrix, "w"), input_node(row, "c"), input_node(row, "x")
    square = make_node("contract", (w, w), (matrix,), {"spec": "ij,jk->ik"})
    wide = make_node(
        "broadcast_to", (make_node("exp", (square,), (matrix,)),), (matrix.with_shape((2, 3, 3)),), {"shape": (2, 3, 3)}
    )
    total = make_node("sum", (wide,), (row,), {"axis": (0, 1), "keepdims": False})
    new = make_node("add", (make_node("contract", (c, square), (row,), {"spec": "i,ij->j"}), x), (row,))
    body = Graph((w, c, x), (new, square, make_node("add", (total, x), (row,))), "step")
    weight, first, seq = (
        input_node(matrix, "weight"),
        input_node(row, "first"),
        input_node(row.with_shape((length, 3)), "xs"),
    )
    params = {"body": body, "carry": 1, "outside": 1, "length": length, "reverse": False}
    types = (row, matrix.with_shape((length, 3, 3)), row.with_shape((length, 3)))
    scan = make_node("scan", (weight, first, seq), types, params)
    items = [make_node("item", (scan,), (t,), {"index": i}) for i, t in enumerate(types)]
    return Graph((weight, first, seq), tuple(items))  # fmt: skip


def test_what_depends_on_outside_values_alone_is_computed_once():
    graph = invariant_loop()
    check(graph)
    after = simplify_loops(graph)
    check(after)
    assert sorted(body_ops(after)) == ["add", "add", "contract"]
    assert [n.op for n in after.nodes].count("contract") == 1
    assert after.outputs[1].op == "broadcast_to"
    for found, expected in zip(interpreter(after)([W, C0, XS]), interpreter(graph)([W, C0, XS]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert simplify_loops(after) is after


def test_a_loop_of_no_steps_computes_nothing_before_it():
    graph = invariant_loop(0)
    after = simplify(graph)
    check(after)
    assert "contract" not in [n.op for n in after.nodes]
    arrays = [W, C0, np.zeros((0, 3), np.float32)]
    for found, expected in zip(interpreter(after)(arrays), interpreter(graph)(arrays), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_broadcast_is_not_carried_in():
    def f(c, xs):
        return ops.scan(lambda k, x: (k + ops.sum(ops.broadcast_to(ops.exp(c), (50, 3)) * x, 0), None), c, xs)[0]

    after = rewritten(f, C0, XS)
    assert all(i.type.size <= 15 for i in the_scan(after).inputs)


# --- batching ---------------------------------------------------------------------------------------------------------

BATCH = np.random.default_rng(2).normal(size=(5, 4, 3)).astype(np.float32)
STATE = np.zeros((4, 6), np.float32)
INTO, AGAIN = (np.random.default_rng(3 + k).normal(size=(n, 6)).astype(np.float32) for k, n in enumerate((3, 6)))


def recurrent(into, again, state, xs):
    return ops.scan(lambda h, x: (lambda new: (new, new))(ops.tanh(x @ into + h @ again)), state, xs)


def contractions(graph):
    return [[n.op for n in g.nodes].count("contract") for g in (graph, *(s.params["body"] for s in scans(graph)))]


def test_the_product_of_a_sequence_with_an_outside_value_is_one_product_before_the_loop():
    after = rewritten(recurrent, INTO, AGAIN, STATE, BATCH, transform=batch_loops)
    assert contractions(after) == [1, 1]
    (product,) = [n for n in after.nodes if n.op == "contract"]
    assert product.type.shape == (5, 4, 6)
    assert the_scan(after).inputs[-1] is product


def test_a_result_that_is_a_product_with_an_outside_value_is_one_product_after_the_loop():
    def f(into, out, state, xs):
        return ops.scan(lambda h, x: (lambda new: (new, out @ new))(ops.tanh(x + h)), state, xs)[1]

    after = rewritten(f, INTO, AGAIN[:, :4], STATE, np.ones((5, 4, 6), np.float32), transform=batch_loops)
    assert contractions(after) == [1, 0]
    assert after.outputs[0].op == "contract"


def test_a_result_that_the_next_step_waits_for_stays_inside():
    def f(again, state, xs):
        def step(h, x):
            new = h @ again + x
            return new, h @ again

        return ops.scan(step, state, xs)

    xs = np.ones((5, 4, 6), np.float32)
    assert contractions(rewritten(f, AGAIN, STATE, xs, transform=simplify)) == [0, 1]


def test_a_sum_of_products_over_all_steps_is_one_product():
    def loss(into, again, state, xs):
        return ops.sum(recurrent(into, again, state, xs)[1])

    f = bl.grad(loss, argnums=(0, 1, 3))
    after = rewritten(f, INTO, AGAIN, STATE, BATCH, transform=simplify)
    # before and after: x W, dW, dU and dx; in the loops: h U and its gradient by h
    assert contractions(after) == [4, 1, 1]
    assert all(s.params["carry"] == 1 for s in scans(after))


@pytest.mark.parametrize("start", [0.0, 2.5])
def test_a_sum_starts_where_it_did(start):
    def f(state, xs):
        def step(total, x):
            return total + x.T @ ops.exp(x), ops.sin(x)

        return ops.scan(step, ops.broadcast_to(start, (3, 3)) + 0.0 * state[:3, :3], xs)[0]

    after = rewritten(f, STATE, BATCH, transform=simplify)
    assert contractions(after)[0] == 1


def test_running_sums_stay_step_by_step():
    def f(xs):
        def step(total, x):
            new = total + x.T @ x
            return new, new

        return ops.scan(step, np.zeros((3, 3), np.float32), xs)

    assert contractions(rewritten(f, BATCH, transform=simplify)) == [0, 1]

    def looking_at_one_sum(xs):
        def step(totals, x):
            a, b = totals
            return (a + x.T @ x, b + x.T @ ops.exp(x)), ops.sin(a)

        zero = np.zeros((3, 3), np.float32)
        return ops.scan(step, (zero, zero), xs)

    assert contractions(rewritten(looking_at_one_sum, BATCH, transform=simplify)) == [1, 1]


def test_products_of_two_results_and_sums_of_products_with_an_outside_value_stay_step_by_step():
    def f(again, state, xs):
        def step(carry, x):
            h, total = carry
            h = ops.tanh(h + x)
            return (h, total + h @ again), ops.sin(h) @ ops.cos(h).T

        return ops.scan(step, (state, state), xs)

    after = rewritten(f, AGAIN, STATE, np.ones((5, 4, 6), np.float32), transform=simplify)
    assert contractions(after) == [0, 2]


def test_operands_are_not_kept_where_that_costs_more_than_it_saves():
    def f(state, xs):
        def step(carry, x):
            h, total = carry
            h = ops.tanh(h + x)
            return (h, total + ops.contract(h, ops.cos(h), spec="ij,ij->j")), None

        return ops.scan(step, (state, np.zeros(6, np.float32)), xs)[0][1]

    after = rewritten(f, STATE, np.ones((5, 4, 6), np.float32), transform=simplify)
    assert contractions(after) == [0, 1]


def sums(graph):
    return [[n.op for n in g.nodes].count("sum") for g in (graph, *(s.params["body"] for s in scans(graph)))]


def test_a_sum_over_all_steps_is_one_sum_after_the_loop():
    def f(c, state, xs):
        return ops.sum(ops.scan(lambda h, x: (lambda new: (new, new))(ops.tanh(x * (h + c))), state, xs)[1])

    after = rewritten(bl.grad(f), np.ones(6, np.float32), STATE, np.ones((5, 4, 6), np.float32), transform=simplify)
    assert sums(after)[1:] == [0, 0]  # of the loops; the gradient of c is the sum of what the backward one keeps
    assert after.outputs[0].op == "sum"

    def growing(c, state, xs):
        """What would be kept is more than all that the loop goes through."""
        return ops.scan(lambda h, x: (h + ops.sum(ops.exp(c * x), 0), None), state, xs)[0]

    wide = np.ones((50, 1), np.float32)
    after = rewritten(growing, wide, np.zeros(6, np.float32), np.ones((5, 6), np.float32), transform=simplify)
    assert sums(after) == [0, 1]


def test_a_loop_in_a_loop():
    def f(c, w, xs):
        def step(c, x):
            inner, _ = rnn(c, w, ops.broadcast_to(x, (4, 3)))
            return inner, inner * 2.0

        h, ys = ops.scan(step, c, xs)
        return ops.sum(h) + ops.sum(ys)

    after = rewritten(bl.value_and_grad(f, argnums=(0, 1)), C0, W, XS, transform=simplify)
    assert len(scans(after)) == 2
    for outer in scans(after):
        (inner,) = scans(outer.params["body"])
        assert XS.shape not in [i.type.shape for i in inner.inputs]


def test_nothing_to_do_gives_the_same_object():
    graph = bl.trace(rnn, C0, W, XS)
    plain = bl.trace(ops.exp, XS)
    for transform in (simplify_loops, batch_loops):
        assert transform(graph) is graph
        assert transform(plain) is plain
