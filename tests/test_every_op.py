"""Every op of the registry: its record is whole, its types and gradients are right, and JAX agrees with it.

A new op is found here by itself; what its record lacks fails by name.
"""

import functools
import operator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import ORACLE, in_x64
from samples import DTYPES, arrays, cases, each_op

import backlit as bl
from backlit import ops
from backlit.executors import get
from backlit.ir import Type
from backlit.legality import check
from backlit.ops.record import ANY, OPS, Case, Notation, Op


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def type_of(array):
    return Type(array.dtype, array.shape)


# --- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_record_is_whole(op):
    assert op.doc.endswith("."), "a sentence that says what it does"
    assert isinstance(op.notation, Notation)
    assert op.notation.glyph
    assert op.notation.latex or op.notation.form == "call"
    assert set(op.kinds) <= set(ANY)
    assert op.cases(), "sample inputs"
    assert op.vjp is None or callable(op.vjp)
    assert op.name in ORACLE, f"tests/jax_oracle.py does not say what {op.name} is in JAX"


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_samples_reach_the_corners(op):
    """0-d or size-1 and empty inputs are among the samples of every op that takes them."""
    if op.family in ("random", "control") or op.name in ("threefry2x32", "iota"):
        return
    shapes = [spec.shape for case in op.cases() for spec in case.inputs]
    assert any(0 in shape for shape in shapes), "an empty input"
    if op.family != "window":
        assert any(all(n == 1 for n in shape) for shape in shapes), "a 0-d or size-1 input"


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.vjp is None], ids=lambda op: op.name)
def test_an_op_without_gradient_gives_no_floating_point_values(op):
    for case in op.cases():
        for dtype in ("float32", "int64", "uint32", "bool"):
            if np.dtype(dtype).kind in op.kinds:
                types = [type_of(x) for x in arrays(op, case, dtype)]
                assert all(t.dtype.kind != "f" for t in op.types(types, case.params))


# --- types and values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "dtype"), list(each_op(*DTYPES, "float16", "int8", "uint16", "uint64")))
def test_type_rule_says_what_numpy_gives(op, dtype):
    for case in op.cases():
        inputs = arrays(op, case, dtype)
        types = op.types([type_of(x) for x in inputs], case.params)
        direct = op.evaluate(inputs, case.params)
        assert tuple(map(type_of, direct)) == types, case
        if not inputs:
            continue
        graph = bl.trace(functools.partial(op, **case.params), *inputs)
        check(graph)
        assert tuple(o.type for o in graph.outputs) == types, case
        for a, b in zip(get("reference").compile(graph)(*inputs), direct, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("op", "dtype"), list(each_op("float32", "int32", "uint8", "bool")))
def test_values_agree_with_jax(op, dtype):
    """All cases of an op at once, since JAX takes its time to compile each function."""
    rows = [arrays(op, case, dtype) for case in op.cases()]
    oracle = in_x64(
        lambda rows: [as_tuple(ORACLE[op.name](*xs, **c.params)) for c, xs in zip(op.cases(), rows, strict=True)]
    )
    for case, inputs, wanted in zip(op.cases(), rows, oracle(rows), strict=True):
        for a, b in zip(op.evaluate(inputs, case.params), wanted, strict=True):
            assert type_of(a) == type_of(b)
            tolerance = 16 * np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- gradients --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """An application as a scalar function of its floating-point inputs: the sum of its results times fixed numbers."""

    op: Op
    case: Case
    inputs: list
    moving: list[int]
    weights: list

    @property
    def at(self):
        return [self.inputs[i] for i in self.moving]

    def scalar(self, apply, sum_of, xs):
        values = list(self.inputs)
        for i, x in zip(self.moving, xs, strict=True):
            values[i] = x
        results = as_tuple(apply(*values, **self.case.params))
        terms = [sum_of(y * w) for y, w in zip(results, self.weights, strict=True) if w is not None]
        return functools.reduce(operator.add, terms)

    def ours(self, *xs):
        return self.scalar(self.op, ops.sum, xs)

    def theirs(self, *xs):
        return self.scalar(ORACLE[self.op.name], jnp.sum, xs)


def problems(op):
    """The cases of an op that floating-point numbers go into and come out of, in float64."""
    if op.vjp is None or op.name == "stop_gradient":
        return []
    random = np.random.default_rng(1)
    found = []
    for case in cases(op, "float64"):
        inputs = arrays(op, case, "float64")
        outputs = op.evaluate(inputs, case.params)
        moving = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
        weights = [random.standard_normal(y.shape) if y.dtype == np.float64 else None for y in outputs]
        if moving and any(w is not None for w in weights):
            found.append(Problem(op, case, inputs, moving, weights))
    return found


DIFFERENTIABLE = [op for op in OPS.values() if problems(op)]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradient_agrees_with_finite_differences_to_second_order(op):
    for problem in problems(op):
        bl.check_grads(problem.ours, *problem.at, order=2, tolerance=1e-6)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradient_agrees_with_jax_to_second_order(op):
    def jax_gradients(rows, tangents):
        found = []
        for problem, xs, v in zip(chosen, rows, tangents, strict=True):
            gradient = jax.grad(problem.theirs, tuple(range(len(xs))))
            found.append(jax.jvp(gradient, tuple(xs), tuple(v)))
        return found

    chosen = problems(op)
    random = np.random.default_rng(2)
    tangents = [[random.standard_normal(x.shape) for x in p.at] for p in chosen]
    wanted = in_x64(jax_gradients)([p.at for p in chosen], tangents)
    for problem, v, (first, second) in zip(chosen, tangents, wanted, strict=True):
        numbers = tuple(range(len(v)))
        for found, want in [
            (bl.grad(problem.ours, numbers)(*problem.at), first),
            (bl.hvp(problem.ours, problem.at, v), second),
        ]:
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_forward_and_reverse_derivatives_agree(op):
    """The Jacobian-vector product is made by reversing the rule, which must therefore be linear in g."""
    random = np.random.default_rng(3)
    for problem in problems(op):
        v = [random.standard_normal(x.shape) for x in problem.at]
        _, forward = bl.jvp(problem.ours, problem.at, v)
        gradients = bl.grad(problem.ours, tuple(range(len(v))))(*problem.at)
        reverse = sum(np.sum(g * d) for g, d in zip(gradients, v, strict=True))
        np.testing.assert_allclose(forward, reverse, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_what_is_constant_is_zero():
    """No gradient passes stop_gradient or a conversion to another kind, and none is missed."""
    x = np.array([0.5, 1.5])
    np.testing.assert_array_equal(bl.grad(lambda x: ops.sum(ops.stop_gradient(x) * x))(x), x)
    cut = bl.grad(lambda x: ops.sum(x * ops.astype(ops.astype(x, "int64"), "float64")))(x)
    np.testing.assert_array_equal(cut, [0, 1])
