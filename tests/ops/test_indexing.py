"""Indexing against NumPy, by hypothesis, and its gradients against JAX."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax_oracle import assert_same
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import ControlFlowError, DtypeError, IndexingError, ShapeError

RANDOM = np.random.default_rng(9)
X = RANDOM.normal(size=(3, 4, 5))
I = np.array([[2, 0], [-1, 2]])  # noqa: E741


def graph_getitem(x, index):
    return bl.compile(lambda x: x[index], executor="reference")(x)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_basic_indexing_is_numpys(data):
    shape = data.draw(shapes)
    x = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    found = graph_getitem(x, index)
    assert found.shape == np.shape(x[index])
    np.testing.assert_array_equal(found, x[index])


@st.composite
def advanced(draw):
    """A shape and an index that has integer arrays in some places, anything basic in the others."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    lead = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    parts = []
    for n in shape:
        kind = draw(st.sampled_from(["array", "slice", "integer"]))
        if kind == "array":
            own = lead[draw(st.integers(0, len(lead))) :]
            parts.append(draw(hnp.arrays(np.int64, own, elements=st.integers(-n, n - 1))))
        elif kind == "integer":
            parts.append(draw(st.integers(-n, n - 1)))
        else:
            parts.append(draw(st.slices(n)))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), None)
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(parts)))
        parts = [*parts[:cut], Ellipsis, *parts[cut:]]
    return shape, tuple(parts)


@settings(max_examples=150, deadline=None)
@example(((1, 1, 1), (None, np.array([0, 0]), Ellipsis, np.array([0, 0]), np.array([0, 0]))))  # apart, by nothing
@given(advanced())
def test_indexing_with_arrays_is_numpys(case):
    shape, index = case
    x = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    found = graph_getitem(x, index)
    assert found.shape == np.shape(x[index])
    np.testing.assert_array_equal(found, x[index])


GRADIENTS = {
    "integers": lambda x: x[1, ..., -1],
    "slices": lambda x: x[::2, -1:0:-2, 1:],
    "backwards": lambda x: x[::-1, :, 3::-1],
    "an array": lambda x: x[:, I],
    "two arrays": lambda x: x[I, :, I + 1],
    "an array that repeats": lambda x: x[np.array([0, 0, 2, 0])],
    "a list": lambda x: x[jnp.array([2, 1]) if isinstance(x, jnp.ndarray) else [2, 1]],
    "None": lambda x: x[None, :, None, 0],
    "nothing": lambda x: x[1:1],
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_of_indexing(name):
    assert_same(GRADIENTS[name], GRADIENTS[name], X)


def test_traced_indices():
    x, i = X, np.array([1, 0])
    found = bl.compile(lambda x, i: x[i, :, 2], executor="reference")(x, i)
    np.testing.assert_array_equal(found, x[i, :, 2])
    gradient = bl.grad(lambda x, i: ops.sum(x[i] * x[i]))(x, i)
    np.testing.assert_array_equal(gradient, np.concatenate([2 * x[:2], np.zeros((1, 4, 5))]))


UNIQUE = RANDOM.permutation(24).reshape(2, 3, 4).astype(float)

CASES = {
    "take": (lambda x: ops.take(x, I, 1), lambda x: jnp.take(x, I, 1), X),
    "take of one": (lambda x: ops.take(x, 2, -1), lambda x: jnp.take(x, 2, -1), X),
    "take_along_axis": (
        lambda x: ops.take_along_axis(x, np.argsort(X, 1), 1), lambda x: jnp.take_along_axis(x, np.argsort(X, 1), 1), X
    ),
    "take_along_axis that broadcasts": (
        lambda x: ops.take_along_axis(x, np.array([[[3, 3]]]), 2),
        lambda x: jnp.take_along_axis(x, np.array([[[3, 3]]]), 2), X,
    ),
    "scatter_add": (
        lambda x, u: ops.scatter_add(x, np.array([0, 2, 0, -1]), u),
        lambda x, u: x.at[np.array([0, 2, 0, -1])].add(u), X, RANDOM.normal(size=(4, 4, 5)),
    ),
    "scatter_add at two": (
        lambda x, u: ops.scatter_add(x, (np.array([0, 2, 0]), np.array([1, 1, 1])), u),
        lambda x, u: x.at[np.array([0, 2, 0]), np.array([1, 1, 1])].add(u), X, RANDOM.normal(size=(5,)),
    ),
    "sort": (ops.sort, jnp.sort, UNIQUE),
    "sort, axis 0": (lambda x: ops.sort(x, 0), lambda x: jnp.sort(x, 0), UNIQUE),
    "tril": (lambda x: ops.tril(x, 1), lambda x: jnp.tril(x, 1), X),
    "triu": (lambda x: ops.triu(x, -1), lambda x: jnp.triu(x, -1), X),
    "one_hot": (lambda x: ops.one_hot(I % 3, 3, "float64") * x, lambda x: jnp.array(np.eye(3)[I % 3]) * x, np.ones(3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    ours, theirs, *arrays = CASES[name]
    assert_same(ours, theirs, *arrays, order=2)


def test_one_hot_of_a_label_out_of_range_is_zero():
    found = ops.one_hot(np.array([0, 3, -1], np.int8), 3)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert found.dtype == np.float32
    with refuses(DtypeError, "labels are integers"):
        ops.one_hot(np.array([0.0]), 3)


def test_triangles_of_integers_and_booleans():
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(ops.tril(x), np.tril(x))
    np.testing.assert_array_equal(ops.triu(x > 1), np.triu(x > 1))


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x: x[3], IndexingError, "index 3 is out of range: axis 0 has size 3"),
        (lambda x: x[0, -5], IndexingError, "index -5 is out of range: axis 1 has size 4"),
        (lambda x: x[0, 0, 0, 0], IndexingError, "4 indices for 3 axes"),
        (lambda x: x[..., 0, ...], IndexingError, "at most one"),
        (lambda x: x[1.0], IndexingError, "an index is 1.0"),
        (lambda x: x[True], IndexingError, "an index is True"),
        (lambda x: x["a"], IndexingError, "an index is 'a'"),
        (lambda x: x[x > 0], IndexingError, "ops.where"),
        (lambda x: x[X > 0], IndexingError, "ops.where"),
        (lambda x: x[x], IndexingError, "float64"),
        (lambda x: x[0 : x[0, 0, 0]], ControlFlowError, "a slice has a traced bound"),
        (lambda x: x[np.array([0, 1]), np.array([0, 1, 2])], ShapeError, "do not broadcast"),
        (lambda x: x[np.array([0, 3])], IndexingError, "index 3 is out of range: axis 0 has size 3"),
        (lambda x: ops.take(x, np.array([5]), 2), IndexingError, "index 5 is out of range: axis 0 has size 5"),
        (lambda x: ops.take(x, 0, 3), ShapeError, "take: axis 3 is out of range"),
        (lambda x: ops.take_along_axis(x, np.array([0]), 1), ShapeError, "as many axes"),
        (lambda x: ops.scatter_add(x, np.array([0]), np.ones((2, 4, 5))), ShapeError, "scatter_add"),
        (lambda x: ops.scatter_add(x, np.array([0]), np.ones((1, 4, 5), np.float32)), DtypeError, "scatter_add"),
        (lambda x: ops.scatter_add(x, np.array([-4]), 1.0), IndexingError, "index -4 is out of range"),
        (lambda x: ops.tril(x[0, 0]), ShapeError, "tril: a matrix has at least two axes"),
    ],
)
def test_what_is_refused(f, error, message):
    with refuses(error, message):
        bl.compile(f, executor="reference")(X)
