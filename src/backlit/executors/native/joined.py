"""A rewrite for the gradient of parts of a value, as the gates of a recurrent cell are parts of one product.

Differentiation gives the sum of the parts' gradients, each with zeros around it. Where the parts lie side by side and
fill the whole, that is the parts joined:

    pad(a, 0 before, n after) + pad(b, n before, 0 after)  =  concat(a + 0, b + 0)

The added 0 keeps what the sum does to a negative zero. Nothing of the size of the whole is added up, and the parts can
be computed right where they belong.
"""

from __future__ import annotations

from backlit.ir import Graph, Node
from backlit.ops.elementwise import add
from backlit.ops.movement import concat
from backlit.ops.record import Value
from backlit.passes.rewrite import in_bodies, rewrite
from backlit.tracing import Traced


def joined(graph: Graph) -> Graph:
    """The graph with sums of padded values that fill the whole written as one value joined."""
    graph = in_bodies(graph, joined)
    if "pad" not in graph.ops:
        return graph
    readers: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        for i in node.inputs:
            readers.setdefault(i, []).append(node)

    def is_inside(node: Node) -> bool:
        """Whether a sum is only a part of a longer sum."""
        found = readers.get(node, [])
        return len(found) == 1 and found[0].op == "add" and node not in graph.outputs

    def rule(node: Node, old: Node) -> Value | None:
        if node.op != "add" or is_inside(old):
            return None
        parts = _parts(node)
        if len(parts) < 2:
            return None
        pads = [p for p in parts if p.op == "pad" and not any(p.params["between"]) and p.params["value"] == 0]
        axes = {a for p in pads for a, sides in enumerate(_sides(p)) if any(sides)}
        if len(pads) != len(parts) or len(axes) != 1 or node.type.dtype.kind != "f":
            return None
        (axis,) = axes
        pads.sort(key=lambda p: _sides(p)[axis][0])
        end = 0
        for p in pads:
            if _sides(p)[axis][0] != end or p.inputs[0].type.shape[axis] == 0:
                return None
            end += p.inputs[0].type.shape[axis]
        if end != node.type.shape[axis]:
            return None
        return concat([add(Traced(p.inputs[0]), 0.0) for p in pads], axis)

    return rewrite(graph, rule, ("add",))


def _sides(pad: Node) -> list[tuple[int, int]]:
    return list(zip(pad.params["low"], pad.params["high"], strict=True))


def _parts(node: Node) -> list[Node]:
    """The terms of a sum of values of one shape."""
    found, stack = [], [node]
    while stack:
        term = stack.pop()
        if term.op == "add" and all(i.type.shape == node.type.shape for i in term.inputs):
            stack.extend(term.inputs)
        else:
            found.append(term)
    return found
