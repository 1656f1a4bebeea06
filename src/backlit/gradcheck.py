"""Checking gradients against finite differences, and finding the op that is wrong when they disagree.

In a random direction v, the derivative of f is both grad f . v and the limit of (f(x + h v) - f(x - h v)) / 2h. Its
error is O(h^2) plus rounding, O(eps / h); Richardson's extrapolation from steps h and h/2 leaves O(h^4) and lets h be
large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlit.autodiff import vjp_graph
from backlit.errors import GradientError
from backlit.ir import Graph, Node, make_node
from backlit.ops.interpret import interpreter
from backlit.ops.record import OPS, Array
from backlit.pytree import as_array, unflatten
from backlit.tracing import input_node, refuse_leaks, trace_function
from backlit.transforms import grad

_STEP = 2e-3


def numerical(run: Callable[[Sequence[Array]], Sequence[Array]], x: Sequence[Array], v: Sequence[Array]) -> list[Array]:
    """The derivative of each result of `run` at x in the direction v, by extrapolated central differences."""

    def slope(h: float) -> list[Array]:
        up = run([a + h * d if d is not None else a for a, d in zip(x, v, strict=True)])
        down = run([a - h * d if d is not None else a for a, d in zip(x, v, strict=True)])
        return [
            (np.asarray(p, np.float64) - np.asarray(q, np.float64)) / (2 * h) for p, q in zip(up, down, strict=True)
        ]

    return [(4 * fine - rough) / 3 for fine, rough in zip(slope(_STEP / 2), slope(_STEP), strict=True)]


def check_grads(
    f: Callable[..., Any],
    *args: Any,
    order: int = 1,
    tolerance: float = 1e-6,
    directions: int = 2,
    seed: int = 0,
    **kwargs: Any,
) -> None:
    """Check the gradients of the scalar f at these arguments against finite differences, up to the given order.

    Arguments are taken to float64 first. Each floating-point leaf is checked in `directions` random directions; the
    relative difference must be below `tolerance` (times 100 for each further order). Order 2 checks the gradient of
    (grad f) . v for a random v, and so on.

    Raises GradientError with the leaf, both numbers and, where one can be found, the op whose own gradient is wrong.
    f must be smooth at the arguments.
    """
    trace = trace_function(f, *args, **kwargs)
    leaves = [as_array(leaf) for leaf in trace.leaves]
    leaves = [leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf for leaf in leaves]
    random = np.random.default_rng(seed)
    names = [p for p, leaf in zip(trace.paths, leaves, strict=True) if leaf.dtype.kind == "f"]

    def of_leaves(*values: Any) -> Any:
        a, k = unflatten(trace.arguments, values)
        return f(*a, **k)

    current: Callable[..., Any] = of_leaves
    chosen = [i for i, leaf in enumerate(leaves) if leaf.dtype.kind == "f"]
    for level in range(1, order + 1):
        graph = trace_function(current, *leaves).graph
        refuse_leaks(graph)
        _check_order(current, graph, leaves, chosen, names, level, tolerance * 100 ** (level - 1), directions, random)
        if level < order:
            current = _directional(current, chosen, [random.standard_normal(leaves[i].shape) for i in chosen])


def _directional(f: Callable[..., Any], chosen: Sequence[int], v: Sequence[Array]) -> Callable[..., Any]:
    """The derivative of f in the direction v, as a function of the same arguments."""

    def inner(*values: Any) -> Any:
        gradients = grad(f, argnums=chosen)(*values)
        total: Any = np.float64(0.0)
        for g, d in zip(gradients, v, strict=True):
            product = g * d
            total = total + (product.sum() if isinstance(product, np.ndarray | np.generic) else _sum(product))
        return total

    return inner


def _sum(value: Any) -> Any:
    from backlit.ops.reduction import sum

    return sum(value)


def _check_order(
    f: Callable[..., Any],
    graph: Graph,
    leaves: Sequence[Array],
    chosen: Sequence[int],
    names: Sequence[str],
    level: int,
    tolerance: float,
    directions: int,
    random: np.random.Generator,
) -> None:
    gradients = grad(f, argnums=chosen)(*leaves)
    run = interpreter(graph)
    for i, name, gradient in zip(chosen, names, gradients, strict=True):
        for _ in range(directions):
            v = random.standard_normal(leaves[i].shape)
            v /= max(float(np.linalg.norm(v)), 1e-300)
            direction: list[Any] = [None] * len(leaves)
            direction[i] = v
            expected = float(numerical(run, leaves, direction)[0])
            found = float(np.sum(gradient * v))
            scale = max(abs(expected), abs(found), float(np.linalg.norm(gradient)) * 0.1, 1e-4)
            if not abs(expected - found) <= tolerance * scale:
                culprit, details = _wrong_op(graph, leaves, random)
                raise GradientError(
                    f"the gradient (order {level}) with respect to {name} is {found:.10g} in a random direction, and "
                    f"finite differences give {expected:.10g} (relative difference "
                    f"{abs(expected - found) / scale:.2g}, tolerance {tolerance:.2g})" + details,
                    op=culprit.op if culprit else "",
                    inputs=[t.type for t in culprit.inputs] if culprit else (),
                    site=culprit.site if culprit else None,
                    fix="" if culprit else "each op is right by itself: is the function smooth at these arguments?",
                )


def _wrong_op(graph: Graph, leaves: Sequence[Array], random: np.random.Generator) -> tuple[Node | None, str]:
    """The first node whose own gradient rule disagrees with finite differences at the values it saw."""
    nodes = [n for n in graph.nodes if len(n.types) == 1]
    values = dict(zip(nodes, interpreter(Graph(graph.inputs, tuple(nodes)))(leaves), strict=True))
    for node in nodes:
        op = OPS.get(node.op)
        if op is None or op.vjp is None or node.type.dtype.kind != "f":
            continue
        inputs = [input_node(i.type, f"input {k}") for k, i in enumerate(node.inputs)]
        alone = Graph(tuple(inputs), (make_node(node.op, inputs, node.types, node.params),))
        moving = [k for k, i in enumerate(node.inputs) if i.type.dtype.kind == "f"]
        arrays = [values[i] for i in node.inputs]
        g = random.standard_normal(node.type.shape)
        shares = interpreter(vjp_graph(alone, moving))([*arrays, g])[1:]
        run = interpreter(alone)
        for k, share in zip(moving, shares, strict=True):
            direction: list[Any] = [None] * len(arrays)
            direction[k] = random.standard_normal(arrays[k].shape)
            expected = float(np.sum(numerical(run, arrays, direction)[0] * g))
            found = float(np.sum(share * direction[k]))
            if not abs(expected - found) <= 1e-4 * max(abs(expected), abs(found), 1e-4):
                return (
                    node,
                    f"; the rule of {node.op} gives {found:.10g} for input {k} where it should be {expected:.10g}",
                )
    return None, ""
