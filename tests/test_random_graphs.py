"""Random programs: our gradient against JAX's of the very same graph, by the reference executor."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from jax_oracle import in_x64, interpret
from random_graphs import programs

import backlit as bl
from backlit.executors import get
from backlit.legality import check


def assert_gradient_is_jaxs(program, arrays):
    graph = bl.trace(program, *arrays)
    check(graph)
    numbers = tuple(range(len(arrays)))
    whole = bl.trace(bl.value_and_grad(program, numbers), *arrays)
    check(whole)
    value, *gradients = get("reference").compile(whole)(*arrays)
    oracle = in_x64(jax.value_and_grad(lambda *xs: interpret(graph, xs)[0], numbers))
    wanted, wanted_gradients = oracle(*arrays)
    np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients, wanted_gradients, strict=True):
        size = max(1.0, float(np.max(np.abs(b), initial=0)))
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * size)


def try_many(first, count):
    @seed(first)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def each(case):
        assert_gradient_is_jaxs(*case)

    each()


@pytest.mark.parametrize("shard", range(4))  # for the workers to share
def test_gradients_of_random_programs(shard):
    try_many(shard, 25)


@pytest.mark.full
@pytest.mark.parametrize("shard", range(20))
def test_gradients_of_many_random_programs(shard):
    try_many(1000 + shard, 100)
