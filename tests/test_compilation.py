"""compile: one trace for each combination of argument types, on any executor, also inside other traces."""

import numpy as np
import pytest
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import ControlFlowError, ShapeError, UnsupportedError
from backlit.executors import get
from backlit.executors.api import Executor
from backlit.executors.reference import Reference


def counting(f):
    """f, and the list of calls to it."""
    calls = []

    def inner(*args, **kwargs):
        calls.append(args)
        return f(*args, **kwargs)

    return inner, calls


def test_a_function_is_traced_once_for_each_combination_of_types():
    f, calls = counting(lambda p, x, power=2: {"y": (x @ p["w"]) ** power})
    compiled = bl.compile(f, executor="reference")
    p, x = {"w": np.ones((3, 2))}, np.ones((4, 3))
    for _ in range(3):
        np.testing.assert_array_equal(compiled(p, x)["y"], np.full((4, 2), 9))
    assert len(calls) == 1
    compiled(p, x * 5.0)
    assert len(calls) == 1
    compiled(p, np.ones((5, 3)))
    compiled({"w": np.ones((3, 2), np.float32)}, x)
    compiled(p, x, power=3.0)
    compiled(p, x, power=4.0)  # a number is an argument like others
    assert len(calls) == 4
    assert len(compiled.graphs) == 4


def test_results_are_what_the_function_gives():
    def f(x, flag=True):
        """Twice."""
        return x * 2, [x.sum() if isinstance(x, np.ndarray) else ops.sum(x), None], 3

    compiled = bl.compile(f, executor="reference")
    twice, (total, nothing), three = compiled(np.arange(3.0))
    np.testing.assert_array_equal(twice, [0, 2, 4])
    assert total == 3
    assert nothing is None
    assert three == 3
    assert compiled.__name__ == "f"
    assert compiled.__doc__ == "Twice."


def test_as_a_decorator():
    @bl.compile
    def f(x):
        return ops.tanh(x)

    np.testing.assert_allclose(f(np.float64(0.5)), np.tanh(0.5))


def test_results_may_be_kept():
    """Nothing that is given out is written to later."""
    f = bl.compile(lambda x: (x, x + 1.0, ops.reshape(x, (1, 2))), executor="reference")
    x = np.zeros(2)
    first = f(x)
    f(x + 5)
    assert [a.tolist() for a in first] == [[0, 0], [1, 1], [[0, 0]]]


def test_outside_values_are_fixed_at_the_first_call():
    scale = np.array([1.0, 2.0])
    f = bl.compile(lambda x: x * scale, executor="reference")
    np.testing.assert_array_equal(f(np.ones(2)), [1, 2])
    scale[0] = 100  # the graph holds a copy
    np.testing.assert_array_equal(f(np.ones(2)), [1, 2])


def test_inside_a_trace():
    compiled = bl.compile(lambda x: x * x, executor="reference")
    assert bl.grad(lambda x: ops.sum(compiled(x)))(np.array([3.0])) == [6]
    assert bl.compile(bl.grad(compiled), executor="reference")(np.float64(3)) == 6

    def closes_over(a):
        inner = bl.compile(lambda x: ops.sum(x * a), executor="reference")
        return inner(np.ones(3))

    assert bl.grad(closes_over)(np.float64(2)) == 3


def test_a_leak_is_refused():
    kept = []
    bl.trace(lambda x: kept.append(x) or x, 1.0)
    with refuses(ControlFlowError, "whose trace is over"):
        bl.compile(lambda x: x + kept[0], executor="reference")(1.0)


class WithoutTanh(Reference):
    name = "without tanh"

    def supports(self, op):
        return op != "tanh"


def test_an_executor_names_the_op_that_it_lacks():
    with refuses(UnsupportedError, "tanh: the executor 'without tanh' does not run this op"):
        bl.compile(lambda x: ops.tanh(x), executor=WithoutTanh())(1.0)
    with refuses(UnsupportedError, "tanh"):  # in the body of a loop, too
        bl.compile(lambda x: ops.scan(lambda c, _: (ops.tanh(c), None), x, length=2)[0], executor=WithoutTanh())(1.0)


def test_executors_by_name():
    assert isinstance(get("reference"), Reference)
    assert get("reference") is get("reference")
    assert isinstance(get("auto"), Executor)


# --- loops over training steps ----------------------------------------------------------------------------------------


def step(w, n, x, y):
    """Least squares by gradient descent, watched."""
    loss, g = bl.value_and_grad(lambda w: ops.mean((x @ w - y) ** 2))(w)
    return w - 0.1 * g, n + 1, loss


def test_compile_loop_is_a_loop_of_steps():
    random = np.random.default_rng(0)
    data = [random.normal(size=(20, 3)), random.normal(size=20)]
    rows = random.integers(0, 20, (7, 4))
    carry = [np.zeros(3), np.array(0)]
    graph = bl.trace(step, *carry, data[0][:4], data[1][:4])
    new, watched = get("reference").compile_loop(graph, 2, 2)(carry, data, rows)
    w, losses = carry[0], []
    for r in rows:
        w, _, loss = step(w, 0, data[0][r], data[1][r])
        losses.append(loss)
    np.testing.assert_allclose(new[0], w)
    assert new[1] == 7
    np.testing.assert_allclose(watched[0], losses)
    np.testing.assert_array_equal(carry[0], np.zeros(3))


def test_a_step_must_give_back_what_it_takes():
    graph = bl.trace(lambda w, x: (ops.astype(w, "float32"), ops.sum(x)), np.zeros(3), np.zeros((4, 3)))
    with refuses(ShapeError, "the carried value w is f64.* before the step and f32"):
        get("reference").compile_loop(graph, 1, 1)
    with refuses(ShapeError, "1 carried values and 2 minibatches"):
        get("reference").compile_loop(graph, 1, 2)


def test_arguments_of_other_types_are_refused():
    run = get("reference").compile(bl.trace(lambda x: x, np.zeros(3)))
    with refuses(ShapeError, r"the argument x is f64\[2\], not f64\[3\]"):
        run(np.zeros(2))
    with refuses(ShapeError, "0 arguments for 1 inputs"):
        run()


@pytest.mark.parametrize("x", [np.arange(6.0).reshape(2, 3).T, np.arange(6.0)[::-2], np.float64(3), 3.0])
def test_arguments_of_any_layout(x):
    np.testing.assert_array_equal(bl.compile(lambda x: x * 2.0, executor="reference")(x), np.asarray(x) * 2)
