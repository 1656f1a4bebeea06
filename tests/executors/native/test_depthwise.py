"""Convolutions whose channels do not meet: tiles of rows that are vectors, which share what they read."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.convolution import direct
from backlit.executors.native.tiling import tiling
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs


def loss(channels, kw):
    return lambda x, w: ops.mean(ops.tanh(ops.conv(x, w, groups=channels, **kw)) ** 2.0)


@pytest.mark.parametrize(("shape", "size", "kw"), [
    ((3, 9, 11, 64), (3, 3), {}), ((2, 7, 33, 17), (3, 5), {"padding": "same"}), ((1, 5, 40, 7), (1, 9), {}),
    ((1, 12, 8, 9), (5, 3), {"stride": 2, "padding": 1}), ((5, 8, 8, 33), (3, 3), {"dilation": 2, "padding": 2}),
    ((2, 50, 20), (4,), {"padding": "same"}), ((2, 6, 6, 2), (3, 3), {}),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_and_gradients_are_the_reference_executors(shape, size, kw, dtype):
    normal = programs.Normal(dtype)
    x, w = normal(*shape), normal(*size, 1, shape[-1])
    f = bl.value_and_grad(loss(shape[-1], kw), (0, 1))
    graph, exact = bl.trace(f, x, w), [a.astype("float64") for a in (x, w)]
    wanted = Reference().compile(bl.trace(f, *exact))(*exact)
    for target in ("host", "avx2", "sse2"):
        for got, right in zip(Native(target).compile(graph)(x, w), wanted, strict=True):
            tolerance = (1e-5 if dtype == "float32" else 1e-13) * float(np.abs(right).max())
            np.testing.assert_allclose(got, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("which", [None, 0, 1])
def test_all_three_products_are_tiles(which):
    """Forward, by the input and by the weights; of the second only what is kept is computed."""
    native = Native("avx512")
    x, w = np.zeros((4, 16, 20, 64), np.float32), np.zeros((3, 3, 1, 64), np.float32)
    f = loss(64, {"padding": "same"})
    graph = bl.trace(f if which is None else bl.grad(f, which), x, w)
    cuts = [(c.kernel, tiling(c.kernel, native.target)) for c in native.plan(graph).calls() if c.kernel.reduced]
    found = [(k, cut) for k, cut in cuts if cut is not None and cut.paired]
    assert len(found) == (1 if which is None else 2)
    for kernel, cut in found:
        rows = cut.rows * int(np.prod([kernel.space[a] for a in cut.whole]))
        assert kernel.space[cut.columns] == 64
        assert rows >= 9
        assert kernel.points * kernel.steps == 4 * 16 * 20 * 64 * 9


@pytest.mark.parametrize("size", [(1, 9), (3, 1), (1, 1)])
def test_windows_of_one_place_along_an_axis_become_a_convolution_too(size):
    x, w = np.zeros((4, 16, 20, 8), np.float32), np.zeros((*size, 1, 8), np.float32)
    found = direct(simplify(bl.trace(bl.grad(loss(8, {"padding": "same"})), x, w)))
    assert "fold" not in found.ops


def test_short_rows_make_a_tile_together():
    """Of the gradient by weights in groups: 8 input channels alone are half a tile."""
    native = Native("avx512")
    x, w = np.zeros((16, 16, 16, 32), np.float32), np.zeros((3, 3, 8, 32), np.float32)
    graph = bl.trace(bl.grad(lambda w, x: ops.sum(ops.conv(x, w, groups=4, padding="same") ** 2)), w, x)
    cuts = [(c.kernel, tiling(c.kernel, native.target)) for c in native.plan(graph).calls() if c.kernel.reduced]
    ((kernel, cut),) = (
        (k, cut) for k, cut in cuts if cut is not None and k.space[-2:] == (4, 8) and k.space[1:3] == (3, 3)
    )
    assert cut.rows * int(np.prod([kernel.space[a] for a in cut.whole])) == 24


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [8, 32])
def test_on_the_way_back_nothing_is_copied_around_groups(groups, stride):
    """What is read with zeros around it is written within them, and phases are written where they belong."""
    x, w = np.zeros((2, 12, 12, 32), np.float32), np.zeros((3, 3, 32 // groups, 32), np.float32)

    def f(x, w):
        return ops.sum(ops.tanh(ops.conv(ops.tanh(x), w, padding="same", stride=stride, groups=groups)))

    calls = Native("avx512").plan(bl.trace(bl.grad(f, (0, 1)), x, w)).calls()
    assert {n.op for c in calls for n in c.nodes}.isdisjoint({"slice", "concat"})
    assert "copy" not in {c.label for c in calls}
