"""The gradient of a convolution's 3x3 weights by Winograd's transforms: where it is found, and that it is right."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.kernels import WinogradSum

from . import programs, random_runs

NATIVE = Native("avx512")


def transformed(graph):
    """The kernels of a graph that use the transforms."""
    return [c.kernel for c in NATIVE.plan(graph).calls() if isinstance(c.kernel, WinogradSum)]


def gradient(shape, outputs, window=3, groups=1, **options):
    """The gradient of a convolution's weights as a graph of the image and the gradient of the convolution's result."""
    x, w = np.zeros(shape, "float32"), np.zeros((window, window, shape[-1] // groups, outputs), "float32")

    def convolved(w, x):
        return ops.conv(x, w, groups=groups, **options)

    g = np.zeros(convolved(w, x).shape, "float32")
    return bl.trace(lambda x, g: bl.grad(lambda w: ops.sum(convolved(w, x) * g))(w), x, g)


def products(spec):
    """The same written as a product, its axes in any order: y, x are places, a, b those in a window."""

    def f(x, g):
        first, _ = spec.split(",")
        seen = ops.windows(x, axes=(x.ndim - 3, x.ndim - 2), size=(3, 3), stride=(1, 1), dilation=(1, 1))
        return ops.contract(seen, g, spec=spec) if "a" in first else ops.contract(g, seen, spec=spec)

    return f


def given(batch, size, channels, outputs, dtype="float32"):
    """An image and the gradient of a convolution's result, of this size."""
    normal = programs.Normal(dtype)
    return normal(*batch, size[0] + 2, size[1] + 2, channels), normal(*batch, *size, outputs)


def exact(x, g):
    """The gradient in float64, window first."""
    x, g = x.astype("float64"), g.astype("float64")
    axes, (height, width) = tuple(range(x.ndim - 1)), g.shape[-3:-1]
    return np.array([[np.tensordot(x[..., i : i + height, j : j + width, :], g, (axes, axes)) for j in range(3)]
                     for i in range(3)])  # fmt: skip


def error(found, wanted):
    return np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))


# --- where it is found


@pytest.mark.parametrize(("shape", "outputs", "count"), [
    ((8, 16, 16, 32), 64, 1), ((2, 40, 40, 33), 40, 1), ((64, 8, 8, 128), 256, 1), ((16, 14, 14, 65), 129, 4),
])  # fmt: skip
def test_one_kernel_does_all_blocks_of_channels_that_have_one_size(shape, outputs, count):
    found = transformed(gradient(shape, outputs, padding="same"))
    assert len(found) == count
    assert sum(math.prod(k.channels) * math.prod(k.blocks) for k in found) == shape[-1] * outputs
    assert sum(k.shape[0] for k in found) >= 8


@pytest.mark.parametrize("options", [
    {"window": 5}, {"window": 1}, {"stride": 2}, {"dilation": 2}, {"groups": 4}, {"stride": (1, 2)},
])  # fmt: skip
def test_other_windows_are_left_to_products(options):
    assert not transformed(gradient((16, 33, 33, 64), 64, **options))


@pytest.mark.parametrize(("shape", "outputs"), [((64, 32, 32, 3), 32), ((64, 32, 32, 32), 3), ((64, 16, 16, 7), 16),
                                               ((4, 8, 8, 64), 64), ((1, 4, 4, 512), 512)])  # fmt: skip
def test_few_channels_or_few_places_are_left_to_products(shape, outputs):
    assert not transformed(gradient(shape, outputs, padding="same"))


def test_the_plan_says_so():
    plan = str(NATIVE.plan(gradient((64, 16, 16, 64), 128, padding="same")))
    assert re.search(r"winograd +8 3 3 64 128 \[64 8\]", plan)


# --- that it is right


SIZES = {
    "even": ((5,), (14, 16), 32, 64),
    "odd down": ((5,), (13, 16), 32, 48),
    "odd right": ((5,), (14, 15), 48, 32),
    "odd channels": ((6,), (15, 15), 37, 41),
    "several blocks": ((3,), (12, 13), 67, 133),
    "one image of long lines": ((), (7, 231), 40, 40),
    "two lines": ((150,), (2, 5), 64, 80),
    "two columns": ((100,), (7, 2), 80, 64),
}


@pytest.mark.parametrize(("name", "dtype", "target"), [
    *((name, "float32", "host") for name in SIZES), ("odd channels", "float64", "host"),
    ("several blocks", "float64", "avx2"), ("odd down", "float32", "avx2"), ("odd right", "float32", "sse2"),
])  # fmt: skip
def test_it_is_the_gradient(name, dtype, target):
    x, g = given(*SIZES[name], dtype)
    letters = "n" * (x.ndim - 3)
    graph = bl.trace(products(f"{letters}yxcab,{letters}yxk->abck"), x, g)
    (found,) = Native(target).compile(graph)(x, g)
    assert transformed(graph)
    assert error(found, exact(x, g)) < (2e-6 if dtype == "float32" else 4e-15)


@pytest.mark.parametrize(("spec", "by_transforms"), [
    ("nyxk,nyxcab->abck", True), ("nyxcab,nyxk->back", True), ("nyxcab,nyxk->cabk", True), ("nyxcab,nyxk->kabc", True),
    ("nyxk,nyxcab->akbc", True), ("nyxcab,nyxk->ckab", False),
])  # fmt: skip
def test_axes_come_in_any_order(spec, by_transforms):
    x, g = given((8,), (15, 14), 33, 50)
    graph = bl.trace(products(spec), x, g)
    assert bool(transformed(graph)) is by_transforms
    (found,) = Native().compile(graph)(x, g)
    wanted = exact(x, g).transpose([("abck").index(letter) for letter in spec.split("->")[1]])
    assert error(found, wanted) < 2e-6


def test_images_may_be_counted_by_several_axes():
    x, g = given((3, 8), (8, 9), 33, 50)
    other = np.ascontiguousarray(g.swapaxes(0, 1))
    graph = bl.trace(products("mnyxcab,nmyxk->abck"), x, other)
    (kernel,) = transformed(graph)
    assert len(kernel.batch) == 2
    (found,) = Native().compile(graph)(x, other)
    assert error(found, exact(x, g)) < 2e-6


def test_channels_may_be_a_part_of_an_image():
    x, g = given((8,), (11, 13), 70, 50)
    graph = bl.trace(lambda x, g: products("nyxcab,nyxk->abck")(x[..., 7:55], g[..., :40]), x, g)
    assert transformed(graph)
    (found,) = Native().compile(graph)(x, g)
    assert error(found, exact(x[..., 7:55], g[..., :40])) < 2e-6


def test_rounding_errors_are_not_larger_than_those_of_products():
    x, g = given((16,), (16, 16), 32, 64)
    graph = bl.trace(products("nyxcab,nyxk->abck"), x + 0.5, g)
    assert transformed(graph)
    found, direct = (Native(winograd=w).compile(graph)(x + 0.5, g)[0] for w in (True, False))
    assert error(found, exact(x + 0.5, g)) < 2 * error(direct, exact(x + 0.5, g))


@pytest.mark.parametrize("name", ["odd down", "odd channels", "several blocks", "one image of long lines"])
def test_nothing_outside_of_its_operands_counts(name):
    wide = []
    for a in given(*SIZES[name]):
        memory = np.full(a.size + 2048, np.nan, a.dtype)
        wide.append(memory[1024:-1024].reshape(a.shape))
        wide[-1][...] = a
    letters = "n" * (wide[0].ndim - 3)
    (found,) = Native().compile(bl.trace(products(f"{letters}yxcab,{letters}yxk->abck"), *wide))(*wide)
    assert error(found, exact(*wide)) < 2e-6


@pytest.mark.parametrize("name", ["odd channels", "several blocks", "one image of long lines"])
def test_the_same_bits_in_any_number_of_shares(name):
    x, g = given(*SIZES[name])
    letters = "n" * (x.ndim - 3)
    graph = bl.trace(products(f"{letters}yxcab,{letters}yxk->abck"), x, g)
    first, *others = (random_runs.results(graph, (x, g), shares=n) for n in (1, 2, 3, 8))
    for other in others:
        random_runs.same(first[0], other[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_update_is_made_where_the_parts_are_added(dtype):
    x, g = given((5,), (13, 16), 37, 41, dtype)
    w = programs.Normal(dtype)(3, 3, 37, 41)
    graph = bl.trace(lambda w, x, g: w - 0.1 * products("nyxcab,nyxk->abck")(x, g), w, x, g)
    assert [isinstance(c.kernel, WinogradSum) for c in NATIVE.plan(graph).calls()] == [True, False]
    for shares in (1, 2):
        (found,) = random_runs.results(graph, (w, x, g), shares=shares, donate=(0,))
        assert error(found, w - 0.1 * exact(x, g)) < (2e-6 if dtype == "float32" else 4e-15)


def test_what_is_no_number_stays_none():
    x, g = given((4,), (14, 15), 32, 48)
    x[1, 3, 5, 7] = np.nan
    g[2, 6, 14, 11] = np.inf
    (found,) = Native().compile(bl.trace(products("nyxcab,nyxk->abck"), x, g))(x, g)
    assert np.isnan(found[:, :, 7]).all()
    assert not np.isfinite(found[..., 11]).any()
    left = np.delete(np.delete(found, 7, 2), 11, 3)
    assert np.isfinite(left).all()
