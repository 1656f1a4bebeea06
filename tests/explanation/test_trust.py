"""The trust property on random graphs: printed lines are true, the gradient is that of `bl.grad`, differences agree.

And that it can fail: a formula that does not give the number of the run is refused, never printed.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backlit as bl
from backlit import ops
from backlit.errors import LegalityError
from backlit.explanation.expressions import product, total
from backlit.explanation.numbers import fitted, show
from backlit.explanation.steps import Number, Operand, Symbol

from .reading import agrees, check_lines, check_locals, read

# op of one value, smooth and bounded, so that finite differences hold
UNARY = [
    ops.tanh,
    ops.sigmoid,
    ops.softplus,
    ops.sin,
    lambda x: ops.exp(-x * x),
    lambda x: ops.sqrt(x * x + 1.0),
    lambda x: ops.log(x * x + 2.0),
    lambda x: x / (1.5 + ops.cos(x)),
    lambda x: (x + 0.3) ** 3,
    lambda x: -x,
    lambda x: ops.gelu(x),
    lambda x: ops.flip(x),
    lambda x: ops.softmax(x) if x.ndim else x,
    lambda x: ops.log_softmax(x) if x.ndim else x,
    lambda x: ops.cumulative_sum(x, -1) if x.ndim else x,
    lambda x: x - ops.mean(x, -1, keepdims=True) if x.ndim else x,
    lambda x: ops.layer_norm(x) if x.ndim else x,
    lambda x: ops.transpose(x),
    lambda x: ops.reshape(x, -1),
    lambda x: ops.sum(x * x, 0) if x.ndim else x,
    lambda x: x[..., ::2] if x.ndim else x,
]


def _matmul(a, b):
    if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0]:
        return a @ b
    return a @ ops.transpose(b) if a.ndim == b.ndim == 2 and a.shape == b.shape else _product(a, b)


def _fit(a, b):
    """Both at a common shape, if there is one."""
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return ops.sum(a), ops.sum(b)
    return a, b


def _product(a, b):
    a, b = _fit(a, b)
    return a * b


def _sum(a, b):
    a, b = _fit(a, b)
    return a + b


def _quotient(a, b):
    a, b = _fit(a, b)
    return a / (ops.tanh(b) + 2.0)


def _loop(a, b):
    a, b = ops.sum(a), ops.reshape(b, -1)

    def step(h, x):
        h = ops.tanh(0.5 * h * a + x)
        return h, h * x

    return ops.scan(step, 0.1 * a, b)[1]


BINARY = [_matmul, _product, _sum, _quotient, _loop, lambda a, b: _sum(a, -b)]

step = st.tuples(st.booleans(), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))


def program(steps):
    def loss(w, x):
        values = [w, x]
        for unary, which, i, j in steps:
            a, b = values[i % len(values)], values[-1 - j % min(3, len(values))]
            value = UNARY[which % len(UNARY)](b) if unary else BINARY[which % len(BINARY)](a, b)
            values.append(value)
        everything = ops.sum(values[-1]) + 0.25 * ops.sum(values[len(values) // 2] * values[len(values) // 2])
        return everything

    return loss


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    steps=st.lists(step, min_size=1, max_size=7),
    shape=st.sampled_from([(), (3,), (2, 3), (1, 2), (2, 9)]),
    seed=st.integers(0, 10**6),
    terms=st.sampled_from([1, 3, 6]),
    digits=st.sampled_from([3, 6, 10]),
    view=st.sampled_from(["deltas", "deltas", "paths"]),
    single=st.booleans(),
)
def test_every_printed_line_is_true(steps, shape, seed, terms, digits, view, single):
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    w, x = (np.asarray(rng.uniform(-1, 1, shape), dtype) for _ in range(2))
    loss = program(steps)
    element = tuple(int(rng.integers(n)) for n in shape)
    wrt = f"w[{', '.join(map(str, element))}]" if shape else "w"
    d = bl.explain(loss, w, x, wrt=wrt, terms=terms, digits=digits, view=view)
    check_lines(d)
    if not single:
        check_locals(d)
        assert "rounding" not in d.text()  # no line needs a term of its own for it
    gradient = bl.grad(loss)(w, x)[element]
    size = max(1.0, float(np.max(np.abs(bl.grad(loss)(w, x)))))
    assert d.value == pytest.approx(float(gradient), abs=size * (1e-4 if single else 1e-12))
    quotient, difference = d.steps[-2], d.steps[-1]
    assert quotient.kind == difference.kind == "check"
    assert quotient.value == pytest.approx(float(gradient), abs=size * (2e-3 if single else 2e-6))


@pytest.mark.full
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(step, min_size=1, max_size=14),
    shape=st.sampled_from([(), (3,), (2, 3), (1, 2), (3, 3), (12,)]),
    seed=st.integers(0, 10**6),
    terms=st.sampled_from([1, 2, 4, 6, 20]),
    single=st.booleans(),
)
def test_every_printed_line_of_larger_graphs_is_true(steps, shape, seed, terms, single):
    rng = np.random.default_rng(seed)
    w, x = (np.asarray(rng.uniform(-1, 1, shape), np.float32 if single else np.float64) for _ in range(2))
    element = tuple(int(rng.integers(n)) for n in shape)
    d = bl.explain(program(steps), w, x, wrt=f"w[{', '.join(map(str, element))}]" if shape else "w", terms=terms)
    check_lines(d)
    gradients = bl.grad(program(steps))(w, x)
    assert d.value == pytest.approx(
        float(gradients[element]), abs=max(1.0, float(np.max(np.abs(gradients)))) * (1e-3 if single else 1e-11)
    )


def test_a_formula_that_does_not_give_the_value_is_refused():
    a, b = (Operand(Symbol(n), v, n) for n, v in (("a", 0.5), ("b", 3.0)))
    fitted(product([a, b]), 1.5, 6)
    with pytest.raises(LegalityError, match=r"where the run gave 1\.6"):
        fitted(product([a, b]), 1.6, 6)


@pytest.mark.parametrize("factor", [1.5, 1.005, 1.000001])
def test_a_closed_form_that_is_slightly_wrong_is_refused(monkeypatch, factor):
    """Not printed with fewer digits, nor made up for by a term for rounding."""
    from backlit.explanation import composites

    right = composites._softmax_share

    def share(c, outer):
        return lambda r, element: product([Number(factor), right(c, outer)(r, element)])

    monkeypatch.setattr(composites, "_softmax_share", share)
    with pytest.raises(LegalityError):
        bl.explain(lambda x: ops.sum(ops.softmax(x) * np.arange(3.0)), np.array([0.1, 0.2, 0.7]), wrt="x[0]")


def test_a_wrong_gradient_rule_cannot_be_explained_away(monkeypatch):
    """The closed form of softmax is held against what the run gave."""
    from backlit.explanation import composites

    def share(c, outer):
        return lambda r, element: r.at(c.y, element)

    monkeypatch.setattr(composites, "_softmax_share", share)
    with pytest.raises(LegalityError):
        bl.explain(lambda x: ops.sum(ops.softmax(x) * np.arange(3.0)), np.array([0.1, 0.2, 0.7]), wrt="x[0]")


@pytest.mark.parametrize("digits", [2, 4, 6, 9, 15])
@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=5),
    factor=st.floats(-1e3, 1e3, allow_subnormal=False),
)
@settings(max_examples=60, deadline=None)
def test_digits_are_chosen_so_that_a_sum_is_true(values, factor, digits):
    terms = [product([Number(factor), Operand(Symbol(f"x{i}"), v, f"x{i}")]) for i, v in enumerate(values)]
    value = sum(factor * v for v in values)
    from backlit.explanation.notation import TEXT, write

    e, text = fitted(total(terms), value, digits)
    assert agrees(read(write(e, TEXT, numbers=True)), text)


def test_cancellation_prints_as_many_digits_as_it_takes():
    a, b = Operand(Symbol("a"), 1.0000000123, "a"), Operand(Symbol("b"), 1.0, "b")
    from backlit.explanation.expressions import negative
    from backlit.explanation.notation import TEXT, write

    e, text = fitted(total([a, negative(b)]), 1.0000000123 - 1.0, 4)
    assert text == "1.23e-8"
    assert write(e, TEXT, numbers=True) == "1.0000000123 - 1"


def test_the_rounding_of_the_run_is_a_term_of_its_own_where_nothing_else_is_left():
    a, b, c = (np.float32(v) for v in (0.1, 0.2, 0.3))
    found = (a + b) - c  # not what the exact numbers give

    d = bl.explain(lambda a, b, c: (a + b) - c, a, b, c, wrt="a")
    loss = next(s for s in d if s.kind == "loss")
    assert agrees(float(found), loss.text)
    check_lines(d)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.5, 6, "0.5"),
        (1 / 3, 4, "0.3333"),
        (123456.0, 3, "123456"),
        (1234567890123.0, 3, "1.23e12"),
        (1.5e-7, 6, "1.5e-7"),
        (-0.0, 6, "0"),
        (float("nan"), 6, "nan"),
        (float("-inf"), 6, "-inf"),
        (True, 6, "1"),
        (7, 1, "7"),
        (2.5e20, 6, "2.5e20"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value, digits, text):
    assert show(value, digits) == text
