"""Which expressions without a name are given a letter: u1, u2, ..., as one does on paper.

An expression is read through, written out where it is used, unless that would make a formula too long to read, or write
the same long thing again and again.
"""

from __future__ import annotations

from backlit.explanation.elements import moves, opaque, sources
from backlit.explanation.execution import Execution
from backlit.ir import Node
from backlit.ops.contraction import parts_of
from backlit.ops.record import OPS

_LONG = 16  # leaves of an expression that is written in one line
_SHORT = 3  # leaves of an expression that may be written out twice
_DEEP = 12  # operations within operations in one line
_ARITHMETIC = {"add", "subtract", "multiply", "divide", "negative", "pow", "where", "cast", "stop_gradient"}
_REPLICATING = {"contract", "sum", "max", "min", "fold", "cumulative_sum", "scatter_add"}


def lettered(run: Execution, named: set[Node]) -> set[Node]:
    """The named nodes, and those that deserve a letter."""
    forward_of: dict[Node, Node] = {}
    for n, g in run.arriving.items():
        if not moves(n) and n.op not in ("constant",):
            forward_of.setdefault(g, n)
    nodes = [n for n in run.graph.nodes if n in run.values]
    users: dict[Node, int] = {}
    for n in nodes:
        for i in set(sources(n)):
            if n.op in OPS:
                users[i] = users.get(i, 0) + 1
    cut = set(named) | {n for n in nodes if n.op == "input"}
    stops = cut | {run.arriving[n] for n in cut if n in run.arriving}
    # what is read as one has no letters inside
    inside = {n for c in run.composites for n in c.inside} if run.closed else set()
    leaves: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    clever: dict[Node, bool] = {}  # a function is applied, or a long sum taken, somewhere in the expression

    def letter(n: Node) -> None:
        owner = forward_of.get(n)
        if owner is not None and owner.type.dtype.kind == "f":  # a gradient: give what it is the gradient by a letter
            cut.add(owner)
            leaves[owner], depth[owner], clever[owner] = 1, 0, False
        else:
            cut.add(n)
        stops.add(n)
        leaves[n], depth[n], clever[n] = 1, 0, False

    for n in nodes:
        if n in stops or n.op == "constant" or opaque(n) or n in inside or (n.origin in inside and n not in run.closed):
            bare = n not in cut and (n.op == "constant" or opaque(n))
            leaves[n], depth[n], clever[n] = (0 if bare else 1), 0, False
            continue
        inner = sources(n)
        times = _terms(n)
        for i in inner:
            long = n.op in _REPLICATING and times > 1 and leaves[i] > _SHORT + 1
            nested = _function(n) and clever[i] and leaves[i] > 2
            if (long or nested or depth[i] >= _DEEP) and n.type.dtype.kind == "f":
                letter(i)
        count = sum(leaves[i] for i in inner)
        if count > _LONG:
            letter(max(inner, key=lambda i: leaves[i]))
            count = sum(leaves[i] for i in inner)
        leaves[n] = min(times, 6) * count if n.op in _REPLICATING else count
        depth[n] = max((depth[i] for i in inner), default=0) + (not moves(n))
        clever[n] = _function(n) or times > _SHORT or any(clever[i] for i in inner)
        shared = users.get(n, 0) > 1 and not moves(n) and n.type.dtype.kind == "f"
        if shared and (leaves[n] > _SHORT or (clever[n] and leaves[n])):
            letter(n)
    return cut


def _function(n: Node) -> bool:
    return n.op in OPS and OPS[n.op].family == "elementwise" and n.op not in _ARITHMETIC and n.type.dtype.kind == "f"


def _terms(n: Node) -> int:
    """How many terms a sum has."""
    if n.op == "contract":
        left, _, result = parts_of(n.params["spec"])
        sizes = dict(zip(left, n.inputs[0].type.shape, strict=True))
        found = 1
        for c in left:
            found *= 1 if c in result else sizes[c]
        return found
    if n.op in _REPLICATING:
        return max(1, n.inputs[0].type.size // max(1, n.type.size))
    return 1
