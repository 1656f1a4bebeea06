"""What is asked of a random graph: the reference executor's numbers, the same bits however it is run, nothing read that
was not written.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import numpy as np

import backlit as bl
from backlit import legality
from backlit.executors.native import balance, batch, method, sharing, whole, winograd_weights
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.steps import Steps
from backlit.executors.native.target import known
from backlit.executors.reference import Reference

from . import graphs, networks

REFERENCE = Reference()


GUARD = 64  # bytes before and after each result, which nobody may write


def guarded(type):
    """Memory of a type full of nan, and all the bytes around it."""
    size = type.size * type.dtype.itemsize
    memory = np.full(GUARD + size + GUARD, 0xFF, np.uint8)
    return memory[GUARD : GUARD + size].view(type.dtype).reshape(type.shape), memory


def soiled(array):
    """Filled with nan: who reads what nobody wrote is found out."""
    array.reshape(-1).view(np.uint8)[...] = 0xFF
    return array


def results(graph, arguments, target="host", shares=1, donate=()):
    """What a graph gives, run twice in memory full of nan; the arguments that are not given away stay as they are."""
    made = Artifact.of(plan(prepared(graph), donate), known(target), shares)
    code = Code(made, known(target))
    code.seconds = 1.0  # worth waking helpers for
    found = []
    for _ in range(2):
        given = [np.array(a) for a in arguments]
        places = [guarded(o.type) for o in graph.outputs]
        out = [given[made.taken[k]] if k in made.taken else a for k, (a, _) in enumerate(places)]
        code.run([*given, *out], 0, 1)
        for k, (a, b) in enumerate(zip(given, arguments, strict=True)):
            assert k in donate or np.array_equal(a, b), f"argument {k} has been changed"
        for _, memory in places:
            assert all(memory[:GUARD] == 0xFF)
            assert all(memory[-GUARD:] == 0xFF), "something was written behind a result"
        found.append(out)
        for frame in code.frames:
            soiled(frame.arena)
    for a, b in zip(*found, strict=True):
        same(a, b)
    return found[1]


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def close(a, b):
    """Equal but for the rounding of sums, whose terms are no integers where ties share a gradient."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.dtype.kind != "f":
        np.testing.assert_array_equal(a, b)
        return
    tolerance = 1e-5 if a.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.max(np.abs(b), initial=1))


def near(a, b):
    """Equal but for the rounding of a whole network."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    tolerance = 2e-3 if a.dtype == np.float32 else 1e-9
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.max(np.abs(b), initial=1e-3))


def check(graph, arguments, k, compare=same):
    """On one thread and on two, as calls and as one function, given arguments away, for another processor."""
    legality.check(prepared(graph))
    wanted = REFERENCE.compile(graph)(*arguments)
    found = results(graph, arguments)
    for a, b in zip(found, wanted, strict=True):
        compare(a, b)
    donate = tuple(range(len(arguments))) if k % 2 else (k // 2 % len(arguments),)
    others = [results(graph, arguments, shares=2), results(graph, arguments, shares=3, donate=donate)]
    largest, whole._SMALL = whole._SMALL, 0
    try:
        others.append(results(graph, arguments))
    finally:
        whole._SMALL = largest
    for other in others:
        for a, b in zip(other, found, strict=True):
            same(a, b)
    for a, b in zip(results(graph, arguments, target=("avx2", "sse2")[k % 2]), wanted, strict=True):
        compare(a, b)


def a_function(steps, k, long=False):
    arguments = graphs.arrays(k, long)
    check(bl.trace(graphs.forward(steps, k), *arguments), arguments, k)


def a_long_function(steps, k):
    a_function(steps[:6], k, long=True)


def a_gradient(steps, k, long=False):
    arguments = graphs.arrays(k, long)
    wanted = tuple(n for n, a in enumerate(arguments) if a.dtype.kind == "f")
    check(bl.trace(bl.value_and_grad(graphs.loss(steps, k), wanted), *arguments), arguments, k, close)


def a_long_gradient(steps, k):
    a_gradient(steps[:5], k, long=True)


@contextmanager
def whether_it_pays_or_not():
    """Kernels that only pay for large values, for small ones too."""
    with (
        patch.object(winograd_weights, "_GAIN", 0.0),
        patch.object(batch._Chain, "gain", lambda chain: float(len(chain.place))),
    ):
        yield


@contextmanager
def equal_shares():
    """Threads share whatever axis makes their shares most equal, in small kernels too."""
    cached = (method.method, sharing._share_of_nest)
    with patch.object(balance, "_MEETING", -1), patch.object(balance, "_FETCHED", 0):
        for function in cached:
            function.cache_clear()
        yield
    for function in cached:
        function.cache_clear()


def a_network(steps, k):
    step, arguments = networks.training(steps[:7], k)
    with whether_it_pays_or_not() if k % 2 else nullcontext():
        check(bl.trace(step, *arguments), arguments, k, near)


def a_loop(steps, k):
    """A stretch of steps, watched values kept, with the state updated where it lies."""
    state = graphs.arrays(k)[:2]
    if k % 4 == 0:
        state[1] = state[0][::-1].copy()
    batch, rows = 1 + k % 5, 7
    r = graphs.chance(k, 2)
    data = [np.asarray(r.integers(-2, 3, (rows, *s)), state[0].dtype) for s in (state[0].shape[1:], (3, 2))]
    data.append(r.integers(-2, 3, (rows,)))
    step = bl.trace(graphs.step_of_a_loop(steps, k), *state, *(d[:1].repeat(batch, 0) for d in data))
    index = r.integers(-rows, rows, (4, batch))
    wanted = REFERENCE.compile_loop(step, 2, 3)(state, data, index)
    found = []
    for shares, limit in ((1, whole._SMALL), (2, whole._SMALL), (1, 0)):
        largest, whole._SMALL = whole._SMALL, limit
        try:
            loop = Steps(step, 2, 3, known("host"))
            target = known("host")
            code = Code(Artifact.of(loop.plan([rows] * 3, sources=False), target, shares), target)
        finally:
            whole._SMALL = largest
        code.seconds = 1.0
        loop._codes[(rows,) * 3] = code
        loop(state, data, index)
        for frame in code.frames:
            soiled(frame.arena)
        new, kept = loop(state, data, index)
        found.append([*new, *kept])
    for a, b in zip(found[0], [*wanted[0], *wanted[1]], strict=True):
        same(a, b)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            same(a, b)
