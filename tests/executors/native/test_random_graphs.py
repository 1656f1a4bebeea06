"""Random graphs of what the planner's rules depend on, and the smallest ones that were once computed wrongly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import backlit as bl
from backlit import ops
from backlit.executors.native import Native

from . import graphs, random_runs

KINDS = [
    random_runs.a_function,
    random_runs.a_gradient,
    random_runs.a_loop,
    random_runs.a_long_function,
    random_runs.a_long_gradient,
    random_runs.a_network,
]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", "")


@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_random_graphs(kind):
    @seed(0)
    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(graphs.STEPS, st.integers(0, 10**4))
    def each(steps, k):
        kind(steps, k)

    each()


def drawn(number):
    """The steps of a graph, drawn evenly: hypothesis likes its programs short."""
    r = graphs.chance(number)
    return [tuple(row) for row in r.integers(0, 10**4, (int(r.integers(2, 15)), 3)).tolist()]


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shard", range(10))
def test_many_random_graphs(kind, shard):
    for number in range(40 * shard, 40 * shard + 40):
        kind(drawn(number), number)


# --- once wrong -------------------------------------------------------------------------------------------------------

DTYPES = ["bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 5, 9, 17])
def test_nothing_is_written_behind_what_is_converted(dtype, size):
    """LLVM wrote the whole of a truncated number where the last vector of an array had one lane."""
    x = (np.arange(size) % 4).astype(dtype)
    graph = bl.trace(lambda x: tuple(ops.astype(x, to) for to in DTYPES), x)
    random_runs.check(graph, [x], 0)


@pytest.mark.parametrize("target", ["host", "avx2"])
def test_half_precision_from_double(target):
    """Rounded once: what lies beside the middle of two numbers goes to the nearer one."""
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    half = np.sort(half[np.isfinite(half)]).astype(np.float64)
    middle = (half[1:] + half[:-1]) / 2
    beside = [np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf), middle * (1 + 1e-9)]
    x = np.concatenate([half, middle, *beside, [-0.0, np.inf, -np.inf, np.nan, 1e300, 5e-324, 65519.99, 65520.0]])
    (got,) = Native(target).compile(bl.trace(lambda x: ops.astype(x, "float16"), x))(x)
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(wanted))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: ops.reshape(ops.reshape(x * 2, (0, 6)), (3, 0, 2)) + 1,
        lambda x: ops.reshape(ops.concat([x, ops.abs(x)], 2), (4, 0, 3)),
        lambda x: ops.sum(ops.reshape(x + 1, (0, 3)), 0),
    ],
)
def test_views_of_values_without_elements(f):
    x = np.ones((0, 3, 2), np.float32)
    random_runs.check(bl.trace(f, x), [x], 0)


def test_what_is_computed_early_and_stored_later():
    """A counter is read within a sum, and needs memory only for the kernel of its own that comes after."""
    weights = np.arange(1100 * 17.0).reshape(1100, 17)
    x = (weights % 7).astype(np.float32)

    def f(x):
        return ops.sum(ops.astype(ops.sort(x, 1), "float64") * weights) + ops.sum(ops.astype(x, "float64"))

    random_runs.check(bl.trace(bl.value_and_grad(f), x), [x], 0, random_runs.close)


def test_a_running_sum_of_negative_zeros():
    x = np.array([-0.0, -0.0, 0.0, -0.0, 1.0], np.float32)
    (got,) = Native().compile(bl.trace(ops.cumulative_sum, x))(x)
    assert np.signbit(got).tolist() == [True, True, False, False, False]


def test_parts_stored_from_the_last_to_the_first_are_joined_in_order():
    """LLVM aborted: it joined the two stores where the first one of them stands."""
    random_runs.a_function(drawn(112), 112)
