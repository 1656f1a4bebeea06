"""Constant folding: what needs no input is computed when the graph is made, by the NumPy semantics of its op.

A graph holds rules rather than numbers where it can. So `broadcast_to` and `iota` stay when they feed something that
is not constant, a constant that is one number everywhere becomes that number broadcast, and nothing is folded that has
more than LIMIT elements and more than its inputs have. Loops are left alone: running one may take any time.
"""

from __future__ import annotations

import numpy as np

from backlit.errors import Error
from backlit.ir import Graph, Node
from backlit.ops.movement import broadcast_to
from backlit.ops.record import OPS, Array, Value
from backlit.passes.rewrite import Rule, rewrite
from backlit.tracing import lift

LIMIT = 1024
_RULES = ("broadcast_to", "iota")


def folding() -> Rule:
    """A rule that gives the value of a node whose inputs are constants. For one sweep."""
    known: dict[Node, Array] = {}

    def rule(node: Node, old: Node) -> Value | None:
        if node.op == "constant":
            known[node] = value = node.params["value"]
            return _uniform(value)
        for i in node.inputs:
            if i not in known:
                return None
        if node.op == "scan" or node.op not in OPS:
            return None
        if node.type.size > max(LIMIT, sum(i.type.size for i in node.inputs)):
            return None
        try:
            (value,) = OPS[node.op].evaluate([known[i] for i in node.inputs], node.params)
        except Error:  # an index out of range: told when the graph runs, if it runs
            return None
        known[node] = value
        is_number = node.op == "reshape" and node.inputs[0].type.ndim == 0
        return None if node.op in _RULES or is_number else lift(value)

    return rule


def _uniform(value: Array) -> Value | None:
    """A constant with axes whose elements all have the same bits, as a broadcast number."""
    if not value.ndim or not value.size:
        return None
    bits = np.ascontiguousarray(value).reshape(-1).view(f"u{value.dtype.itemsize}")
    return broadcast_to(lift(value.reshape(-1)[0]), value.shape) if (bits == bits[0]).all() else None


def fold_constants(graph: Graph) -> Graph:
    """The graph with what is constant computed."""
    return rewrite(graph, folding())
