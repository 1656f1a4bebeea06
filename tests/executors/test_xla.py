"""The executor "xla" against the reference executor: every op, every gradient, loops, errors, several devices."""

import numpy as np
import pytest
from graphs_at_once import agree
from samples import arrays, cases

import backlit as bl
from backlit import ops
from backlit.autodiff import vjp_graph
from backlit.errors import IndexingError, SettingError
from backlit.executors import get
from backlit.executors.xla import XLA
from backlit.ir import Graph, make_node
from backlit.ops.record import OPS
from backlit.tracing import input_node, type_of

REFERENCE, JAX = get("reference"), get("xla")


def applications(dtype):
    """Every op of the registry applied to its samples, as graphs."""
    for op in OPS.values():
        for number, case in enumerate(cases(op, dtype)):
            given = arrays(op, case, dtype)
            nodes = [input_node(type_of(a), f"x{i}") for i, a in enumerate(given)]
            node = make_node(op.name, nodes, op.types([n.type for n in nodes], case.params), case.params)
            results = [node]
            if len(node.types) > 1:
                results = [make_node("item", (node,), (t,), {"index": i}) for i, t in enumerate(node.types)]
            yield f"{op.name} case {number}", Graph(tuple(nodes), tuple(results)), given


def gradients(dtype):
    """The gradient of every application by its floating-point inputs."""
    for label, graph, given in applications(dtype):
        if OPS[label.split()[0]].vjp is None or any(o.type.dtype.kind != "f" for o in graph.outputs):
            continue
        wrt = [i for i, n in enumerate(graph.inputs) if n.type.dtype.kind == "f"]
        back = vjp_graph(graph, wrt)
        random = np.random.default_rng(1)
        yield label, back, [*given, *(random.normal(size=o.type.shape).astype(o.type.dtype) for o in graph.outputs)]


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint32", "bool"])
def test_every_op_agrees_with_the_reference(dtype):
    agree("xla", applications(dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_gradient_agrees_with_the_reference(dtype):
    agree("xla", gradients(dtype))


def conv_loss(groups):
    def loss(w, x):
        y = ops.conv(x, w, stride=2, padding="same", dilation=1, groups=groups)
        return ops.mean(ops.max_pool(ops.tanh(y), 2) ** 2)

    return loss


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("space", [(9,), (9, 8)])
def test_convolutions_and_their_gradients(space, groups):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *space, 4))
    w = random.normal(size=(*[3] * len(space), 4 // groups, 6))
    step = bl.value_and_grad(conv_loss(groups), argnums=(0, 1))
    expected, found = (bl.compile(step, executor)(w, x) for executor in (REFERENCE, JAX))
    for a, b in zip(bl.pytree.flatten(expected)[0], bl.pytree.flatten(found)[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-13)


def test_all_three_products_of_a_convolution_are_found():
    from backlit.executors.xla.convolution import find_convolutions

    graph = bl.trace(bl.grad(conv_loss(1), argnums=(0, 1)), np.ones((3, 3, 2, 4)), np.ones((2, 8, 8, 2)))
    assert len(find_convolutions(graph)) == 3


def test_an_index_out_of_range_raises_with_the_users_line():
    pick = bl.compile(lambda x, i: ops.take(x, i, 0), JAX)
    assert pick(np.arange(3.0), np.array([-1, 0])).tolist() == [2, 0]
    with pytest.raises(IndexingError, match=r"test_xla\.py"):
        pick(np.arange(3.0), np.array([3]))
    in_loop = bl.compile(lambda x, i: ops.scan(lambda c, j: (c + ops.take(x, j, 0), None), 0.0, i)[0], JAX)
    with pytest.raises(IndexingError, match="out of range"):
        in_loop(np.arange(3, dtype="f4"), np.array([0, 7, 1]))


def regression_step():
    """A step of gradient descent with dropout: (w, key counter), (x, y) -> (w, counter, loss)."""

    def step(w, count, x, y):
        keep = ops.random.bernoulli(ops.random.fold_in(ops.random.key(3), count), 0.8, x.shape)

        def loss(w):
            return ops.mean((ops.where(keep, x, 0.0) @ w - y) ** 2)

        value, slope = bl.value_and_grad(loss)(w)
        return w - 0.1 * slope, count + 1, value

    random = np.random.default_rng(0)
    x = random.normal(size=(64, 5)).astype("f4")
    y = x @ np.ones((5, 1), "f4")
    state = [np.zeros((5, 1), "f4"), np.zeros((), "u4")]
    graph = bl.trace(step, *state, x[:16], y[:16])
    rows = np.stack([random.permutation(64)[:16] for _ in range(50)])
    return graph, state, [x, y], rows


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_loop_gives_the_losses_of_the_reference_on_any_number_of_devices(devices):
    graph, state, data, rows = regression_step()
    expected, losses = REFERENCE.compile_loop(graph, 2, 2)(state, data, rows)
    found, ours = XLA(devices=devices).compile_loop(graph, 2, 2)(state, data, rows)
    np.testing.assert_allclose(ours[0], losses[0], rtol=1e-5)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert losses[0][-1] < losses[0][0]


def test_parameters_can_be_cut_over_the_devices():
    graph, state, data, rows = regression_step()
    wide = XLA(devices=5, shard={"w": 0})
    assert wide.placed(graph.inputs[0]).spec[0] is not None
    _, losses = REFERENCE.compile_loop(graph, 2, 2)(state, data, rows)
    _, ours = wide.compile_loop(graph, 2, 2)(state, data, rows)
    np.testing.assert_allclose(ours[0], losses[0], rtol=1e-5)


def test_products_in_bfloat16_stay_close_and_keep_the_parameters_in_float32():
    graph, state, data, rows = regression_step()
    found, ours = XLA(compute="bfloat16").compile_loop(graph, 2, 2)(state, data, rows)
    _, losses = REFERENCE.compile_loop(graph, 2, 2)(state, data, rows)
    assert found[0].dtype == np.float32
    assert not np.array_equal(ours[0], losses[0])
    np.testing.assert_allclose(ours[0], losses[0], rtol=0.05, atol=0.02)


def test_rows_out_of_range_and_wrong_settings_are_refused():
    graph, state, data, rows = regression_step()
    with pytest.raises(IndexingError, match="64 rows"):
        JAX.compile_loop(graph, 2, 2)(state, data, rows + 64)
    with pytest.raises(SettingError, match="9"):
        XLA(devices=9)
    with pytest.raises(SettingError, match="int8"):
        XLA(compute="int8")
