"""Panels that turn what they copy: g wT reads w as it lies, of any size, and of many matrices."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.kernels import Loop
from backlit.executors.native.target import known
from backlit.executors.native.tiling import tiling

from . import programs


def turned(graph, target="avx512"):
    """The tiling of a program's only kernel, which reads panels."""
    (call,) = Native(target).plan(graph).calls()
    cut = tiling(call.kernel, known(target))
    assert cut.part
    return cut


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "columns", "steps"), [
    (64, 64, 64), (48, 16, 16), (57, 67, 35), (200, 33, 101), (50, 600, 31), (130, 70, 2050), (1100, 17, 1020),
])  # fmt: skip
def test_squares_of_any_size_at_the_edges(rows, columns, steps, dtype):
    n = programs.Normal(dtype)
    g, w, r = n(rows, steps), n(columns, steps), n(rows, columns)
    graph = bl.trace(lambda g, w, r: ops.tanh(g @ w.T + r), g, w, r)
    wanted = np.tanh(g.astype("float64") @ w.T.astype("float64") + r)
    for target in ("avx512", "avx2", "sse2"):
        turned(graph, target)
    for target in ("host", "avx2", "sse2"):
        (got,) = Native(target).compile(graph)(g, w, r)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


def test_each_head_of_attention_has_its_panel():
    n = programs.Normal("float32")
    q, k = n(3, 50, 4, 20), n(3, 37, 4, 20)  # heads side by side
    graph = bl.trace(lambda q, k: ops.einsum("bthd,buhd->bhtu", q, k), q, k)
    assert len(turned(graph).loops) == 2
    (got,) = Native().compile(graph)(q, k)
    np.testing.assert_allclose(got, np.einsum("bthd,buhd->bhtu", q, k), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [3001, 4096])  # the last part is shorter, or like the others
def test_a_long_sum_has_several_panels_and_the_same_bits(steps):
    """What is added up in parts is added in the same order as with a copy."""
    n = programs.Normal("float32")
    g, w = n(60, steps), n(96, steps)
    graph = bl.trace(lambda g, w: g @ w.T, g, w)
    assert turned(graph).part < steps
    plain = bl.trace(lambda g, w: g @ w, g, w.T.copy())
    (got,), (wanted,) = Native().compile(graph)(g, w), Native().compile(plain)(g, w.T.copy())
    np.testing.assert_array_equal(got, wanted)


def test_what_is_outside_of_a_panel_does_not_matter():
    """NaN and infinity stay in their columns, also in the last square, which is partly empty."""
    n = programs.Normal("float32")
    g, w = n(50, 35), n(67, 35)
    w[66, 34], w[3, 2] = np.nan, np.inf
    graph = bl.trace(lambda g, w: g @ w.T, g, w)
    turned(graph)
    (got,) = Native().compile(graph)(g, w)
    assert np.isnan(got[:, 66]).all()
    assert np.isinf(got[:, 3]).all()
    assert np.isfinite(np.delete(got, [3, 66], 1)).all()


@pytest.mark.parametrize(("rows", "columns", "steps", "copied"), [
    (20, 64, 40, True), (50, 64, 40, False), (20, 64, 1100, False), (3000, 64, 1100, True), (100, 3, 129, False),
    (100, 3, 9, True),
])  # fmt: skip
def test_where_there_is_a_copy(rows, columns, steps, copied):
    """Few rows are not worth a panel for each thread, and have dot products if the sum is long, or fewer columns than a
    vector has; the sums of many rows have no place between two panels."""
    n = programs.Normal("float32")
    graph = bl.trace(lambda g, w: g @ w.T, n(rows, steps), n(columns, steps))
    assert any("turned" in c.label for c in Native("avx512").plan(graph).calls()) == copied


def test_integers_are_copied():
    g, w = np.arange(60 * 40).reshape(60, 40), np.arange(30 * 40).reshape(30, 40)
    graph = bl.trace(lambda g, w: g @ w.T, g, w)
    assert any("turned" in c.label for c in Native("avx512").plan(graph).calls())
    np.testing.assert_array_equal(Native().compile(graph)(g, w)[0], g @ w.T)


def test_what_a_loop_does_not_change_is_turned_once():
    n = programs.Normal("float32")
    args = n(16, 64), n(16, 64), n(64), n(5, 48, 16)
    graph = bl.trace(bl.grad(programs.lstm, argnums=(0, 1)), *args)
    *_, backward = (s for s in Native("avx512").plan(graph).steps if isinstance(s, Loop))
    assert any("turned" in c.label for c in backward.start)
