"""An op's scalar form, which compilers compile, against its NumPy semantics, special values included."""

import math

import numpy as np
import pytest
from scalars import evaluate

from backlit.ops.record import OPS

DTYPES = ["float32", "float64", "int8", "int32", "int64", "uint8", "uint32", "uint64", "bool"]
ELEMENTWISE = [op for op in OPS.values() if op.scalar is not None and op.family != "reduction"]
REDUCTIONS = [op for op in OPS.values() if op.scalar is not None and op.family == "reduction"]

# Units in the last place by which two right implementations may differ. Everything else must agree exactly.
TOLERANCE = {"softplus": 3, "erf": 3, "erfinv": 20}
# IEEE 754 leaves open which zero these give.
ANY_ZERO = {"maximum", "minimum", "relu"}


def special(dtype):
    """Zeros, units, ties of rounding, denormals, the ends of the range, infinities and nan."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        found = {0, 1, 2, 3, 7, 8, 31, 32, 63, info.max, info.max - 1, info.min, info.min + 1, -1, -2, -7}
        return np.array(sorted(n for n in found if info.min <= n <= info.max), dtype)
    info = np.finfo(dtype)
    positive = [
        0,
        info.smallest_subnormal,
        info.smallest_subnormal * 3,
        info.tiny,
        info.eps,
        1e-3,
        0.3,
        0.5,
        1 - info.eps,
    ]
    positive += [1, 1 + info.eps, 1.5, 2, 2.5, 3, 4, 6, 9.5, 88, 89, 104, 709, 710, 746, 2**24 + 1, 1e10, info.max]
    positive += [math.inf]
    found = np.array(positive, dtype)
    return np.concatenate([found, -found, np.array([math.nan], dtype)])


def anything(dtype, size, random):
    """Random bit patterns: every number is as likely as every other."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, size).astype(bool)
    return random.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)


def inputs_for(op, dtype, arity, random):
    """Every combination of special values, and random ones."""
    if arity == 1:
        return [np.concatenate([special(dtype), anything(dtype, 4000, random), _usual(dtype, 4000, random)])]
    if arity == 2:
        a, b = (x.ravel() for x in np.meshgrid(special(dtype), special(dtype)))
        inputs = [np.concatenate([x, anything(dtype, 4000, random), _usual(dtype, 4000, random)]) for x in (a, b)]
        if "shift" in op.name:  # negative shifts are unspecified
            inputs[1] = inputs[1] & np.array(127, dtype) if dtype != "int8" else inputs[1] & np.int8(15)
        return inputs
    return [anything(dtype, 4000, random) for _ in range(arity)]


def _usual(dtype, size, random):
    if np.dtype(dtype).kind == "f":
        return (random.standard_normal(size) * 2).astype(dtype)
    return random.integers(0, 100, size).astype(dtype)


def assert_agree(op, found, wanted, inputs):
    assert found.dtype == wanted.dtype
    if wanted.dtype.kind != "f":
        wrong = found != wanted
    else:
        with np.errstate(all="ignore"):
            unit = np.spacing(np.maximum(np.abs(found), np.abs(wanted)))
            near = np.abs(found - wanted) <= TOLERANCE.get(op.name, 0) * unit
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        zeros = (found == 0) & (wanted == 0) & (np.signbit(found) != np.signbit(wanted))
        wrong = ~(same | near) | (zeros & (op.name not in ANY_ZERO))
    rows = [(*(x[i] for x in inputs), found[i], wanted[i]) for i in np.flatnonzero(wrong)[:5]]
    assert not rows, f"{op.name}: {wrong.sum()} differ (inputs, scalar form, NumPy): {rows}"


def arity_of(op):
    return len(op.cases()[0].inputs)


def pairs():
    for op in ELEMENTWISE:
        for dtype in ["uint32"] if op.name == "threefry2x32" else DTYPES:
            if np.dtype(dtype).kind in op.kinds:
                yield pytest.param(op, dtype, id=f"{op.name}-{dtype}")


@pytest.mark.parametrize(("op", "dtype"), list(pairs()))
def test_scalar_form_agrees_with_numpy(op, dtype):
    random = np.random.default_rng(0)
    for params in {repr(c.params): c.params for c in op.cases()}.values():
        inputs = inputs_for(op, dtype, arity_of(op), random)
        if op.name == "where":
            inputs[0] = anything("bool", inputs[0].size, random)
        if op.name == "cast" and np.dtype(dtype).kind == "f" and params["dtype"].kind in "iu":  # what fits
            inputs = [x[np.abs(x) < 2.0**31 - 256] for x in inputs]
        (wanted,) = op.evaluate(inputs, params)
        assert_agree(op, evaluate(op.scalar, *inputs, **params), wanted, inputs)


@pytest.mark.parametrize("op", REDUCTIONS, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", ["float64", "int64", "uint32"])
def test_combining_two_by_two_is_reducing(op, dtype):
    x = anything(dtype, 60, np.random.default_rng(1)).reshape(6, 10)
    if np.dtype(dtype).kind == "f":
        x = np.random.default_rng(1).standard_normal((6, 10))
    (wanted,) = op.evaluate([x], {"axis": (0,), "keepdims": False})
    total = x[0].astype(wanted.dtype)
    for row in x[1:]:
        total = evaluate(op.scalar, total, row.astype(wanted.dtype))
    np.testing.assert_allclose(total, wanted, rtol=1e-12 if wanted.dtype.kind == "f" else 0)


def test_every_elementwise_op_has_a_scalar_form():
    assert [op.name for op in OPS.values() if op.family == "elementwise" and op.scalar is None] == []


@pytest.mark.parametrize(
    ("name", "dtype", "units"), [("erf", "float32", 3), ("erf", "float64", 3), ("erfinv", "float64", 40)]
)
def test_special_functions_against_scipy(name, dtype, units):
    import scipy.special

    x = np.concatenate([np.linspace(-7, 7, 20001), np.logspace(-300, 0, 999)]).astype(dtype)
    if name == "erfinv":
        x = np.concatenate([1 - np.logspace(-15.9, 0, 2000), np.logspace(-300, 0, 999), [0.5, -0.5, -1 + 1e-16]])
    wanted = getattr(scipy.special, name)(x.astype(np.float64)).astype(dtype)
    found = evaluate(OPS[name].scalar, x)
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    assert np.max(np.abs(found[finite] - wanted[finite]) / np.spacing(np.abs(wanted[finite]))) <= units


def test_scalar_forms_that_leave_the_instruction_set_are_refused():
    x = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="branches"):
        evaluate(lambda s, x: x if x > 0 else -x, x)
    with pytest.raises(AssertionError):
        evaluate(lambda s, x, n: x + n, x, np.ones(3, np.int64))
    with pytest.raises(AssertionError):
        evaluate(lambda s, n: n / 2, np.ones(3, np.int64))
