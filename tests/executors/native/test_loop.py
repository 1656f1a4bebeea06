"""Training loops that run without Python: the same state and watched values as the reference executor's loop."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError, ShapeError
from backlit.executors.native import Native
from backlit.executors.reference import Reference

from . import interrupting, programs

NATIVE, REFERENCE = Native(), Reference()


def training(dtype="float32", rows=200, batch=16):
    n = programs.Normal(dtype)
    params = programs.layers(n, 12, 20, 5)
    state = (params, programs.start(params), np.int32(0))
    data = [n(rows, 12), n.integers(5, rows)]
    step = bl.trace(programs.adam, *state, data[0][:batch], data[1][:batch])
    return step, programs.leaves(state), data


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_for_many_steps(dtype):
    step, state, data = training(dtype)
    index = np.random.default_rng(0).integers(-200, 200, (60, 16))
    wanted, losses = REFERENCE.compile_loop(step, len(state), 2)(state, data, index)
    got, own_losses = NATIVE.compile_loop(step, len(state), 2)(state, data, index)
    tolerance = {"float32": 2e-3, "float64": 1e-9}[dtype]
    for a, b in zip([*got, *own_losses], [*wanted, *losses], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * 0.01)
    assert own_losses[0][-1] < own_losses[0][0]


def test_the_state_is_updated_where_it_lies_and_the_callers_stays():
    step, state, data = training()
    loop = NATIVE.compile_loop(step, len(state), 2)
    before = [s.copy() for s in state]
    loop(state, data, np.zeros((3, 16), np.int64))
    for a, b in zip(before, state, strict=True):
        np.testing.assert_array_equal(a, b)
    (steps,) = loop.plan([200, 200]).steps
    assert not steps.moves  # nothing is copied at the end of a step


@pytest.mark.parametrize("width", [3, 300], ids=["small", "large"])
def test_a_state_that_does_not_change_is_neither_copied_nor_written(width, tmp_path):
    n = programs.Normal("float32")
    data, index = [n(40, 8)], np.arange(40).reshape(10, 4)
    n(8, width).tofile(tmp_path / "w")
    w = np.memmap(tmp_path / "w", np.float32, "r", shape=(8, width))  # the process would end if it were written to
    turned = n(8, width).T
    graph = bl.trace(lambda w, t, x: (w, t, ops.tanh(x @ w @ t)), np.array(w), turned, data[0][:4])
    wanted = REFERENCE.compile_loop(graph, 2, 1)([np.array(w), turned], data, index)
    for donate in (False, True):
        got = NATIVE.compile_loop(graph, 2, 1)([w, turned], data, index, donate=donate)
        assert got[0][0] is w
        np.testing.assert_array_equal(got[0][1], turned)
        np.testing.assert_allclose(got[1][0], wanted[1][0], rtol=1e-4, atol=1e-5)


def test_a_state_whose_parts_change_places():
    def step(a, b, x):
        return b, a + ops.sum(x), a * 1.0

    a, b = np.float32(1), np.float32(2)
    graph = bl.trace(step, a, b, np.zeros((2, 3), np.float32))
    data = [np.arange(12, dtype=np.float32).reshape(4, 3)]
    index = np.array([[0, 1], [2, 3], [1, 1]])
    wanted = REFERENCE.compile_loop(graph, 2, 1)([np.asarray(a), np.asarray(b)], data, index)
    got = NATIVE.compile_loop(graph, 2, 1)([np.asarray(a), np.asarray(b)], data, index)
    for x, y in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]], strict=True):
        np.testing.assert_array_equal(x, y)


def test_random_numbers_and_loops_inside():
    n = programs.Normal("float32")

    def step(key, h, x):
        key, use = ops.random.split(key)
        noisy = x + ops.random.normal(use, x.shape)
        h, ys = ops.scan(lambda c, e: (ops.tanh(c + e), c), h, noisy)
        return key, h, ops.sum(ys)

    state = [ops.random.key(1), n(3)]
    graph = bl.trace(step, *state, n(4, 3))
    index = np.random.default_rng(0).integers(0, 9, (7, 4))
    data = [n(9, 3)]
    wanted = REFERENCE.compile_loop(graph, 2, 1)(state, data, index)
    got = NATIVE.compile_loop(graph, 2, 1)(state, data, index)
    np.testing.assert_array_equal(got[0][0], wanted[0][0])
    np.testing.assert_allclose(got[0][1], wanted[0][1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1][0], wanted[1][0], rtol=1e-4, atol=1e-5)


def test_no_steps_and_no_data():
    step, state, data = training()
    got, watched = NATIVE.compile_loop(step, len(state), 2)(state, data, np.zeros((0, 16), np.int64))
    np.testing.assert_array_equal(got[0], state[0])
    assert watched[0].shape == (0,)


@pytest.mark.parametrize("bad", [200, -201, 10**12])
def test_a_row_out_of_range_raises_and_is_not_read(bad):
    step, state, data = training()
    index = np.zeros((5, 16), np.int64)
    index[3, 7] = bad
    with pytest.raises(IndexingError, match=f"index {bad} is out of range: axis 0 has size 200"):
        NATIVE.compile_loop(step, len(state), 2)(state, data, index)


def test_wrong_shapes_are_refused():
    step, state, data = training()
    loop = NATIVE.compile_loop(step, len(state), 2)
    with pytest.raises(ShapeError, match="row indices"):
        loop(state, data, np.zeros((5, 15), np.int64))
    with pytest.raises(ShapeError, match="carried value"):
        loop([s[:1] if s.ndim else s for s in state], data, np.zeros((5, 16), np.int64))
    with pytest.raises(ShapeError, match="rows of"):
        loop(state, [data[0][:, :5], data[1]], np.zeros((5, 16), np.int64))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_an_interrupt_is_honoured_within_a_tenth_of_a_second():
    step, state, data = training(batch=16)
    loop = NATIVE.compile_loop(step, len(state), 2)
    index = np.zeros((2_000_000, 16), np.int64)
    loop(state, data, index[:10])
    late = min(interrupting.delay(lambda: loop(state, data, index), after=0.2) for _ in range(3))
    assert late < 0.25  # 0.1 on a machine of its own


def test_given_memory_is_reused():
    def update(p, g):
        return p - 0.1 * g, ops.sum(g)

    p, g = np.ones(100, np.float32), np.arange(100, dtype=np.float32)
    run = NATIVE.compile(bl.trace(update, p, g), donate=(0,))
    new, total = run(p, g)
    assert new is p
    np.testing.assert_allclose(new, 1 - np.float32(0.1) * g, rtol=1e-6)
    assert total == g.sum()


def test_memory_is_not_reused_where_the_old_value_is_still_read():
    def update(p):
        return ops.flip(p) * 2.0

    p = np.arange(50, dtype=np.float32)
    (new,) = NATIVE.compile(bl.trace(update, p), donate=(0,))(p)
    np.testing.assert_array_equal(new, np.arange(50)[::-1] * 2)
