"""Small programs, whose kernels become one function: the same bits as with calls of kernels, and as safe."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit.errors import IndexingError
from backlit.executors.native import Native, whole
from backlit.executors.native.program import Program
from backlit.executors.native.target import known
from backlit.executors.native.whole import carried, is_small

from . import programs

NATIVE = Native()


def training(sizes, batch, dtype="float32", rows=40):
    n = programs.Normal(dtype)
    params = programs.layers(n, *sizes)
    state = (params, programs.start(params), np.int32(0))
    data = [n(rows, sizes[0]), n.integers(sizes[-1], rows)]
    step = bl.trace(programs.adam, *state, data[0][:batch], data[1][:batch])
    return step, programs.leaves(state), data


def run(step, state, data, index, target="host"):
    return Native(target).compile_loop(step, len(state), 2)(state, data, index)


@pytest.fixture
def calling(monkeypatch):
    """A function that runs a loop as a program that is not small."""
    monkeypatch.setenv("BACKLIT_CACHE", "")

    def large(*args, **how):
        with monkeypatch.context() as patched:
            patched.setattr(whole, "_SMALL", 0)
            return run(*args, **how)

    return large


@pytest.mark.parametrize(("dtype", "target"), [("float32", "host"), ("float64", "host"), ("float32", "sse2")])
@pytest.mark.parametrize(("sizes", "batch"), [((2, 2, 2), 1), ((3, 5, 2), 4), ((4, 16, 3), 7)])
def test_the_same_bits_as_with_calls(calling, sizes, batch, dtype, target):
    step, state, data = training(sizes, batch, dtype)
    data[0][5, 0], data[0][6, 0], data[0][7, 0] = -0.0, np.inf, 1e-40
    index = np.random.default_rng(0).integers(-40, 40, (50, batch))
    for rows in (index[:1], index % 5, index):
        wanted, got = calling(step, state, data, rows, target=target), run(step, state, data, rows, target=target)
        for a, b in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]], strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_small():
    for sizes, batch, small in [((2, 8, 2), 4, True), ((4, 16, 3), 16, True), ((64, 100, 10), 64, False)]:
        step, state, _ = training(sizes, batch)
        plan = NATIVE.compile_loop(step, len(state), 2).plan([40, 40])
        assert is_small(plan) == small
    deep, state, _ = training((2,) * 60, 1)  # one function of all its kernels would take long to make
    assert not is_small(NATIVE.compile_loop(deep, len(state), 2).plan([40, 40]))


def test_the_state_of_a_small_program_lies_in_its_frame():
    step, state, _ = training((2, 3, 2), 4)
    plan = NATIVE.compile_loop(step, len(state), 2).plan([40, 40])
    text = Program(plan, known("host")).text
    assert text.count("alloca") == 1 + len(carried(plan)) == 1 + len(state)


@pytest.mark.parametrize("bad", [40, -41, 10**12])
def test_a_row_out_of_range_raises_and_is_not_read(bad):
    step, state, data = training((2, 3, 2), 4)
    index = np.zeros((5, 4), np.int64)
    index[3, 2] = bad
    with pytest.raises(IndexingError, match=f"index {bad} is out of range: axis 0 has size 40"):
        run(step, state, data, index)


def test_no_steps():
    step, state, data = training((2, 3, 2), 4)
    got, watched = run(step, state, data, np.zeros((0, 4), np.int64))
    for a, b in zip(got, state, strict=True):
        np.testing.assert_array_equal(a, b)
    assert watched[0].shape == (0,)
