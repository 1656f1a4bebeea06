"""Compiled code in bad company: no memory, no disk, indices out of range, forks in the middle, interrupted steps."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError
from backlit.executors.native import Native, artifact, jit, stack, storage, threads
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.plan import plan
from backlit.executors.native.program import Program
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import interrupting, programs

NATIVE, REFERENCE = Native(), Reference()


def script(*arguments, timeout=120):
    """What `unkind.py` prints, in a process of its own."""
    path = Path(__file__).with_name("unkind.py")
    done = subprocess.run(
        [sys.executable, path, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# --- bounds -----------------------------------------------------------------------------------------------------------

TABLE = np.arange(15, dtype=np.float32).reshape(5, 3)
READERS = {
    "alone": lambda t, i: t[i],
    "in a sum": lambda t, i: ops.sum(ops.tanh(t[i]) * 2.0),
    "in a product": lambda t, i: ops.relu(t[i]) @ t.mT,
    "within a padding": lambda t, i: ops.conv(ops.pad(ops.tanh(t[i]), 1)[None], np.ones((2, 5, 1), np.float32)),
    "joined": lambda t, i: ops.concat([ops.exp(t[i]), t], 0),
    "in a loop": lambda t, i: ops.scan(lambda c, k: (c + t[k], ops.sum(c * t[k])), np.zeros(3, np.float32), i)[1],
    "along an axis": lambda t, i: ops.take_along_axis(t, i[:, None], 0),
    "of a computed value": lambda t, i: (ops.tanh(t) @ t.mT)[i, i],
    "added": lambda t, i: ops.scatter_add(t, i, 1.0),
    "of a gradient": lambda t, i: bl.grad(lambda u: ops.sum(ops.tanh(u[i]) ** 2.0))(t),
    "of a label": lambda t, i: bl.grad(lambda u: ops.sum(ops.take_along_axis(ops.tanh(u), i[:5, None], 1)))(t),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [("int8", -128), ("uint8", 255), ("int32", 2**31 - 1), ("int64", -(2**63)), ("int64", 5), ("int64", -6),
     ("uint32", 2**32 - 1), ("uint64", 2**64 - 1), ("uint64", 2**63)],
)  # fmt: skip
def test_no_index_out_of_range_is_read(reader, dtype, bad):
    indices = np.array([0, 1, 2, 0, 1, 2], dtype)
    run = NATIVE.compile(bl.trace(READERS[reader], TABLE, indices))
    run(TABLE, indices)
    for place in (0, 4):
        wrong = indices.copy()
        wrong[place] = np.array(bad, dtype)
        with pytest.raises(IndexingError, match="out of range"):
            run(TABLE, wrong)
    run(TABLE, indices)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_more_than_the_machine_has_is_refused_even_where_the_system_promises_it(monkeypatch):
    monkeypatch.setattr(storage, "most", lambda: 1 << 30)
    with pytest.raises(MemoryError, match="a program needs"):
        storage.block((1 << 30) + 1)
    assert storage.block(1 << 20).nbytes == 1 << 20


def test_no_more_than_there_is():
    assert 1 << 28 < storage.most() < 1 << 50


def test_values_whose_sum_cannot_be_counted():
    def f(x):
        y = [ops.argsort(ops.broadcast_to(x, (2**30, 2**29)) + float(k), 1) for k in range(5)]
        return sum((ops.sum(v[:, 0]) for v in y[1:]), start=ops.sum(y[0][:, 0]))

    with pytest.raises(MemoryError):
        NATIVE.compile(bl.trace(f, np.ones((), np.float32)))


def test_a_limited_process_raises_before_anything_runs():
    assert script("memory") == ["MemoryError", "unchanged", "same"]


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_full_disk(tmp_path):
    assert script("disk", tmp_path) == ["same", "0"]


def test_a_folder_that_can_only_be_read():
    """As root, who may write anywhere, in a process that becomes nobody."""
    with tempfile.TemporaryDirectory(prefix="backlit-cache-") as folder:
        assert script("read-only", folder) == ["same", "found", "same", "0"]


# --- processes and threads --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_while_another_thread_compiles_and_runs():
    assert script("fork") == ["same"] * 12


def test_several_threads_compile_and_train():
    step = bl.trace(lambda w, x: (w - 0.1 * ops.tanh(x).mT @ (x @ w), ops.sum(x)), *(a[:4] for a in _training()))
    w, x = _training()
    rows = np.arange(40).reshape(10, 4) % 30
    wanted = NATIVE.compile_loop(step, 1, 1)([w], [x], rows)
    loop, found = NATIVE.compile_loop(step, 1, 1), []

    def work():
        for _ in range(3):
            found.append(loop([w], [x], rows))
            found.append(NATIVE.compile_loop(step, 1, 1)([w], [x], rows))

    others = [threading.Thread(target=work) for _ in range(4)]
    for t in others:
        t.start()
    for t in others:
        t.join(100)
    assert len(found) == 24
    for got in found:
        np.testing.assert_array_equal(got[0][0], wanted[0][0])
        np.testing.assert_array_equal(got[1][0], wanted[1][0])


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_system_that_gives_no_more_threads(given, monkeypatch):
    x = np.linspace(-1, 1, 5000, dtype=np.float32).reshape(50, 100)
    graph = bl.trace(lambda x: ops.softmax(ops.tanh(x @ x.mT)) @ x, x)
    (wanted,) = NATIVE.compile(graph)(x)
    left, usual = [given], _thread.start_new_thread

    def start(*args):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        return usual(*args)

    monkeypatch.setattr(_thread, "start_new_thread", start)
    monkeypatch.setattr(threading, "_start_new_thread", start)
    monkeypatch.setattr(threads, "_pool", threads.Pool())
    monkeypatch.setattr(threads, "available", lambda: 3)
    monkeypatch.setattr(artifact, "_PART", 50)
    monkeypatch.setenv("BACKLIT_CACHE", "")
    jit._begun.clear()
    code = Code(Artifact.of(plan(prepared(graph)), known("host"), 3), known("host"))
    code.seconds = 1.0  # worth waking others for
    out = np.empty_like(wanted)
    for _ in range(3):
        code.run([x, out], 0, 1)
        np.testing.assert_array_equal(out, wanted)
    monkeypatch.setattr(stack, "has_room", lambda: False)
    if not given:
        with pytest.raises(MemoryError, match="thread"):
            code.run([x, out], 0, 1)


def _training():
    n = programs.Normal("float32")
    return n(4, 4), n(30, 4)


# --- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_breaks_a_long_step_off_unless_its_state_was_given_away(count, monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: count)
    n = programs.Normal("float32")
    w, x = n(500, 500) / 25, n(500, 500)

    def step(w, x):
        return ops.scan(lambda w, _: (ops.tanh(w @ x), ops.sum(w)), w, np.zeros(200, np.float32))

    loop = NATIVE.compile_loop(bl.trace(step, w, x), 1, 1)
    rows = np.tile(np.arange(500), (20, 1))
    start = time.perf_counter()
    after = loop([w], [x], rows[:1])[0][0]
    one = time.perf_counter() - start
    before = w.copy()
    for told in "main", "another":
        tries = (interrupting.delay(lambda: loop([w], [x], rows), 0.2 * one, told) for _ in range(3))
        assert min(tries) < 0.1 + 0.3 * one  # other work on the machine included
    np.testing.assert_array_equal(w, before)  # the caller's state is that before the call
    np.testing.assert_array_equal(loop([w], [x], rows[:1])[0][0], after)
    interrupting.delay(lambda: loop([w], [x], rows, donate=True), after=0.2 * one)
    np.testing.assert_array_equal(w, after)  # that of a whole step


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["odd_mlp", "convolution", "lstm", "attention", "batch_norm"])
def test_one_instruction_set_has_one_program(name):
    """What is computed in which order depends on the instruction set alone, not on the make or the number of cores."""
    function, args, _ = programs.cases("float32")[name]
    graph = prepared(bl.trace(bl.value_and_grad(function), *args))
    target = known("avx512")
    texts = set()
    for cpu, features in (("x86-64-v4", ""), ("skylake-avx512", ""), ("znver4", "+avx512vnni")):
        program = Program(plan(graph), replace(target, cpu=cpu, features=features), 1)
        texts.add("\n".join(line for line in program.text.splitlines() if not line.startswith("attributes")))
    assert len(texts) == 1


# --- numbers that are none --------------------------------------------------------------------------------------------

COMBINED = {
    "sum": lambda x: (ops.sum(x, 0), ops.sum(x, 1), ops.sum(x)),
    "extremes": lambda x: (ops.max(x, 0), ops.min(x, 1), ops.max(x), ops.maximum(x, x[::-1])),
    "search": lambda x: (ops.argmax(x, 1), ops.argmin(x, 0), ops.argsort(x, 1), ops.sort(x, 0)),
    "product": lambda x: (x @ x.mT, x @ x[0], ops.relu(x @ x.mT)),
    "running": lambda x: ops.cumulative_sum(x, 1),
    "softmax": lambda x: (ops.softmax(x), ops.logsumexp(x, 1), ops.log_softmax(x, 0), ops.layer_norm(x)),
    "moved": lambda x: (ops.pad(x, 1), ops.concat([x * 2, ops.abs(x)], 0), x[np.array([2, -1])]),
    "windows": lambda x: ops.max_pool(x[None, :, :, None], 2) + ops.avg_pool(x[None, :, :, None], 2),
    "convolution": lambda x: ops.conv(x[None, :, :, None], x[:3, :3, None, None], padding="same"),
    "added": lambda x: ops.scatter_add(x, np.array([0, 2, 0]), x[:3]),
    "loop": lambda x: ops.scan(lambda c, r: (c * r, c + r), x[0], x)[1],
    "half": lambda x: ops.astype(ops.astype(x, "float16"), x.dtype),
    "gradients": lambda x: bl.grad(lambda y: ops.sum(ops.relu(y) @ y.mT) + ops.sum(ops.max(y, 1)))(x),
}


@pytest.mark.parametrize("target", ["host", "avx2", "sse2"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", COMBINED)
def test_nan_infinity_and_denormals(name, dtype, target):
    if name == "half" and target == "sse2":
        pytest.skip("has no float16")
    tiny = np.finfo(dtype).tiny
    numbers = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -2.5, tiny / 4, -tiny / 8], dtype)
    for seed, some in enumerate((numbers, numbers[[0, 5, 6, 7, 8]], numbers[[1]], numbers[[2, 5, 6]])):
        x = np.random.default_rng(seed).choice(some, (7, 19))
        graph = bl.trace(COMBINED[name], x)
        with np.errstate(all="ignore"):
            wanted = REFERENCE.compile(graph)(x)
        for a, b in zip(Native(target).compile(graph)(x), wanted, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
            np.testing.assert_array_equal(np.isinf(a), np.isinf(b))
            np.testing.assert_allclose(a, b, rtol=1e-5 if dtype == "float32" else 1e-11, atol=tiny / 64)
            if len(some) == 1:
                np.testing.assert_array_equal(np.signbit(a), np.signbit(b))
