"""The native executor computes what the reference executor does: every op, networks and their gradients, random graphs.

Tolerances: arithmetic, movement and comparisons are exact. exp, log, tanh and their kin differ by a few units in the
last place, and sums by their order, so results agree to 1e-5 of the largest number for float32 and 1e-12 for float64.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.plan import plan
from backlit.executors.reference import Reference
from backlit.ir import Graph, Type
from backlit.ops.record import OPS, wrap
from backlit.passes import simplify
from backlit.tracing import Traced, emit, input_node

from . import programs

NATIVE, REFERENCE = Native(), Reference()
TOLERANCE = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}
EXACT = [
    "add", "subtract", "multiply", "divide", "negative", "sqrt", "abs", "sign", "floor", "round", "maximum",
    "minimum", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bitwise_invert", "bitwise_left_shift", "bitwise_right_shift", "where", "cast",
    "stop_gradient", "reshape", "permute_dims", "broadcast_to", "slice", "pad", "flip", "concat", "iota",
    "gather", "argmax", "argmin", "argsort", "windows", "threefry2x32", "floor_divide", "remainder", "max",
    "min", "relu",
]  # fmt: skip


def assert_close(got, wanted, exact=False):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    if exact or wanted.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted)
    else:
        tolerance = TOLERANCE[wanted.dtype.name]
        finite = np.abs(wanted[np.isfinite(wanted)])
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * finite.max(initial=0))


def both(graph, arrays, executor=NATIVE):
    return executor.compile(graph)(*arrays), REFERENCE.compile(graph)(*arrays)


def sample(rng, spec, dtype):
    dtype = np.dtype(spec.dtype or dtype)
    numbers = rng.uniform(spec.low, spec.high, spec.shape)
    if dtype == np.bool_:
        return np.asarray(numbers > 0)
    return np.asarray(np.rint(numbers).astype(np.int64) if dtype.kind in "iu" else numbers).astype(dtype)


def every_case(op, dtype, rng=None):
    """One graph of all sample applications of an op to values of a dtype, and its arguments."""
    rng = rng or np.random.default_rng(0)
    inputs, arrays, outputs = [], [], []
    for case in op.cases():
        given_arrays = [sample(rng, spec, dtype) for spec in case.inputs]
        nodes = [input_node(Type(a.dtype, a.shape), f"x{len(inputs) + i}") for i, a in enumerate(given_arrays)]
        try:
            types = op.types([n.type for n in nodes], case.params)
        except bl.errors.Error:
            continue  # the op does not take this dtype
        found = wrap(emit(op.name, [Traced(n) for n in nodes], types, case.params))
        outputs += [f.node for f in (found if isinstance(found, tuple) else (found,))]
        inputs += nodes
        arrays += given_arrays
    return Graph(tuple(inputs), tuple(outputs), op.name), arrays


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op(name):
    for dtype in ("float32", "float64", "int32", "uint8", "bool"):
        graph, arrays = every_case(OPS[name], dtype)
        if graph.outputs:
            for got, wanted in zip(*both(graph, arrays), strict=True):
                assert_close(got, wanted, exact=name in EXACT)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(OPS))
@pytest.mark.parametrize("target", ["avx2", "sse2"])
def test_every_op_on_smaller_processors(name, target):
    for dtype in ("float32", "float64", "int64"):
        graph, arrays = every_case(OPS[name], dtype)
        if graph.outputs:
            for got, wanted in zip(*both(graph, arrays, Native(target)), strict=True):
                assert_close(got, wanted, exact=name in EXACT)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-40, -1e-40, 1e30, -1e30, 89.0, -104.0, np.inf, -np.inf, np.nan, 2.5, -3.5]


@pytest.mark.parametrize(
    "name", sorted(n for n, op in OPS.items() if op.scalar is not None and op.family == "elementwise")
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(name, dtype):
    """nan, infinities, signed zeros and denormals, in every pairing."""
    op = OPS[name]
    arity = len(op.cases()[0].inputs)
    x = np.array(SPECIAL, dtype)
    arrays = [x, *([x[:, None]] if arity > 1 else [])]
    if name == "where":
        arrays = [x > 0, x[:, None], x]
    if arity > 3 or "f" not in op.kinds or name == "cast":
        pytest.skip("takes no floating-point numbers")
    graph = bl.trace(lambda *xs: op(*xs), *arrays)
    (got,), (wanted,) = both(graph, arrays)
    if name in EXACT:
        np.testing.assert_array_equal(got, wanted)
        return
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(wanted))
    finite = np.isfinite(wanted)
    least = np.finfo(dtype).tiny
    np.testing.assert_allclose(got[finite], wanted[finite], rtol=TOLERANCE[dtype], atol=least)
    zero = finite & (wanted == 0)
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(wanted[zero]))


CASES = sorted(programs.cases("float32"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_and_gradients(name, dtype):
    function, args, scalar = programs.cases(dtype)[name]
    graph = bl.trace(bl.value_and_grad(function) if scalar else function, *args)
    for got, wanted in zip(*both(graph, programs.leaves(args)), strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("name", ["odd_mlp", "convolution", "lstm", "attention"])
@pytest.mark.parametrize("target", ["avx2", "sse2"])
def test_networks_on_smaller_processors(name, target):
    function, args, _ = programs.cases("float32")[name]
    graph = bl.trace(bl.value_and_grad(function), *args)
    for got, wanted in zip(*both(graph, programs.leaves(args), Native(target)), strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("name", ["odd_mlp", "convolution", "lstm", "attention", "embedding", "batch_norm", "movement"])
def test_the_same_bits_for_any_number_of_threads(name):
    function, args, _ = programs.cases("float32")[name]
    graph = simplify(bl.trace(bl.value_and_grad(function), *args))
    given_arrays = [np.array(a) for a in programs.leaves(args)]
    found = []
    for shares in (1, 2, 3):
        code = Code(Artifact.of(plan(graph), NATIVE.target, shares), NATIVE.target)
        code.seconds = 1.0  # worth waking helpers for
        for _ in range(3):
            results = [np.empty(o.type.shape, o.type.dtype) for o in graph.outputs]
            code.run([*given_arrays, *results], 0, 1)
            found.append(results)
    for results in found[1:]:
        for a, b in zip(found[0], results, strict=True):
            np.testing.assert_array_equal(a, b)


# --- random graphs ----------------------------------------------------------------------------------------------------

UNARY = [ops.tanh, ops.exp, ops.abs, ops.sigmoid, lambda x: x * x, lambda x: -x, ops.relu, lambda x: ops.sin(x)]
BINARY = [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b, ops.maximum]
SHAPING = [
    lambda x: x.T,
    lambda x: ops.reshape(x, (x.size,)),
    lambda x: ops.reshape(x, (x.size // x.shape[-1], x.shape[-1])),
    lambda x: ops.flip(x),
    lambda x: x[..., 1:] if x.shape[-1] > 1 else x,
    lambda x: ops.pad(x, 1),
    lambda x: ops.concat([x, x], 0),
    lambda x: ops.sum(x, -1, keepdims=True),
    lambda x: ops.max(x, 0, keepdims=True),
    lambda x: ops.broadcast_to(ops.mean(x, 0), x.shape),
]


@st.composite
def random_program(draw):
    """Steps of a program on one matrix: each takes an earlier value and makes one more."""
    steps = draw(st.lists(st.tuples(st.integers(0, 21), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12))

    def run(x):
        values = [x]
        for kind, i, j in steps:
            a, b = values[i % len(values)], values[j % len(values)]
            if kind < len(UNARY):
                values.append(UNARY[kind](a))
            elif kind < len(UNARY) + len(BINARY):
                values.append(BINARY[kind - len(UNARY)](a, b if a.shape == b.shape else a))
            else:
                values.append(SHAPING[kind - len(UNARY) - len(BINARY)](a))
            values[-1] = ops.tanh(values[-1]) if values[-1].size < 400 else values[0]
        return values[-3:]

    return run


@settings(max_examples=40, deadline=None)
@given(random_program(), st.integers(1, 5), st.integers(1, 19))
def test_random_graphs(run, rows, columns):
    x = np.random.default_rng(rows * 31 + columns).standard_normal((rows, columns))
    graph = bl.trace(run, x)
    for got, wanted in zip(*both(graph, [x]), strict=True):
        assert_close(got, wanted)


# --- products of every kind -------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["ij,jk->ik", "ij,kj->ik", "ji,jk->ik", "ji,kj->ik", "ij,jk->ki", "bij,bjk->bik", "bij,jk->bik",
                     "bij,bik->jk", "i,ij->j", "ij,j->i", "ij,ij->", "i,j->ij", "abi,cbi->cab"]),
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3),
    st.sampled_from(["float32", "float64"]),
)  # fmt: skip
def test_products(spec, i, j, k, b, dtype):
    sizes = {"i": i, "j": j, "k": k, "b": b, "a": 2, "c": k}
    left, right = spec.split("->")[0].split(",")
    n = programs.Normal(dtype, i * j + k)
    arrays = [n(*(sizes[c] for c in term)) for term in (left, right)]
    graph = bl.trace(lambda x, y: ops.relu(ops.einsum(spec, x, y) + 1.0), *arrays)
    terms = np.einsum(spec, *map(np.abs, arrays)).max() + 1  # which may cancel one another
    for got, wanted in zip(*both(graph, arrays), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=TOLERANCE[dtype], atol=4 * np.finfo(dtype).eps * terms)
