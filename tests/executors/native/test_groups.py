"""Convolutions whose channels meet in groups, or not at all: vectors of groups, rows that share what they read."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.convolution import direct
from backlit.executors.native.groups import Groups, Stretch, groups, inner_axes, offsets, outer_axes
from backlit.executors.native.kernels import Nest
from backlit.executors.native.tiling import tiling
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs


def loss(count, kw):
    return lambda x, w: ops.mean(ops.tanh(ops.conv(x, w, groups=count, **kw)) ** 2.0)


def cuts(graph: bl.Graph, native: Native) -> list[tuple[Nest, Groups]]:
    """The products of a graph that are made in groups, and how they are cut."""
    found = [(c.kernel, groups(c.kernel, native.target)) for c in native.plan(graph).calls() if type(c.kernel) is Nest]
    return [(nest, cut) for nest, cut in found if cut is not None]


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


@pytest.mark.parametrize(("count", "inputs", "outputs"), [
    (9, 2, 2), (16, 4, 4), (5, 3, 3), (7, 1, 2), (7, 2, 1), (3, 1, 6), (33, 1, 1), (2, 5, 3), (6, 8, 2),
])  # fmt: skip
@pytest.mark.parametrize(("target", "dtype"), [("host", "float32"), ("avx2", "float32"), ("sse2", "float64")])
def test_groups_of_a_few_channels(count, inputs, outputs, target, dtype):
    """Also with an epilogue that is long, and with one that asks for numbers that lie otherwise."""
    r = np.random.default_rng(count)
    x, w, c, d = (
        r.integers(-3, 4, shape).astype(dtype)
        for shape in ((3, 7, 9, count * inputs), (3, 2, inputs, count * outputs), (count * outputs,), (count, 1))
    )

    def f(x, w, c, d):
        z = ops.conv(x, w, groups=count, padding="same")
        long = ops.maximum(z + c, 0.0) * 2.0 - ops.abs(z) + ops.minimum(z, c) * 3.0 + ops.where(z > 1.0, z, c)
        by_group = ops.reshape(z, (3, 7, 9, count, outputs)) * d
        return (
            long,
            by_group,
            *bl.grad(lambda x, w: ops.sum(ops.maximum(ops.conv(x, w, groups=count), 0.0)), (0, 1))(x, w),
        )

    graph = bl.trace(f, x, w, c, d)
    wanted = Reference().compile(graph)(x, w, c, d)
    for got, right in zip(Native(target).compile(graph)(x, w, c, d), wanted, strict=True):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 4), (1, 2), (2, 1)])
@pytest.mark.parametrize("which", [None, 0, 1])
def test_all_three_products_are_tiles(which, inputs, outputs):
    """Forward, by the input and by the weights; of the second only what is kept is computed."""
    native = Native("avx512")
    x, w = np.zeros((4, 16, 20, 64 * inputs), np.float32), np.zeros((3, 3, inputs, 64 * outputs), np.float32)
    f = loss(64, {"padding": "same"})
    found = cuts(bl.trace(f if which is None else bl.grad(f, which), x, w), native)
    assert len(found) == (1 if which is None else 2)
    for kernel, cut in found:
        assert kernel.space[cut.vector] == 64
        assert cut.groups * cut.width == 16
        assert cut.vectors * np.prod([n for n, _ in outer_axes(kernel, cut)]) >= 9
        assert kernel.points * kernel.steps == 4 * 16 * 20 * 64 * 9 * inputs * outputs


def test_nothing_is_read_beyond_what_a_product_needs():
    """A stretch of memory ends with the last number that some lane takes from it."""
    tried = 0
    for count, inputs, outputs in ((16, 4, 4), (5, 3, 3), (7, 1, 2), (7, 2, 1), (3, 1, 6), (6, 8, 2), (9, 20, 2)):
        x, w = np.zeros((2, 7, 9, count * inputs), np.float32), np.zeros((3, 2, inputs, count * outputs), np.float32)
        for target in ("avx512", "avx2"):
            for nest, cut in cuts(bl.trace(bl.value_and_grad(loss(count, {}), (0, 1)), x, w), Native(target)):
                for k in (cut.a, cut.b):
                    stretch = Stretch.of(nest, cut, k)
                    places = offsets(nest, k, [*outer_axes(nest, cut), *inner_axes(nest, cut)])
                    for n in range(1, cut.groups + 1):
                        taken = {at + o for at in map(stretch.start, places) for o in range(stretch.length(n))}
                        ends = [max(stretch.start(p) + o for o in stretch.order(p, n)) for p in places]
                        assert stretch.is_plain or max(taken) == max(ends)
                        assert {o for p in places for o in stretch.order(p, n)} <= set(range(stretch.length(n)))
                        tried += 1
    assert tried > 50


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
    found = [(c.kernel, tiling(c.kernel, native.target)) for c in native.plan(graph).calls() if c.kernel.reduced]
    ((kernel, cut),) = (
        (k, cut) for k, cut in found if cut is not None and k.space[-2:] == (4, 8) and k.space[1:3] == (3, 3)
    )
    assert cut.rows * int(np.prod([kernel.space[a] for a in cut.whole])) == 24


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("count", [8, 32])
def test_on_the_way_back_nothing_is_copied_around_groups(count, stride):
    """What is read with zeros around it is written within them, and phases are written where they belong."""
    x, w = np.zeros((2, 12, 12, 32), np.float32), np.zeros((3, 3, 32 // count, 32), np.float32)

    def f(x, w):
        return ops.sum(ops.tanh(ops.conv(ops.tanh(x), w, padding="same", stride=stride, groups=count)))

    calls = Native("avx512").plan(bl.trace(bl.grad(f, (0, 1)), x, w)).calls()
    assert {n.op for c in calls for n in c.nodes}.isdisjoint({"slice", "concat"})
    assert not any(c.label.startswith("copy") for c in calls)
