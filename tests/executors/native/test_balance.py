"""Which axis threads share: the outermost one, unless their shares are unequal and the work is large."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import balance
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.sharing import share_of
from backlit.executors.native.target import known

from . import random_runs


def shared(function, *shapes, dtype="float32"):
    """The extent of the axis that is shared of the largest kernel."""
    graph = bl.trace(function, *(np.zeros(s, dtype) for s in shapes))
    calls = plan(prepared(graph)).calls()
    largest = max(calls, key=lambda c: c.kernel.points * c.kernel.steps if hasattr(c.kernel, "steps") else 0)
    return share_of(largest, known("avx512")).extent


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(balance, "SHARES", 2)
    yield
    for function in (random_runs.method.method, random_runs.sharing._share_of_nest):
        function.cache_clear()


def conv(x, w):
    return ops.conv(x, w, padding="same")


def by_weights(x, w, g):
    return bl.grad(lambda w: ops.sum(conv(x, w) * g))(w)


@pytest.mark.parametrize(("batch", "wanted"), [(4, 4), (8, 8), (3, 30)])
def test_images_are_shared_if_their_number_is_even(batch, wanted):
    assert shared(conv, (batch, 30, 30, 20), (5, 5, 20, 40)) == wanted
    assert shared(conv, (batch, 30, 30, 64), (3, 3, 64, 64)) == wanted


def test_images_are_shared_if_there_is_little_to_do():
    assert shared(conv, (3, 12, 12, 5), (5, 5, 5, 5)) == 3
    assert shared(conv, (7, 31, 31, 7), (5, 5, 7, 7)) == 7  # others' numbers would cost what the shares gain


def test_three_rows_of_weights_are_shared_by_what_is_in_them():
    shapes = (16, 5, 5, 64), (3, 3, 64, 64), (16, 5, 5, 64)
    assert shared(by_weights, *shapes) == 3 * 64
    assert shared(lambda x, w, g: by_weights(x[:2, :, :, :8], w[:, :, :8], g[:2]), *shapes) == 3


@pytest.mark.parametrize("shape", [(3, 13, 15, 33), (1, 9, 11, 34), (5, 8, 7, 17)])
def test_squares_of_a_share_of_lines_are_those_of_all(shape):
    r = np.random.default_rng(0)
    x, w = (r.integers(-3, 4, s).astype(np.float32) for s in (shape, (3, 3, shape[-1], 40)))
    graph = bl.trace(conv, x, w)
    (wanted,) = random_runs.results(graph, (x, w))
    with random_runs.equal_shares():
        for shares in (2, 3, 5):
            random_runs.same(random_runs.results(graph, (x, w), shares=shares)[0], wanted)
