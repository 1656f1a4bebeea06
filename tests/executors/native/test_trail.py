"""States of a loop that are kept lie in rows: each step reads one and writes the next, and nothing is copied."""

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.kernels import Loop
from backlit.executors.native.plan import plan
from backlit.executors.native.program import Program
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.script import Script
from backlit.executors.native.target import known

from . import programs

BEFORE, AFTER, BOTH = [True, False], [False, True], [True, True]


def function(keep, reverse):
    """A loop that keeps its states before or after each step, or both; all results are used further."""

    def step(state, x):
        h = ops.tanh(x + state["h"] @ state["h"])  # asks for all of the old state
        kept = [s for s, wanted in zip((state["h"], h), keep, strict=True) if wanted]
        return {"h": h, "n": state["n"] + 1.0}, kept

    def run(xs):
        last, kept = ops.scan(step, {"h": xs[0] * 0.1, "n": ops.sum(xs[0], 0)}, xs, reverse=reverse)
        return [ops.sum(s * xs, 0) for s in kept], last["h"] * 2.0, last["n"]

    return run


def run(graph, arguments, shares):
    code = Code(Artifact.of(plan(prepared(graph)), known("host"), shares), known("host"))
    code.seconds = 1.0  # worth waking the other thread
    results = [np.empty(o.type.shape, o.type.dtype) for o in graph.outputs]
    code.run([*programs.leaves(arguments), *results], 0, 1)
    return results


def the_loop(graph):
    (loop,) = [s for s in plan(prepared(graph)).steps if isinstance(s, Loop)]
    return loop


@pytest.mark.parametrize("size", [3, 24])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("keep", [BEFORE, AFTER, BOTH])
def test_the_results_are_those_of_the_reference(keep, reverse, size):
    arguments = [programs.Normal("float32")(5, size, size)]
    graph = bl.trace(function(keep, reverse), *arguments)
    wanted = programs.leaves(bl.compile(function(keep, reverse), executor="reference")(*arguments))
    for shares in (1, 2, 3):
        for a, b in zip(run(graph, arguments, shares), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_a_loop_may_be_short(length):
    def first_and_last(start, xs):
        last, kept = ops.scan(lambda h, x: (h * 2.0 + x, (h, h * 2.0 + x)), start, xs)
        return last + 1.0, [k + 1.0 for k in kept]

    arguments = np.float32([1, 2, 3]), np.ones((length, 3), np.float32)
    wanted = programs.leaves(bl.compile(first_and_last, executor="reference")(*arguments))
    got = programs.leaves(bl.compile(first_and_last, executor="native")(*arguments))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_result_of_the_program_is_where_the_caller_wants_it():
    def whole(xs):
        return ops.scan(lambda h, x: (ops.tanh(h + x), h), xs[0], xs)

    x = programs.Normal("float32")(6, 40)
    wanted = programs.leaves(bl.compile(whole, executor="reference")(x))
    got = programs.leaves(bl.compile(whole, executor="native")(x))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("keep", [BEFORE, AFTER, BOTH])
def test_nothing_is_copied(keep):
    loop = the_loop(bl.trace(function(keep, False), programs.Normal("float32")(5, 24, 24)))
    assert not loop.moves
    assert [c.label for c in loop.calls if c.label.split()[0] in ("copy", "move")] == []


@pytest.mark.parametrize("layer", [nn.SimpleRNN, nn.GRU, nn.LSTM])
def test_threads_do_not_wait_between_the_steps_of_a_recurrent_layer(layer):
    net = bl.Network([layer(32, return_sequences=True), layer(32)], input_shape=(6, 20), seed=0)

    def loss(params, x):
        return ops.sum(net.forward(params, {}, x, training=True)[0] ** 2.0)

    graph = bl.trace(bl.value_and_grad(loss), dict(net.params), np.zeros((32, 6, 20), np.float32))
    program = Program(plan(prepared(graph)), known("avx512"), 2)
    assert program.text
    loops = [r for r in Script(program).rows if r.function == "run_loop"]
    assert len(loops) == 4
    assert all(r.function != "wait_for_all" for loop in loops for r in loop.body)
