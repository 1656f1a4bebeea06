"""Checking gradients against finite differences, and finding the op that is wrong when they disagree.

In a random direction v, the derivative of f is both grad f . v and the limit of (f(x + h v) - f(x - h v)) / 2h. Its
error is O(h^2) plus rounding, O(eps / h); Richardson's extrapolation from steps h and h/2 leaves O(h^4) and lets h be
large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from backlit.autodiff import vjp_graph
from backlit.errors import GradientError
from backlit.ir import Graph, Node, make_node
from backlit.ops.elementwise import add, multiply
from backlit.ops.interpret import interpreter
from backlit.ops.record import OPS, Array
from backlit.ops.reduction import sum
from backlit.pytree import as_array, unflatten
from backlit.tracing import input_node, refuse_leaks, trace_function
from backlit.transforms import grad

_STEP = 2e-3


def numerical(
    run: Callable[[Sequence[Array]], Sequence[Array]], x: Sequence[Array], v: Sequence[Array | None]
) -> list[Array]:
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
    relative difference must be below `tolerance`. Order 2 checks the gradient of (grad f) . v for a random v, too, and
    so on.

    Raises GradientError with the leaf, both numbers and, where one can be found, the op whose own gradient is wrong.
    f must be smooth at the arguments: near a kink the error names the op that has it.
    """
    trace = trace_function(f, *args, **kwargs)
    leaves = [as_array(leaf) for leaf in trace.leaves]
    leaves = [leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf for leaf in leaves]
    moving = [i for i, leaf in enumerate(leaves) if leaf.dtype.kind == "f"]
    random = np.random.default_rng(seed)

    def of_leaves(*values: Any) -> Any:
        a, k = unflatten(trace.arguments, values)
        return f(*a, **k)

    current: Callable[..., Any] = of_leaves
    for level in range(1, order + 1):
        graph = trace_function(current, *leaves).graph
        refuse_leaks(graph)
        gradients = grad(current, argnums=moving)(*leaves)
        for i, gradient in zip(moving, gradients, strict=True):
            for _ in range(directions):
                v = random.standard_normal(leaves[i].shape)
                v /= max(float(np.linalg.norm(v)), 1e-300)
                expected = float(_along(interpreter(graph), leaves, i, v)[0])
                found = float(np.sum(gradient * v))
                scale = max(abs(expected), abs(found), float(np.linalg.norm(gradient)) * 0.1, 1e-4)
                if not abs(expected - found) <= tolerance * scale:
                    raise _explained(
                        f"the gradient (order {level}) with respect to {trace.paths[i]} is {found:.10g} in a random "
                        f"direction, and finite differences give {expected:.10g} (relative difference "
                        f"{abs(expected - found) / scale:.2g}, tolerance {tolerance:.2g})",
                        _culprit(graph, leaves, random),
                    )
        if level < order:
            current = _directional(current, moving, [random.standard_normal(leaves[i].shape) for i in moving])


def _directional(f: Callable[..., Any], moving: Sequence[int], v: Sequence[Array]) -> Callable[..., Any]:
    """The derivative of f in the direction v, as a function of the same arguments."""

    def inner(*values: Any) -> Any:
        gradients = grad(f, argnums=moving)(*values)
        return reduce(add, [sum(multiply(g, d)) for g, d in zip(gradients, v, strict=True)])

    return inner


def _along(run: Callable[[Sequence[Array]], Sequence[Array]], x: Sequence[Array], i: int, v: Array) -> list[Array]:
    """The numerical derivative when the i-th argument alone moves, in the direction v."""
    return numerical(run, x, [v if k == i else None for k in range(len(x))])


@dataclass(frozen=True, slots=True)
class _Culprit:
    """A node whose own gradient rule disagrees with finite differences at the values it saw."""

    node: Node
    input: int
    found: float
    expected: float
    smooth: bool


def _explained(what: str, culprit: _Culprit | None) -> GradientError:
    if culprit is None:
        return GradientError(what, fix="each op is right by itself: is the function smooth at these arguments?")
    node = culprit.node
    if culprit.smooth:
        why = f"the rule of {node.op} gives {culprit.found:.10g} for input {culprit.input} where it should be "
        why, fix = f"{why}{culprit.expected:.10g}", ""
    else:
        why, fix = f"{node.op} has a kink or a jump here", "finite differences need smoothness: choose other arguments"
    return GradientError(f"{what}; {why}", op=node.op, inputs=[t.type for t in node.inputs], site=node.site, fix=fix)


def _culprit(graph: Graph, leaves: Sequence[Array], random: np.random.Generator) -> _Culprit | None:
    nodes = [n for n in graph.nodes if len(n.types) == 1]
    values = dict(zip(nodes, interpreter(Graph(graph.inputs, tuple(nodes)))(leaves), strict=True))
    for node in nodes:
        op = OPS.get(node.op)
        if op is None or op.vjp is None or node.type.dtype.kind != "f" or node.op == "stop_gradient":
            continue
        inputs = [input_node(i.type, f"input {k}") for k, i in enumerate(node.inputs)]
        alone = Graph(tuple(inputs), (make_node(node.op, inputs, node.types, node.params),))
        moving = [k for k, i in enumerate(node.inputs) if i.type.dtype.kind == "f"]
        arrays = [values[i] for i in node.inputs]
        g = random.standard_normal(node.type.shape)
        shares = interpreter(vjp_graph(alone, moving))([*arrays, g])[1:]
        run = interpreter(alone)
        for k, share in zip(moving, shares, strict=True):
            v = np.asarray(random.standard_normal(arrays[k].shape))
            expected = float(np.sum(_along(run, arrays, k, v)[0] * g))
            found = float(np.sum(share * v))
            if not abs(expected - found) <= 1e-4 * max(abs(expected), abs(found), 1e-4):
                return _Culprit(node, k, found, expected, _smooth(run, arrays, k, v, expected, g))
    return None


def _smooth(
    run: Callable[[Sequence[Array]], Sequence[Array]], x: Sequence[Array], i: int, v: Array, slope: float, g: Array
) -> bool:
    """Whether very small steps to either side give the slope that larger steps give."""
    middle, up, down = (
        float(np.sum(run([a + h * v if k == i else a for k, a in enumerate(x)])[0] * g)) for h in (0, 1e-6, -1e-6)
    )
    sides = (up - middle) / 1e-6, (middle - down) / 1e-6
    return all(abs(side - slope) <= 1e-3 * max(abs(slope), abs(side), 1e-3) for side in sides)
