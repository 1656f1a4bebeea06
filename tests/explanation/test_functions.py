"""Functions of every shape, explained: all lines true and the gradient that of `bl.grad`, in every view and form."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops

from .reading import check_lines, check_locals
from .test_worked import equation

X = np.random.default_rng(0).normal(size=(20, 3))
Y = X @ np.array([1.0, 2.0, 3.0])
one = np.float64


def deep(w):
    h = w
    for _ in range(60):
        h = ops.tanh(h * 1.01)
    return h


def loop(u, x):
    def step(h, x):
        h = ops.tanh(u * h + x)
        return h, h * 2.0

    h, ys = ops.scan(step, np.array([0.1, 0.2]), x, reverse=True)
    return ops.sum(ys * ys) + ops.sum(h)


def nested(u, x):
    def outer(c, row):
        def inner(h, x):
            h = ops.sin(h * u + x)
            return h, None

        c, _ = ops.scan(inner, c, row)
        return c, c

    c, y = ops.scan(outer, one(0.1), x)
    return c + ops.sum(y)


CASES = {
    "arrays from outside": (lambda w: ops.mean((X @ w - Y) ** 2), [np.ones(3)], "w[1]"),
    "a gradient within": (lambda w: ops.sum(bl.grad(lambda v: ops.sum(ops.tanh(v) ** 3))(w) ** 2), [X[0]], "w[0]"),
    "deep": (deep, [one(0.5)], "w"),
    "a long sum of Python's": (lambda w: sum([w * i for i in range(200)], one(0.0)), [one(0.5)], "w"),
    "a loop": (loop, [one(0.5), X[:3, :2]], "u"),
    "loops in loops": (nested, [one(0.5), X[:2]], "u"),
    "half precision": (lambda w, x: ops.sum(ops.tanh(w @ x)), [X[:3].astype("f2"), X[4].astype("f2")], "w[0, 1]"),
    "Python's floats": (lambda w, x: (w * x - 1.0) ** 2, [0.1, 0.3], "w"),
    "branches": (lambda w: ops.sum(ops.where(w > 0.0, w * w, ops.exp(w))), [X[0]], "w[0]"),
    "a tie": (lambda w: ops.maximum(w, 0.5) * 3.0, [one(0.5)], "w"),
    "a tie of many": (lambda w: ops.max(w) ** 2, [np.array([1.0, 2.0, 2.0])], "w[1]"),
    "sorted": (lambda w: ops.sum(ops.sort(w) * np.arange(5.0)), [np.array([3.0, 1, 2, 5, 4])], "w[2]"),
    "a product": (lambda w: ops.prod(w), [np.array([3.0, 1, 2, 5, 4])], "w[2]"),
    "a deviation": (lambda w: ops.std(w), [X[0]], "w[2]"),
    "a power": (lambda w, n: w**n, [one(1.5), one(2.5)], "n"),
    "a wrapped number": (lambda w: ops.remainder(w, 1.7) * w, [one(4.5)], "w"),
    "an index": (lambda w, i: w[i] * 2.0, [X[0], np.array(1)], "w[1]"),
    "random numbers": (
        lambda w, k: ops.sum(ops.random.normal(k, (3,), "float64") * w),
        [X[0], ops.random.key(0)],
        "w[1]",
    ),
    "three matrices": (lambda a, b, c: ops.einsum("ij,jk,kl->", a, b, c), [X[:3], X[3:6], X[6:9]], "a[0, 1]"),
    "a batch of matrices": (
        lambda a, b: ops.sum((a @ b) ** 2),
        [X[:6].reshape(2, 3, 3), X[6:12].reshape(2, 3, 3)],
        "a[0, 1, 2]",
    ),
    "attention": (
        lambda q, k, v: ops.sum(ops.attention(q, k, v, causal=True) ** 2),
        [X[:3], X[3:6], X[6:9]],
        "q[1, 1]",
    ),
    "large logits": (lambda x: ops.sum(ops.softmax(x) ** 2), [X[0] * 1000], "x[1]"),
    "softmax down": (lambda x: ops.sum(ops.softmax(x, 0) ** 2), [X[:4]], "x[1, 1]"),
    "log-sum-exp": (lambda x: ops.sum(ops.logsumexp(x, 0) ** 2), [X[:4]], "x[1, 2]"),
    "log-softmax and more": (lambda x: ops.sum(ops.log_softmax(x) ** 2) + ops.sum(x * x), [X[:2]], "x[1, 1]"),
    "many classes": (lambda x: -2.0 * ops.log_softmax(x)[3], [np.linspace(0.0, 1.0, 300)], "x[3]"),
    "a transposed convolution": (
        lambda x, w: ops.sum(ops.conv_transpose(x, w, 2) ** 2),
        [X[:2].reshape(1, 2, 3, 1), X[:3].reshape(3, 3, 1, 1)],
        "w[1, 1, 0, 0]",
    ),
    "nothing": (lambda x: ops.sum(x * 0.0) + 1.0, [X[0]], "x[0]"),
    "infinite": (lambda w: ops.log(w), [one(0.0)], "w"),
    "not a number": (lambda w: ops.sqrt(w), [one(-1.0)], "w"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("view", ["deltas", "paths", "matrix"])
def test_functions_of_every_shape(case, view):
    f, arguments, wrt = CASES[case]
    d = bl.explain(f, *arguments, wrt=wrt, view=view, verify=False)
    check_lines(d)
    element = tuple(int(i) for i in wrt[wrt.index("[") + 1 : -1].split(",")) if "[" in wrt else ()
    expected = bl.grad(f, wrt=wrt.split("[")[0])(*arguments)
    size = float(np.max(np.abs(expected))) if np.all(np.isfinite(expected)) else 1.0
    rough = 2e-2 if case == "half precision" else 1e-9
    assert d.value == pytest.approx(float(expected[element]), rel=1e-9, abs=rough * max(size, 1e-3), nan_ok=True)
    d.html(), d.latex(), d.json(), d.markdown()


def test_arrays_from_outside_keep_their_names():
    d = bl.explain(lambda w: ops.mean((X @ w - Y) ** 2), np.ones(3), wrt="w[1]", view="matrix")
    assert equation(d, "u1").symbolic == "X @ w - Y"
    assert equation(d, "X").text == "⟨20×3⟩"
    assert equation(d, "∂f/∂w").symbolic == "Xᵀ @ (∂f/∂u1)"


def test_an_expression_that_is_used_again_gets_a_letter():
    d = bl.explain(lambda w, x: ops.sigmoid(ops.tanh(w * x) * w) ** 2, one(0.3), one(0.7), wrt="w")
    assert equation(d, "u1").symbolic == "tanh(w·x)"
    check_lines(d)


def test_names_that_are_taken_are_not_given_again():
    def f(u1, x):
        return ops.tanh(ops.sigmoid(u1 * x) * u1)

    d = bl.explain(f, one(0.3), one(0.7), wrt="u1")
    assert len({(s.symbol.name, s.symbol.over, s.symbol.index) for s in d if s.kind in ("given", "forward")}) == len(
        [s for s in d if s.kind in ("given", "forward")]
    )
    check_lines(d)


def test_a_residual_join_has_two_ways():
    def f(w, x):
        h = ops.tanh(w * x)
        y = x + h
        E = y * y
        return E

    d = bl.explain(f, one(0.4), one(0.9), wrt="x")
    assert check_locals(d) == 3  # each derivative is the one that its name says
    gradient = equation(d, "∂E/∂x")
    assert gradient.symbolic == "∂E/∂y + ∂E/∂h·(1 - h^2)·w"  # both are the same node of the reverse-mode graph
    assert equation(d, "∂E/∂h").symbolic == "∂E/∂y"
    assert {s.sentence for s in d if s.kind == "path"} > {"Along x → y → E.", "Along x → h → y → E."}
    assert gradient.chain is not None
    assert gradient.sentence == "x reaches the loss in 2 ways, and they add up."
    check_lines(d)


def test_a_shut_gate_is_told():
    d = bl.explain(lambda w, x: ops.relu(w * x) * 3.0, one(0.4), one(-0.9), wrt="w")
    assert d.value == 0
    assert any(s.sentence.startswith("Nothing passes here") for s in d)
