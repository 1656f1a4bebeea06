"""The calls of a program as data: its code does not grow with them, and loops, threads and checks work from there."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from counting import calls

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError
from backlit.executors.native import Native
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.barrier import emit_barrier
from backlit.executors.native.builder import Function, Module
from backlit.executors.native.clock import Clock
from backlit.executors.native.code import Code
from backlit.executors.native.kernels import Loop
from backlit.executors.native.names import I64, POINTER
from backlit.executors.native.plan import plan, plan_loop
from backlit.executors.native.program import Program
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.script import Script
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import programs


def layers(count, width=24):
    n = programs.Normal("float32")

    def deep(ws, x):
        for w, b in ws:
            x = ops.tanh(x @ w + b)
        return ops.sum(x)

    return bl.trace(bl.value_and_grad(deep), [(n(width, width), n(width)) for _ in range(count)], n(10, width))


def program(graph, shares):
    return Program(plan(prepared(graph)), known("avx512"), shares)


def run(graph, arguments, shares):
    """What a graph gives in so many shares, on two threads if there are two."""
    made = Artifact.of(plan(prepared(graph)), known("host"), shares)
    code = Code(made, known("host"))
    code.seconds = 1.0  # worth waking the other thread
    results = [np.empty(o.type.shape, o.type.dtype) for o in graph.outputs]
    code.run([*programs.leaves(arguments), *results], 0, 1)
    return results


@pytest.mark.parametrize("shares", [1, 2])
def test_more_equal_layers_are_more_rows_and_no_more_code(shares):
    few, many, more = (program(layers(n), shares) for n in (10, 30, 50))
    lines = [sum(len(f.lines) for f in p.module.functions) for p in (few, many, more) if p.text]
    assert lines[0] == lines[1] == lines[2]
    rows = [sum(row.size for row in Script(p).rows) for p in (few, many, more)]
    assert rows[2] - rows[1] == rows[1] - rows[0] > 0


def test_kernels_share_the_function_that_turns_a_square():
    n = programs.Normal("float32")
    arguments = n(64, 32), n(64, 96)  # in whole squares, each of two shares
    graph = bl.trace(lambda a, b: (ops.permute_dims(a, (1, 0)), ops.permute_dims(b, (1, 0))), *arguments)
    made = program(graph, 2)
    assert made.text
    names = [f.name for f in made.module.functions]
    assert sum(name.startswith("turn_") for name in names) == 1 < sum(name.startswith("k") for name in names)
    for found, x in zip(run(graph, arguments, 2), arguments, strict=True):
        np.testing.assert_array_equal(found, x.T)


def test_tiles_of_all_sizes_share_a_long_epilogue():
    n = programs.Normal("float32")
    a, b, c = n(101, 70), n(70, 93), n(101, 93)

    def f(a, b, c):
        y = a @ b
        return y, ops.tanh(y * c) / (1.0 + y * y) + ops.exp(-c * y) * 0.125

    graph = bl.trace(f, a, b, c)
    made = program(graph, 2)
    text = made.text
    assert text.count("tile of ") >= 4
    assert sum(g.name.endswith("_tile") for g in made.module.functions) == 1
    for found, wanted in zip(run(graph, (a, b, c), 2), Reference().compile(graph)(a, b, c), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-4)


def test_products_share_an_equal_epilogue():
    n = programs.Normal("float32")
    arguments = n(101, 70), n(70, 93), n(101, 93), n(64, 50), n(50, 93), n(64, 93), n(64, 50), n(50, 92), n(64, 92)

    def f(a, b, c):
        y = a @ b
        return ops.tanh(y * c) / (1.0 + y * y) + ops.exp(-c * y) * 0.125

    graph = bl.trace(lambda *args: [f(*args[k : k + 3]) for k in (0, 3, 6)], *arguments)
    made = program(graph, 2)
    assert made.text.count("tile of ") >= 4
    assert sum(g.name.endswith("_tile") for g in made.module.functions) == 2  # rows of 93, and of 92
    for found, wanted in zip(run(graph, arguments, 2), Reference().compile(graph)(*arguments), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-4)


def test_work_grows_as_the_layers_do():
    """Counted in function calls, from the traced graph to the text of the program."""
    assert program(layers(8), 2).text  # fills the caches
    counts = []
    for n in (20, 40, 80):
        graph = layers(n)
        assert graph.nodes
        count, text = calls(lambda graph=graph: program(graph, 2).text)
        assert text
        counts.append(count)
    few, many, more = counts
    assert (more - many) / (many - few) == pytest.approx(2, rel=0.05)


def test_the_rows_say_what_they_compute():
    text = program(layers(12), 2).text
    rows = text[text.index("@rows = internal constant") :]
    assert "= contract, add, tanh" in rows
    assert "ptr @wait_for_all to i64" in rows


@pytest.mark.parametrize("shares", [1, 2, 3])
def test_a_loop_within_a_loop_reads_the_rows_of_both(shares):
    def function(xs, zs):
        def outer(c, x):
            d, ys = ops.scan(lambda d, z: (ops.tanh(d + z * x), d * x), c, zs)
            return d, ys

        return ops.scan(outer, xs[0] * 0.0, xs, reverse=True)

    n = programs.Normal("float32")
    arguments = n(4, 30), n(5, 30)
    graph = bl.trace(function, *arguments)
    wanted = bl.compile(function, executor="reference")(*arguments)
    for a, b in zip(run(graph, arguments, shares), programs.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_small_program_has_a_loop_within_a_loop():
    def function(xs, zs):
        return ops.scan(lambda c, x: ops.scan(lambda d, z: (d + z * x, d * x), c, zs), xs[0] * 0.0, xs)

    n = programs.Normal("float32")
    arguments = n(4, 3), n(5, 3)
    wanted = bl.compile(function, executor="reference")(*arguments)
    got = Native().compile(bl.trace(function, *arguments))(*arguments)
    for a, b in zip(got, programs.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_threads_stop_after_the_same_step_when_a_row_is_out_of_range():
    """Whichever of them finds it, and however far the others are: none waits for one that has left the loop."""

    def step(a, table, rows):
        x = ops.take(table, rows, 0)
        return a + ops.sum(ops.tanh(x @ ops.transpose(x)), 0)

    n = programs.Normal("float32")
    a, table = n(8), n(50, 4)
    graph = bl.trace(step, a, table, np.zeros(8, np.int64))
    made = Artifact.of(plan_loop(prepared(graph), 1, 1), known("host"), 2)
    code = Code(made, known("host"))
    code.seconds = 1.0
    raised = []

    def work():
        random = np.random.default_rng(0)
        for _ in range(500):
            rows = random.integers(0, 50, (12, 8))
            rows[random.integers(12), random.integers(8)] = 50
            try:
                code.run([table, rows, a.copy()], 0, 12)
            except IndexingError as e:
                raised.append(str(e))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert len(raised) == 500
    assert set(raised) == {raised[0]}
    assert "index 50 is out of range" in raised[0]


@pytest.mark.parametrize("shares", [1, 2])
def test_a_clock_counts_what_each_row_takes_and_changes_nothing(shares):
    x, w = np.ones((5, 8, 16), np.float32), np.eye(16, dtype=np.float32)

    def f(x, w):
        return ops.tanh(ops.scan(lambda h, row: ((h := ops.tanh(row @ w + h)), h), x[0], x)[1] @ w)

    made = plan(prepared(bl.trace(f, x, w)))
    clock, found = Clock(), []
    for given in (None, clock):
        code = Code(Artifact.of(made, known("host"), shares, given), known("host"))
        out = np.empty((5, 8, 16), np.float32)
        code.run([x, w, out], 0, 1)
        found.append(out)
    np.testing.assert_array_equal(*found)
    functions = [function for _, function in clock.rows]
    ticks = clock.ticks[0, [at for at, _ in clock.rows]]
    assert "run_loop" in functions
    assert all(ticks > 0)
    assert clock.ticks.sum() == ticks.sum()  # one thread, and no other places
    loop = functions.index("run_loop")
    program = Program(made, known("host"), shares)
    assert program.text
    body = len(next(r for r in Script(program).rows if r.function == "run_loop").body)
    assert ticks[loop] >= ticks[loop + 1 : loop + 1 + body].sum()


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("flowing", [True, False])
def test_the_last_step_leaves_out_what_only_a_next_one_needs(shares, length, flowing):
    n = programs.Normal("float32")
    w, h, xs = n(32, 32), n(48, 32), n(length, 48, 32)

    def loops(graph):
        return [s for s in plan(prepared(graph)).steps if isinstance(s, Loop)]

    def step(h, x):
        y = ops.tanh(h + x)
        return (y if flowing else y - ops.mean(y, 0)) @ w, y  # rows of a mean wait for one another

    graph = bl.trace(lambda h, xs: ops.sum(ops.scan(step, h, xs)[1] ** 2), h, xs)
    (loop,) = loops(graph)
    assert loop.idle == 1
    assert loop.body[1] == [loop.calls[-1]]
    np.testing.assert_allclose(run(graph, (h, xs), shares)[0], Reference().compile(graph)(h, xs)[0], rtol=1e-4)
    (loop,) = loops(bl.trace(lambda h, xs: ops.scan(step, h, xs)[0], h, xs))
    assert loop.idle == 0


def test_who_has_waited_reads_nothing_of_the_callers():
    """After the last barrier its memory may be gone: the word that stops a run is read before, or by one thread."""
    module = Module(known("host"))
    f = Function(module, "wait", [(POINTER, name) for name in ("meeting", "stop", "left")] + [(I64, "threads")])
    meeting, stop, left, threads = f.arguments
    emit_barrier(f, meeting, threads, threads == 0, stop, left)
    lines = f.text().splitlines()
    after = lines[next(n for n, line in enumerate(lines) if "met" in line and line.endswith(":")) :]
    alone = next(n for n, line in enumerate(after) if line.startswith("alone"))
    assert not [line for line in after[:alone] if "load" in line and str(stop.text) in line]
    assert [line for line in after[alone:] if "load" in line and str(stop.text) in line]
