"""Common subexpressions: what is computed twice is computed once.

Two nodes are the same when they apply the same op, with the same params, to the same nodes; their types then follow. A
sweep from the inputs on finds every pair, since what they are made of has been made one before them.
"""

from __future__ import annotations

from typing import Any

from backlit.ir import Graph, Node, freeze
from backlit.ops.record import Value
from backlit.passes.rewrite import Rule, rewrite
from backlit.tracing import Traced

# Bit for bit; of maximum and minimum the order may show in the sign of a zero.
_COMMUTE = {"add", "multiply", "equal", "not_equal", "bitwise_and", "bitwise_or", "bitwise_xor"}


def sharing() -> Rule:
    """A rule that gives, for a node that was seen before, the one seen first. For one sweep."""
    seen: dict[Any, Node] = {}  # of the same op and inputs the first; params are looked at where it is not the only one
    known: dict[Any, Node] = {}

    def rule(node: Node, old: Node) -> Value | None:
        inputs = [i.serial for i in node.inputs]
        if node.op in _COMMUTE:
            inputs.sort()
        key = (node.op, *inputs) if inputs else (node.op, freeze(node.params))
        first = seen.setdefault(key, node)
        if first is not node and inputs and (node.params or first.params):
            known.setdefault((key, freeze(first.params)), first)
            first = known.setdefault((key, freeze(node.params)), node)
        return None if first is node else Traced(first)

    return rule


def eliminate_common(graph: Graph) -> Graph:
    """The graph with equal nodes made one."""
    return rewrite(graph, sharing())
