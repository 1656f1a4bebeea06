"""From backlit's ops to JAX's: a table with a line an op. Elementwise ops come from their scalar forms.

Two things take more than a line. Convolutions arrive as `windows`, `contract` and `fold` and are put together again
(`convolution`), since an accelerator has better ways to do one than to copy every window. And an index out of range
must raise, which compiled code cannot do: each gather also computes whether its indices are in range
(`Lowering.sound`), and whoever runs the program looks at that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from backlit.executors.xla.convolution import Convolution, find_convolutions
from backlit.ir import Graph, Node
from backlit.ops.record import OPS

Value: TypeAlias = Any
Sizes: TypeAlias = Sequence[int]


class JaxScalars:
    """The instruction set of scalar forms (`ops.scalars`), over JAX arrays."""

    abs = staticmethod(jnp.abs)
    sign = staticmethod(jnp.sign)
    floor = staticmethod(jnp.floor)
    round = staticmethod(jnp.rint)
    sqrt = staticmethod(jnp.sqrt)
    exp = staticmethod(jnp.exp)
    expm1 = staticmethod(jnp.expm1)
    log = staticmethod(jnp.log)
    log1p = staticmethod(jnp.log1p)
    sin = staticmethod(jnp.sin)
    cos = staticmethod(jnp.cos)
    sigmoid = staticmethod(lax.logistic)
    tanh = staticmethod(jnp.tanh)
    where = staticmethod(jnp.where)
    maximum = staticmethod(jnp.maximum)
    minimum = staticmethod(jnp.minimum)
    pow = staticmethod(jnp.power)

    @staticmethod
    def fma(a: Value, b: Value, c: Value) -> Value:
        """a b + c."""
        return a * b + c

    @staticmethod
    def cast(x: Value, dtype: Any) -> Value:
        """x in another dtype."""
        return lax.convert_element_type(x != 0 if np.dtype(dtype) == np.bool_ else x, np.dtype(dtype))

    @staticmethod
    def floor_divide(a: Value, b: Value) -> Value:
        """The largest integer that is at most a / b; 0 for an integer b = 0."""
        if jnp.issubdtype(a.dtype, jnp.floating):
            r = JaxScalars.remainder(a, b)
            found = jnp.rint((a - r) / b)
            signed = jnp.where(found == 0, jnp.copysign(found, a / b), found)
            return jnp.where(b == 0, a / b, signed)
        return jnp.where(b == 0, 0, jnp.floor_divide(a, jnp.where(b == 0, 1, b)))

    @staticmethod
    def remainder(a: Value, b: Value) -> Value:
        """a - b floor(a / b), with the sign of b; 0 for an integer b = 0."""
        if jnp.issubdtype(a.dtype, jnp.floating):
            r = lax.rem(*jnp.broadcast_arrays(a, b))
            r = jnp.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
            return jnp.where(r == 0, jnp.copysign(jnp.zeros_like(r), b), r)
        return jnp.where(b == 0, 0, jnp.remainder(a, jnp.where(b == 0, 1, b)))


def _wide(x: Value) -> Any:
    return {"i": jnp.int64, "u": jnp.uint64}.get(np.dtype(x.dtype).kind, x.dtype)


def _extreme(f: Callable[..., Value]) -> Callable[..., Value]:
    return lambda x, axis, keepdims: f(x, axis=axis, keepdims=keepdims) if axis else x


def _slice(x: Value, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> Value:
    return lax.slice(x, start, stop, step)


def _pad(x: Value, low: Sequence[int], high: Sequence[int], between: Sequence[int], value: float) -> Value:
    return lax.pad(x, jnp.asarray(value, x.dtype), list(zip(low, high, between, strict=True)))


def _windows(
    x: Value, axes: Sequence[int], size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Value:
    """Every position in the window is a strided slice; they are stacked as new last axes."""
    counts = [(x.shape[a] - (k - 1) * d - 1) // s + 1 for a, k, s, d in zip(axes, size, stride, dilation, strict=True)]
    parts = []
    for position in np.ndindex(*size):
        part = x
        for a, p, s, d, n in zip(axes, position, stride, dilation, counts, strict=True):
            part = lax.slice_in_dim(part, p * d, p * d + (n - 1) * s + 1, s, axis=a)
        parts.append(part)
    return jnp.stack(parts, axis=-1).reshape(*parts[0].shape, *size)


def _fold(w: Value, extent: Sequence[int], **params: Any) -> Value:
    """The transpose of `_windows`."""
    shape = list(w.shape[: w.ndim - len(params["size"])])
    for a, n in zip(params["axes"], extent, strict=True):
        shape[a] = n
    (found,) = jax.linear_transpose(lambda x: _windows(x, **params), jnp.zeros(shape, w.dtype))(w)
    return found


TABLE: dict[str, Callable[..., Value]] = {
    "sum": lambda x, axis, keepdims: jnp.sum(x, axis=axis, keepdims=keepdims, dtype=_wide(x)),
    "max": _extreme(jnp.max),
    "min": _extreme(jnp.min),
    "argmax": lambda x, axis: jnp.argmax(x, axis).astype(jnp.int64),
    "argmin": lambda x, axis: jnp.argmin(x, axis).astype(jnp.int64),
    "argsort": lambda x, axis: jnp.argsort(x, axis, stable=True).astype(jnp.int64),
    "cumulative_sum": lambda x, axis: jnp.cumsum(x, axis, dtype=_wide(x)),
    "iota": lambda size, dtype: jnp.arange(size, dtype=dtype),
    "reshape": lambda x, shape: jnp.reshape(x, shape),
    "permute_dims": lambda x, axes: jnp.transpose(x, axes),
    "broadcast_to": lambda x, shape: jnp.broadcast_to(x, shape),
    "slice": _slice,
    "pad": _pad,
    "flip": lambda x, axis: jnp.flip(x, axis),
    "concat": lambda *xs, axis: jnp.concatenate(xs, axis),
    "windows": _windows,
    "fold": _fold,
}
CHECKED = {"gather", "scatter_add"}
SPECIAL = {"contract", "scan", *CHECKED}


def indexing(graph: Graph) -> Iterator[Node]:
    """The ops that index, loops opened, in the order in which `Lowering.sound` has them."""
    for node in graph.nodes:
        if node.op in CHECKED:
            yield node
        elif node.op == "scan":
            yield from indexing(node.params["body"])


class Lowering:
    """Runs a graph on JAX values.

    `sound` collects, for each op that indexes, its node and whether its indices are in range. `compute` is the dtype in
    which products are computed, where it is not that of their operands.
    """

    def __init__(self, compute: Any = None) -> None:
        self.compute = compute
        self.sound: list[tuple[Node, Value]] = []

    def run(self, graph: Graph, inputs: Sequence[Value]) -> list[Value]:
        """The outputs of the graph."""
        values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
        convolutions = find_convolutions(graph)
        for node in graph.nodes:
            if node.op == "input":
                continue
            found = convolutions.get(node)
            values[node] = self.convolve(found, values) if found else self.apply(node, [values[i] for i in node.inputs])
        return [values[o] for o in graph.outputs]

    def apply(self, node: Node, inputs: list[Value]) -> Value:
        """The result of one node; a tuple where it has several."""
        params = node.params
        match node.op:
            case "constant":
                return jnp.asarray(params["value"])
            case "item":
                return inputs[0][params["index"]]
            case "contract":
                return self.contract(params["spec"], *inputs)
            case "gather":
                x, *indices = inputs
                return x.at[self.checked(node, x, indices)].get(mode="promise_in_bounds")
            case "scatter_add":
                x, updates, *indices = inputs
                return x.at[self.checked(node, x, indices)].add(updates, mode="promise_in_bounds")
            case "scan":
                return self.scan(node, inputs)
            case name if name in TABLE:
                return TABLE[name](*inputs, **params)
            case name:
                scalar = OPS[name].scalar
                assert scalar is not None
                shape = node.type.shape
                return jnp.broadcast_to(scalar(JaxScalars, *inputs, **params), shape).astype(node.type.dtype)

    def products(self, *values: Value) -> list[Value]:
        """The operands of a product in the dtype in which it is computed."""
        if self.compute is None or values[0].dtype != jnp.float32:
            return list(values)
        return [v.astype(self.compute) for v in values]

    def contract(self, spec: str, a: Value, b: Value) -> Value:
        x, y = self.products(a, b)
        return jnp.einsum(spec, x, y, precision="highest", preferred_element_type=a.dtype)

    def convolve(self, convolution: Convolution, values: dict[Node, Value]) -> Value:
        first, second = (values[n] for n in convolution.operands)
        x, y = self.products(first, second)
        return convolution.apply(x, y).astype(first.dtype)

    def checked(self, node: Node, x: Value, indices: list[Value]) -> tuple[Value, ...]:
        """The indices, counted from 0 and within range; whether they all were goes to `sound`."""
        ok, found = jnp.asarray(True), []
        for n, i in zip(x.shape, indices, strict=False):
            signed = jnp.issubdtype(i.dtype, jnp.signedinteger)
            ok &= jnp.all((i < n) & (i >= -n)) if signed else jnp.all(i < n)
            found.append(jnp.clip(jnp.where(i < 0, i + n, i) if signed else i, 0, max(n - 1, 0)))
        self.sound.append((node, ok))
        return tuple(found)

    def scan(self, node: Node, inputs: list[Value]) -> tuple[Value, ...]:
        body, carry, outside = (node.params[k] for k in ("body", "carry", "outside"))
        fixed, state, sequences = inputs[:outside], inputs[outside : outside + carry], inputs[outside + carry :]

        def step(now: tuple[Value, ...], x: tuple[Value, ...]) -> tuple[tuple[Value, ...], Any]:
            inner = Lowering(self.compute)
            results = inner.run(body, [*fixed, *now, *x])
            return tuple(results[:carry]), (tuple(results[carry:]), tuple(ok for _, ok in inner.sound))

        last, (ys, sound) = lax.scan(
            step, tuple(state), tuple(sequences), length=node.params["length"], reverse=node.params["reverse"]
        )
        self.sound += [(n, jnp.all(ok)) for n, ok in zip(indexing(body), sound, strict=True)]
        results = (*last, *ys)
        return results if len(results) > 1 else results[0]
