"""Reshapes around convolutions in groups move away from them, so that one kernel does what would be two."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.rewrites import prepared
from backlit.executors.reference import Reference

from . import programs


def block(x, w, b):
    return ops.maximum(ops.conv(x, w, padding="same", groups=4) + b, 0.0) * b


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_follows_a_product_in_groups_is_done_by_its_kernel(dtype):
    normal = programs.Normal(dtype)
    x, w, b = normal(2, 7, 6, 12), normal(3, 3, 3, 12), normal(12)
    graph = bl.trace(lambda x, w, b: block(block(x, w, b), w, b), x, w, b)
    first, _ = [c for c in Native().plan(graph).calls() if "contract" in {n.op for n in c.nodes}]
    assert {"add", "maximum", "multiply"} <= {n.op for n in first.nodes}
    assert "reshape" not in {n.op for c in Native().plan(graph).calls() for n in c.nodes}
    (got,), (wanted,) = Native().compile(graph)(x, w, b), Reference().compile(graph)(x, w, b)
    np.testing.assert_allclose(got, wanted, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)


def test_a_result_that_others_read_too_is_left_as_it_is():
    x, w, b = (np.zeros(s, "float32") for s in ((2, 7, 6, 12), (3, 3, 3, 20), (20,)))

    def f(x, w, b):
        z = ops.conv(x, w, padding="same", groups=4)
        return ops.maximum(z + b, 0.0), ops.sum(z, (0, 1, 2))

    shapes = [n.type.shape for n in prepared(bl.trace(f, x, w, b)).nodes if n.op == "add"]
    assert shapes == [(2, 7, 6, 20)]


def test_two_blocks_in_a_row_and_their_gradients():
    normal = programs.Normal("float64")
    x, w, v, b = normal(2, 7, 6, 8), normal(3, 3, 2, 8), normal(3, 3, 2, 8), normal(8)

    def f(x, w, v, b):
        return ops.sum(block(block(x, w, b), v, b) ** 2.0)

    graph = bl.trace(bl.grad(f, (0, 1, 2, 3)), x, w, v, b)
    for got, wanted in zip(Native().compile(graph)(x, w, v, b), Reference().compile(graph)(x, w, v, b), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10 * np.abs(wanted).max())
