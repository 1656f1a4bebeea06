"""Dtype promotion, Python numbers, broadcasting, and the operators of traced values."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError
from backlit.ops.record import OPS

DTYPES = [np.dtype(d) for d in ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]]


def standard(a, b):
    """The array API standard's table: within floats, within integers where it names a result, else none."""
    kinds = a.kind + b.kind
    if kinds == "ff" or kinds in ("ii", "uu", "bb"):
        return max(a, b, key=lambda d: d.itemsize)
    if sorted(kinds) == ["i", "u"]:
        signed, unsigned = (a, b) if a.kind == "i" else (b, a)
        size = max(signed.itemsize, 2 * unsigned.itemsize)
        return np.dtype(f"i{size}") if size <= 8 else None
    return None


@pytest.mark.parametrize("a", DTYPES, ids=str)
@pytest.mark.parametrize("b", DTYPES, ids=str)
def test_promotion_is_the_standards(a, b):
    x, y = np.ones(2, a), np.ones(2, b)
    op = ops.bitwise_and if a.kind == b.kind == "b" else ops.add
    wanted = standard(a, b)
    if wanted is None:
        with refuses(DtypeError, "do not mix"):
            op(x, y)
    else:
        assert op(x, y).dtype == wanted
        assert bl.trace(lambda x, y: op(x, y), x, y).outputs[0].type.dtype == wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [True, 2, 2.0])
def test_python_numbers_take_the_dtype_beside_them(dtype, number):
    x = np.ones(2, dtype)
    fits = {"b": bool, "i": int, "u": int, "f": (int, float)}[dtype.kind]
    allowed = isinstance(number, fits) and (isinstance(number, bool) == (dtype.kind == "b"))
    for f in (lambda x: ops.equal(x, number), lambda x: ops.equal(number, x)):
        if allowed:
            assert f(x).shape == (2,)
            assert bl.trace(f, x).nodes[-1].inputs[0].type.dtype == dtype
        else:
            with refuses(DtypeError, "does not mix|takes"):
                f(x)


def test_numbers_among_themselves():
    assert ops.add(1, 2).dtype == np.int64
    assert ops.add(1, 2.0).dtype == np.float32
    assert ops.add(1.0, 2.0).dtype == np.float32
    assert ops.sqrt(2.0).dtype == np.float32
    assert ops.multiply(np.float64(2), 3).dtype == np.float64


@pytest.mark.parametrize(("dtype", "number"), [("int8", 128), ("int8", -129), ("uint8", -1), ("uint32", 2**32)])
def test_numbers_that_do_not_fit(dtype, number):
    with refuses(DtypeError, f"{number} does not fit in "):
        ops.add(np.ones(2, dtype), number)


OPERATORS = [
    (operator.add, "f"), (operator.sub, "f"), (operator.mul, "f"), (operator.truediv, "f"), (operator.floordiv, "f"),
    (operator.mod, "f"), (operator.pow, "f"), (operator.lt, "f"), (operator.le, "f"), (operator.gt, "f"),
    (operator.ge, "f"), (operator.eq, "f"), (operator.ne, "f"), (operator.matmul, "f"), (operator.and_, "i"),
    (operator.or_, "i"), (operator.xor, "i"), (operator.lshift, "i"), (operator.rshift, "i"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "kind"), OPERATORS, ids=lambda v: getattr(v, "__name__", ""))
def test_operators_are_numpys(f, kind):
    """Both operands traced, or one of them an array or a number, on either side."""
    x = np.array([[1.5, 2.0], [3.0, 0.5]]) if kind == "f" else np.array([[1, 2], [3, 0]])
    y = np.array([[2.0, 1.0], [0.5, 3.0]]) if kind == "f" else np.array([[2, 1], [0, 3]])
    number = x.dtype.type(2).item()
    programs = [lambda a, b: f(a, b), lambda a, b: f(a, y), lambda a, b: f(x, b)]
    if f is not operator.matmul:
        programs += [lambda a, b: f(a, number), lambda a, b: f(number, b), lambda a, b: f(a, x.dtype.type(2))]
        programs += [lambda a, b: f(x.dtype.type(2), b)]
    for program in programs:
        found = bl.compile(program, executor="reference")(x, y)
        np.testing.assert_array_equal(found, program(x, y))
        assert found.dtype == program(x, y).dtype


def test_unary_operators():
    x, n = np.array([-1.5, 2.0]), np.array([1, -2])
    for f, at in [(operator.neg, x), (abs, x), (operator.invert, n), (operator.invert, x > 0), (operator.pos, x)]:
        np.testing.assert_array_equal(bl.compile(f, executor="reference")(at), f(at))


def test_properties_of_traced_values():
    def f(x):
        assert x.shape == (2, 3)
        assert x.ndim == 2
        assert x.size == 6
        assert x.dtype == np.float64
        assert len(x) == 2
        first, second = x
        return first + second, x.T, x.mT

    x = np.arange(6.0).reshape(2, 3)
    for a, b in zip(bl.compile(f, executor="reference")(x), (x[0] + x[1], x.T, x.T), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numpys_functions_that_are_ops():
    """np.tanh(x) of a traced value is ops.tanh(x): functions written for NumPy can be traced."""

    def f(x):
        return np.tanh(np.exp(np.maximum(x, 0.5)))

    x = np.linspace(-1, 1, 5)
    np.testing.assert_array_equal(bl.compile(f, executor="reference")(x), f(x))
    assert [n.op for n in bl.trace(f, x).nodes if n.inputs] == ["maximum", "exp", "tanh"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=2, max_size=2))
def test_broadcasting_is_numpys(shapes):
    x, y = (np.zeros(s) for s in shapes)
    try:
        wanted = np.broadcast_shapes(*shapes)
    except ValueError:
        with refuses(ValueError, "do not broadcast"):
            ops.add(x, y)
        return
    assert ops.add(x, y).shape == wanted
    gradients = bl.grad(lambda x, y: ops.sum(ops.add(x, y)), (0, 1))(x, y)
    for g, s in zip(gradients, shapes, strict=True):
        assert g.shape == s
        np.testing.assert_array_equal(g, np.prod(wanted) / max(1, np.prod(s)) if np.prod(wanted) else 0)


@pytest.mark.parametrize("name", sorted(set(OPS) & set(ops.__all__)))
def test_every_public_op_says_what_it_does(name):
    f = getattr(ops, name)
    assert f.__doc__
    assert f.__doc__.strip().endswith(".")
