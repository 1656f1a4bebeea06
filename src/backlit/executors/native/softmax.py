"""A rewrite for the gradient of softmax: it asks the quotient, and not what that was made from.

With y = e / s, where e is a row of exponentials and s their sum, differentiation gives

    (g / s + t) e  =  (g + t s) y,    t s  =  - sum(g y / s) s  =  - sum(g y)

with one t for the whole row. y is in memory already, for whoever reads the softmax; e, which nobody else may need, then
has none, and nothing is divided. Both are the same up to rounding, since s is a number: it is done only where the
largest exponent has been taken out, so that the sum cannot overflow.
"""

from __future__ import annotations

from backlit.ir import Graph, Node
from backlit.ops.elementwise import add, multiply
from backlit.ops.movement import reshape
from backlit.ops.record import Value
from backlit.ops.reduction import sum
from backlit.passes.rewrite import in_bodies, rewrite
from backlit.passes.stable import may_overflow, sum_of_exp
from backlit.tracing import Traced


def by_quotient(graph: Graph) -> Graph:
    """The graph with such gradients made from the quotients."""
    graph = in_bodies(graph, by_quotient)
    if not graph.ops.issuperset({"exp", "divide"}):
        return graph
    quotients: dict[tuple[Node, ...], Node] = {}

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "divide":
            quotients[node.inputs] = node
            return None
        for slope, e in (node.inputs, node.inputs[::-1]):
            if e.op != "exp" or slope.op != "add":
                continue
            for part, t in (slope.inputs, slope.inputs[::-1]):
                y = quotients.get((e, part.inputs[1])) if part.op == "divide" else None
                if y is not None and _is_softmax(y):
                    g, s = part.inputs
                    return multiply(add(Traced(g), _times(t, s)), Traced(y))
        return None

    return rewrite(graph, rule, ("divide", "multiply"))


def _is_softmax(quotient: Node) -> bool:
    """Whether it is exponentials divided by a sum of them that cannot overflow."""
    e, s = quotient.inputs
    found = sum_of_exp(s)
    return found is not None and found[0] is e.inputs[0] and not may_overflow(found[0])


def _times(t: Node, s: Node) -> Value:
    """t s; nothing is divided by s before it is summed along the row."""
    total = t
    while total.op == "reshape":
        (total,) = total.inputs
    if total.op == "sum" and total.inputs[0].op == "divide":
        terms, divisor = total.inputs[0].inputs
        axis = total.params["axis"]
        if divisor is s and s.type.ndim == terms.type.ndim and all(s.type.shape[a] == 1 for a in axis):
            return reshape(sum(Traced(terms), axis), t.type.shape)
    return multiply(Traced(t), Traced(s))
