"""Values written straight into their padding, and values computed again instead of stored."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import legality, ops
from backlit.executors.native import Native
from backlit.executors.native.rectified import rectified
from backlit.executors.native.rewrites import prepared
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs

N = programs.Normal("float32")
NATIVE = Native("avx512")


def check(graph, *args):
    legality.check(prepared(graph))
    for got, wanted in zip(Native().compile(graph)(*args), Reference().compile(graph)(*args), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=5e-5, atol=5e-5)


def copies(graph):
    return [c.label for c in NATIVE.plan(graph).calls() if c.label.startswith("copy")]


@pytest.mark.parametrize("padding", ["same", ((0, 2), (1, 0)), 2])
def test_what_is_padded_is_computed_within_its_padding(padding):
    x, w = N(2, 7, 6, 3), N(3, 2, 3, 5)
    graph = bl.trace(lambda x, w: ops.conv(ops.tanh(x) * 2.0, w, padding=padding), x, w)
    assert not copies(graph)
    check(graph, x, w)


def test_others_read_it_there():
    x, w = N(2, 7, 6, 3), N(3, 3, 3, 5)

    def f(x, w):
        a = ops.tanh(x)
        y = ops.conv(a, w, padding="same")
        return y, ops.sum(a, (0, 1, 2)), ops.flip(a, 1) * 2.0, ops.max_pool(a, 2), ops.conv(a, w[:2, :2])

    graph = bl.trace(f, x, w)
    assert not copies(graph)
    check(graph, x, w)


def test_what_lies_within_its_padding_is_joined_too():
    x, y = N(3, 4), N(3, 4)

    def f(x, y):
        a = ops.tanh(x)
        return ops.tanh(ops.pad(a, 1)), ops.tanh(ops.concat([a, y, a], 0))

    graph = bl.trace(f, x, y)
    check(graph, x, y)


@pytest.mark.parametrize("other", [
    lambda a: ops.cumulative_sum(a, axis=1),
    lambda a: ops.reshape(a, (-1, 9)),
    lambda a: ops.argmax(a, 1),
    lambda a: ops.take(a, np.array([1, 0]), axis=0),
    lambda a: a,
])  # fmt: skip
def test_who_needs_neighbouring_memory_gets_it(other):
    x, w = N(2, 7, 6, 3), N(3, 3, 3, 5)

    def f(x, w):
        a = ops.tanh(x)
        return ops.conv(a, w, padding="same"), other(a)

    check(bl.trace(f, x, w), x, w)


def test_a_network_with_pooling_and_batch_norm_stores_little():
    """Forward: z and its activation, no x - mean, no x_hat; and the gradient of the first weights goes all the way."""
    x, w, v, scale = N(4, 8, 8, 3), N(3, 3, 3, 16), N(3, 3, 16, 16), N(16)

    def f(w, v, scale, x):
        z = ops.conv(x, w, padding="same")
        centred = z - ops.mean(z, (0, 1, 2))
        variance = ops.mean(centred * centred, (0, 1, 2))
        a = ops.relu(scale * (centred / ops.sqrt(variance + 1e-5)) + 0.1)
        y = ops.conv(ops.max_pool(a, 2), v, padding="same")
        return ops.mean(y * y)

    graph = bl.trace(bl.grad(f), w, v, scale, x)
    full = 4 * 8 * 8 * 16 * 4
    stored = {b for c in NATIVE.plan(graph).calls() for b in c.written() if b.kind == "arena" and b.bytes == full}
    assert len(stored) <= 6
    check(graph, w, v, scale, x)


def test_the_gradient_of_relu_asks_the_activation():
    x, w, v = N(6, 5), N(5, 7), N(7, 3)
    graph = simplify(bl.trace(bl.grad(lambda w, x, v: ops.sum((ops.relu(x @ w) @ v) ** 2.0)), w, x, v))
    found = rectified(graph)
    (mask,) = [n for n in found.nodes if n.op == "greater"]
    assert mask.inputs[0].op == "relu"
    check(graph, w, x, v)
    alone = simplify(bl.trace(bl.grad(lambda x: ops.sum(ops.relu(x) ** 2.0)), x))
    assert rectified(alone) is alone


def test_what_is_the_same_at_each_step_is_done_once_before_the_loop():
    """Zeros around a small value, whose memory is then its own, and what is made of unchanged state."""
    w, v, x = N(3, 3, 2, 4), N(40, 6), N(8, 7, 6, 2)

    def step(w, v, x):
        y = ops.relu(ops.conv(ops.tanh(x), w, padding=3))
        return w - 1e-3 * ops.sum(y), v, ops.sum(y, (1, 2)) @ ops.tanh(v[:4])

    graph, rows = bl.trace(step, w, v, x), np.random.default_rng(0).integers(0, 20, (5, 8))
    loop = NATIVE.compile_loop(graph, 2, 1)
    (steps,) = loop.plan([20]).steps
    assert any(c.label.startswith("padding of") for c in steps.start)
    assert "tanh" in {n.op for c in steps.start for n in c.nodes}
    assert not any(c.label.startswith("padding of") for c in steps.calls)
    zeros = {b for c in steps.start if c.label.startswith("padding of") for b in c.written()}
    for b in zeros:  # nothing else is written there
        others = {a for c in steps.calls + steps.start for a, _ in c.arguments if a.kind == "arena"} - zeros
        assert all(a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset for a in others)
    data = N(20, 7, 6, 2)
    for part in (rows, rows[:2], rows[:0]):
        got, wanted = (run([w, v], [data], part) for run in (loop, Reference().compile_loop(graph, 2, 1)))
        for a, b in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]], strict=True):
            np.testing.assert_allclose(a, b, rtol=5e-4, atol=5e-4)


def test_zeros_around_a_large_value_are_written_at_each_step():
    """Their memory serves others in between."""
    w, x = N(3, 3, 64, 64), N(8, 24, 24, 64)
    loop = NATIVE.compile_loop(bl.trace(lambda w, x: (w - ops.sum(ops.conv(x, w, padding="same")),), w, x), 1, 1)
    (steps,) = loop.plan([20]).steps
    assert not [c for c in steps.start if c.label.startswith("padding of")]


def test_a_state_that_becomes_what_is_made_of_one_that_stays_is_read_first():
    w, v, x = N(300), N(300), N(4, 300)
    graph = bl.trace(lambda w, v, x: (ops.tanh(v) * 2.0, v, ops.sum(w) + ops.sum(x)), w, v, x)
    data, rows = N(9, 300), np.arange(12).reshape(3, 4) % 9
    got, wanted = (e.compile_loop(graph, 2, 1)([w, v], [data], rows) for e in (NATIVE, Reference()))
    for a, b in zip([*got[0], *got[1]], [*wanted[0], *wanted[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
