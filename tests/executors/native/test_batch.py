"""Convolutions of few channels with the batch behind the channels: what moves, and that it means the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

import backlit as bl
from backlit import legality, ops
from backlit.executors.native import Native
from backlit.executors.native.batch import batch_innermost
from backlit.executors.native.kernels import Nest
from backlit.executors.native.method import method
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.target import known
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs, random_runs


def pooled(w, v, u, b, x):
    """Two convolutions with pooling, as in LeNet-5, and a dense layer."""
    h = ops.max_pool(ops.relu(ops.conv(x, w, padding="same") + b), 2)
    h = ops.max_pool(ops.relu(ops.conv(h, v)), 2)
    return ops.mean(ops.tanh(ops.reshape(h, (len(x), -1)) @ u) ** 2)


def normed(w, v, u, b, x):
    """Batch norm, windows that overlap and have a stride, means, and a branch that goes around."""
    z = ops.conv(x, w, padding="same")
    centred = z - ops.mean(z, (0, 1, 2))
    h = ops.avg_pool(ops.relu(centred / ops.sqrt(ops.mean(centred**2, (0, 1, 2)) + 1e-2) + b), 2)
    h = ops.tanh(ops.conv(ops.max_pool(h + h[:, ::-1], 3, stride=2, padding="same"), v, padding="same", dilation=2))
    return ops.mean((ops.mean(h, (1, 2)) @ u[: v.shape[-1]]) ** 2) + ops.sum(h[0]) * 0.01


def arguments(net, n, dtype):
    normal = programs.Normal(dtype)
    image = (16, 18, 2) if net is pooled else (15, 14, 3)
    flat = (16 // 2 - 2) // 2 * ((18 // 2 - 2) // 2) * 5
    sizes = ((5, 3, image[-1], 3), (3, 3, 3, 5), (flat, 4), (3,), (n, *image))
    return [np.round(normal(*s) * 4) / 4 for s in sizes]  # so few digits that it is exact which number is the largest


@pytest.mark.parametrize("net", [pooled, normed])
@pytest.mark.parametrize("n", [1, 7, 32, 37])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_the_reference_executors(net, n, dtype):
    args = arguments(net, n, dtype)
    graph = bl.trace(bl.grad(net, (0, 1, 2, 3, 4)), *args)
    simple = simplify(graph)
    assert (batch_innermost(simple) is not simple) == (n > 1)
    legality.check(prepared(graph))
    exact = [a.astype("float64") for a in args]
    wanted = Reference().compile(bl.trace(bl.grad(net, (0, 1, 2, 3, 4)), *exact))(*exact)
    for target in ("host", "avx2"):
        for got, right in zip(Native(target).compile(graph)(*args), wanted, strict=True):
            tolerance = (1e-4 if dtype == "float32" else 1e-11) * float(np.abs(right).max())
            np.testing.assert_allclose(got, right, rtol=0, atol=tolerance)


def test_the_whole_chain_goes_through_full_vectors():
    args = arguments(pooled, 32, "float32")
    calls = plan(prepared(bl.trace(bl.grad(pooled, (0, 1, 2, 3)), *args))).calls()
    large = [k for c in calls for k in c.kernel.nests if k.points * math.prod(k.reduced) >= 16 * 18 * 32]
    inner = [k.space[-1:] + k.reduced[-1:] for k in large if k.prologue and len(k.space) > 2]
    assert len(inner) > 6
    assert all(any(n % 32 == 0 for n in last) for last in inner)


@pytest.mark.parametrize(("channels", "outputs", "n"), [(32, 48, 32), (3, 16, 32), (1, 6, 1), (1, 6, 4096)])
def test_what_fills_vectors_stays(channels, outputs, n):
    normal = programs.Normal("float32")
    graph = simplify(bl.trace(bl.grad(lambda w, x: ops.sum(ops.conv(x, w) ** 2.0)),
                              normal(3, 3, channels, outputs), np.zeros((n, 8, 8, channels), np.float32)))  # fmt: skip
    assert batch_innermost(graph) is graph


@pytest.mark.parametrize(("window", "moves"), [(7, False), (5, True)])
def test_a_filter_that_vectors_leave_over_costs_little_where_a_line_of_the_window_is_long(window, moves):
    x, w = np.zeros((7, 57, 57, 3), "float32"), np.zeros((window, window, 3, 17), "float32")
    graph = simplify(bl.trace(lambda x, w: ops.conv(x, w, stride=2), x, w))
    assert (batch_innermost(graph) is not graph) is moves


def test_a_value_that_others_ask_for_has_its_own_order():
    normal = programs.Normal("float64")
    w, v, x = normal(3, 3, 1, 3), normal(3, 3, 3, 5), normal(16, 20, 21, 1)

    def several(w, v, x):
        h = ops.relu(ops.conv(x, w))
        y = ops.conv(h, v)
        return h, ops.argmax(h, 2), ops.cumulative_sum(y, 1), ops.sum(y, 0), ops.concat([h, h * 2.0], 3)

    graph = bl.trace(several, w, v, x)
    for got, wanted in zip(Native().compile(graph)(w, v, x), Reference().compile(graph)(w, v, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-11)


def test_results_do_not_depend_on_the_number_of_threads():
    from backlit.executors.native.artifact import Artifact
    from backlit.executors.native.code import Code
    from backlit.executors.native.target import known

    args = arguments(pooled, 37, "float32")
    whole = plan(prepared(bl.trace(bl.grad(pooled, (0, 1, 2, 3)), *args)))
    found = []
    for shares in (1, 2, 3, 8):
        results = [np.full(o.type.shape, np.nan, o.type.dtype) for o in whole.graph.outputs]
        Code(Artifact.of(whole, known("host"), shares), known("host")).run([*args, *results], 0, 1)
        found.append([r.tobytes() for r in results])
    assert found[1:] == found[:1] * 3


def test_half_a_product_that_stays_is_no_reason_to_move_the_other():
    x, w, g = np.zeros((32, 20, 20, 1), np.float32), np.zeros((5, 5, 1, 6), np.float32), np.zeros((32, 16, 16, 6))
    graph = simplify(bl.trace(bl.grad(lambda w, x, g: ops.sum(ops.conv(x, w) * g)), w, x, g.astype("float32")))
    assert "windows" in graph.ops
    assert batch_innermost(graph) is graph


def by_input(x, w, g):
    return bl.grad(lambda x: ops.sum(ops.conv(x, w, padding="same") * g))(x)


def columns(n, size, channels, outputs):
    """Which axis of the largest kernel of a gradient by the input runs along vectors: its extent."""
    shapes = (n, *size, channels), (3, 3, channels, outputs), (n, *size, outputs)
    graph = bl.trace(by_input, *(np.zeros(s, np.float32) for s in shapes))
    kernels = [c.kernel for c in Native("avx512", winograd=False).plan(graph).calls() if isinstance(c.kernel, Nest)]
    largest = max(kernels, key=lambda k: k.points * k.steps)
    return largest.space[method(largest, known("avx512")).vector]


@pytest.mark.parametrize(("n", "channels", "wanted"), [
    (32, 3, 32), (33, 10, 33), (31, 5, 31),
    (2, 5, 15), (32, 16, 16), (5, 1, None),  # few images; full vectors as it is; one channel, whose sums would wait
])  # fmt: skip
def test_a_gradient_by_the_input_alone_has_the_batch_in_vectors_if_it_pays(n, channels, wanted):
    found = columns(n, (13, 13), channels, 32)
    assert found == wanted if wanted is not None else found != n


@pytest.mark.parametrize("shape", [(32, 9, 11, 3), (33, 8, 7, 10), (17, 13, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_by_the_input_alone_are_the_reference_executors(shape, dtype):
    normal = programs.Normal(dtype)
    w = normal(*(3,) * (len(shape) - 2), shape[-1], 20)
    args = normal(*shape), w, normal(*shape[:-1], 20)
    graph = bl.trace(by_input, *args)
    assert batch_innermost(simplify(graph)) is not simplify(graph)
    random_runs.check(graph, args, 0, random_runs.near)
