"""Convolutions by Winograd's method: where they are, their numbers, whatever follows them, and what they may read."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors import Native
from backlit.executors.native import winograd_weights
from backlit.executors.native.kernels import Winograd, WinogradSum
from backlit.executors.reference import Reference

from . import programs, random_runs

NATIVE = Native("avx512")


def kernels(graph, native=NATIVE):
    return of_winograd(native.plan(graph))


def of_winograd(plan):
    return [c.kernel for c in plan.calls() if isinstance(c.kernel, Winograd | WinogradSum)]


@pytest.fixture
def everywhere(monkeypatch):
    """Whether it pays or not."""
    monkeypatch.setattr(winograd_weights, "gain", lambda *_: 9.0)


def convolved(x, w):
    return ops.conv(x, w, padding="same")


def by_input(x, w):
    """The gradient of the squares of a convolution that is not padded: its own is."""
    return bl.grad(lambda x: ops.sum(ops.conv(x, w) ** 2.0))(x)


def checked(f, *arguments, found=1, target="avx512", shares=(1, 2, 3)):
    """The results, with the same bits in so many shares: close to those of float64."""
    graph = bl.trace(f, *arguments)
    assert len(kernels(graph, Native(target))) == found
    results = [random_runs.results(graph, arguments, target, n) for n in shares]
    for others in results[1:]:
        for a, b in zip(results[0], others, strict=True):
            assert a.tobytes() == b.tobytes()
    precise = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arguments]
    wanted = Reference().compile(bl.trace(f, *precise))(*precise)
    for a, b in zip(results[0], wanted, strict=True):
        assert np.abs(a - b).max(initial=0) <= np.abs(b).max() * (2e-6 if a.dtype == np.float32 else 4e-15)
    return results[0]


SIZES = [
    (4, 16, 16, 32, 64), (7, 13, 10, 33, 65), (2, 31, 17, 40, 24), (9, 5, 4, 48, 130), (3, 4, 7, 4, 6),
    (1, 32, 30, 17, 48), (3, 9, 11, 200, 96), (5, 11, 8, 17, 17), (5, 8, 7, 34, 18),
]  # fmt: skip


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("f", [convolved, by_input])
def test_its_numbers_are_those_of_the_sums(f, size, dtype):
    n, h, w, c, k = size
    normal = programs.Normal(dtype)
    checked(f, normal(n, h, w, c), normal(3, 3, c, k), found=2 if f is by_input else 1)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("columns", [37, 34])
@pytest.mark.parametrize("target", ["avx2", "sse2"])
def test_on_other_processors(target, columns):
    normal = programs.Normal("float32")
    checked(convolved, normal(3, 13, 14, 21), normal(3, 3, 21, columns), target=target)


@pytest.mark.usefixtures("everywhere")
def test_images_whose_batch_lies_within_their_rows():
    """An axis of places and that of the batch lie evenly in memory, and stay two axes."""

    def f(x, w):
        seen = ops.windows(x, axes=(0, 1), size=(3, 3), stride=(1, 1), dilation=(1, 1))
        return ops.einsum("yxncij,ijck->yxnk", seen, w)

    normal = programs.Normal("float32")
    checked(f, normal(7, 8, 4, 20), normal(3, 3, 20, 24))


# --- what follows -----------------------------------------------------------------------------------------------------


def residual(x, w, b, r):
    return ops.relu(ops.conv(x, w, padding="same") + b) + r


def long_function(x, w, b, r):
    return ops.gelu(ops.conv(x, w, padding="same") + b) * ops.sigmoid(r)


def two_layers(x, w, b, r):
    """The first stores within the zeros around the image of the second."""
    return ops.conv(ops.tanh(ops.conv(x, w[:, :, :, :40], padding="same") + b[:40]), w, padding="same") * r


def turned(x, w, b, r):
    return ops.permute_dims(ops.conv(x, w, padding="same") * r, (0, 3, 1, 2))


def joined(x, w, b, r):
    return ops.concat([r, ops.conv(x, w, padding="same") * b], 3)


def pooled(x, w, b, r):
    return ops.max_pool(ops.conv(x, w, padding="same") + r, 2), r


def compared(x, w, b, r):
    y = ops.conv(x, w, padding="same")
    return ops.astype(y > 1e-3, "int32"), y * 2.0


def several_batch_axes(x, w, b, r):
    both = ops.reshape(x, (3, 1, *x.shape[1:]))
    seen = ops.windows(both, axes=(2, 3), size=(3, 3), stride=(1, 1), dilation=(1, 1))
    return ops.einsum("nmyxcij,ijck->nmyxk", seen, w)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("size", [(14, 12), (13, 11)], ids=str)
@pytest.mark.parametrize(
    ("f", "found"),
    [(residual, 1), (long_function, 1), (two_layers, 2), (turned, 1), (joined, 1), (pooled, 1), (compared, 1),
     (several_batch_axes, 1)],
)  # fmt: skip
def test_whatever_follows_is_done_at_once(f, found, size):
    normal = programs.Normal("float32")
    arguments = normal(3, *size, 40), normal(3, 3, 40, 50), normal(50), normal(3, *size, 50)
    checked(f, *arguments, found=found)


def test_an_index_that_is_out_of_range_is_found():
    normal = programs.Normal("float32")
    x, w, table = normal(2, 12, 12, 32), normal(3, 3, 32, 48), normal(5)

    def f(x, w, table, i):
        return ops.conv(x, w, padding="same") * table[i]

    i = np.random.default_rng(0).integers(-5, 5, (2, 12, 12, 48))
    checked(f, x, w, table, i)
    i[1, 11, 11, 47] = 5
    with pytest.raises(bl.errors.IndexingError, match="index 5"):
        Native().compile(bl.trace(f, x, w, table, i))(x, w, table, i)


# --- where ------------------------------------------------------------------------------------------------------------


def test_only_windows_of_neighbours_and_where_it_pays():
    normal = programs.Normal("float32")
    x, w = normal(4, 16, 16, 32), normal(3, 3, 32, 64)

    def count(x, w, **how):
        return len(kernels(bl.trace(lambda x, w: ops.conv(x, w, padding="same", **how), x, w)))

    assert count(x, w) == 1
    assert count(x, w, stride=2) == count(x, w, dilation=2) == count(x, w[:, :, :8], groups=4) == 0
    assert count(x, normal(5, 5, 32, 64)) == count(x, normal(3, 1, 32, 64)) == 0
    assert count(x[..., :3], w[:, :, :3]) == 0  # few channels: the additions would cost more than is saved
    assert count(x[:1, :4, :4], w) == 0  # a small image: so would the transform of the weights
    assert count(x[:, :3, :3], w) == 0  # and what is computed outside of it
    deep = [np.zeros(shape, np.float32) for shape in ((1, 16, 16, 9000), (3, 3, 9000, 32))]
    assert count(*deep) == 0  # more than a thread's stack should hold
    assert count(deep[0][..., :8000], deep[1][:, :, :8000]) == 1


def test_of_two_columns_channels_would_be_summed_in_an_order_that_depends_on_shares(monkeypatch):
    monkeypatch.setattr(winograd_weights, "_GAIN", 0.0)
    x, w = np.zeros((1, 7, 12, 17)), np.zeros((3, 3, 17, 3))
    for columns, expected in ((3, 1), (2, 0)):
        graph = bl.trace(lambda x, w: ops.conv(x, w, padding="same"), x, w[..., :columns])
        assert len(kernels(graph)) == expected


def test_the_weights_are_transformed_once_for_a_loop():
    """They come from outside: so does what is made of them."""
    normal = programs.Normal("float32")
    x, w = normal(2, 16, 16, 32), normal(3, 3, 32, 32) / 16
    graph = bl.trace(lambda x, w: ops.scan(lambda c, _: (ops.tanh(convolved(c, w)), 0.0), x, None, length=3)[0], x, w)
    (loop,) = NATIVE.plan(graph).steps
    assert [c.label for c in loop.start if "4x4" in c.label]
    assert not [c.label for c in loop.calls if "4x4" in c.label]
    checked(lambda x, w: ops.scan(lambda c, _: (ops.tanh(convolved(c, w)), 0.0), x, None, length=3)[0], x, w)


def test_the_table_says_it():
    normal = programs.Normal("float32")
    plan = NATIVE.plan(bl.trace(convolved, normal(4, 16, 16, 32), normal(3, 3, 32, 64)))
    assert "winograd 64x4" in plan.text
    assert "4 16 16 64/16 [3 3 32]" in plan.text


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [16, 128, 512])
def test_its_error_is_at_most_four_times_that_of_the_sums(channels):
    normal = programs.Normal("float32")
    x, w = np.maximum(normal(2, 16, 16, channels), 0), normal(3, 3, channels, 64)
    graph, precise = bl.trace(convolved, x, w), [a.astype(np.float64) for a in (x, w)]
    wanted = Reference().compile(bl.trace(convolved, *precise))(*precise)[0]
    errors = []
    for native in (Native(), Native(winograd=False)):
        assert len(kernels(graph, native)) == native.winograd
        errors.append(float(np.sqrt(np.mean((native.compile(graph)(x, w)[0] - wanted) ** 2))))
    assert errors[0] <= 4 * errors[1]


def test_what_is_not_finite_is_so_in_the_results_that_see_it():
    """Only that an infinity may be nan; not where the method is left out, in a program that the cache has both ways."""
    normal = programs.Normal("float32")
    x, w = normal(1, 33, 33, 32), normal(3, 3, 32, 32)
    x[0, 10, 21, 5] = np.inf
    x[0, 32, 32, 0] = np.nan
    graph = bl.trace(convolved, x, w)
    made, direct, wanted = (e.compile(graph)(x, w)[0] for e in (Native(), Native(winograd=False), Reference()))
    np.testing.assert_array_equal(np.isfinite(made), np.isfinite(wanted))
    assert (np.isnan(made) != np.isnan(wanted)).any()
    np.testing.assert_array_equal(np.isnan(direct), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(direct), np.isinf(wanted))


def test_it_can_be_left_out_of_a_training_step():
    normal = programs.Normal("float32")
    x, w = normal(16, 16, 16, 32), normal(3, 3, 32, 32)

    def step(w, x):
        loss, g = bl.value_and_grad(lambda w: ops.mean(convolved(convolved(x, w), w) ** 2.0))(w)
        return w - 0.1 * g, loss

    graph = bl.trace(step, w, x)
    with_it, without = (n.compile_loop(graph, 1, 1).plan([32]) for n in (Native(), Native(winograd=False)))
    assert {type(k) for k in of_winograd(with_it)} == {Winograd, WinogradSum}
    assert not of_winograd(without)
    assert len(without.calls()) < len(with_it.calls())


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("size", [(8, 9), (7, 8), (9, 7), (10, 10)], ids=str)
@pytest.mark.parametrize(("channels", "columns"), [(48, 37), (37, 37), (37, 34), (48, 33)])
def test_nothing_outside_of_the_arguments_is_read(size, channels, columns):
    """The arguments end where memory may not be read."""
    normal = programs.Normal("float32")
    arguments = [normal(20, *size, channels), normal(3, 3, channels, columns)]
    graph = bl.trace(lambda x, w: ops.conv(x, w), *arguments)
    assert len(kernels(graph)) == 1
    with_walls = [_before_a_wall(a) for a in arguments]
    np.testing.assert_array_equal(
        Native().compile(graph)(*(a for a, _ in with_walls))[0], Native().compile(graph)(*arguments)[0]
    )


def _before_a_wall(array):
    """A copy that ends at a page that nobody may read, and what keeps its memory."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy, memory
