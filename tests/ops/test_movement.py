"""Movement against NumPy, by hypothesis, and its gradients against JAX."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_oracle import assert_same
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import DtypeError, ShapeError

X = np.random.default_rng(5).normal(size=(2, 3, 4))
Y = np.random.default_rng(6).normal(size=(2, 3, 4))

# name -> ours, NumPy's (JAX's is the same), each a function of the library and x
CASES = {
    "reshape": (lambda x: ops.reshape(x, (4, -1)), lambda np, x: np.reshape(x, (4, -1))),
    "reshape to one axis": (lambda x: ops.reshape(x, 24), lambda np, x: np.reshape(x, 24)),
    "flatten": (lambda x: ops.flatten(x, 1), lambda np, x: np.reshape(x, (2, 12))),
    "expand_dims": (lambda x: ops.expand_dims(x, (0, -1)), lambda np, x: np.expand_dims(x, (0, -1))),
    "squeeze": (lambda x: ops.squeeze(x[:, 1:2, :1], (1, -1)), lambda np, x: np.squeeze(x[:, 1:2, :1], (1, -1))),
    "permute_dims": (lambda x: ops.permute_dims(x, (2, 0, 1)), lambda np, x: np.transpose(x, (2, 0, 1))),
    "transpose": (ops.transpose, lambda np, x: np.transpose(x)),
    "matrix_transpose": (ops.matrix_transpose, lambda np, x: np.swapaxes(x, -1, -2)),
    "T": (lambda x: ops.reshape(x, (6, 4)).T, lambda np, x: np.reshape(x, (6, 4)).T),
    "moveaxis": (lambda x: ops.moveaxis(x, 0, -1), lambda np, x: np.moveaxis(x, 0, -1)),
    "moveaxis of two": (lambda x: ops.moveaxis(x, (0, 2), (1, 0)), lambda np, x: np.moveaxis(x, (0, 2), (1, 0))),
    "broadcast_to": (lambda x: ops.broadcast_to(x, (5, 2, 3, 4)), lambda np, x: np.broadcast_to(x, (5, 2, 3, 4))),
    "flip": (ops.flip, lambda np, x: np.flip(x)),
    "flip of two": (lambda x: ops.flip(x, (0, -1)), lambda np, x: np.flip(x, (0, -1))),
    "pad": (lambda x: ops.pad(x, 2), lambda np, x: np.pad(x, 2)),
    "pad with a value": (
        lambda x: ops.pad(x, [(1, 0), 2, (0, 3)], 7.0),
        lambda np, x: np.pad(x, [(1, 0), (2, 2), (0, 3)], constant_values=7.0),
    ),
    "roll": (lambda x: ops.roll(x, -5, 2), lambda np, x: np.roll(x, -5, 2)),
    "roll not at all": (lambda x: ops.roll(x, 3, 1), lambda np, x: np.roll(x, 3, 1)),
    "tile": (lambda x: ops.tile(x, (2, 1, 3)), lambda np, x: np.tile(x, (2, 1, 3))),
    "split": (lambda x: ops.split(x, 2, -1), lambda np, x: np.split(x, 2, -1)),
    "split by sizes": (lambda x: ops.split(x, [1, 0, 2], 1), lambda np, x: np.split(x, [1, 1], 1)),
    "concat": (lambda x: ops.concat([x, x * 2, x], 1), lambda np, x: np.concatenate([x, x * 2, x], 1)),
    "stack": (lambda x: ops.stack([x, x * 2], -1), lambda np, x: np.stack([x, x * 2], -1)),
    "stack in front": (lambda x: ops.stack([x, x * 2]), lambda np, x: np.stack([x, x * 2])),
}


@pytest.mark.parametrize("name", CASES)
def test_against_numpy_and_jax(name):
    ours, theirs = CASES[name]
    for array in (X, np.arange(24, dtype=np.int32).reshape(2, 3, 4), X > 0):
        if array.dtype != np.float64 and name in ("concat", "stack", "stack in front", "pad with a value"):
            continue  # arithmetic in the case
        found, wanted = ours(array), theirs(np, array)
        for a, b in zip(*((v if isinstance(v, tuple | list) else [v]) for v in (found, wanted)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert_same(ours, lambda x: theirs(jnp, x), X)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_reshape_and_its_inverse(data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    x = np.arange(int(np.prod(shape)))
    y = ops.reshape(x, shape)
    np.testing.assert_array_equal(y, x.reshape(shape))
    order = data.draw(st.permutations(range(len(shape))))
    there = bl.compile(lambda y: ops.permute_dims(y, order), executor="reference")(y)
    np.testing.assert_array_equal(there, np.transpose(y, order))
    np.testing.assert_array_equal(ops.permute_dims(there, np.argsort(order).tolist()), y)


def test_dtypes_of_what_is_joined_are_promoted():
    joined = ops.concat([np.ones(2, np.float32), np.ones(1, np.float64)])
    assert joined.dtype == np.float64
    assert ops.stack([np.int8(1), np.int32(2)]).dtype == np.int32
    with refuses(DtypeError, "concat"):
        ops.concat([np.ones(2), np.ones(2, int)])


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda: ops.reshape(X, (5, -1)), "24 elements do not make the shape"),
        (lambda: ops.reshape(X, (5, 5)), "24 elements do not make the shape"),
        (lambda: ops.reshape(X, (-1, -1)), "do not make the shape"),
        (lambda: ops.reshape(X, (2.0, 12)), "a size is an integer, not 2.0"),
        (lambda: ops.squeeze(X, 0), "squeeze: axis 0 has size 2, not 1"),
        (lambda: ops.permute_dims(X, (0, 1)), "no permutation of the 3 axes"),
        (lambda: ops.matrix_transpose(X[0, 0]), "a matrix has at least two axes"),
        (lambda: ops.broadcast_to(X, (2, 3, 5)), "does not broadcast"),
        (lambda: ops.pad(X, [(1, 1)]), "does not fit 3 axes"),
        (lambda: ops.pad(X, -1), "padding cannot be negative"),
        (lambda: ops.concat([X, X[:1]], 1), "differ in more than axis 1"),
        (lambda: ops.concat([]), "nothing to join"),
        (lambda: ops.stack([X, X[:1]]), "differ in shape"),
        (lambda: ops.split(X, 3, 2), "4 elements do not split into 3 equal parts"),
        (lambda: ops.split(X, [1, 2], 2), "do not add up to 4"),
        (lambda: ops.tile(X, (2,)), "1 repeats for 3 axes"),
        (lambda: ops.flip(X, 3), "axis 3 is out of range"),
        (lambda: ops.roll(X, 1, 3), "roll: axis 3 is out of range"),
        (lambda: ops.moveaxis(X, (0, 0), (1, 2)), "do not pair distinct axes"),
    ],
)
def test_what_is_refused(f, message):
    with refuses(ShapeError, message):
        f()
