"""The graph as this executor compiles it: after the passes that all may use, and rewrites that are cheaper here.

Each says the same in another way; the order matters, since a later one finds what an earlier one has made.
"""

from __future__ import annotations

from backlit.executors.native.batch import batch_innermost
from backlit.executors.native.convolution import direct
from backlit.executors.native.grouped import grouped
from backlit.executors.native.joined import joined
from backlit.executors.native.onehot import selected
from backlit.executors.native.pooling import spread_back
from backlit.executors.native.rectified import rectified
from backlit.executors.native.remade import remade
from backlit.executors.native.softmax import by_quotient
from backlit.ir import Graph
from backlit.passes import simplify

_REWRITES = (batch_innermost, direct, spread_back, rectified, grouped, by_quotient, selected, joined, remade)


def prepared(graph: Graph) -> Graph:
    """The graph after all of them."""
    for rewrite in (simplify, *_REWRITES, simplify):
        graph = rewrite(graph)
    return graph
