"""Copies that turn two axes, and rows that are gathered and turned at once."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError
from backlit.executors.native import Native
from backlit.executors.native.table import describe
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import programs, random_runs

SHAPES = [(16, 16), (37, 33), (4, 64), (17, 31, 3), (65, 5, 19), (3, 130)]
DTYPES = ["float32", "float64", "float64", "float32", "float32", "float64"]


def kinds(graph):
    return [describe(c, known("avx512")) for c in Native("avx512").plan(graph).calls()]


def moved(x):
    return ops.moveaxis(x, 0, -1)


@pytest.mark.parametrize(("shape", "dtype"), list(zip(SHAPES, DTYPES, strict=True)))
def test_an_axis_that_goes_last_into_what_lies_within_zeros(shape, dtype):
    """So that the result has gaps: nothing is written there but zeros."""
    x = programs.Normal(dtype)(*shape)
    graph = bl.trace(lambda x: ops.pad(moved(x), [(1, 2)] * x.ndim), x)
    assert ("turn" in [k for k, _ in kinds(graph)]) == (
        shape[0] >= 4 and shape[-1] >= (16 if dtype == "float32" else 8)
    )
    random_runs.check(graph, [x], len(shape))


@pytest.mark.parametrize(
    ("shape", "dtype", "index"), list(zip(SHAPES, DTYPES[::-1], ["int64", "int32", "uint8"] * 2, strict=True))
)
def test_rows_that_are_gathered_only_to_be_turned(shape, index, dtype):
    x = programs.Normal(dtype)(9, *shape[1:])
    rows = np.random.default_rng(0).integers(0 if index == "uint8" else -9, 9, shape[0]).astype(index)
    graph = bl.trace(lambda x, i: ops.pad(moved(ops.take(x, i, 0)), [(0, 1)] * x.ndim), x, rows)
    random_runs.check(graph, [x, rows], len(shape))
    assert "gather" not in [n.op for c in Native("avx512").plan(graph).calls() for n in c.nodes if "pad" not in c.label]


def test_a_row_out_of_range_is_named_and_nothing_is_read_there():
    x = programs.Normal("float32")(9, 40)
    run = Native().compile(
        bl.trace(lambda x, i: ops.pad(moved(ops.take(x, i, 0)), [(0, 1), (0, 0)]), x, np.zeros(37, int))
    )
    for place, wrong in ((0, 9), (36, -10), (20, 1 << 40)):
        rows = np.zeros(37, np.int64)
        rows[place] = wrong
        with pytest.raises(IndexingError, match=f"index {wrong} is out of range"):
            run(x, rows)
    empty = Native().compile(
        bl.trace(lambda x, i: ops.pad(moved(ops.take(x, i, 0)), [(0, 1), (0, 0)]), x[:0], np.zeros(5, int))
    )
    with pytest.raises(IndexingError):
        empty(x[:0], np.zeros(5, int))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_images_of_a_minibatch_are_gathered_with_the_batch_last(padding):
    """Whether zeros go around them or not, the first convolution finds the rows of the batch side by side."""
    n = programs.Normal("float32")
    w, images, data = n(3, 3, 1, 5), n(32, 12, 17, 1), n(40, 12, 17, 1)

    def step(w, x):
        return (w - bl.grad(lambda w: ops.mean(ops.conv(x, w, padding=padding) ** 2.0))(w),)

    graph = bl.trace(step, w, images)
    loop = Native("avx512").compile_loop(graph, 1, 1)
    calls = {describe(c, known("avx512"))[0]: [n.op for n in c.nodes] for c in loop.plan([40]).calls()}
    assert "gather" in calls["turn"] or "pad" in calls["turn"]
    assert any(kind.startswith("product") for kind, made in calls.items() if "contract" in made)
    rows = np.random.default_rng(0).integers(-40, 40, (3, 32))
    wanted, _ = Reference().compile_loop(graph, 1, 1)([w], [data], rows)
    got, _ = loop([w], [data], rows)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)
