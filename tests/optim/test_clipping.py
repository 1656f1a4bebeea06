"""Clipping keeps what it promises, for any gradients; its numbers are compared with optax's in test_oracles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import backlit as bl
from backlit import optim

TREES = st.lists(
    arrays(np.float64, array_shapes(min_dims=0, max_dims=2, max_side=3), elements=st.floats(-1e3, 1e3)), max_size=3
)
LIMITS = st.floats(1e-3, 1e3)


def norm(a):
    return float(np.sqrt(np.sum(np.square(a))))


@given(TREES, LIMITS)
def test_by_value(tree, limit):
    for g, clipped in zip(tree, optim.clip_by_value(tree, limit), strict=True):
        assert np.array_equal(clipped, np.clip(g, -limit, limit))


@given(TREES, LIMITS)
def test_by_norm_shortens_what_is_too_long_and_nothing_else(tree, limit):
    for g, clipped in zip(tree, optim.clip_by_norm(tree, limit), strict=True):
        assert norm(clipped) == pytest.approx(min(norm(g), limit))
        np.testing.assert_allclose(clipped * max(norm(g), 1e-9), g * norm(clipped), rtol=1e-9, atol=1e-9)


@given(TREES, LIMITS)
def test_by_global_norm_keeps_the_direction(tree, limit):
    clipped = optim.clip_by_global_norm(tree, limit)
    whole = np.concatenate([np.ravel(g) for g in [*tree, np.zeros(1)]])
    assert float(optim.global_norm(tree)) == pytest.approx(norm(whole))
    factor = min(1.0, limit / norm(whole)) if norm(whole) else 1.0
    for g, c in zip(tree, clipped, strict=True):
        np.testing.assert_allclose(c, g * factor, rtol=1e-9, atol=1e-12)


def test_mixed_dtypes_are_measured_in_the_widest_and_kept():
    tree = {"a": np.full(4, 3.0, np.float32), "b": np.full(1, 8.0)}
    assert optim.global_norm(tree).dtype == np.float64
    clipped = bl.compile(lambda g: optim.clip_by_global_norm(g, 5.0))(tree)
    assert [clipped["a"].dtype, clipped["b"].dtype] == [np.float32, np.float64]
    np.testing.assert_allclose(clipped["b"], 4.0)


def test_a_gradient_that_is_no_number_stays_visible():
    for clip in (optim.clip_by_norm, optim.clip_by_global_norm):
        assert np.isnan(clip({"a": np.array([np.nan, 1.0])}, 1.0)["a"]).all()


def test_the_norm_has_its_name_in_a_trace():
    params = {"w": np.ones(3)}
    optimizer = optim.SGD(clip_global_norm=1.0)
    graph = bl.trace(optimizer.update, params, optimizer.init(params), params)
    assert {"norm", "shrinkage", "clipped"} <= set(graph.names().values())
