"""Convolution and pooling against jax.lax: stride, padding, dilation and groups, in one and two dimensions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax_oracle import assert_same, in_x64
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError, ShapeError

RANDOM = np.random.default_rng(8)
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def normal(*shape):
    return RANDOM.normal(size=shape)


def jax_padding(padding):
    return padding.upper() if isinstance(padding, str) else padding


def jax_conv(x, w, stride=1, padding="valid", dilation=1, groups=1):
    n = x.ndim - 2
    return lax.conv_general_dilated(
        x, w, np.broadcast_to(stride, n).tolist(), jax_padding(padding),
        rhs_dilation=np.broadcast_to(dilation, n).tolist(), dimension_numbers=LAYOUTS[n], feature_group_count=groups,
        precision="highest",
    )  # fmt: skip


def jax_conv_transpose(x, w, stride=1, padding="valid", dilation=1):
    """JAX's slides the kernel mirrored over the dilated input; ours is the transpose of a convolution."""
    n = x.ndim - 2
    flipped = jnp.flip(w, range(n))
    return lax.conv_transpose(
        x, flipped, np.broadcast_to(stride, n).tolist(), jax_padding(padding),
        rhs_dilation=np.broadcast_to(dilation, n).tolist(), dimension_numbers=LAYOUTS[n], precision="highest",
    )  # fmt: skip


def jax_pool(x, size, stride, padding, kind):
    n = x.ndim - 2
    window, strides = (1, *np.broadcast_to(size, n).tolist(), 1), (1, *np.broadcast_to(stride, n).tolist(), 1)
    if not isinstance(padding, str):
        padding = [(0, 0), *padding, (0, 0)]
    start, combine = (-jnp.inf, lax.max) if kind == "max" else (0.0, lax.add)
    found = lax.reduce_window(x, start, combine, window, strides, jax_padding(padding))
    if kind == "max":
        return found
    return found / lax.reduce_window(jnp.ones_like(x), start, combine, window, strides, jax_padding(padding))


CONVOLUTIONS = [
    # x, w, settings
    ((2, 7, 3), (3, 3, 4), {}),
    ((2, 7, 3), (3, 3, 4), {"padding": "same"}),
    ((2, 7, 3), (2, 3, 4), {"padding": "same", "stride": 2}),
    ((2, 8, 3), (4, 3, 4), {"padding": "same", "stride": 3, "dilation": 2}),
    ((2, 7, 4), (3, 2, 6), {"padding": [(2, 1)], "groups": 2}),
    ((1, 7, 2), (1, 2, 3), {"stride": 9}),
    ((2, 6, 5, 3), (3, 2, 3, 4), {}),
    ((2, 6, 5, 3), (3, 2, 3, 4), {"padding": "same"}),
    ((2, 6, 5, 3), (3, 3, 3, 4), {"padding": "same", "stride": 2}),
    ((2, 6, 5, 3), (3, 3, 3, 4), {"padding": "same", "stride": (3, 2), "dilation": (1, 2)}),
    ((2, 7, 6, 2), (3, 2, 2, 3), {"padding": [(1, 2), (0, 3)], "stride": (2, 1), "dilation": (2, 1)}),
    ((2, 5, 5, 4), (3, 3, 1, 4), {"groups": 4, "padding": "same"}),
    ((2, 5, 5, 4), (3, 3, 2, 6), {"groups": 2, "stride": 2}),
    ((0, 5, 5, 2), (3, 3, 2, 3), {}),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv(case):
    x, w, settings = case
    assert_same(
        lambda x, w: ops.conv(x, w, **settings), lambda x, w: jax_conv(x, w, **settings), normal(*x), normal(*w)
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(3, 9), k=st.integers(1, 4), stride=st.integers(1, 4), dilation=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid", [(0, 3)], [(2, 1)]]), groups=st.integers(1, 3),
)  # fmt: skip
def test_any_conv_is_the_sum_it_stands_for(n, k, stride, dilation, padding, groups):
    """Against the formula of the docstring, one output at a time."""
    random = np.random.default_rng(n)
    x, w = random.normal(size=(1, n, 2 * groups)), random.normal(size=(k, 2, 3 * groups))
    reach = (k - 1) * dilation + 1
    if padding == "same":
        total = max((-(-n // stride) - 1) * stride + reach - n, 0)
        low, high = total // 2, total - total // 2
    else:
        low, high = (0, 0) if padding == "valid" else padding[0]
    padded = np.pad(x, [(0, 0), (low, high), (0, 0)])
    if padded.shape[1] < reach:
        with refuses(ShapeError, "does not fit"):
            ops.conv(x, w, stride, padding, dilation, groups)
        return
    found = ops.conv(x, w, stride, padding, dilation, groups)
    for p, o in itertools.product(range((padded.shape[1] - reach) // stride + 1), range(3 * groups)):
        group = slice(2 * (o // 3), 2 * (o // 3) + 2)
        window = padded[0, p * stride : p * stride + reach : dilation, group]
        np.testing.assert_allclose(found[0, p, o], (window * w[:, :, o]).sum(), rtol=1e-10, atol=1e-12)
    assert found.shape == (1, p + 1, 3 * groups)


TRANSPOSED = [
    ((2, 4, 3), (3, 3, 2), {}),
    ((2, 4, 3), (3, 3, 2), {"stride": 2}),
    ((2, 4, 3), (2, 3, 2), {"stride": 3}),
    ((2, 4, 3), (3, 3, 2), {"dilation": 2}),
    ((2, 4, 3, 2), (3, 2, 2, 3), {"stride": (2, 1), "dilation": (1, 2)}),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(case):
    x, w, settings = case
    assert_same(
        lambda x, w: ops.conv_transpose(x, w, **settings), lambda x, w: full_transpose(x, w, **settings),
        normal(*x), normal(*w),
    )  # fmt: skip


def full_transpose(x, w, stride=1, dilation=1):
    """The transpose of JAX's convolution, found by JAX."""
    n = x.ndim - 2
    strides, dilations = np.broadcast_to(stride, n), np.broadcast_to(dilation, n)
    extent = [
        (m - 1) * s + (k - 1) * d + 1 for m, s, k, d in zip(x.shape[1:-1], strides, w.shape, dilations, strict=False)
    ]

    def forward(y):
        return jax_conv(y, jnp.swapaxes(w, -1, -2), stride, "valid", dilation)

    (y,) = jax.linear_transpose(forward, jax.ShapeDtypeStruct((x.shape[0], *extent, w.shape[-1]), x.dtype))(x)
    return y


@pytest.mark.parametrize(("stride", "window"), [(1, 3), (2, 3), (2, 4), (3, 2), (2, 2), (1, 4), (4, 1)])
def test_conv_transpose_same_gives_stride_times_as_many(stride, window):
    x, w = normal(2, 5, 3), normal(window, 3, 2)
    found = ops.conv_transpose(x, w, stride, "same")
    assert found.shape == (2, 5 * stride, 2)
    wanted = in_x64(lambda x, w: jax_conv_transpose(x, w, stride, "same"))(x, w)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_conv_transpose_with_numbers_cuts_the_ends():
    x, w = normal(2, 5, 3), normal(4, 3, 2)
    whole = ops.conv_transpose(x, w, 2)
    np.testing.assert_array_equal(ops.conv_transpose(x, w, 2, [(1, 2)]), whole[:, 1:-2])
    np.testing.assert_array_equal(ops.conv_transpose(x, w, 2, 1), whole[:, 1:-1])


POOLS = [
    ((2, 7, 3), 2, None, "valid"),
    ((2, 7, 3), 3, 2, "same"),
    ((2, 6, 5, 3), (2, 3), None, "valid"),
    ((2, 6, 5, 3), 3, (1, 2), "same"),
    ((2, 6, 5, 3), 2, 2, [(1, 0), (1, 1)]),
]


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_pools(kind, case):
    shape, size, stride, padding = case
    ours = ops.max_pool if kind == "max" else ops.avg_pool
    assert_same(
        lambda x: ours(x, size, stride, padding),
        lambda x: jax_pool(x, size, size if stride is None else stride, padding, kind),
        normal(*shape),
    )


def test_global_pools():
    for shape in ((2, 5, 3), (2, 5, 4, 3)):
        x, space = normal(*shape), tuple(range(1, len(shape) - 1))
        np.testing.assert_allclose(ops.global_avg_pool(x), x.mean(space))
        np.testing.assert_array_equal(ops.global_max_pool(x), x.max(space))


@pytest.mark.parametrize(
    ("f", "to_second_order"),
    [
        (lambda x, w: ops.sum(ops.conv(x, w, 2, "same", groups=2) ** 2), True),
        (lambda x, w: ops.sum(ops.conv_transpose(x, ops.reshape(w, (3, 4, 2)), 2, "same") ** 2), True),
        (
            lambda x, w: ops.sum(ops.max_pool(x, 2) ** 2) + ops.sum(ops.avg_pool(x, 3, 2, "same") ** 3) * ops.sum(w),
            True,
        ),
    ],
)
def test_gradients_by_finite_differences(f, to_second_order):
    bl.check_grads(f, normal(2, 6, 4), normal(3, 2, 4), order=2)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda: ops.conv(normal(2, 5, 3), normal(3, 4, 2)), ShapeError, "x has 3 channels, the weights take 4"),
        (lambda: ops.conv(normal(2, 5, 3), normal(6, 3, 2)), ShapeError, "does not fit axis 1 of size 5"),
        (lambda: ops.conv(normal(2, 5, 4), normal(3, 2, 3), groups=2), ShapeError, "groups divides outputs"),
        (lambda: ops.conv(normal(5, 3), normal(3, 3, 2)), ShapeError, r"conv takes values \(batch, length, channels\)"),
        (lambda: ops.conv(normal(2, 5, 3), normal(3, 3, 2), stride=0), ShapeError, "stride=0 is not one positive"),
        (lambda: ops.conv(normal(2, 5, 3), normal(3, 3, 2), stride=(1, 2)), ShapeError, "stride"),
        (lambda: ops.conv(normal(2, 5, 3), normal(3, 3, 2), padding="full"), ShapeError, "padding='full'"),
        (lambda: ops.conv(normal(2, 5, 3), normal(3, 3, 2), padding=[1, 2]), ShapeError, "does not fit 1 axes"),
        (lambda: ops.conv_transpose(normal(2, 2, 3), normal(1, 3, 2), padding=1), ShapeError, "cuts everything away"),
        (lambda: ops.max_pool(normal(2, 5, 3), 6), ShapeError, "does not fit"),
        (lambda: ops.max_pool(np.ones((2, 5, 3), int), 2), DtypeError, "max_pool: takes floating-point"),
        (lambda: ops.max_pool(normal(2, 5), 2), ShapeError, "max_pool: takes values"),
        (lambda: ops.global_avg_pool(normal(2)), ShapeError, "global_avg_pool: takes values"),
    ],
)
def test_what_is_refused(f, error, message):
    with refuses(error, message):
        f()
