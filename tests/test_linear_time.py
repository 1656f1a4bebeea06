"""The cost of a graph grows as its size, counted in function calls, and its depth does not matter."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest
from counting import calls

import backlit as bl
from backlit import ops
from backlit.legality import check


def deep(n):
    """A chain of n ops."""

    def f(x):
        h = x
        for _ in range(n // 2):
            h = ops.tanh(h)
            h = h * x
        return ops.sum(h)

    return f


def wide(n):
    """One value used n / 2 times, in a balanced tree of sums."""

    def f(x):
        values = [ops.sin(x) for _ in range(n // 2)]
        while len(values) > 1:
            values = [a + b for a, b in zip(values[::2], values[1::2], strict=True)]
        return ops.sum(values[0])

    return f


@contextmanager
def little_stack():
    """Less depth than any program below has ops."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 60)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def costs(make, n):
    x = np.float64(0.5)
    found = {}
    found["trace"], _ = calls(lambda: bl.trace(make(n), x))
    found["differentiate"], graph = calls(lambda: bl.trace(bl.value_and_grad(make(n)), x))
    found["print"], _ = calls(lambda: str(graph))
    found["check"], _ = calls(lambda: check(graph))
    found["hash"], _ = calls(lambda: hash(graph))
    again = bl.trace(bl.value_and_grad(make(n)), x)
    found["compare"], equal = calls(lambda: graph == again)
    assert equal
    return found


@pytest.mark.parametrize("make", [deep, wide])
def test_twice_the_size_is_twice_the_work(make):
    with little_stack():
        costs(make, 64)  # fills the caches
        small, large = costs(make, 512), costs(make, 1024)
    for what in small:
        assert 1.9 < large[what] / small[what] < 2.05, what


def differentiate_and_print(n):
    with little_stack():
        graph = bl.trace(bl.value_and_grad(deep(n)), np.float64(0.5))
        check(graph)
        text = str(graph)
        assert hash(graph)
    assert text.count("\n") == len(graph.nodes)
    return graph


def test_a_program_of_100_000_nodes_with_its_gradient():
    assert len(differentiate_and_print(22_300).nodes) > 100_000


@pytest.mark.full
def test_the_gradient_of_a_program_of_100_000_nodes():
    graph = differentiate_and_print(100_000)
    assert sum(n.origin is None for n in graph.nodes) > 100_000
