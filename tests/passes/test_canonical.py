"""The normal form: each rewrite by graph equality and on special values, and what is not rewritten."""

import numpy as np
import pytest
from passes.special_numbers import assert_same_bits, special_arrays

import backlit as bl
from backlit import ops
from backlit.legality import check
from backlit.ops.interpret import interpreter
from backlit.ops.record import OPS
from backlit.passes.canonical import canonicalise
from backlit.tracing import lift

V, M, C, R, N, T3 = (3,), (2, 3), (2, 1), (1, 3), (), (2, 1, 3)

# name, what is written, what it becomes, shapes of the arguments
EXACT = [
    ("x * 1", lambda x: x * 1.0, lambda x: x, V),
    ("1 * x", lambda x: 1.0 * x, lambda x: x, V),
    ("x * [[1]]", lambda x: x * np.ones(R[:1] * 2, x.dtype), lambda x: x[None], V),
    ("x * -1", lambda x: x * -1.0, lambda x: -x, V),
    ("-a * -b", lambda a, b: (-a) * (-b), lambda a, b: a * b, V, M),
    ("x / 1", lambda x: x / 1.0, lambda x: x, V),
    ("x / -1", lambda x: x / -1.0, lambda x: -x, V),
    ("-a / -b", lambda a, b: (-a) / (-b), lambda a, b: a / b, V, V),
    ("x - 0", lambda x: x - 0.0, lambda x: x, V),
    ("x + -0.0", lambda x: x + -0.0, lambda x: x, V),
    ("a + -b", lambda a, b: a + (-b), lambda a, b: a - b, V, V),
    ("-a + b", lambda a, b: (-a) + b, lambda a, b: b - a, V, V),
    ("a - -b", lambda a, b: a - (-b), lambda a, b: a + b, V, V),
    ("-(-x)", lambda x: ops.negative(-x), lambda x: x, V),
    ("-(-(-x))", lambda x: -ops.negative(-x), lambda x: -x, V),
    ("x^0", lambda x: x**0.0, lambda x: ops.broadcast_to(lift(np.ones((), x.dtype)), V), V),
    ("x^1", lambda x: x**1.0, lambda x: x, V),
    ("|-x|", lambda x: abs(-x), abs, V),
    ("||x||", lambda x: abs(abs(x)), abs, V),
    ("relu(relu(x))", lambda x: ops.relu(ops.relu(x)), ops.relu, V),
    ("floor(floor(x))", lambda x: ops.floor(ops.floor(x)), ops.floor, V),
    ("round(round(x))", lambda x: ops.round(ops.round(x)), ops.round, V),
    ("sign(sign(x))", lambda x: ops.sign(ops.sign(x)), ops.sign, V),
    ("max(x, x)", lambda x: ops.maximum(x, x), lambda x: x, V),
    ("min(x, x)", lambda x: ops.minimum(x, x), lambda x: x, V),
    ("stop_gradient(x)", ops.stop_gradient, lambda x: x, V),
    ("where(c, a, a)", lambda x: ops.where(x > 0, x, x), lambda x: x, V),
    ("where(~c, a, b)", lambda x: ops.where(~(x > 0), x, 2.0), lambda x: ops.where(x > 0, 2.0, x), V),
    (
        "where(c, where(c, a, b), d)",
        lambda x, y: (lambda c: ops.where(c, ops.where(c, x, y), -y))(x > 0),
        lambda x, y: ops.where(x > 0, x, -y),
        V,
        V,
    ),
    (
        "where(c, a, where(c, b, d))",
        lambda x, y: (lambda c: ops.where(c, x, ops.where(c, y, -y)))(x > 0),
        lambda x, y: ops.where(x > 0, x, -y),
        V,
        V,
    ),
    ("exp(broadcast(x))", lambda x: ops.exp(ops.broadcast_to(x, M)), lambda x: ops.broadcast_to(ops.exp(x), M), V),
    ("broadcast(x) + y", lambda x, y: ops.broadcast_to(x, M) + y, lambda x, y: x + y, V, M),
    ("x[None] + y", lambda x, y: x[None] + y, lambda x, y: x + y, V, M),
    ("exp(x[None])", lambda x: ops.exp(x[None]), lambda x: ops.reshape(ops.exp(x), (1, 3)), V),
    (
        "broadcast(x) + broadcast(y)",
        lambda x, y: ops.broadcast_to(x, M) + ops.broadcast_to(y, M),
        lambda x, y: ops.broadcast_to(x + y, M),
        V,
        V,
    ),
    ("reshape(reshape(x))", lambda x: ops.reshape(ops.reshape(x, (3, 2)), (6,)), lambda x: ops.reshape(x, (6,)), M),
    ("reshape to the same", lambda x: ops.reshape(x, M), lambda x: x, M),
    ("broadcast to the same", lambda x: ops.broadcast_to(x, M), lambda x: x, M),
    (
        "broadcast(broadcast(x))",
        lambda x: ops.broadcast_to(ops.broadcast_to(x, M), (4, 2, 3)),
        lambda x: ops.broadcast_to(x, (4, 2, 3)),
        V,
    ),
    ("broadcast that adds 1s", lambda x: ops.broadcast_to(x, (1, 1, 3)), lambda x: ops.reshape(x, (1, 1, 3)), V),
    ("broadcast(x[None])", lambda x: ops.broadcast_to(x[None], M), lambda x: ops.broadcast_to(x, M), V),
    ("x.T.T", lambda x: x.T.T, lambda x: x, M),
    (
        "permute(permute(x))",
        lambda x: ops.permute_dims(ops.permute_dims(x, (1, 2, 0)), (0, 2, 1)),
        lambda x: ops.permute_dims(x, (1, 0, 2)),
        (4, 2, 3),
    ),
    ("permute of 1s", lambda x: ops.permute_dims(x, (1, 0, 2)), lambda x: ops.reshape(x, (1, 2, 3)), T3),
    ("x[1:][::2]", lambda x: x[1:][::2], lambda x: _slice(x, 1, 6, 2), (7,)),
    ("x[::3][1:]", lambda x: x[::3][1:3], lambda x: _slice(x, 3, 7, 3), (9,)),
    ("x[2:][5:]", lambda x: x[2:][3:3], lambda x: _slice(x, 0, 0, 1), (7,)),
    ("x[0:3]", lambda x: _slice(x, 0, 3, 1), lambda x: x, V),
    ("flip(flip(x))", lambda x: ops.flip(ops.flip(x, 0), 0), lambda x: x, M),
    ("flip(flip(x, 0), 1)", lambda x: ops.flip(ops.flip(x, 0), 1), lambda x: ops.flip(x, (0, 1)), M),
    ("flip of 1s", lambda x: ops.flip(x, 1), lambda x: x, C),
    ("pad with nothing", lambda x: ops.pad(x, 0), lambda x: x, M),
    ("concat of one", lambda x: ops.concat([x]), lambda x: x, M),
    ("concat with nothing", lambda x: ops.concat([x[:0], x, x[1:1]]), lambda x: x, M),
    (
        "movement of one number",
        lambda x: ops.flip(ops.reshape(ops.broadcast_to(x, (6,)), M), 1)[:, 1:],
        lambda x: ops.broadcast_to(x, (2, 2)),
        N,
    ),
    ("max over 1s", lambda x: ops.max(x, 1), lambda x: ops.reshape(x, (2,)), C),
    ("max(max(x, 1), 0)", lambda x: ops.max(ops.max(x, 1), 0), ops.max, M),
    ("min(x, keepdims)", lambda x: ops.min(x, 1, keepdims=True), lambda x: ops.reshape(ops.min(x, 1), C), M),
    ("max(x[:, None])", lambda x: ops.max(x[:, None], 2), lambda x: ops.reshape(ops.max(x, 1), C), M),
    ("max(broadcast(x))", lambda x: ops.max(ops.broadcast_to(x, (4, *M)), 0), lambda x: x, M),
    (
        "max(broadcast(x), own axis)",
        lambda x: ops.max(ops.broadcast_to(x, (4, *M)), 2),
        lambda x: ops.broadcast_to(ops.max(x, 1), (4, 2)),
        M,
    ),
]

# The same, up to the rounding of a result or the order of a sum.
ROUNDED = [
    ("x^2", lambda x: x**2.0, lambda x: x * x, V),
    ("x^3", lambda x: x**3.0, lambda x: x * x * x, V),
    ("x^-1", lambda x: x**-1.0, lambda x: 1.0 / x, V),
    ("sum over nothing", lambda x: ops.sum(x, ()), lambda x: x, M),
    ("sum over 1s", lambda x: ops.sum(x, 1), lambda x: ops.reshape(x, (2,)), C),
    ("sum of a reshape", lambda x: ops.sum(ops.reshape(x, (2,))), ops.sum, C),
    ("sum(sum(x, 1), 0)", lambda x: ops.sum(ops.sum(x, 1), 0), ops.sum, M),
    ("sum(sum(x, 0), 1)", lambda x: ops.sum(ops.sum(x, 0), 1), lambda x: ops.sum(x, (0, 2)), (4, 2, 3)),
    ("sum(x, keepdims)", lambda x: ops.sum(x, 0, keepdims=True), lambda x: ops.reshape(ops.sum(x, 0), R), M),
    (
        "sum(sum(x, keepdims), keepdims)",
        lambda x: ops.sum(ops.sum(x, 1, keepdims=True), 0, keepdims=True),
        lambda x: ops.reshape(ops.sum(x), (1, 1)),
        M,
    ),
    ("sum(broadcast(x))", lambda x: ops.sum(ops.broadcast_to(x, (4, 3)), 0), lambda x: x * 4.0, V),
    ("sum(broadcast(number))", lambda x: ops.sum(ops.broadcast_to(x, M)), lambda x: x * 6.0, N),
    (
        "sum(broadcast(x)), own axis too",
        lambda x: ops.sum(ops.broadcast_to(x, (4, 2, 3)), (0, 1)),
        lambda x: ops.broadcast_to(ops.sum(x, 0) * 4.0, (3,)),
        C,
    ),
    ("a.T @ b", lambda a, b: a.T @ b, lambda a, b: ops.contract(a, b, spec="yx,yz->xz"), M, (2, 4)),
    ("a @ b.T", lambda a, b: a @ b.T, lambda a, b: ops.contract(a, b, spec="xy,zy->xz"), M, (4, 3)),
    (
        "permuted batches",
        lambda a, b: ops.permute_dims(a, (2, 0, 1)) @ b,
        lambda a, b: ops.contract(a, b, spec="xya,yz->axz"),
        (2, 3, 4),
        (3, 2),
    ),
]


def _slice(x, start, stop, step):
    return OPS["slice"](x, start=(start,), stop=(stop,), step=(step,))


def normal(graph):
    """The graph after as many sweeps as it needs; legal after each."""
    while (after := canonicalise(graph)) is not graph:
        check(after)
        graph = after
    return graph


def cases(rows):
    return [pytest.param(written, meant, shapes, id=name) for name, written, meant, *shapes in rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("written", "meant", "shapes"), cases(EXACT))
def test_exact_rewrites(written, meant, shapes, dtype):
    zeros = [np.zeros(s, dtype) for s in shapes]
    graph = bl.trace(written, *zeros)
    after = normal(graph)
    assert after == bl.trace(meant, *zeros)
    for seed in range(10):
        arrays = special_arrays(shapes, dtype, seed)
        assert_same_bits(interpreter(after)(arrays)[0], interpreter(graph)(arrays)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("written", "meant", "shapes"), cases(ROUNDED))
def test_rewrites_up_to_rounding(written, meant, shapes, dtype):
    zeros = [np.zeros(s, dtype) for s in shapes]
    graph = bl.trace(written, *zeros)
    after = normal(graph)
    assert after == bl.trace(meant, *zeros)
    eps = np.finfo(dtype).eps
    for seed in range(10):
        arrays = [np.random.default_rng([seed, k]).normal(size=s).astype(dtype) for k, s in enumerate(shapes)]
        found, expected = interpreter(after)(arrays)[0], interpreter(graph)(arrays)[0]
        np.testing.assert_allclose(found, expected, rtol=8 * eps, atol=8 * eps)
        arrays = special_arrays(shapes, dtype, seed, finite=False)
        found, expected = interpreter(after)(arrays)[0], interpreter(graph)(arrays)[0]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "kept",
    [
        lambda x, y: x + 0.0,
        lambda x, y: 0.0 - x,
        lambda x, y: x - -0.0,
        lambda x, y: x * 0.0,
        lambda x, y: x - x,
        lambda x, y: x / x,
        lambda x, y: x + x,
        lambda x, y: (x * 2.0) * 3.0,
        lambda x, y: x / 3.0,
        lambda x, y: x**0.5,
        lambda x, y: x**-2.0,
        lambda x, y: ops.exp(ops.log(x)),
        lambda x, y: ops.sqrt(x * x),
        lambda x, y: -(x - y),
        lambda x, y: ~(x < y),
        lambda x, y: x == x,
        lambda x, y: ops.maximum(x, y) - ops.maximum(y, x),
        lambda x, y: ops.cumulative_sum(x, 0),
        lambda x, y: ops.pad(x[1:], [(1, 0)]),
    ],
)
def test_what_would_change_a_result_stays(kept):
    graph = bl.trace(kept, np.ones(3), np.ones(3))
    assert canonicalise(graph) is graph


@pytest.mark.parametrize(
    ("source", "between", "target", "goes"),
    [
        ("float32", "float64", "float32", True),
        ("float32", "float64", "int32", True),
        ("float64", "float32", "float64", False),
        ("bool", "float32", "float64", True),
        ("bool", "int8", "bool", True),
        ("int8", "float32", "int32", True),
        ("int32", "float32", "float64", False),
        ("int32", "float64", "int32", True),
        ("int64", "float64", "int64", False),
        ("int32", "float64", "int8", False),
        ("int32", "int64", "uint8", True),
        ("int64", "int8", "int64", False),
        ("uint32", "int64", "float32", True),
    ],
)
def test_casts_in_a_row(source, between, target, goes):
    x = np.array([0, 1, 77], source)
    graph = bl.trace(lambda x: ops.astype(ops.astype(x, between), target), x)
    after = normal(graph)
    assert [n.op for n in after.nodes].count("cast") == (2 if not goes else source != target)
    rare = {"b": [0, 1], "f": [0.1, -0.0, 1e9 if target[0] == "f" else 3.7]}.get(
        x.dtype.kind, [np.iinfo(source).min, np.iinfo(source).max] if x.dtype.kind in "iu" else []
    )
    arrays = [np.array(rare, source)]
    graph = bl.trace(lambda x: ops.astype(ops.astype(x, between), target), arrays[0])
    np.testing.assert_array_equal(interpreter(normal(graph))(arrays)[0], interpreter(graph)(arrays)[0])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_integers(dtype):
    x = np.array([0, 5, 7], dtype)
    graph = bl.trace(lambda x: (x + 0) * 1 - 0, x)
    assert normal(graph) == bl.trace(lambda x: x, x)
    total = bl.trace(lambda x: ops.sum(ops.sum(ops.broadcast_to(x, (2, 4, 3)), 0), (0, 1)), x)
    after = normal(total)
    assert interpreter(after)([x])[0] == 8 * 12
    assert interpreter(after)([x])[0].dtype == total.outputs[0].type.dtype
    assert [n.op for n in after.nodes if n.op in ("sum", "broadcast_to")] == ["sum"]


def test_a_size_of_zero_breaks_nothing():
    x, y = np.zeros((0, 3), np.float32), np.full((1, 3), np.inf, np.float32)

    def f(x, y):
        wide = ops.broadcast_to(y, (0, 3))
        return ops.sum(wide, 0), ops.sum(ops.flip(x, 0) + wide), ops.concat([x, x]), ops.sum(ops.sum(x, 0), 0), wide.T

    graph = bl.trace(f, x, y)
    for found, expected in zip(interpreter(normal(graph))([x, y]), interpreter(graph)([x, y]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_gradient_taken_before_is_not_changed_by_the_loss_of_stop_gradient():
    def f(x):
        return ops.sum(ops.stop_gradient(x) * x)

    x = np.arange(3.0)
    graph = normal(bl.trace(bl.grad(f), x))
    assert "stop_gradient" not in {n.op for n in graph.nodes}
    np.testing.assert_array_equal(interpreter(graph)([x])[0], x)
