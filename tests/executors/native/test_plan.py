"""Plans are data: how many kernels a program has, what they fuse, what they cost. A change shows up here."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.kernels import Loop, Nest
from backlit.executors.native.plan import Planner, plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.schedule import schedule
from backlit.executors.native.sharing import Pending, flows
from backlit.executors.native.target import known
from backlit.executors.native.tiling import pieces, tiling
from backlit.executors.reference import Reference
from backlit.ops.contraction import contract

from . import programs

NATIVE = Native("avx512")


def labels(graph):
    return [" ".join(dict.fromkeys(n.op for n in c.nodes)) for c in NATIVE.plan(graph).calls()]


def test_a_layer_is_one_kernel():
    n = programs.Normal("float32")
    graph = bl.trace(lambda x, w, b: ops.relu(x @ w + b), n(32, 20), n(20, 40), n(40))
    assert labels(graph) == ["contract add relu"]


def test_elementwise_chains_and_movement_cost_no_kernel():
    x = np.ones((6, 8), np.float32)
    graph = bl.trace(lambda x: ops.sum(ops.tanh(ops.flip(x.T)[1:, ::2] * 3.0 - 1.0) ** 2.0, 1), x)
    assert len(labels(graph)) == 1


def test_softmax_and_a_normalised_layer_are_one_kernel():
    x = np.ones((20, 30), np.float32)
    assert labels(bl.trace(ops.softmax, x)) == ["max subtract exp sum divide"]
    assert len(labels(bl.trace(ops.layer_norm, x))) == 1


@pytest.mark.parametrize(("rows", "copies"), [(1, 0), (3, 0), (20, 1)])
def test_an_operand_is_turned_only_where_it_is_used_often(rows, copies):
    n = programs.Normal("float32")
    g, w = n(rows, 40), n(64, 40)
    graph = bl.trace(lambda g, w: g @ w.T, g, w)
    assert sum("turned" in c.label for c in NATIVE.plan(graph).calls()) == copies
    np.testing.assert_allclose(Native().compile(graph)(g, w)[0], g @ w.T, rtol=1e-5, atol=1e-5)


def test_what_a_product_cannot_read_through_a_reshape_is_known_before_anything_is_lowered(monkeypatch):
    n = programs.Normal("float32")
    heads, x, w = n(3, 4, 8, 8), n(3, 4, 8, 10), n(40, 6)

    def joined(heads, x, w):  # the result of the first product, also with its heads made one axis
        y = ops.einsum("bhtu,bhud->bhtd", heads, x)
        return ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (24, 40)) @ w, y

    lowered = []
    steps = Planner._steps
    monkeypatch.setattr(Planner, "_steps", lambda self, *given: (lowered.append(1), steps(self, *given))[1])
    graph = bl.trace(joined, heads, x, w)
    assert len(NATIVE.plan(graph).calls()) == 3
    assert len(lowered) == 1
    wanted = (heads @ x).transpose(0, 2, 1, 3).reshape(24, 40) @ w
    np.testing.assert_allclose(Native().compile(graph)(heads, x, w)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "calls"), [("mlp", 19), ("convolution", 36), ("lstm", 22), ("attention", 40)])
def test_the_number_of_kernels_of_a_gradient(name, calls):
    function, args, _ = programs.cases("float32")[name]
    assert len(labels(bl.trace(bl.value_and_grad(function), *args))) <= calls


def test_operations_and_bytes_of_a_product():
    n = programs.Normal("float32")
    plan = NATIVE.plan(bl.trace(lambda x, w: x @ w, n(64, 100), n(100, 32)))
    assert plan.flops == 2 * 64 * 100 * 32
    assert plan.bytes == 4 * (64 * 100 + 100 * 32 + 64 * 32)


def test_memory_is_shared_by_values_that_are_not_needed_at_once():
    def deep(x, w):
        for _ in range(20):
            x = ops.tanh(x @ w)
        return x

    plan = NATIVE.plan(bl.trace(deep, np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)))
    assert plan.arena == 2 * 64 * 64 * 4


def test_large_values_start_at_different_places_of_a_page():
    def f(x):
        a = x @ x
        b = a @ x
        c = b @ x
        return (a @ b) @ (b @ c) @ (a @ c)

    calls = NATIVE.plan(bl.trace(f, np.ones((256, 256), np.float32))).calls()
    places = {b: b.offset for c in calls for b, _ in c.arguments if b.kind == "arena"}
    assert len(set(places.values())) == len({p % 4096 for p in places.values()}) >= 3


def test_equal_layers_share_their_code():
    def deep(ws, x):
        for w, b in ws:
            x = ops.tanh(x @ w + b)
        return ops.sum(x)

    def size(layers):
        n = programs.Normal("float32")
        graph = bl.trace(bl.value_and_grad(deep), [(n(24, 24), n(24)) for _ in range(layers)], n(10, 24))
        return NATIVE.llvm(graph).count("\ndefine")

    assert size(30) == size(10)


def test_a_plan_prints_as_a_table():
    function, args, _ = programs.cases("float32")["odd_mlp"]
    text = str(NATIVE.plan(bl.trace(function, *args)))
    first, *lines, last = text.splitlines()
    assert first.split() == ["#", "computes", "kind", "loops", "split", "operations", "bytes", "made", "of"]
    assert any("product" in line and "contract, add, relu" in line for line in lines)
    assert "operations" in last
    assert "avx512" in last


def test_tiles_cover_a_product():
    plan = NATIVE.plan(bl.trace(lambda x, w: x @ w, np.ones((37, 9), np.float32), np.ones((9, 50), np.float32)))
    (call,) = plan.calls()
    assert isinstance(call.kernel, Nest)
    cut = tiling(call.kernel, NATIVE.target)
    assert cut is not None
    assert cut.lanes == 16
    assert cut.rows * cut.vectors + cut.vectors + 1 <= 32
    assert sum(c * s for c, s in pieces(37, cut.rows)) == 37


def test_pieces_are_nearly_equal():
    assert pieces(10, 4) == ((1, 4), (2, 3))
    assert pieces(8, 4) == ((2, 4),)
    assert pieces(0, 4) == ()


def lstm(batch):
    n = programs.Normal("float32")
    args = n(12, 48), n(12, 48), n(48), n(9, batch, 12)
    return bl.trace(bl.grad(programs.lstm, argnums=(0, 1)), *args), args


def loops(graph):
    return [s for s in NATIVE.plan(graph).steps if isinstance(s, Loop)]


def test_threads_go_through_a_recurrent_layer_without_waiting():
    """The rows of a batch meet only in the weights: each thread takes its own through all time."""
    forward, backward = loops(lstm(16)[0])
    for loop in (forward, backward):
        assert flows(loop, NATIVE.target, 2)
        pending = Pending(NATIVE.target, 2)
        assert not any(pending.add(c) for c in loop.calls)
        assert not loop.moves
    assert (len(forward.calls), len(backward.calls)) == (2, 2)


def test_a_loop_computes_what_does_not_change_before_it():
    _, backward = loops(lstm(16)[0])
    assert any("turned" in c.label for c in backward.start)
    assert not any("turned" in c.label for c in backward.calls)


def test_rows_that_are_read_by_all_are_waited_for():
    def step(h, x):
        h = ops.tanh(ops.matmul(w, h) + x)  # the rows of h meet
        return h, h

    n = programs.Normal("float32")
    w = n(16, 16)
    (loop,) = loops(bl.trace(lambda h, x: ops.scan(step, h, x)[0], n(16, 16), n(5, 16, 16)))
    assert not flows(loop, NATIVE.target, 2)


@pytest.mark.parametrize("batch", [5, 16])
def test_a_recurrent_layer_has_the_same_bits_for_any_number_of_threads(batch):
    graph, args = lstm(batch)
    made = plan(prepared(graph))
    results = []
    for threads in (1, 2, 3):
        code = Code(Artifact.of(made, known("host"), 3), known("host"))
        code._threads = lambda steps, threads=threads: threads
        outputs = [np.empty(o.type.shape, o.type.dtype) for o in made.graph.outputs]
        code.run([*(np.ascontiguousarray(a) for a in args), *outputs], 0, 1)
        results.append([o.tobytes() for o in outputs])
    assert results[0] == results[1] == results[2]
    for got, wanted in zip(results[0], Reference().compile(graph)(*args), strict=True):
        np.testing.assert_allclose(np.frombuffer(got, np.float32), wanted.ravel(), rtol=1e-4, atol=1e-5)


def test_cheap_arithmetic_is_done_again_instead_of_stored():
    n = programs.Normal("float32")

    def f(x, w):  # x / 2, x + 1 and x - mean are each read twice, from x; tanh is stored
        z = ops.tanh(x @ w)
        half, more, centred = z * 0.5, z + 1.0, z - ops.mean(z, 1, keepdims=True)
        return ops.sum(half * more, 0), ops.sum(half * centred, 1), ops.sum(more * centred, 0)

    calls = NATIVE.plan(bl.trace(f, n(40, 24), n(24, 48))).calls()
    large = {b.name for c in calls for b in c.written() if b.type.shape == (40, 48)}
    assert len(large) == 1


def test_what_is_not_cheap_is_done_once():
    x = np.ones((40, 48), np.float32)
    functions = (
        lambda x: ops.exp(x) / (x * x + 1.0),
        lambda x: ops.exp(x) + 1.0,
        lambda x: ops.exp(x) * 3.0 + ops.tanh(x) * ops.tanh(x),
    )
    for f in functions:
        graph = bl.trace(lambda x, f=f: (ops.sum(y := f(x), 0), ops.sum(y, 1)), x)
        code = [i for c in NATIVE.plan(graph).calls() for i in c.kernel.prologue + c.kernel.epilogue]
        assert sum(i.op == "exp" for i in code) == 1


def test_the_gradient_of_a_weight_is_taken_when_its_operands_are_there():
    n = programs.Normal("float32")
    sizes = (64, 32, 32, 32, 32)
    layers, x = programs.layers(n, *sizes), n(256, 64)

    def step(layers, momenta, x):
        def loss(layers):
            h = x
            for w, b in layers:
                h = ops.tanh(h @ w + b)
            return ops.sum(h * h)

        new = []
        for (w, _), m, (g, _) in zip(layers, momenta, bl.grad(loss)(layers), strict=True):
            m = 0.9 * m + g
            new.append((w - 0.1 * m, m))
        return new

    made = NATIVE.plan(bl.trace(step, layers, [np.zeros_like(w) for w, _ in layers], x))
    spans = {}
    for k, c in enumerate(made.calls()):
        for b, _ in c.arguments:
            if b.kind == "arena" and b.type.shape == (256, 32):
                spans[b] = (spans.get(b, (k, k))[0], k)
    gradients = sorted(spans.values())[3:]  # after the activations of three layers
    assert len(gradients) == 4
    assert all(done < begun for (_, done), (begun, _) in zip(gradients, gradients[2:], strict=False))


def test_sums_over_rows_go_through_memory_in_long_runs():
    graph = bl.trace(lambda x: ops.sum(x, 0), np.ones((100, 512), np.float32))
    (call,) = NATIVE.plan(graph).calls()
    assert schedule(call.kernel, NATIVE.target).lanes == 64
    graph = bl.trace(lambda x: ops.sum(ops.exp(x), 0), np.ones((100, 512), np.float32))
    (call,) = NATIVE.plan(graph).calls()
    assert schedule(call.kernel, NATIVE.target).lanes == 16


@pytest.mark.parametrize("target", ["host", "sse2"])
@pytest.mark.parametrize("columns", [64, 67, 130, 256, 1000])
def test_sums_over_rows_of_any_width(columns, target):
    n = programs.Normal("float32")
    x, s = n(37, columns), np.abs(n(37, 1)) + np.float32(0.5)
    x[3, 5], x[4, 6], x[5, 7] = np.nan, np.inf, -np.inf
    graph = bl.trace(lambda x, s: (ops.sum(x, 0), ops.max(x, 0), ops.sum((x - 1.0) / s * x, 0)), x, s)
    for got, wanted in zip(Native(target).compile(graph)(x, s), Reference().compile(graph)(x, s), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def product_of(rows, steps, columns, dtype="float32"):
    """The tiling of the only kernel of a product."""
    n = programs.Normal(dtype)
    (call,) = NATIVE.plan(bl.trace(lambda a, b: ops.tanh(a @ b), n(rows, steps), n(steps, columns))).calls()
    return tiling(call.kernel, known("avx512"))


def test_rows_a_multiple_of_a_page_apart_are_copied_side_by_side():
    assert product_of(64, 2048, 1024).part == 1024  # a panel of 64 columns that the second-level cache holds
    assert product_of(64, 2048, 1000).part == 0
    assert product_of(8, 2048, 1024).part == 0  # too few rows use the copy
    assert product_of(64, 200, 1024).part == 0  # few enough to stay in the cache


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1025), ("float64", 513)])
def test_rows_near_a_multiple_of_a_page_apart_are_few_in_a_tile(dtype, near):
    n = np.dtype(dtype).itemsize
    for steps in (4096 // n, near, 4 * 4096 // n):  # all rows of a tile would want the same lines of the cache
        assert product_of(127, steps, 200, dtype).rows <= 7
        assert product_of(200, steps, 12, dtype).rows <= 7
    assert product_of(200, 1000, 12, dtype).rows > 7


def test_tiles_fit_into_the_rows_of_a_share(monkeypatch):
    monkeypatch.setattr("backlit.executors.native.tiling.SHARES", 2)
    assert pieces(100, product_of(200, 64, 100).rows) == ((20, 5),)  # as fast as 8 and 7 rows, and half of the code
    monkeypatch.setattr("backlit.executors.native.tiling.SHARES", 1)
    assert pieces(200, product_of(200, 64, 100).rows) == ((25, 8),)


def test_threads_share_the_columns_of_what_is_larger_than_the_rows():
    assert product_of(100, 600, 600).by_columns
    assert not product_of(600, 600, 600).by_columns
    assert not product_of(100, 600, 100).by_columns
    assert product_of(1, 600, 600).by_columns  # or one thread alone would wait for the weights
    assert product_of(5, 600, 600).by_columns
    assert not product_of(1, 60, 600).by_columns


def test_a_few_rows_go_through_the_weights_in_long_runs():
    assert product_of(1, 600, 470).vectors == 30  # all of them at once
    assert product_of(2, 600, 150).vectors == 10
    assert product_of(3, 600, 112).vectors == 7
    assert product_of(7, 600, 600).vectors <= 4


def test_all_columns_come_before_the_next_rows_where_the_weights_stay_near():
    assert product_of(100, 3, 600).row_by_row
    assert not product_of(100, 300, 600).row_by_row
    assert not product_of(100, 3, 40).row_by_row  # a tile has them all


@pytest.mark.parametrize(("spec", "sizes", "along"), [
    ("na,nb->ab", (200, 100, 10), 0), ("na,nb->ab", (200, 100, 64), 1), ("na,nb->ab", (4, 100, 10), 1),
    ("na,nb->ab", (64, 37, 2), 0), ("an,nb->ba", (200, 90, 50), 0), ("na,nb->ab", (500, 48, 17), 0),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_run_along_the_axis_that_fills_them(spec, sizes, along, dtype):
    n, size = programs.Normal(dtype), dict(zip("nab", sizes, strict=True))
    left, right = (n(*(size[c] for c in term)) for term in spec.split("->")[0].split(","))
    left[0, 0], right[-1, -1] = np.nan, np.inf
    graph = bl.trace(lambda x, y: contract(x, y, spec=spec) * 2.0, left, right)
    (call,) = NATIVE.plan(graph).calls()
    assert tiling(call.kernel, known("avx512")).columns == along
    for target in ("host", "avx2", "sse2"):
        (got,) = Native(target).compile(graph)(left, right)
        tolerance = 1e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(got, np.einsum(spec, left, right) * 2.0, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(50, 2050, 1024), (64, 700, 2048), (129, 1500, 1024), (53, 4096, 1024)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copied_blocks_give_the_same_sums(shape, dtype):
    rows, steps, columns = shape
    n = programs.Normal(dtype)
    a, b, c = n(rows, steps), n(steps, columns), n(columns)
    assert product_of(rows, steps, columns, dtype).part
    graph = bl.trace(lambda a, b, c: (a @ b + c) * 0.5, a, b, c)
    own = {t: Native(t).compile(graph)(a, b, c)[0] for t in ("avx512", "avx2")}
    for found in own.values():  # partial sums are some sqrt(steps) large, and as many roundings add up
        np.testing.assert_allclose(found, (a @ b + c) * 0.5, rtol=0, atol=2 * steps * np.finfo(dtype).eps)


@pytest.mark.parametrize("columns", [600, 1000, 1024])
def test_results_do_not_depend_on_how_many_share_the_columns(columns):
    n = programs.Normal("float32")
    a, b = n(70, 1200), n(1200, columns)
    whole = plan(prepared(bl.trace(lambda a, b: a @ b, a, b)))
    found = []
    for shares in (1, 2, 3, 8):
        result = np.full((70, columns), np.nan, np.float32)
        Code(Artifact.of(whole, known("host"), shares), known("host")).run([a, b, result], 0, 1)
        found.append(result)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_a_bias_joins_its_product_although_many_read_the_sum():
    n = programs.Normal("float32")
    graph = bl.trace(lambda x, w, b: ops.softmax(x @ w + b), n(40, 24), n(24, 12), n(12))
    assert labels(graph)[0] == "contract add"


@pytest.mark.parametrize(("rows", "steps", "columns", "asked"), [
    (9000, 200, 8, True), (3001, 64, 16, True), (200, 200, 8, False), (9000, 200, 200, False), (9000, 2000, 8, False),
])  # fmt: skip
def test_rows_from_memory_are_asked_for_before_they_are_used(rows, steps, columns, asked):
    n = programs.Normal("float32")
    a, b = n(rows, steps), n(steps, columns)
    graph = bl.trace(lambda a, b: a @ b, a, b)
    assert ("llvm.prefetch" in graph.llvm(target="avx512")) == asked
    (got,) = NATIVE.compile(graph)(a, b)
    np.testing.assert_allclose(got, a @ b, rtol=0, atol=1e-3)
