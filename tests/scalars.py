"""The instruction set of scalar forms (`backlit.ops.scalars`) over NumPy arrays: what compiled executors are held to.

A `Number` refuses what the protocol does not promise (mixed dtypes, Python branches on values), so a scalar form that
runs here asks a compiler for nothing else.
"""

from __future__ import annotations

import numpy as np

FLOATS, INTEGERS, NUMBERS, BITS = "f", "iu", "iuf", "biu"


class Number:
    """An array whose elements are numbers of one dtype."""

    def __init__(self, array):
        self.array = np.asarray(array)

    @property
    def dtype(self):
        return self.array.dtype

    def __bool__(self):
        raise TypeError("a scalar form branches on a value")

    def __neg__(self):
        return _apply(np.negative, NUMBERS, self)

    def __invert__(self):
        return _apply(np.invert, BITS, self)


def _operands(values):
    """Arrays of one dtype; Python numbers take it."""
    dtypes = {v.dtype for v in values if isinstance(v, Number)}
    assert len(dtypes) == 1, f"dtypes mixed in a scalar form: {dtypes}"
    (dtype,) = dtypes
    found = []
    for v in values:
        if isinstance(v, Number):
            found.append(v.array)
            continue
        assert type(v) in (bool, int, float), f"a {type(v).__name__} in a scalar form"
        assert {bool: "b", int: "iuf", float: "f"}[type(v)].count(dtype.kind), f"{v!r} beside {dtype}"
        found.append(np.asarray(v, dtype))
    return found


def _apply(f, kinds, *values):
    arrays = _operands(values)
    assert arrays[0].dtype.kind in kinds, f"{f.__name__} of {arrays[0].dtype}"
    with np.errstate(all="ignore"):
        return Number(f(*arrays))


def _operator(name, f, kinds):
    setattr(Number, f"__{name}__", lambda a, b: _apply(f, kinds, a, b))
    setattr(Number, f"__r{name}__", lambda a, b: _apply(f, kinds, b, a))


for _name, _f, _kinds in [
    ("add", np.add, NUMBERS),
    ("sub", np.subtract, NUMBERS),
    ("mul", np.multiply, NUMBERS),
    ("truediv", np.divide, FLOATS),
    ("and", np.bitwise_and, BITS),
    ("or", np.bitwise_or, BITS),
    ("xor", np.bitwise_xor, BITS),
    ("lshift", np.left_shift, INTEGERS),
    ("rshift", np.right_shift, INTEGERS),
]:
    _operator(_name, _f, _kinds)
for _name, _f, _kinds in [
    ("eq", np.equal, NUMBERS + "b"),
    ("ne", np.not_equal, NUMBERS + "b"),
    ("lt", np.less, NUMBERS),
    ("le", np.less_equal, NUMBERS),
    ("gt", np.greater, NUMBERS),
    ("ge", np.greater_equal, NUMBERS),
]:
    setattr(Number, f"__{_name}__", lambda a, b, f=_f, kinds=_kinds: _apply(f, kinds, a, b))


class NumpyScalars:
    """`Scalars` over NumPy."""

    def where(self, condition, a, b):
        assert condition.dtype == np.bool_
        if isinstance(a, Number) or isinstance(b, Number):
            a, b = _operands([a, b])
        return Number(np.where(condition.array, a, b))

    def cast(self, x, dtype):
        with np.errstate(all="ignore"):
            return Number(x.array.astype(dtype))


def _function(name, f, kinds):
    setattr(NumpyScalars, name, lambda self, *values: _apply(f, kinds, *values))


for _name, _f, _kinds in [
    ("abs", np.abs, NUMBERS),
    ("sign", np.sign, NUMBERS),
    ("maximum", np.maximum, NUMBERS),
    ("minimum", np.minimum, NUMBERS),
    ("floor", np.floor, FLOATS),
    ("round", np.rint, FLOATS),
    ("floor_divide", np.floor_divide, NUMBERS),
    ("remainder", np.remainder, NUMBERS),
    ("sqrt", np.sqrt, FLOATS),
    ("exp", np.exp, FLOATS),
    ("expm1", np.expm1, FLOATS),
    ("log", np.log, FLOATS),
    ("log1p", np.log1p, FLOATS),
    ("pow", np.power, FLOATS),
    ("sin", np.sin, FLOATS),
    ("cos", np.cos, FLOATS),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), FLOATS),
    ("tanh", np.tanh, FLOATS),
    ("fma", lambda a, b, c: a * b + c, FLOATS),
]:
    _function(_name, _f, _kinds)

s = NumpyScalars()


def evaluate(scalar, *arrays, **params):
    """A scalar form applied to arrays, element by element, and its result as an array."""
    return scalar(s, *map(Number, arrays), **params).array
