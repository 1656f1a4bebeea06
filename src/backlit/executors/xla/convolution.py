"""Convolutions found again in a graph of `windows`, `contract` and `fold` (see `ops.window`).

Of y = conv(x, w), three products appear in a training step, told apart by the letters of the contraction:

    forward    contract(windows(x), w)         sums over the window and the channels
    weights    contract(windows(x), g)         sums over the batch and the places; linear in w, so it is the transpose
    input      fold(contract(g, w))            the transpose in x
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from backlit.ir import Graph, Node
from backlit.ops.contraction import parts_of

Value: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Convolution:
    """What a node computes as a convolution: of which two nodes, and how."""

    operands: tuple[Node, Node]
    apply: Callable[[Value, Value], Value]


def find_convolutions(graph: Graph) -> dict[Node, Convolution]:
    """The nodes that are the result of a convolution, or of one of its gradients."""
    found: dict[Node, Convolution] = {}
    for node in graph.nodes:
        match node.op:
            case "contract" if node.inputs[0].op == "windows":
                convolution = _of_windows(node, node.inputs[0], node.inputs[1], *parts_of(node.params["spec"]))
            case "contract" if node.inputs[1].op == "windows":
                left, right, result = parts_of(node.params["spec"])
                convolution = _of_windows(node, node.inputs[1], node.inputs[0], right, left, result)
            case "fold" if node.inputs[0].op == "contract":
                convolution = _of_fold(node, node.inputs[0])
            case _:
                continue
        if convolution is not None:
            found[node] = convolution
    return found


def _conv(x: Value, w: Value, params: Any, summed: Any = None) -> Value:
    """A plain convolution: x (batch, *space, channels), w (*window, channels, outputs); the dtype in which it sums."""
    n = len(params["size"])
    space = "HW"[2 - n :]
    return lax.conv_general_dilated(
        x,
        w,
        params["stride"],
        "VALID",
        rhs_dilation=params["dilation"],
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        precision="highest",
        preferred_element_type=summed,
    )


def _is_plain(params: Any, ndim: int) -> bool:
    """Whether the windows slide over all axes between the first and the last of one or two spatial ones."""
    n = len(params["size"])
    return n in (1, 2) and ndim == n + 2 and tuple(params["axes"]) == tuple(range(1, n + 1))


def _to(letters: str, wanted: str, value: Value) -> Value:
    return jnp.transpose(value, [letters.index(c) for c in wanted])


def _of_windows(node: Node, seen: Node, other: Node, left: str, right: str, result: str) -> Convolution | None:
    params, x = seen.params, seen.inputs[0]
    n = len(params["size"])
    if not _is_plain(params, x.type.ndim) or x.type.dtype.kind != "f":
        return None
    batch, space, channel, window = left[0], left[1 : n + 1], left[n + 1], left[n + 2 :]
    new = [c for c in right if c not in left]
    if len(new) != 1:
        return None
    (out,) = new
    if set(right) == {*window, channel, out} and set(result) == {batch, *space, out}:

        def forward(a: Value, w: Value) -> Value:
            y = _conv(a, _to(right, f"{window}{channel}{out}", w), params, node.type.dtype)
            return _to(f"{batch}{space}{out}", result, y)

        return Convolution((x, other), forward)
    if set(right) == {batch, *space, out} and set(result) == {*window, channel, out}:
        shape = (*params["size"], x.type.shape[-1], other.type.shape[right.index(out)])

        def weights(a: Value, g: Value) -> Value:
            like = jnp.zeros(shape, a.dtype)
            (dw,) = jax.linear_transpose(lambda w: _conv(a, w, params), like)(_to(right, f"{batch}{space}{out}", g))
            return _to(f"{window}{channel}{out}", result, dw)

        return Convolution((x, other), weights)
    return None


def _of_fold(node: Node, product: Node) -> Convolution | None:
    params = node.params
    n = len(params["size"])
    if not _is_plain(params, node.type.ndim) or node.type.dtype.kind != "f":
        return None
    left, right, result = parts_of(product.params["spec"])
    batch, space, channel, window = result[0], result[1 : n + 1], result[n + 1], result[n + 2 :]
    shape = node.type.shape
    for g_letters, w_letters, operands in (
        (left, right, product.inputs),
        (right, left, product.inputs[::-1]),
    ):
        summed = [c for c in g_letters if c in w_letters]
        if len(summed) != 1:
            continue
        (out,) = summed
        if set(g_letters) == {batch, *space, out} and set(w_letters) == {*window, channel, out}:
            wanted = f"{batch}{space}{out}", f"{window}{channel}{out}"
            return Convolution((operands[0], operands[1]), _back(params, shape, g_letters, w_letters, wanted))
    return None


def _back(
    params: Any, shape: tuple[int, ...], g_letters: str, w_letters: str, wanted: tuple[str, str]
) -> Callable[[Value, Value], Value]:
    """The gradient by x of a convolution, from the gradient of its result and its weights."""

    def back(g: Value, w: Value) -> Value:
        kernel = _to(w_letters, wanted[1], w)
        like = jnp.zeros(shape, g.dtype)
        (dx,) = jax.linear_transpose(lambda x: _conv(x, kernel, params), like)(_to(g_letters, wanted[0], g))
        return dx

    return back
