"""Programs found on disk: nothing is planned or compiled again, and they do what the fresh ones did."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError
from backlit.executors.native import Native, digest
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.digest import digest as name
from backlit.executors.native.plan import plan
from backlit.executors.native.target import host

NATIVE = Native()
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path))
    return tmp_path / "native"


@pytest.fixture
def found(cache, monkeypatch):
    """A function that compiles a graph twice; the second time nothing may be made. Gives both."""

    def twice(graph, **how):
        first = NATIVE.compile(graph, **how)
        assert list(cache.glob("*.o"))
        with monkeypatch.context() as patched:
            patched.setattr(Artifact, "of", None)
            patched.setattr("backlit.executors.native.executor.plan", None)
            return first, NATIVE.compile(graph, **how)

    return twice


def same(found, f, *args):
    first, second = found(bl.trace(f, *args))
    for a, b in zip(first(*args), second(*args), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_program(found):
    same(found, lambda x: (ops.tanh(x @ x.T), ops.sum(x, 0)), X)


def test_constants_of_the_graph_and_of_the_compiler(found):
    table = np.arange(40, dtype=np.float64).reshape(10, 4)
    flags = np.array([True, False, True, False])
    same(found, lambda x: ops.where(flags, x + table[2:5], x @ (table[:4] + ops.tanh(table[4:8]))), X.astype(float))


def test_many_constants_are_not_written(cache):
    large = np.arange(3 << 20, dtype=np.float32)
    graph = bl.trace(lambda x: x + large, np.float32(1))
    NATIVE.compile(graph)
    (file,) = cache.glob("*.o")
    assert file.stat().st_size < 100_000  # it is the graph's own
    graph = bl.trace(lambda x: x + ops.flip(large, (0,)) * 2.0, np.float32(1))
    (got,) = NATIVE.compile(graph)(np.ones((), np.float32))
    np.testing.assert_array_equal(got, 1 + large[::-1] * 2)


def test_given_memory(found):
    p, g = np.ones(100, np.float32), np.arange(100, dtype=np.float32)
    first, second = found(bl.trace(lambda p, g: (p - 0.1 * g, ops.sum(g)), p, g), donate=(0,))
    wanted = first(p.copy(), g)[0]
    assert second(p, g)[0] is p
    np.testing.assert_array_equal(p, wanted)


def test_an_index_out_of_range_is_reported_at_the_line_of_this_program(found):
    table, indices = np.ones((5, 3), np.float32), np.array([0, 7])

    def f(t, i):
        return ops.scan(lambda c, row: (c + t[row], c), np.zeros(3, np.float32), i)[0]

    _, second = found(bl.trace(f, table, indices))
    with pytest.raises(IndexingError, match="index 7 is out of range: axis 0 has size 5") as raised:
        second(table, indices)
    assert "c + t[row]" in str(raised.value)


def test_a_loop(cache, monkeypatch):
    step = bl.trace(lambda w, x: (w - 0.1 * ops.mean(x, 0), ops.sum(x @ w)), np.ones(4, np.float32), X)
    data, rows = [np.tile(X, (5, 1))], np.arange(12).reshape(4, 3)
    wanted = NATIVE.compile_loop(step, 1, 1)([np.ones(4, np.float32)], data, rows)
    monkeypatch.setattr(Artifact, "of", None)
    got = NATIVE.compile_loop(step, 1, 1)([np.ones(4, np.float32)], data, rows)
    np.testing.assert_array_equal(got[0][0], wanted[0][0])
    np.testing.assert_array_equal(got[1][0], wanted[1][0])
    with pytest.raises(TypeError):  # data of another length are another program
        NATIVE.compile_loop(step, 1, 1)([np.ones(4, np.float32)], [data[0][:-1]], rows)


def test_what_has_the_same_name():
    def wave(x):
        y = ops.sin(x)
        return y * 2.0

    target = host()
    named = name(bl.trace(wave, X), target)
    assert named == name(bl.trace(lambda z: ops.sin(z) * 2.0, X), target)
    others = [
        name(bl.trace(lambda x: ops.cos(x) * 2.0, X), target),
        name(bl.trace(lambda x: ops.sin(x) * 2.5, X), target),
        name(bl.trace(wave, X[:2]), target),
        name(bl.trace(wave, X.astype(np.float64)), target),
        name(bl.trace(wave, X), Native("avx2").target),
        name(bl.trace(wave, X), target, "otherwise"),
        name(bl.trace(lambda x: ops.sum(x, 0), X), target),
        name(bl.trace(lambda x: ops.sum(x, 1), X), target),
        name(bl.trace(lambda x: x * -0.0, X), target),
        name(bl.trace(lambda x: x * 0.0, X), target),
        name(bl.trace(lambda x: ops.scan(lambda c, r: (c + r, c), x[0], x), X), target),
        name(bl.trace(lambda x: ops.scan(lambda c, r: (c - r, c), x[0], x), X), target),
    ]
    assert None not in others
    assert len({named, *others}) == 1 + len(others)


def test_another_compiler_finds_nothing(cache, monkeypatch):
    graph = bl.trace(ops.sin, X)
    NATIVE.compile(graph)
    monkeypatch.setattr(digest, "_STAMP", digest._STAMP + "edited")
    NATIVE.compile(graph)
    assert len(list(cache.glob("*.o"))) == 2


def test_bytes_and_back():
    graph = bl.trace(
        lambda x, i: x[i] + ops.flip(np.arange(4, dtype=np.float32), (0,)) + np.ones(4, np.float32), X, np.array([0, 2])
    )
    made = Artifact.of(plan(graph), host(), 2)
    packed = made.pack(graph)
    assert packed is not None
    again = Artifact.unpack(packed, graph)
    assert (again.objects, again.arena, again.shares, again.taken, again.checks, again.seconds) == (
        made.objects, made.arena, made.shares, made.taken, made.checks, made.seconds
    )  # fmt: skip
    assert made.checks
    for a, b in zip(again.constants, made.constants, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
