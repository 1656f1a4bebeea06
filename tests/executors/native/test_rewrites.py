"""The rewrites that are this executor's own: what they find, what they leave alone, and that they mean the same."""

from __future__ import annotations

import numpy as np
import pytest

import backlit as bl
from backlit import legality, ops
from backlit.executors.native import Native
from backlit.executors.native.convolution import direct
from backlit.executors.native.joined import joined
from backlit.executors.native.onehot import selected
from backlit.executors.native.remade import remade
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.softmax import by_quotient
from backlit.executors.reference import Reference
from backlit.passes import simplify

from . import programs


def ops_of(graph):
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "same", 2])
def test_the_gradient_of_a_convolution_is_a_convolution(stride, dilation, padding):
    n = programs.Normal("float64")
    x, w = n(2, 8, 9, 3), n(3, 2, 3, 4)

    def f(x):
        return ops.sum(ops.conv(x, w, stride=stride, dilation=dilation, padding=padding) ** 2.0)

    graph = bl.trace(bl.grad(f), x)
    found = direct(simplify(graph))
    legality.check(found)
    assert "fold" not in ops_of(found)
    for a, b in zip(Reference().compile(found)(x), Reference().compile(graph)(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "size", "kw", "places"),
    [
        ((8, 33, 32, 7), (3, 3, 7, 32), {"stride": 2, "padding": "same"}, (3, 3)),  # no zeros between are multiplied
        ((8, 32, 35, 7), (5, 5, 7, 17), {"stride": 2}, (5,)),  # of the last axis alone: 25 places take much memory
        ((64, 14, 14, 6), (5, 5, 6, 16), {}, (5,)),  # 5 x 6 columns fill vectors, 6 do not
        ((64, 14, 14, 6), (5, 5, 6, 16), {"dilation": (1, 2)}, (5,)),
        ((8, 700, 7), (4, 7, 24), {"stride": 3}, (4,)),
        ((64, 14, 14, 32), (5, 5, 32, 16), {}, ()),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_is_added_back_along_axes_where_a_convolution_would_waste_work(shape, size, kw, places, dtype):
    n = programs.Normal(dtype)
    x, w = n(*shape), n(*size)

    def f(x, w):
        return ops.mean(ops.conv(x, w, **kw) ** 2.0)

    found = direct(simplify(bl.trace(bl.grad(f), x, w)))
    legality.check(found)
    assert [node.params["size"] for node in found.nodes if node.op == "fold"] == ([places] if places else [])
    exact = [a.astype("float64") for a in (x, w)]
    (wanted,) = Reference().compile(bl.trace(bl.grad(f), *exact))(*exact)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for target in ("host", "avx2", "sse2"):
        (got,) = Native(target).compile(bl.trace(bl.grad(f), x, w))(x, w)
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("shape", "size", "kw", "places"),
    [
        ((3, 9, 8, 16), (3, 3, 16, 5), {"stride": 2, "padding": 1}, [(2, 2), (2, 1), (1, 2), (1, 1)]),
        ((3, 9, 8, 16), (4, 4, 16, 5), {"stride": 2}, [(2, 2)]),  # all phases are one convolution
        ((3, 9, 8, 16), (4, 4, 16, 5), {"stride": 2, "padding": 1}, [(2, 2)] * 4),
        ((3, 9, 8, 8), (3, 3, 8, 5), {"stride": 2}, [(2, 2), (2, 1), (1, 2), (1, 1)]),
        ((3, 9, 8, 3), (4, 4, 3, 16), {"stride": 2, "padding": 1}, [(2, 2)]),  # columns are few: they stay together
        ((3, 9, 8, 17), (1, 1, 17, 3), {"stride": 2}, [(1, 1)]),
        ((3, 11, 10, 16), (5, 2, 16, 3), {"stride": (3, 2), "padding": 2}, [(2, 1), (2, 1), (1, 1)]),
        ((3, 11, 13, 16), (7, 3, 16, 8), {"stride": (2, 1), "dilation": (1, 2), "padding": "same"}, [(4, 3), (3, 3)]),
        ((3, 30, 20), (6, 20, 7), {"stride": 4}, [(2,), (2,), (1,), (1,)]),
        ((3, 12, 13, 16), (2, 2, 16, 6), {"stride": 4}, [(1, 1)] * 4),  # between windows nothing is seen
    ],
)
def test_a_gradient_with_strides_is_a_convolution_for_each_phase(shape, size, kw, places):
    n = programs.Normal("float64")
    x, w = n(*shape), n(*size)

    def f(x, w):
        return ops.sum(ops.tanh(ops.conv(ops.tanh(x), w, **kw)))

    graph = bl.trace(bl.grad(f), x, w)
    found = direct(simplify(graph))
    legality.check(found)
    assert "fold" not in ops_of(found)
    seen = [node.params for node in found.nodes if node.op == "windows" and max(node.params["stride"]) == 1]
    assert sorted(p["size"] for p in seen) == sorted(places)
    for target in ("host", "avx2"):
        (got,), (wanted,) = Native(target).compile(graph)(x, w), Reference().compile(graph)(x, w)
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(8, 12, 4), (7, 7, 7), (6, 12, 6), (33, 3, 3)])
@pytest.mark.parametrize("kw", [{}, {"stride": 2, "padding": "same"}, {"padding": 1, "dilation": 2}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_a_convolution_in_groups_is_a_convolution(channels, outputs, groups, kw, dtype):
    n = programs.Normal(dtype)
    x, w = n(3, 13, 11, channels), n(3, 3, channels // groups, outputs)

    def f(x, w):
        return ops.mean(ops.tanh(ops.conv(x, w, groups=groups, **kw)) ** 2.0)

    step = bl.grad(f, argnums=(0, 1))
    found = direct(simplify(bl.trace(step, x, w)))
    legality.check(found)
    assert "stride" in kw or "fold" not in ops_of(found)
    exact = [a.astype("float64") for a in (x, w)]
    wanted = Reference().compile(bl.trace(step, *exact))(*exact)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for target in ("host", "avx2", "sse2"):
        for a, b in zip(Native(target).compile(bl.trace(step, x, w))(x, w), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(np.abs(b).max()))


def test_of_the_gradient_by_a_padded_input_only_what_is_kept_is_computed():
    n = programs.Normal("float32")
    x, w = n(2, 8, 9, 3), n(3, 3, 3, 4)
    graph = bl.trace(bl.grad(lambda x: ops.sum(ops.conv(ops.tanh(x), w, padding="same") ** 2.0)), x)
    found = prepared(graph)
    assert [c.type.shape for c in found.nodes if c.op == "contract"] == [(2, 8, 9, 4), (2, 8, 9, 3)]
    assert "slice" not in ops_of(found)


def test_windows_that_no_product_made_are_folded():
    x = programs.Normal("float64")(1, 6, 6, 2)
    graph = simplify(bl.trace(bl.grad(lambda x: ops.sum(ops.max_pool(x, 3, stride=1) ** 2.0)), x))
    assert direct(graph) is graph


def test_picking_a_label_is_a_comparison_on_the_way_back():
    function, args, _ = programs.cases("float32")["odd_mlp"]
    graph = bl.trace(bl.value_and_grad(function), *args)
    found = prepared(graph)
    legality.check(found)
    assert "scatter_add" in ops_of(simplify(graph))
    assert "scatter_add" not in ops_of(found)


def test_negative_labels_count_from_the_end():
    n = programs.Normal("float32")
    x, y = n(6, 5), np.array([0, -1, 4, -5, 2, 2])
    graph = bl.trace(bl.grad(lambda x: ops.sum(ops.tanh(ops.take_along_axis(x, y[:, None], 1)))), x)
    (got,), (wanted,) = Native().compile(graph)(x), Reference().compile(graph)(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_labels_that_nothing_checks_are_scattered():
    def f(x, y):
        return ops.scatter_add(x, (np.arange(3)[:, None], y), np.ones((3, 1), np.float32))

    x, y = np.zeros((3, 4), np.float32), np.array([[1], [2], [0]])
    graph = simplify(bl.trace(f, x, y))
    assert selected(graph) is graph


def test_a_row_that_is_named_twice_is_scattered():
    def f(x, y):
        rows = np.zeros((3, 1), np.int64)
        return ops.sum(x[rows, y]) + ops.sum(ops.scatter_add(x, (rows, y), np.ones((3, 1), np.float32)) ** 2.0)

    x, y = np.zeros((3, 4), np.float32), np.array([[1], [1], [0]])
    graph = bl.trace(f, x, y)
    (got,), (wanted,) = Native().compile(graph)(x, y), Reference().compile(graph)(x, y)
    np.testing.assert_allclose(got, wanted)


def attended(softmax):
    def f(x, w):
        return ops.sum(ops.tanh(softmax(x) @ w))

    return bl.grad(f, argnums=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_softmax_needs_neither_its_exponentials_nor_their_sum(dtype):
    n = programs.Normal(dtype)
    x, w = n(5, 7, 30), n(30, 8)
    graph = bl.trace(attended(ops.softmax), x, w)
    found = prepared(graph)
    legality.check(found)
    (e,) = [node for node in found.nodes if node.op == "exp"]
    assert sorted(node.op for node in found.nodes if e in node.inputs) == ["divide", "sum"]
    assert ops_of(found).count("divide") == 1
    x[0, 0, 0], x[0, 1, 1], x[0, 2, 2], x[0, 3, :] = np.nan, np.inf, -np.inf, -np.inf
    for target in ("host", "avx2", "sse2"):
        (got,) = Native(target).compile(graph)(x, w)
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(got, Reference().compile(graph)(x, w)[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "quotient",
    [
        lambda x, e: e / (1.0 + ops.sum(e, 1, keepdims=True)),  # another sum
        lambda x, e: e / ops.sum(ops.exp(x), 1, keepdims=True),  # that may overflow
    ],
)
def test_a_quotient_that_is_no_softmax_is_differentiated_as_it_stands(quotient):
    n = programs.Normal("float32")
    x, w = n(5, 30), n(30, 8)
    graph = bl.trace(attended(lambda x: quotient(x, ops.exp(x - ops.max(x, 1, keepdims=True)))), x, w)
    before = simplify(graph)
    assert by_quotient(before) is before
    for a in (x, x * 100):
        np.testing.assert_allclose(
            Native().compile(graph)(a, w)[0], Reference().compile(graph)(a, w)[0], rtol=1e-4, atol=1e-5
        )


def test_the_parts_of_a_value_are_joined_on_the_way_back():
    n = programs.Normal("float32")
    x, w = n(6, 8), n(6, 8)

    def f(x, w):
        a, b, c = x[:, :2], x[:, 2:5], x[:, 5:]
        return ops.sum(ops.tanh(a)) + ops.sum(b * b) + ops.sum(c * w[:, 5:])

    graph = bl.trace(bl.grad(f), x, w)
    found = prepared(graph)
    legality.check(found)
    assert "pad" not in ops_of(found)
    assert ops_of(found).count("concat") == 1
    (got,), (wanted,) = Native().compile(graph)(x, w), Reference().compile(graph)(x, w)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_joining_keeps_what_a_sum_with_zero_does():
    x = np.array([-0.0, 1.0, np.nan, -np.inf, -0.0], np.float32)
    graph = bl.trace(lambda x: ops.pad(x[:2], [(0, 3)]) + ops.pad(x[2:], [(2, 0)]), x)
    assert "concat" in ops_of(prepared(graph))
    (got,), (wanted,) = Native().compile(graph)(x), Reference().compile(graph)(x)
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: ops.pad(x[:2], [(0, 3)]) + ops.pad(x[1:], [(1, 0)]),  # overlap
        lambda x: ops.pad(x[:2], [(0, 3)]) + ops.pad(x[3:], [(3, 0)]),  # a gap
        lambda x: ops.pad(x[:2], [(0, 3)], 1.0) + ops.pad(x[2:], [(2, 0)]),  # not zeros
        lambda x: ops.pad(x[:2], [(0, 3)]) + x,
    ],
)
def test_parts_that_do_not_fill_the_whole_are_added(f):
    x = np.arange(5, dtype=np.float32) - 2
    graph = bl.trace(f, x)
    assert "concat" not in ops_of(prepared(graph))
    (got,), (wanted,) = Native().compile(graph)(x), Reference().compile(graph)(x)
    assert got.tobytes() == wanted.tobytes()


def sequences(graph):
    """How many sequences each loop reads."""
    scans = [n for n in graph.nodes if n.op == "scan"]
    return [len(n.inputs) - n.params["outside"] - n.params["carry"] for n in scans]


def test_the_backward_loop_makes_cheap_values_again():
    function, args, _ = programs.cases("float32")["lstm"]
    graph = bl.trace(bl.grad(function, argnums=(0, 1)), *args)
    forward, backward = sequences(simplify(joined(simplify(graph))))
    found = prepared(graph)
    legality.check(found)
    assert sequences(found) == [forward, backward - 5]  # i (1 - i), f (1 - f), o (1 - o), 1 - g g, 1 - tanh(c) tanh(c)
    (first, _) = (n for n in found.nodes if n.op == "scan")
    assert len(first.types) == 2 + 7  # the last h and c; all i, f, g, o, tanh(c), and what h and c were before
    for got, wanted in zip(Native().compile(found)(*args), Native().compile(simplify(graph))(*args), strict=True):
        assert got.tobytes() == wanted.tobytes()


def test_what_others_read_or_what_is_dear_stays_kept():
    def f(h, x):
        def step(h, x):
            h = ops.tanh(h + x)
            return h, (h * 0.5, ops.exp(h))

        h, (half, grown) = ops.scan(step, h, x)
        (total,) = ops.scan(lambda t, ab: ((t[0] + ab[0] * ab[1],), None), (h,), (half, grown))[0]
        return total, half

    n = programs.Normal("float32")
    h, x = n(5), n(7, 5)
    graph = simplify(bl.trace(f, h, x))
    assert remade(graph) is graph
    for got, wanted in zip(Native().compile(graph)(h, x), Reference().compile(graph)(h, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
