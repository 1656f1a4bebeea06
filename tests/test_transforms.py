"""Gradients and products with derivatives: of any order, of any argument, nested, against JAX."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import in_x64

import backlit as bl
from backlit import ops
from backlit.errors import ControlFlowError, GradientError
from backlit.legality import check
from backlit.pytree import flatten

RANDOM = np.random.default_rng(12)
P = {
    "w1": RANDOM.normal(size=(3, 4)),
    "b1": RANDOM.normal(size=4),
    "last": [RANDOM.normal(size=(4, 2)), (RANDOM.normal(size=2), None)],
}
X, Y = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(5, 2))


def network(np):
    def loss(p, x, y):
        h = np.tanh(x @ p["w1"] + p["b1"])
        w, (b, _) = p["last"]
        return np.mean((h @ w + b - y) ** 2)

    return loss


LOSS = network(ops)


def assert_trees_agree(found, wanted):
    a, _, structure = flatten(found)
    b, _, other = flatten(wanted)
    assert structure == other
    for x, y in zip(a, b, strict=True):
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_value_and_grad_is_jaxs():
    value, gradient = bl.value_and_grad(LOSS)(P, X, Y)
    wanted_value, wanted = in_x64(jax.value_and_grad(network(jnp)))(P, X, Y)
    np.testing.assert_allclose(value, wanted_value)
    assert_trees_agree(gradient, {k: wanted[k] for k in P})  # JAX sorts the keys
    assert isinstance(value, np.ndarray)
    assert list(gradient) == list(P)


def test_argnums():
    both = bl.grad(LOSS, argnums=(2, 0))(P, X, Y)
    assert isinstance(both, tuple)
    assert_trees_agree(both[1], bl.grad(LOSS)(P, X, Y))
    assert_trees_agree(both[0], in_x64(jax.grad(network(jnp), 2))(P, X, Y))
    assert_trees_agree(bl.grad(LOSS, argnums=-1)(P, X, Y), both[0])
    assert_trees_agree(bl.grad(LOSS, argnums=[1])(P, X, Y), (bl.grad(LOSS, argnums=1)(P, X, Y),))


def test_wrt_by_name():
    whole = bl.grad(LOSS, argnums=(0, 1))(P, X, Y)
    assert_trees_agree(bl.grad(LOSS, wrt="p.w1")(P, X, Y), whole[0]["w1"])
    assert_trees_agree(bl.grad(LOSS, wrt=["p.b1", "x"])(P, X, Y), {"p.b1": whole[0]["b1"], "x": whole[1]})
    assert_trees_agree(
        bl.grad(LOSS, wrt="p.last")(P, X, Y), {"p.last[0]": whole[0]["last"][0], "p.last[1][0]": whole[0]["last"][1][0]}
    )
    assert_trees_agree(bl.grad(LOSS, wrt="x")(P, y=Y, x=X), whole[1])  # names follow keywords in any order


def test_has_aux():
    def f(x):
        return ops.sum(x**2), {"twice": 2 * x, "n": 3}

    (value, aux), gradient = bl.value_and_grad(f, has_aux=True)(X)
    np.testing.assert_allclose(value, (X**2).sum())
    np.testing.assert_array_equal(aux["twice"], 2 * X)
    assert aux["n"] == 3
    gradient_alone, aux_alone = bl.grad(f, has_aux=True)(X)
    np.testing.assert_array_equal(gradient, gradient_alone)
    np.testing.assert_array_equal(aux["twice"], aux_alone["twice"])


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Settings:
    weight: Any
    inner: Pair
    power: int = field(default=2, metadata={"static": True})


def test_gradients_have_the_structure_of_the_argument():
    at = Settings(np.float64(2.0), Pair(X, [np.float64(1.0), None]))

    def f(s):
        return s.weight * ops.sum(s.inner.first**s.power) + s.inner.second[0]

    gradient = bl.grad(f)(at)
    assert isinstance(gradient, Settings)
    assert isinstance(gradient.inner, Pair)
    assert gradient.power == 2
    np.testing.assert_allclose(gradient.weight, (X**2).sum())
    np.testing.assert_allclose(gradient.inner.first, 4 * X)
    assert gradient.inner.second == [1.0, None]


def test_what_does_not_matter_has_a_gradient_of_zeros():
    gradient = bl.grad(lambda p: ops.sum(p["a"]))({"a": X, "b": np.ones((2, 0)), "c": Y})
    np.testing.assert_array_equal(gradient["b"], np.zeros((2, 0)))
    np.testing.assert_array_equal(gradient["c"], np.zeros_like(Y))


def test_float32_and_python_numbers():
    gradient = bl.grad(lambda x, a: ops.sum(x * a), (0, 1))(X.astype(np.float32), 2.0)
    assert [g.dtype for g in gradient] == [np.float32, np.float32]
    mixed = bl.grad(lambda x, y: ops.sum(x * y), (0, 1))(np.float32(2), np.float64(3))
    assert [g.dtype for g in mixed] == [np.float32, np.float64]


# --- orders and nesting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sin", "tanh", "exp", "sigmoid"])
def test_derivatives_up_to_the_fifth_order(name):
    x = np.float64(0.6)
    ours = getattr(ops, name)
    theirs = jax.nn.sigmoid if name == "sigmoid" else getattr(jnp, name)
    for _ in range(5):
        ours, theirs = bl.grad(ours), jax.grad(theirs)
        np.testing.assert_allclose(ours(x), in_x64(theirs)(x), rtol=1e-11)


def test_polynomials_of_high_order():
    f = lambda x: 5.0 * x**4 - x**2  # noqa: E731
    for wanted in (20 * 8 - 4.0, 60 * 4 - 2.0, 120 * 2.0, 120.0, 0.0):
        f = bl.grad(f)
        assert f(np.float64(2)) == wanted


def test_perturbations_are_not_confused():
    """d/dx [x d/dy (x + y)] is 1, not 2 (Siskind & Pearlmutter 2005)."""
    f = bl.grad(lambda x: x * bl.grad(lambda y: x + y)(x))
    assert f(np.float64(1)) == 1
    g = bl.grad(lambda x: x * bl.grad(lambda y: x * y)(2.0 * x))
    assert g(np.float64(3)) == 6
    h = bl.jvp(lambda x: x * bl.jvp(lambda y: x * y, (x,), (np.float64(1),))[1], (np.float64(3),), (np.float64(1),))
    assert h == (9, 6)


def test_a_gradient_inside_a_function():
    """A step of gradient descent, differentiated by its learning rate."""

    def after(rate, x):
        return ops.sum((x - rate * bl.grad(lambda x: ops.sum(x**4))(x)) ** 2)

    def jax_after(rate, x):
        return jnp.sum((x - rate * jax.grad(lambda x: jnp.sum(x**4))(x)) ** 2)

    assert_trees_agree(
        bl.grad(after, (0, 1))(np.float64(0.1), X), in_x64(jax.grad(jax_after, (0, 1)))(np.float64(0.1), X)
    )


# --- products ---------------------------------------------------------------------------------------------------------


def function(np):
    return lambda a, b: {"x": np.tanh(a) @ b["w"], "y": (np.sum(a * a), b["s"] * a)}


A, B = X[:2], {"s": np.float64(0.7), "w": RANDOM.normal(size=(3, 2))}
V = (RANDOM.normal(size=(2, 3)), {"s": np.float64(-1.3), "w": RANDOM.normal(size=(3, 2))})


def test_vjp_is_jaxs():
    value, back = bl.vjp(function(ops), A, B)
    g = {"x": RANDOM.normal(size=(2, 2)), "y": (np.float64(2), RANDOM.normal(size=(2, 3)))}

    def jax_vjp(a, b, g):
        value, back = jax.vjp(function(jnp), a, b)
        return value, back(g)

    wanted_value, wanted = in_x64(jax_vjp)(A, B, g)
    assert_trees_agree(value, wanted_value)
    assert_trees_agree(back(g), wanted)
    assert_trees_agree(back({"y": g["y"], "x": g["x"]}), wanted)  # keys in another order


def test_jvp_is_jaxs():
    wanted = in_x64(lambda a, b, v: jax.jvp(function(jnp), (a, b), v))(A, B, V)
    assert_trees_agree(bl.jvp(function(ops), (A, B), V), wanted)


def test_hvp_is_jaxs():
    def scalar(np):
        f = function(np)
        return lambda a, b: np.sum(f(a, b)["x"] ** 2) * f(a, b)["y"][0]

    wanted = in_x64(lambda a, b, v: jax.jvp(jax.grad(scalar(jnp), (0, 1)), (a, b), v)[1])(A, B, V)
    assert_trees_agree(bl.hvp(scalar(ops), (A, B), V), wanted)


def test_products_pass_by_integers():
    def f(n, x):
        return ops.sum(x[n] ** 2)

    n, x = np.array([0, 1, 1]), np.arange(1.0, 4.0)
    assert_trees_agree(bl.vjp(f, n, x)[1](1.0), (np.zeros(3, int), np.array([2.0, 8.0, 0.0])))
    assert bl.jvp(f, (n, x), (n, np.ones(3)))[1] == 10
    assert_trees_agree(bl.hvp(f, (n, x), (n, np.ones(3))), (np.zeros(3, int), np.array([2.0, 4.0, 0.0])))


def test_the_three_products_agree():
    """u . (J v) = (J^T u) . v, and H v is the derivative of the gradient."""
    f = lambda x: ops.sort(ops.softmax(x @ x.T) @ x, 0)  # noqa: E731
    u, v = RANDOM.normal(size=(2, 5, 3))
    forward, backward = bl.jvp(f, (X,), (v,))[1], bl.vjp(f, X)[1](u)[0]
    np.testing.assert_allclose((u * forward).sum(), (backward * v).sum())
    g = lambda x: ops.sum(u * f(x))  # noqa: E731
    np.testing.assert_allclose(bl.hvp(g, (X,), (v,))[0], bl.jvp(bl.grad(g), (X,), (v,))[1])


def test_products_inside_a_trace():
    def f(x):
        value, back = bl.vjp(ops.tanh, x)
        return ops.sum(back(value)[0] * bl.jvp(ops.sin, (x,), (x,))[1]) + ops.sum(
            bl.hvp(lambda x: ops.sum(x**3), (x,), (x,))[0]
        )

    def jax_f(x):
        value, back = jax.vjp(jnp.tanh, x)
        return jnp.sum(back(value)[0] * jax.jvp(jnp.sin, (x,), (x,))[1]) + jnp.sum(6 * x * x)

    assert_trees_agree(bl.grad(f)(X), in_x64(jax.grad(jax_f))(X))
    np.testing.assert_allclose(bl.compile(f, executor="reference")(X), f(X))


# --- gradients are graphs ---------------------------------------------------------------------------------------------


def test_the_gradient_of_a_program_is_a_legal_program():
    graph = bl.trace(bl.value_and_grad(LOSS), P, X, Y)
    check(graph)
    forward = [n for n in graph.nodes if n.origin is None and n.op != "input"]
    backward = [n for n in graph.nodes if n.origin is not None]
    assert {n.op for n in forward} >= {"tanh", "contract", "sum"}
    assert all(n.origin in set(graph.nodes) for n in backward)
    assert all(n.site == n.origin.site for n in backward)
    assert graph.name == "value_and_grad_loss"
    assert bl.grad(LOSS).__name__ == "grad_loss"


def test_each_forward_value_is_computed_once():
    graph = bl.trace(bl.value_and_grad(LOSS), P, X, Y)
    assert sum(n.op == "tanh" for n in graph.nodes) == 1


def test_a_leak_is_told_from_a_closure():
    kept = []
    bl.trace(lambda x: kept.append(x) or x, X)
    with pytest.raises(ControlFlowError, match="whose trace is over"):
        bl.grad(lambda x: ops.sum(x * kept[0]))(X)
    inner = bl.trace(lambda a: bl.grad(lambda x: ops.sum(x * a))(X), np.float64(1))
    check(inner)


def test_an_op_without_gradient_stands_in_one_way_only():
    """A second way, through which the gradient passes, is enough."""
    gradient = bl.grad(lambda x: ops.sum(x * ops.astype(x > 0, "float64")))(X)
    np.testing.assert_array_equal(gradient, X > 0)
    with pytest.raises(GradientError, match="no gradient reaches"):
        bl.grad(lambda x: ops.sum(ops.astype(x > 0, "float64")))(X)
    assert (bl.grad(lambda x: ops.sum(ops.astype(ops.stop_gradient(x) > 0, "float64")))(X) == 0).all()
