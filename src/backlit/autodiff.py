"""Reverse-mode differentiation: Graph -> Graph.

For y = f(x) and a gradient g of some number with respect to y, an op's rule gives the gradient with respect to each of
its inputs, g^T df/dx (the vector-Jacobian product). Walking the graph once against the arrows, adding up where paths
meet, gives the gradients of all inputs (Linnainmaa 1970; Griewank & Walther, Evaluating Derivatives, section 3.2).

Rules are written in ops, so a gradient is made of ordinary nodes, each tied to the forward node it came from by
`origin`, and can be differentiated again. Where an op broadcast an input, the gradient is summed back here, in one
place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backlit.errors import GradientError
from backlit.ir import Graph, Node, make_node, reachable
from backlit.ops.movement import sum_to
from backlit.ops.record import OPS, Value, constant_like
from backlit.tracing import Traced, gradient_of, input_node, lift


@dataclass(frozen=True, slots=True)
class Context:
    """What a gradient rule may look at (see `ops.record.Context`). `blocked` is that of the reverse pass."""

    node: Node
    blocked: dict[Node, Node]

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(Traced(i) for i in self.node.inputs)

    @property
    def x(self) -> Value:
        return Traced(self.node.inputs[0])

    @property
    def y(self) -> Value:
        return Traced(self.node)

    @property
    def params(self) -> Mapping[str, Any]:
        return self.node.params

    @property
    def results(self) -> tuple[Value, ...]:
        items = [make_node("item", (self.node,), (t,), {"index": i}) for i, t in enumerate(self.node.types)]
        return tuple(map(Traced, items))

    def constant(self, index: int) -> float | None:
        node = self.node.inputs[index]
        if node.op != "constant" or node.type.shape or node.type.dtype.kind != "f":
            return None
        return float(node.params["value"])

    def reverse(self, outputs: Sequence[Node], cotangents: Sequence[Value], wrt: Sequence[Node]) -> list[Value]:
        inner = reverse(outputs, cotangents, wrt)
        for conversion in inner.blocked.values():
            self.blocked.setdefault(self.node, conversion)
        return inner.gradients


@dataclass(frozen=True, slots=True)
class Reverse:
    """The result of a reverse pass.

    gradients   one for each of `wrt`, None where nothing flows
    arriving    for each forward node that the pass reached, the gradient with respect to its result
    blocked     where gradient was lost: a conversion from integers or booleans, or a loop that has one inside
                -> that conversion
    """

    gradients: list[Traced | None]
    arriving: dict[Node, Traced] = field(default_factory=dict)
    blocked: dict[Node, Node] = field(default_factory=dict)


def reverse(outputs: Sequence[Node], cotangents: Sequence[Value | None], wrt: Sequence[Node]) -> Reverse:
    """The gradients of sum(outputs * cotangents) with respect to nodes `wrt`, as traced values.

    Raises GradientError where gradient arrives at an op that has none.
    """
    order = reachable(outputs)
    depends = set(wrt)  # nodes through which a change of `wrt` reaches the outputs
    for node in order:
        if node not in depends and any(i in depends for i in node.inputs):
            depends.add(node)

    # the shares of gradient of each result of each node, added up as they come
    sums: dict[tuple[Node, int], Value] = {}
    found = Reverse([])

    def add(node: Node, value: Value | None, index: int = 0) -> None:
        if value is None or node not in depends:
            return
        if node.op == "item":
            node, index = node.inputs[0], node.params["index"]
        if node.types[index].dtype.kind != "f":
            return
        here = (node, index)
        value = sum_to(value, node.types[index].shape)
        sums[here] = sums[here] + value if here in sums else value

    for output, cotangent in zip(outputs, cotangents, strict=True):
        add(output, cotangent)
    for node in reversed(order):
        shares = [sums.get((node, i)) for i in range(len(node.types))]
        if node not in depends or all(s is None for s in shares):
            continue
        if shares[0] is not None:
            found.arriving[node] = lift(shares[0])
        if not any(i in depends for i in node.inputs):
            continue
        op = OPS[node.op]
        if op.vjp is None:
            raise GradientError(
                f"{node.op} has no gradient", op=node.op, inputs=[i.type for i in node.inputs], site=node.site
            )
        if node.op == "cast" and node.inputs[0].type.dtype.kind != "f" and node.origin is None:
            found.blocked[node] = node
        with gradient_of(node):
            g = lift(shares[0]) if len(shares) == 1 else tuple(shares)
            for i, share in zip(node.inputs, op.vjp(Context(node, found.blocked), g), strict=True):
                add(i, share)
    for node in wrt:
        value = sums.get((node, 0))
        found.gradients.append(None if value is None else lift(value))
    return found


def _origin_of_loss(cast: Node) -> Node:
    """The op that turned floating-point values into the integers or booleans that `cast` converts."""
    for node in reversed(reachable([cast])):
        if node.types[0].dtype.kind != "f" and any(i.types[0].dtype.kind == "f" for i in node.inputs):
            return node
    return cast


def refuse_lost(found: Reverse, wrt: Sequence[Node], outputs: Sequence[Node]) -> None:
    """Raise GradientError if `wrt` reaches the outputs, yet no gradient came back because an op without one lost it."""
    lost = dict(found.blocked)  # node -> a conversion that it reaches
    for node in reversed(reachable(outputs)) if lost else ():
        if node in lost and node.op != "stop_gradient":
            for i in node.inputs:
                lost.setdefault(i, lost[node])
    for leaf, gradient in zip(wrt, found.gradients, strict=True):
        if gradient is None and leaf in lost:
            culprit = _origin_of_loss(lost[leaf])
            raise GradientError(
                f"no gradient reaches {leaf.name}: its only way to the result is through {culprit.op}, "
                "which has no gradient",
                op=culprit.op,
                inputs=[i.type for i in culprit.inputs],
                site=culprit.site,
                fix="use a smooth function in its place (softmax for argmax, sigmoid for a comparison), or "
                "ops.stop_gradient to say that no gradient is wanted",
            )


def zeros_if_none(value: Value | None, like: Node) -> Traced:
    """A gradient as a value: zeros where nothing flows."""
    return lift(constant_like(Traced(like), 0.0) if value is None else value)


def vjp_graph(graph: Graph, wrt: Sequence[int] | None = None) -> Graph:
    """The graph of (inputs, cotangents of the outputs) -> (outputs, gradients of the inputs numbered in `wrt`)."""
    chosen = [graph.inputs[i] for i in (range(len(graph.inputs)) if wrt is None else wrt)]
    incoming = tuple(input_node(o.type, f"grad {i}") for i, o in enumerate(graph.outputs))
    found = reverse(graph.outputs, [Traced(i) for i in incoming], chosen)
    gradients = tuple(zeros_if_none(g, i).node for g, i in zip(found.gradients, chosen, strict=True))
    return Graph((*graph.inputs, *incoming), (*graph.outputs, *gradients), f"vjp_{graph.name}")


def gradient_graph(graph: Graph, wrt: Sequence[int]) -> Graph:
    """The graph of inputs -> (outputs, gradients of the first output by the inputs numbered in `wrt`).

    The first output must be a scalar of floating-point dtype; GradientError otherwise, and where the only way from an
    input to it leads through an op that has no gradient.
    """
    loss = graph.outputs[0]
    if loss.type.shape or loss.type.dtype.kind != "f":
        raise GradientError(
            f"the gradient is taken of one floating-point number, and {graph.name} gives {loss.type}",
            op=loss.op,
            inputs=[i.types[0] for i in loss.inputs],
            site=loss.site,
            fix="reduce it with ops.mean or ops.sum, or use bl.vjp for a vector-Jacobian product",
        )
    chosen = [graph.inputs[i] for i in wrt]
    for leaf in chosen:
        if leaf.type.dtype.kind != "f":
            raise GradientError(
                f"{leaf.name} is {leaf.type}: only floating-point values have a gradient",
                fix="pass floating-point numbers (3.0, not 3), or choose others with argnums= or wrt=",
            )
    found = reverse([loss], [constant_like(Traced(loss), 1.0)], chosen)
    refuse_lost(found, chosen, [loss])
    gradients = tuple(zeros_if_none(g, i).node for g, i in zip(found.gradients, chosen, strict=True))
    return Graph(graph.inputs, (*graph.outputs, *gradients), f"grad_{graph.name}")
