"""A rewrite for the gradient of ReLU: whether x is above 0 is asked of max(x, 0).

Both answers are the same, nan included. The activation is in memory already, for the layer after it; x, which nobody
else may need, then has none, and is computed and forgotten by the kernel that makes the activation.
"""

from __future__ import annotations

from backlit.ir import Graph, Node
from backlit.ops.elementwise import greater
from backlit.ops.record import Value
from backlit.passes.rewrite import in_bodies, number, rewrite
from backlit.tracing import Traced

_READ = {"contract", "pad", "windows", "reshape", "concat"}  # what reads an activation from memory


def rectified(graph: Graph) -> Graph:
    """The graph with such questions asked of activations that are stored anyway."""
    graph = in_bodies(graph, rectified)
    stored = {i for node in graph.nodes if node.op in _READ for i in node.inputs if i.op == "relu"}
    activations: dict[Node, Node] = {}

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "relu" and old in stored:
            activations[node.inputs[0]] = node
        if node.op == "greater" and node.inputs[0] in activations and number(node.inputs[1]) == 0:
            return greater(Traced(activations[node.inputs[0]]), Traced(node.inputs[1]))
        return None

    return rewrite(graph, rule, ("greater", "relu")) if "greater" in graph.ops else graph
