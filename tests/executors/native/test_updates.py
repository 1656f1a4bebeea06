"""Updates of parameters: those of large weights are made in the tiles of the product that is their gradient."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.sharing import share_of
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import programs

REFERENCE = Reference()
ROWS, BATCH = 70, 24


def training(sizes, dtype="float32", batch=BATCH, step=programs.adam):
    n = programs.Normal(dtype)
    params = programs.layers(n, *sizes)
    state = (params, programs.start(params), np.int32(0))
    data = [n(ROWS, sizes[0]), n.integers(sizes[-1], ROWS)]
    rows = np.arange(batch) % ROWS
    return bl.trace(step, *state, data[0][rows], data[1][rows]), programs.leaves(state), data


def products_with_update(step, state):
    (loop,) = Native("avx512").compile_loop(step, len(state), 2).plan([ROWS, ROWS]).steps
    found = [c for c in loop.calls if {"contract", "sqrt"} <= {n.op for n in c.nodes}]
    return found, loop


@pytest.mark.parametrize(("sizes", "joined"), [((12, 20, 5), 0), ((200, 300, 170, 5), 2)])
def test_only_large_products_keep_the_update(sizes, joined):
    step, state, _ = training(sizes)
    found, loop = products_with_update(step, state)
    assert len(found) == joined
    assert not loop.moves
    for call in found:  # the gradient itself is not stored: state alone is written
        assert {b.kind for b in call.written()} == {"output"}


def test_a_gradient_that_others_read_is_stored():
    def clipped(params, moments, t, x, y):
        loss, gradients = bl.value_and_grad(programs.mlp)(params, x, y)
        norm = ops.sqrt(sum(ops.sum(g * g) for layer in gradients for g in layer))
        new = [tuple(p - 0.1 * g / ops.maximum(norm, 1.0) for p, g in zip(a, b, strict=True))
               for a, b in zip(params, gradients, strict=True)]  # fmt: skip
        return new, moments, t, loss

    step, state, data = training((200, 300, 170, 5), step=clipped)
    assert not products_with_update(step, state)[0]
    compare(step, state, data, Native(), 2e-3)


def compare(step, state, data, native, tolerance):
    index = np.random.default_rng(0).integers(0, ROWS, (4, step.inputs[-1].type.shape[0]))
    wanted, losses = REFERENCE.compile_loop(step, len(state), 2)(state, data, index)
    got, own = native.compile_loop(step, len(state), 2)(state, data, index)
    for a, b in zip([*got, *own], [*wanted, *losses], strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("target", ["host", "avx2", "sse2"])
@pytest.mark.parametrize(("sizes", "dtype"), [
    ((200, 300, 170, 5), "float32"), ((201, 333, 167, 5), "float32"), ((129, 301, 5), "float64"),
    ((1024, 1024, 5), "float32"),
])  # fmt: skip
def test_the_state_is_that_of_the_reference(sizes, dtype, target):
    step, state, data = training(sizes, dtype, batch=72)
    tolerance = {"float32": 5e-3, "float64": 1e-7}[dtype]  # early steps of Adam divide by small roots
    compare(step, state, data, Native(target), tolerance)


def test_weights_whose_layer_comes_first_are_read_before_they_change():
    """Layers listed from the last to the first: the update of each stands before the gradient of the one below."""

    def backward(params, moments, t, x, y):
        new_params, new_moments, t, loss = programs.adam(params[::-1], moments[::-1], t, x, y)
        return new_params[::-1], new_moments[::-1], t, loss

    n = programs.Normal("float32")
    params = programs.layers(n, 200, 300, 170, 5)[::-1]
    state = (params, programs.start(params), np.int32(0))
    data = [n(ROWS, 200), n.integers(5, ROWS)]
    step = bl.trace(backward, *state, data[0][:BATCH], data[1][:BATCH])
    compare(step, programs.leaves(state), data, Native(), 5e-3)
    assert not products_with_update(step, programs.leaves(state))[1].moves


@pytest.mark.parametrize("sizes", [(200, 300, 170, 5), (256, 1024, 5)])
def test_bits_do_not_depend_on_the_number_of_threads(sizes):
    step, state, data = training(sizes, batch=64)
    index = np.random.default_rng(1).integers(0, ROWS, (3, 64))
    plan = Native().compile_loop(step, len(state), 2).plan([ROWS, ROWS])
    losses = np.empty((3,), np.float32)
    found = []
    for shares in (1, 2, 3, 8):
        own = [a.copy() for a in state]
        Code(Artifact.of(plan, known("host"), shares), known("host")).run([*data, index, *own, losses], 0, 3)
        found.append([*own, losses.copy()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("step", "taken"),
    [
        (lambda a, b: (ops.sin(a) + 1, ops.tanh(b)), {0: 0, 1: 1}),
        (lambda a, b: (ops.tanh(b), ops.sin(a) + 1), {0: 1, 1: 0}),  # in another order
        (lambda a, b: (a * b, ops.sin(a) + 1, ops.tanh(b)), {1: 0, 2: 1}),  # after a result that is no state
    ],
)
def test_results_take_the_memory_of_whatever_fits(step, taken):
    a, b = programs.Normal("float32")(2, 30, 20)
    graph = bl.trace(step, a, b)
    wanted = REFERENCE.compile(graph)(a, b)
    assert plan(prepared(graph), (0, 1)).taken == taken
    for got, value in zip(Native().compile(graph, (0, 1))(a.copy(), b.copy()), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6, atol=1e-6)


def test_threads_share_long_updates_from_line_to_line():
    step, state, data = training((70, 65, 5))
    (loop,) = Native("avx512").compile_loop(step, len(state), 2).plan([ROWS, ROWS]).steps
    updates = [c for c in loop.calls if "sqrt" in {n.op for n in c.nodes} and not c.kernel.prologue]
    sizes = {c.kernel.points: share_of(c, known("avx512")).size(2) for c in updates}
    assert sizes == {70 * 65: 2288, 65: 33, 65 * 5: 163, 5: 3}  # only the first is worth it
    compare(step, state, data, Native(), 2e-3)
