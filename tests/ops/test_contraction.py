"""Products that sum: matmul, tensordot and einsum against NumPy for values and JAX for gradients."""

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

RANDOM = np.random.default_rng(7)


def normal(*shape):
    return RANDOM.normal(size=shape)


@st.composite
def matmul_shapes(draw):
    size = st.integers(0, 3)
    n, k, m = draw(size), draw(size), draw(size)
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    leads = []
    for _ in range(2):
        own = [1 if draw(st.booleans()) else d for d in lead]
        leads.append(own[draw(st.integers(0, len(own))) :])
    left = draw(st.sampled_from([(*leads[0], n, k), (k,)]))
    right = draw(st.sampled_from([(*leads[1], k, m), (k,)]))
    return left, right


@settings(max_examples=80, deadline=None)
@given(matmul_shapes())
def test_matmul_is_numpys(shapes):
    a, b = (np.random.default_rng(0).normal(size=s) for s in shapes)
    for found in (ops.matmul(a, b), bl.compile(lambda a, b: a @ b, executor="reference")(a, b)):
        assert found.shape == (a @ b).shape
        np.testing.assert_allclose(found, a @ b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("left", "right"), [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 1, 2, 3), (4, 3, 2)), ((2, 0), (0, 3))]
)
def test_gradient_of_matmul(left, right):
    assert_same(ops.matmul, jnp.matmul, normal(*left), normal(*right), order=2)


def test_integers():
    a, b = RANDOM.integers(-9, 9, (2, 3)), RANDOM.integers(-9, 9, (3, 4))
    np.testing.assert_array_equal(ops.matmul(a, b), a @ b)
    assert ops.matmul(a, b).dtype == a.dtype


def test_promotion():
    assert ops.matmul(np.ones((2, 2), np.float32), np.ones((2, 2))).dtype == np.float64
    with refuses(DtypeError, "do not mix"):
        ops.matmul(np.ones((2, 2)), np.ones((2, 2), int))


EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("bij,bkj->bik", (2, 2, 3), (2, 4, 3)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("iij->ji", (2, 2, 3)),
    ("ij->", (2, 3)),
    ("ij->ji", (2, 3)),
    ("i,i,i->i", (3,), (3,), (3,)),
    ("i,j,k->kji", (2,), (3,), (4,)),
    ("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 2), (2, 3)),
    ("...ij,...jk->...ik", (5, 2, 3), (5, 3, 4)),
    ("...ij,...jk->...ik", (5, 1, 2, 3), (2, 3, 4)),
    ("...i->...", (2, 3)),
    ("ij,kl->il", (2, 3), (4, 5)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ijk,ijk->", (2, 3, 2), (2, 3, 2)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("ii,ij,j->", (3, 3), (3, 2), (2,)),
    ("a,ab,abc->abc", (2,), (2, 3), (2, 3, 4)),
    (",ij->ji", (), (2, 3)),
    ("ij,j->i", (1, 3), (3,)),
    ("ij,jk->ik", (2, 1), (1, 4)),
]


@pytest.mark.parametrize("spec", EINSUMS, ids=lambda s: f"{s[0]} {s[1:]}")
def test_einsum(spec):
    spec, *shapes = spec
    operands = [normal(*s) for s in shapes]
    np.testing.assert_allclose(ops.einsum(spec, *operands), np.einsum(spec, *operands), rtol=1e-12, atol=1e-13)
    assert_same(lambda *xs: ops.einsum(spec, *xs), lambda *xs: jnp.einsum(spec, *xs), *operands)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_einsum_is_numpys(data):
    letters = "abcd"
    sizes = {c: data.draw(st.integers(1, 3)) for c in letters}
    terms = data.draw(st.lists(st.text(letters, max_size=3), min_size=1, max_size=4))
    used = sorted({*"".join(terms)})
    result = "".join(data.draw(st.permutations(used))[: data.draw(st.integers(0, len(used)))])
    spec = f"{','.join(terms)}->{result}"
    operands = [np.random.default_rng(i).normal(size=[sizes[c] for c in t]) for i, t in enumerate(terms)]
    np.testing.assert_allclose(ops.einsum(spec, *operands), np.einsum(spec, *operands), rtol=1e-11, atol=1e-12)
    traced = bl.compile(lambda *xs: ops.einsum(spec, *xs), executor="reference")(*operands)
    np.testing.assert_allclose(traced, np.einsum(spec, *operands), rtol=1e-11, atol=1e-12)


CASES = {
    "tensordot": (lambda a, b: ops.tensordot(a, b, 1), lambda a, b: jnp.tensordot(a, b, 1), (2, 3), (3, 4)),
    "tensordot of nothing": (lambda a, b: ops.tensordot(a, b, 0), lambda a, b: jnp.tensordot(a, b, 0), (2,), (3,)),
    "tensordot over lists": (
        lambda a, b: ops.tensordot(a, b, ([0, 2], [-1, 0])),
        lambda a, b: jnp.tensordot(a, b, ([0, 2], [-1, 0])),
        (2, 3, 4), (4, 5, 2),
    ),
    "vecdot": (ops.vecdot, jnp.vecdot, (2, 3), (3,)),
    "vecdot, axis 0": (lambda a, b: ops.vecdot(a, b, 0), lambda a, b: (a * b).sum(0), (2, 3), (2, 1)),
    "outer": (ops.outer, jnp.outer, (2,), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    ours, theirs, *shapes = CASES[name]
    assert_same(ours, theirs, *(normal(*s) for s in shapes))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda: ops.matmul(normal(2, 3), normal(2, 3)), "matmul: the inner sizes 3 and 2 differ"),
        (lambda: ops.matmul(normal(2, 2, 3), normal(3, 3, 3)), r"matmul: the leading axes \(2,\) and \(3,\)"),
        (lambda: ops.matmul(normal(2), 3.0), "multiply by a number with"),
        (lambda: ops.einsum("ij,jk->ik", normal(2, 3), normal(2, 3)), "axis 'j'"),
        (lambda: ops.einsum("ij,jk->ik", normal(2, 3), normal(1, 3)), "axis 'j'"),
        (lambda: ops.einsum("ij->ik", normal(2, 3)), "einsum"),
        (lambda: ops.einsum("ijk->i", normal(2, 3)), "einsum"),
        (lambda: ops.einsum("ij,j->i", normal(2, 3)), "einsum"),
        (lambda: ops.einsum("ii->i", normal(2, 3)), "repeated axis 'i'"),
        (lambda: ops.tensordot(normal(2), normal(2), 2), "there are no 2 axes"),
        (lambda: ops.tensordot(normal(2), normal(3), 1), "axis"),
    ],
)
def test_what_is_refused(f, message):
    with refuses(ShapeError, message):
        f()
