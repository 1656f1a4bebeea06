"""A rewrite for a loop that reads what another loop has kept, as the gradient of a loop reads values of all its steps.

A value that is kept only for that, and is a little arithmetic on others that are kept, is made again by the one who
reads it. So the backward loop of a recurrent layer reads the gates i and not also i (1 - i): memory for all steps, the
bulk of such a loop's traffic, is written and read for what costs something to compute, once. The rule that holds: no
loop keeps more than before, and the arithmetic is the same, so every bit is.
"""

from __future__ import annotations

from typing import Any

from backlit.ir import Graph, Node, make_node, rebuilt, substitute
from backlit.ops.record import OPS, Value
from backlit.passes.rewrite import in_bodies, rewrite
from backlit.tracing import Traced, input_node

_CHEAP = {"add", "subtract", "multiply", "negative"}
_DEPTH = 4  # of what is made again


def remade(graph: Graph) -> Graph:
    """The graph with cheap values that pass from loop to loop made again."""
    graph = in_bodies(graph, remade)
    readers: dict[Node, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for i in node.inputs:
            readers[i] = readers.get(i, 0) + 1

    def rule(node: Node, old: Node) -> Value | tuple[Value | None, ...] | None:
        if node.op != "scan":
            return None
        body: Graph = node.params["body"]
        first = node.params["outside"] + node.params["carry"]
        new: dict[Node, Node] = {}
        come_in: dict[Any, tuple[Node, Node]] = {}  # what is read instead, and where it comes in
        for place, value, was in zip(body.inputs[first:], node.inputs[first:], old.inputs[first:], strict=True):
            made = None
            if readers[was] == 1 and value.op == "item" and value.inputs[0].op == "scan":
                made = _made(value, node.params["length"], come_in)
            if made is not None:
                new[place] = made
        if not new:
            return None
        stay = [(p, v) for p, v in zip(body.inputs, node.inputs, strict=True) if p not in new]
        stay += [(p, v) for v, p in come_in.values()]
        inner = Graph(tuple(p for p, _ in stay), tuple(substitute(body.outputs, new)), body.name)
        found: Any = OPS["scan"](*(Traced(v) for _, v in stay), **{**node.params, "body": inner})
        return found

    return rewrite(graph, rule, ("scan",))


def _made(item: Node, length: int, come_in: dict[Any, tuple[Node, Node]]) -> Node | None:
    """What the step of another loop keeps, from other things that are there for each step; None if it is not cheap.

    `come_in` collects what is read for that, and where it comes in.
    """
    (scan,) = item.inputs
    body: Graph = scan.params["body"]
    carry, first = scan.params["carry"], scan.params["outside"] + scan.params["carry"]
    kept = body.outputs[item.params["index"]]
    if scan.params["length"] != length or item.params["index"] < carry or kept.op not in _CHEAP:
        return None
    given = dict(zip(body.inputs[first:], scan.inputs[first:], strict=True))
    number = {y: k for k, y in enumerate(body.outputs) if k >= carry and y is not kept}
    reads: dict[Node, Node] = {}

    def make(node: Node, depth: int) -> Node | None:
        if node.op == "constant" and node.type.size == 1:
            return node
        if node.op in _CHEAP and depth < _DEPTH:
            inputs = [m for i in node.inputs if (m := make(i, depth + 1)) is not None]
            if len(inputs) == len(node.inputs):
                return rebuilt(node, inputs)
        if node in given or node in number:
            return reads.setdefault(node, input_node(node.type, node.name or "kept"))
        return None

    made = make(kept, 0)
    if made is None:
        return None
    known: dict[Node, Node] = {}
    for node, place in reads.items():
        key = given.get(node) or (scan, number[node])
        if key not in come_in:
            value = given.get(node) or make_node("item", (scan,), (scan.types[number[node]],), {"index": number[node]})
            come_in[key] = value, place
        known[place] = come_in[key][1]
    return substitute([made], {p: q for p, q in known.items() if p is not q})[0]
