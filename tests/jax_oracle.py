"""What each op means, said a second time in JAX: a table from op names to JAX functions, and a graph run through it.

float64 is used throughout, inside `jax.enable_x64()`, so that nothing is changed for the rest of the process.
"""

from __future__ import annotations

import functools
import operator
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from backlit import compile, grad, hvp, ops
from backlit.pytree import flatten


def in_x64(f):
    """A function compiled by JAX and run with float64 on, its results as NumPy arrays.

    It is compiled as fast as can be: the tests run each function once.
    """
    compiled = jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})

    @functools.wraps(f)
    def inner(*args, **kwargs):
        with jax.enable_x64():
            return jax.tree.map(np.asarray, compiled(*args, **kwargs))

    return inner


def _reduce(f):
    def reduced(x, axis, keepdims):
        if axis == ():
            return x
        return f(x, axis=axis, keepdims=keepdims)

    return reduced


def _sum(x, axis, keepdims):
    wide = {"i": jnp.int64, "u": jnp.uint64}.get(np.dtype(x.dtype).kind, x.dtype)
    return jnp.sum(x, axis=axis, keepdims=keepdims, dtype=wide)


def _cumulative_sum(x, axis):
    wide = {"i": jnp.int64, "u": jnp.uint64}.get(np.dtype(x.dtype).kind, x.dtype)
    return jnp.cumsum(x, axis=axis, dtype=wide)


def _pad(x, low, high, between, value):
    return lax.pad(x, jnp.asarray(value, x.dtype), list(zip(low, high, between, strict=True)))


def _contract(a, b, spec):
    return jnp.einsum(spec, a, b, precision="highest")


def _windows(x, axes, size, stride, dilation):
    """Each window position is a strided slice; they are stacked as new last axes."""
    counts = [(x.shape[a] - (k - 1) * d - 1) // s + 1 for a, k, s, d in zip(axes, size, stride, dilation, strict=True)]
    slices = []
    for position in np.ndindex(*size):
        part = x
        for a, p, s, d, n in zip(axes, position, stride, dilation, counts, strict=True):
            part = lax.slice_in_dim(part, p * d, p * d + (n - 1) * s + 1, s, axis=a)
        slices.append(part)
    return jnp.stack(slices, axis=-1).reshape(*slices[0].shape, *size)


def _fold(w, extent, **params):
    """The transpose of `_windows`, found by JAX."""
    shape = list(w.shape[: w.ndim - len(params["size"])])
    for a, n in zip(params["axes"], extent, strict=True):
        shape[a] = n
    if np.dtype(w.dtype).kind != "f":  # JAX transposes floating-point functions only
        return _fold(w.astype(jnp.float64), extent, **params).astype(w.dtype)
    (x,) = jax.linear_transpose(functools.partial(_windows, **params), jax.ShapeDtypeStruct(tuple(shape), w.dtype))(w)
    return x


def _threefry(k0, k1, x0, x1, word):
    from jax.extend.random import threefry_2x32

    shape = np.broadcast_shapes(jnp.shape(x0), jnp.shape(x1))
    counts = jnp.stack([jnp.broadcast_to(x, shape).ravel() for x in (x0, x1)])
    return threefry_2x32(jnp.stack([k0, k1]), counts)[word].reshape(shape)


def _scan(*values, body, carry, outside, length, reverse):
    fixed, state, xs = values[:outside], values[outside : outside + carry], values[outside + carry :]

    def step(state, x):
        results = interpret(body, [*fixed, *state, *x])
        return results[:carry], results[carry:]

    state, ys = lax.scan(step, list(state), list(xs), length=length, reverse=reverse)
    return (*state, *ys)


ORACLE = {
    "abs": jnp.abs,
    "add": jnp.add,
    "argmax": lambda x, axis: jnp.argmax(x, axis),
    "argmin": lambda x, axis: jnp.argmin(x, axis),
    "argsort": lambda x, axis: jnp.argsort(x, axis, stable=True),
    "bitwise_and": jnp.bitwise_and,
    "bitwise_invert": jnp.bitwise_not,
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_right_shift": jnp.right_shift,
    "bitwise_xor": jnp.bitwise_xor,
    "broadcast_to": lambda x, shape: jnp.broadcast_to(x, shape),
    "cast": lambda x, dtype: x.astype(dtype),
    "concat": lambda *xs, axis: jnp.concatenate(xs, axis),
    "contract": _contract,
    "cos": jnp.cos,
    "cumulative_sum": _cumulative_sum,
    "divide": jnp.divide,
    "equal": jnp.equal,
    "erf": jax.scipy.special.erf,
    "erfinv": jax.scipy.special.erfinv,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "flip": lambda x, axis: jnp.flip(x, axis),
    "floor": jnp.floor,
    "floor_divide": jnp.floor_divide,
    "fold": _fold,
    "gather": lambda x, *indices: x[tuple(indices)],
    "greater": jnp.greater,
    "greater_equal": jnp.greater_equal,
    "iota": lambda size, dtype: jnp.arange(size, dtype=dtype),
    "less": jnp.less,
    "less_equal": jnp.less_equal,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "max": _reduce(jnp.max),
    "maximum": jnp.maximum,
    "min": _reduce(jnp.min),
    "minimum": jnp.minimum,
    "multiply": jnp.multiply,
    "negative": jnp.negative,
    "not_equal": jnp.not_equal,
    "pad": _pad,
    "permute_dims": lambda x, axes: jnp.transpose(x, axes),
    "pow": jnp.power,
    "relu": jax.nn.relu,
    "remainder": jnp.remainder,
    "reshape": lambda x, shape: jnp.reshape(x, shape),
    "round": jnp.round,
    "scan": _scan,
    "scatter_add": lambda x, updates, *indices: x.at[tuple(indices)].add(updates),
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "sin": jnp.sin,
    "slice": lambda x, start, stop, step: lax.slice(x, start, stop, step),
    "softplus": jax.nn.softplus,
    "sqrt": jnp.sqrt,
    "stop_gradient": lax.stop_gradient,
    "subtract": jnp.subtract,
    "sum": _sum,
    "tanh": jnp.tanh,
    "threefry2x32": _threefry,
    "where": jnp.where,
    "windows": _windows,
}


def interpret(graph, values):
    """The outputs of a graph, computed by JAX."""
    found = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        match node.op:
            case "input":
                pass
            case "constant":
                found[node] = jnp.asarray(node.params["value"])
            case "item":
                found[node] = found[node.inputs[0]][node.params["index"]]
            case name:
                found[node] = ORACLE[name](*(found[i] for i in node.inputs), **node.params)
    return [found[o] for o in graph.outputs]


def assert_same(ours, theirs, *arrays, rtol=1e-10, atol=1e-12, order=1):
    """Hold the values of two functions, and the gradients of a weighted sum of them, against each other.

    The functions may give trees. `order` 2 takes the derivative of the gradient in a random direction, too.
    """
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(in_x64_traced(theirs), *arrays)
    weights = [random.standard_normal(t.shape) if t.dtype.kind == "f" else None for t in jax.tree.leaves(shapes)]
    moving = tuple(i for i, x in enumerate(arrays) if np.asarray(x).dtype.kind == "f")
    v = [random.standard_normal(np.shape(arrays[i])) for i in moving]

    def scalar(f, sum_of, leaves_of):
        def inner(*xs):
            values = list(arrays)
            for i, x in zip(moving, xs, strict=True):
                values[i] = x
            pairs = zip(leaves_of(f(*values)), weights, strict=True)
            return functools.reduce(operator.add, [sum_of(y * w) for y, w in pairs if w is not None])

        return inner

    loss, oracle = scalar(ours, ops.sum, lambda t: flatten(t)[0]), scalar(theirs, jnp.sum, jax.tree.leaves)
    differentiable = moving and any(w is not None for w in weights)
    numbers = tuple(range(len(moving)))

    def everything(xs, v):
        found = [theirs(*xs)]
        if differentiable:
            at = [xs[i] for i in moving]
            gradient = jax.grad(oracle, numbers)
            found += [gradient(*at)] if order == 1 else jax.jvp(gradient, tuple(at), tuple(v))
        return found

    wanted = [jax.tree.leaves(part) for part in in_x64(everything)(list(arrays), v)]
    at = [arrays[i] for i in moving]
    found = [flatten(ours(*arrays))[0], flatten(compile(ours, executor="reference")(*arrays))[0]]
    wanted.insert(1, wanted[0])
    if differentiable:
        found.append(grad(loss, numbers)(*at))
        if order == 2:
            found.append(hvp(loss, at, v))
    for what, a_row, b_row in zip(["value", "value of the graph", "gradient", "hvp"], found, wanted, strict=False):
        assert len(a_row) == len(b_row)
        for a, b in zip(a_row, b_row, strict=True):
            assert np.shape(a) == b.shape, what
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=what)


def in_x64_traced(f):
    """A function whose tracing by JAX keeps float64."""

    @functools.wraps(f)
    def inner(*args):
        with jax.enable_x64():
            return f(*args)

    return inner
