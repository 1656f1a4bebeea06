"""scan against jax.lax.scan: values and gradients to second order, in every way that it can be used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax_oracle import assert_same, in_x64
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import GradientError, ShapeError, StructureError
from backlit.legality import check

RANDOM = np.random.default_rng(10)
W, X, H = RANDOM.normal(size=(3, 3)) * 0.5, RANDOM.normal(size=(5, 3)), RANDOM.normal(size=3)


def recurrent(np, scan, **how):
    """h' = tanh(W h + x): W and b come from outside, both as traced values."""

    def f(w, b, h, xs):
        scale = np.exp(b)  # computed once, outside

        def step(h, x):
            h = np.tanh(w @ h + x * scale)
            return h, np.sum(h * h)

        return scan(step, h, xs, **how)

    return f


def trees(np, scan):
    """A dict as carry, a tuple as element, a dict as result."""

    def f(a, b, xs, ys):
        def step(carry, element):
            x, y = element
            new = {"last": x, "total": carry["total"] + x * y}  # JAX sorts the keys
            return new, {"both": (new["total"], x), "seen": carry["last"] * y}

        return scan(step, {"last": b, "total": a}, (xs, ys))

    return f


def nested(np, scan):
    """The inner loop uses the carry of the outer one and a value from outside both."""

    def f(w, h, xs):
        def outer(h, x):
            def inner(c, y):
                c = np.tanh(c * w + y + h)
                return c, c * x

            return scan(inner, h, xs)

        h, ys = scan(outer, h, xs)
        return h, ys

    return f


def no_sequence(np, scan):
    def f(w, h):
        return scan(lambda h, _: (np.sin(w * h), h), h, None, length=4)

    return f


def counter(np, scan):
    """An integer in the carry picks the row."""

    def f(h, xs):
        def step(carry, _):
            i, h = carry
            return (i + 1, h * np.take(xs, i, 0)), i

        (i, h), seen = scan(step, (0 if np is ops else jnp.int64(0), h), None, length=4)
        return i, h, seen

    return f


def linear(np, scan):
    """Its derivative needs no value of the forward pass, and there is one result."""

    def f(h, xs):
        return scan(lambda h, x: (h * 0.5 + x, None), h, xs)[0]

    return f


def unused(np, scan):
    """A carry that does not reach the result, and a result that no input reaches."""

    def f(h, k, xs):
        def step(carry, x):
            h, k = carry
            return (h * x, k + 1.0), np.ones_like(x) if np is jnp else ops.stop_gradient(x * 0.0 + 1.0)

        (h, _), ones = scan(step, (h, k), xs)
        return h, ones

    return f


CASES = {
    "recurrent": (lambda np, scan: recurrent(np, scan), W, H, H, X),
    "recurrent, reversed": (lambda np, scan: recurrent(np, scan, reverse=True), W, H, H, X),
    "of length 1": (lambda np, scan: recurrent(np, scan), W, H, H, X[:1]),
    "of length 0": (lambda np, scan: recurrent(np, scan), W, H, H, X[:0]),
    "trees": (trees, H, H + 1, X, X * 2),
    "nested": (nested, H, H * 0.5, X),
    "no sequence": (no_sequence, H, H + 0.3),
    "a counter": (counter, H, X),
    "linear": (linear, H, X),
    "what is not used": (unused, H, H, X),
}


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    make, *arrays = CASES[name]
    assert_same(make(ops, ops.scan), make(jnp, lax.scan), *arrays, order=2)


@pytest.mark.parametrize("name", ["recurrent", "recurrent, reversed", "nested", "a counter"])
def test_by_finite_differences(name):
    make, *arrays = CASES[name]
    f = make(ops, ops.scan)

    def loss(*xs):
        leaves = bl.pytree.flatten(f(*xs))[0]
        return sum((ops.sum(y * y) for y in leaves if y.dtype.kind == "f"), start=np.float64(0))

    bl.check_grads(loss, *arrays, order=2)
    check(bl.trace(bl.grad(loss), *arrays))


def test_only_what_the_backward_pass_needs_is_kept():
    graph = bl.trace(bl.grad(lambda h, xs: ops.sum(linear(ops, ops.scan)(h, xs)), (0, 1)), H, X)
    loops = [n for n in graph.nodes if n.op == "scan"]
    assert len(loops) == 1, "the backward one"
    assert len(loops[0].params["body"].inputs) == 2, "the gradient of the state, and x for its type"


def test_third_order():
    def f(np, scan):
        def g(x):
            return scan(lambda c, _: (np.sin(c * x), None), x, None, length=3)[0]

        return g

    x = np.float64(0.7)
    ours, theirs = f(ops, ops.scan), f(jnp, lax.scan)
    for _ in range(3):
        ours, theirs = bl.grad(ours), jax.grad(theirs)
        np.testing.assert_allclose(ours(x), in_x64(theirs)(x), rtol=1e-12)


def test_at_once_on_arrays():
    carry, ys = ops.scan(lambda c, x: (c + x, c * x), np.float64(0), np.arange(4.0))
    assert isinstance(carry, np.ndarray)
    np.testing.assert_array_equal(carry, 6)
    np.testing.assert_array_equal(ys, [0, 0, 2, 9])
    mask = np.array([1.0, 0.0])
    carry, _ = ops.scan(lambda c, x: (c + x * mask, None), np.zeros(2), np.ones((3, 2)))
    np.testing.assert_array_equal(carry, [3, 0])


def test_what_does_not_depend_on_the_step_is_computed_once():
    def f(w, xs):
        return ops.scan(lambda c, x: (c + ops.exp(w) * x, None), np.zeros(3), xs)[0]

    graph = bl.trace(f, H, X)
    (loop,) = [n for n in graph.nodes if n.op == "scan"]
    assert any(n.op == "exp" for n in graph.nodes)
    assert not any(n.op == "exp" for n in loop.params["body"].nodes)


def test_gradient_through_a_closure_inside_a_gradient():
    """The body closes over values of two enclosing traces."""

    def f(a, x):
        def g(b):
            return ops.sum(ops.scan(lambda c, v: (c * a + b * v, c), b, x)[1])

        return a * bl.grad(g)(a * a)

    def jax_f(a, x):
        def g(b):
            return jnp.sum(lax.scan(lambda c, v: (c * a + b * v, c), b, x)[1])

        return a * jax.grad(g)(a * a)

    assert_same(f, jax_f, np.float64(0.8), np.arange(1.0, 4.0), order=2)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda: ops.scan(lambda c, x: (c, x), 0.0, (X, X[:2])), ShapeError, "2 elements where 5 are expected"),
        (lambda: ops.scan(lambda c, x: (c, x), 0.0, X, length=4), ShapeError, "5 elements where 4 are expected"),
        (lambda: ops.scan(lambda c, x: (c, x), 0.0), ShapeError, "pass xs or length="),
        (lambda: ops.scan(lambda c, x: (c, x), 0.0, 1.0), ShapeError, "no axis to go along"),
        (lambda: ops.scan(lambda c, x: c, 0.0, X), StructureError, "must return a pair"),
        (
            lambda: ops.scan(lambda c, x: ((c, c), x), 0.0, X),
            StructureError,
            "the body returns a carry of the structure",
        ),
        (lambda: ops.scan(lambda c, x: (c + x, x), np.float64(0), X), ShapeError, r"f64\[\] before .* f64\[3\] after"),
        (lambda: ops.scan(lambda c, x: ({"a": c["a"] + x}, x), {"a": 0.0}, X), ShapeError, "the carry a"),
        (lambda: ops.scan(lambda c, x: (c, x), 0.0, X, length=-1), ShapeError, "5 elements where -1"),
        (lambda: ops.scan(lambda c, x: (c, None), 0.0, None, length=-1), ShapeError, "-1 steps"),
    ],
)
def test_what_is_refused(f, error, message):
    with refuses(error, message):
        f()


def test_a_gradient_that_is_lost_inside_a_loop_is_told():
    def f(w, xs):
        def step(total, x):
            return total + ops.astype(ops.argmax(w * x, 0), "float64"), None

        return ops.scan(step, np.float64(0), xs)[0]

    with pytest.raises(GradientError, match="argmax"):
        bl.grad(f)(np.ones(3), np.ones((4, 3)))


def test_a_state_that_every_step_replaces_has_no_gradient_but_in_a_loop_of_no_steps():
    def f(state, xs):
        return ops.sum(ops.scan(lambda c, x: (x * 2.0, None), state, xs)[0])

    for length, expected in [(3, 0.0), (0, 1.0)]:
        assert bl.grad(f)(np.ones(2), np.ones((length, 2))).tolist() == [expected, expected]
