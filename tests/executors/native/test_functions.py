"""exp, log, tanh, erf and their kin are right to a few units in the last place, for numbers and for vectors."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import scipy.special

from backlit.executors.native.arithmetic import SCALARS
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.jit import Loaded, object_code
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.target import known
from backlit.ops.record import OPS

UNITS = {"erf": 3.0, "exp": 1.0, "expm1": 2.0, "log": 1.0, "log1p": 2.0, "sigmoid": 3.0, "tanh": 3.0}


def compiled(name, dtype, lanes, target):
    """The function over arrays whose length `lanes` divides."""
    dtype, module = np.dtype(dtype), Module(known(target))
    f = Function(module, "run", [(POINTER, "x"), (POINTER, "y"), (I64, "n")], linkage="")
    x, y, n = f.arguments
    form = OPS[name].scalar
    f.loop(0, n, lanes, lambda i: f.store(form(SCALARS, f.load(x.at(i, dtype), dtype, lanes)), y.at(i, dtype)))
    code = Loaded([object_code(module.text(), module.target, jit=True)], module.target)
    run = code.function("run", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

    def call(values):
        values, found = np.ascontiguousarray(values, dtype), np.empty(len(values), dtype)
        run(values.ctypes.data, found.ctypes.data, len(values))
        return found

    call.code = code
    return call


def points(name, dtype, n=1 << 14):
    rng = np.random.default_rng(0)
    large = 85 if dtype == "float32" else 700
    if name == "log":
        x = np.concatenate([np.exp(rng.uniform(-large, large, n // 2)), rng.uniform(0.5, 2, n // 2)])
    elif name == "log1p":
        x = np.concatenate([np.exp(rng.uniform(-30, 80, n // 2)), rng.uniform(-0.99, 2, n // 2)])
    else:
        x = np.concatenate([rng.uniform(-large, large, n // 4), rng.uniform(-1, 1, n // 2), rng.uniform(-9, 9, n // 4)])
    return x.astype(dtype)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "sse2"])
def test_accuracy(name, dtype, target):
    x = points(name, dtype)
    of = {"erf": scipy.special.erf, "sigmoid": OPS["sigmoid"].numpy}.get(name) or getattr(np, name)
    wanted = of(x.astype(np.float64 if name == "erf" else np.longdouble)).astype(np.longdouble)
    got = compiled(name, dtype, 4, target)(x)
    unit = np.spacing(np.abs(wanted.astype(dtype))).astype(np.longdouble)
    assert np.max(np.abs(got - wanted) / unit) <= UNITS[name]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "sse2"])
def test_powers_that_are_not_normal_numbers(dtype, target):
    """Denormal results are the nearest or the next to it; where the range ends, 0 and infinity."""
    info, low, high = np.finfo(dtype), np.log(np.finfo(dtype).smallest_subnormal), np.log(np.finfo(dtype).max)
    x = np.linspace(1.001 * float(low), float(np.log(info.tiny)), 4096).astype(dtype)
    wanted = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(compiled("exp", dtype, 4, target)(x) - wanted)) <= info.smallest_subnormal
    ends = np.array([high * 1.001, np.inf, low * 1.1, -np.inf, np.nan, -0.0, 0.0, high * 0.9999], dtype)
    got = compiled("exp", dtype, 4, target)(ends)
    np.testing.assert_array_equal(got[:7], np.array([np.inf, np.inf, 0, 0, np.nan, 1, 1], dtype))
    assert np.isfinite(got[7])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "sse2"])
def test_erf_at_its_ends(dtype, target):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 30, -30, 1e-30], dtype)
    got = compiled("erf", dtype, 4, target)(x)
    np.testing.assert_array_equal(got[:7], np.array([1, -1, np.nan, 0.0, -0.0, 1, -1], dtype))
    np.testing.assert_array_equal(np.signbit(got[3:5]), [False, True])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "sse2"])
def test_sigmoid_and_tanh_at_their_ends(dtype, target):
    x = np.array([np.inf, -np.inf, np.nan, -0.0, 50, -1e4, 1e4, -1e-30], dtype)
    np.testing.assert_array_equal(compiled("sigmoid", dtype, 4, target)(x)[:7], [1, 0, np.nan, 0.5, 1, 0, 1])
    got = compiled("tanh", dtype, 4, target)(x)
    np.testing.assert_array_equal(got, np.array([1, -1, np.nan, -0.0, 1, -1, 1, -1e-30], dtype))
    assert np.signbit(got[3])
    x = np.linspace(-9.2, 9.2, 1 << 16, dtype=dtype)
    assert np.max(np.abs(compiled("tanh", dtype, 4, target)(x))) <= 1.0  # else 1 - y^2 has the wrong sign


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["host", "sse2"])
def test_sigmoid_becomes_denormal_before_it_is_zero(dtype, target):
    info = np.finfo(dtype)
    x = np.linspace(np.log(float(info.smallest_subnormal)), np.log(float(info.tiny)), 4096).astype(dtype)
    wanted = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(compiled("sigmoid", dtype, 4, target)(x) - wanted)) <= info.smallest_subnormal


@pytest.mark.parametrize("name", UNITS)
def test_numbers_and_vectors_agree(name):
    x = points(name, "float32", 256)
    np.testing.assert_array_equal(compiled(name, "float32", 1, "host")(x), compiled(name, "float32", 8, "host")(x))


@pytest.mark.parametrize("name", UNITS)
def test_nan_stays_whatever_its_bits_are(name):
    bits = np.array([0x7FC00000, 0x7FC00123, 0xFFC00001, 0x7FFFFFFF, 0x7F800001, 0xFFD23456, 0x7FC000FF, 0x7FEDCBA9])
    x = bits.astype(np.uint32).view(np.float32)
    assert np.isnan(compiled(name, "float32", 4, "host")(x)).all()
