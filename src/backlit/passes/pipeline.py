"""The passes in their order: what an executor does to a graph before it compiles it.

Loops come first: two that are the same are easily found before their bodies are simplified, each for itself, as graphs
like any other. Then local rewrites are made in one sweep: each node is brought to its normal form, stabilised, folded
and looked up among the nodes before it, so that the next node sees the result of all four. All of it is repeated until
nothing changes.

What comes out is for running: gradients are taken, and explanations made, of the graph that went in.
"""

from __future__ import annotations

from backlit.ir import Graph
from backlit.passes import canonical, stable
from backlit.passes.cse import sharing
from backlit.passes.fold import folding
from backlit.passes.loops import batch_loops, simplify_loops
from backlit.passes.rewrite import in_bodies, in_turn, once, rewrite, table

ROUNDS = 8

_ALONE = table(canonical.RULES, stable.RULES)  # what asks one node alone


def simplify(graph: Graph) -> Graph:
    """The graph that computes the same in fewer and numerically better steps; the same object if it does already."""
    alone = once(_ALONE)
    for _ in range(ROUNDS):
        before = graph
        graph = simplify_loops(graph)
        graph = batch_loops(in_bodies(graph, simplify))
        graph = rewrite(graph, in_turn(alone, folding(), sharing()))
        if graph is before:
            break
    return graph
