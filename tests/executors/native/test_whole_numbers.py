"""Random products and convolutions of small whole numbers, in the sizes at which their kernels change.

Sums of whole numbers have the same bits in whatever order they are taken, and so has Winograd's method as long as its
halves and quarters are exact: every kernel must give the reference executor's very numbers.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.reference import Reference

from . import random_runs

SIZES = [
    1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 15, 16, 17, 18, 19, 23, 31, 32, 33, 34, 40, 47, 48, 49, 50, 63, 64, 65, 66, 81, 97,
    100, 127, 128, 129, 130, 200, 257, 300, 513, 1000,
]  # fmt: skip
CHANNELS = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 18, 19, 20, 31, 32, 33, 34, 35, 36, 47, 48, 49, 50, 63, 64, 65, 66, 67]
TARGETS = ["host", "host", "host", "avx2", "sse2"]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", "")


def whole(r, dtype, *shape):
    return r.integers(-3, 4, shape).astype(dtype)


def a_product(r):
    """Of two matrices or stacks of them, either way round, as it is used in networks: a function and its arguments."""
    m, k, n = (int(r.choice([s for s in SIZES if s <= most])) for most in (513, 1000, 513))
    if r.random() < 0.4:
        m, n = (min(m, 8), n) if r.random() < 0.5 else (m, min(n, 8))
    batch = int(r.choice([0, 0, 0, 1, 2, 5]))
    if batch:
        m, k, n = (min(size, 66) for size in (m, k, n))
    while m * k * n > 8e6:
        m, k, n = max(1, m // 2), max(1, k // 2), max(1, n // 2)
    dtype = r.choice(["float32", "float32", "float32", "float64"])
    turned, lead = r.integers(2, size=2), (batch,) if batch else ()
    a = whole(r, dtype, *lead, *((k, m) if turned[0] else (m, k)))
    b = whole(r, dtype, *(lead if r.random() < 0.5 else ()), *((n, k) if turned[1] else (k, n)))
    kind = int(r.integers(6))

    def product(a, b):
        return (ops.matrix_transpose(a) if turned[0] else a) @ (ops.matrix_transpose(b) if turned[1] else b)

    def f(a, b, c):
        z = product(a, b)
        match kind:
            case 0:
                return (ops.maximum(z + c, 0.0),)
            case 1:
                return z, *gradients(lambda a, b: product(a, b) * ops.maximum(c, -1.0), a, b)
            case 2:
                return gradients(lambda a, b: ops.maximum(product(ops.maximum(a, 0.0), b) + c, 0.0), a, b)
            case 3:  # updated where it lies, if it can be
                return b - 0.5 * gradients(lambda b: ops.abs(product(a, b)), b)[0], ops.sum(z)
            case 4:
                return ops.max(z, -1), ops.sum(z, -2), z * c
            case _:
                long = c * 2.0 + ops.abs(z) * 3.0 - 4.0 + ops.maximum(z, 2.0) * 5.0 - ops.minimum(z, 1.0)
                return z[..., ::-1], ops.matrix_transpose(z), ops.where(z > c, z - 1.0, long)

    return f, (a, b, whole(r, dtype, n))


def a_convolution(r):
    """With strides, dilations and groups, and its gradients: a function and its arguments."""
    size = (3, 3) if r.random() < 0.75 else tuple(int(v) for v in r.choice([1, 2, 3, 5, 7], 2))
    stride = int(r.choice([1, 1, 1, 1, 2, 3]))
    dilation = int(r.choice([1, 1, 1, 2])) if stride == 1 else 1
    padding = str(r.choice(["same", "valid"]))
    image = [n + int(r.integers(14)) + (n - 1) * (dilation - 1) * (padding == "valid") for n in size]
    inputs, outputs = (int(v) for v in r.choice(CHANNELS, 2))
    groups = int(r.choice([1, 1, 1, 2, inputs, max(1, inputs // int(r.integers(2, 6)))]))
    inputs, outputs = (groups * max(1, n // groups) for n in (inputs, outputs))
    dtype = r.choice(["float32", "float32", "float32", "float64"])
    x = whole(r, dtype, int(r.choice([1, 2, 3, 5, 8, 16])), *image, inputs)
    w = whole(r, dtype, *size, inputs // groups, outputs)
    kind = int(r.integers(5))

    def conv(x, w):
        return ops.conv(x, w, padding=padding, stride=stride, dilation=dilation, groups=groups)

    def f(x, w, c):
        match kind:
            case 0:
                return (ops.maximum(conv(x, w) + c, 0.0),)
            case 1:
                return conv(x, w), *gradients(lambda x, w: conv(x, w) * ops.maximum(c, -1.0), x, w)
            case 2:
                return gradients(lambda x, w: ops.abs(conv(x, w)), x, w)
            case 3:
                return gradients(lambda x, w: ops.maximum(conv(ops.maximum(x, 0.0), w) + c, 0.0), x, w)
            case _:
                return ops.max(conv(x, w), 3), ops.sum(conv(x, w), (0, 1, 2)), conv(x, w) * c

    return f, (x, w, whole(r, dtype, outputs))


def gradients(f, *arguments):
    return bl.grad(lambda *a: ops.sum(f(*a)), tuple(range(len(arguments))))(*arguments)


def check(kind, number):
    r = np.random.default_rng(number)
    f, arguments = kind(r)
    target = str(r.choice(TARGETS))
    graph = bl.trace(f, *arguments)
    wanted = Reference().compile(graph)(*arguments)
    with random_runs.equal_shares() if number % 2 else nullcontext():
        for shares in (1, 3):
            for a, b in zip(random_runs.results(graph, arguments, target, shares), wanted, strict=True):
                random_runs.same(a, b)


@pytest.mark.parametrize("kind", [a_product, a_convolution], ids=lambda f: f.__name__)
@pytest.mark.parametrize("number", range(10))
def test_whole_numbers(kind, number):
    check(kind, number)


@pytest.mark.full
@pytest.mark.parametrize("kind", [a_product, a_convolution], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shard", range(20))
def test_many_whole_numbers(kind, shard):
    for number in range(40 * shard, 40 * shard + 40):
        check(kind, number)
