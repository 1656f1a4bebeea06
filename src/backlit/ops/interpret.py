"""Running a graph one node at a time with the NumPy semantics of its ops. No passes, no cleverness: the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlit.errors import Error
from backlit.ir import Graph, Node
from backlit.ops.record import OPS, Array


def interpreter(graph: Graph) -> Callable[[Sequence[Array]], list[Array]]:
    """A function from the graph's inputs to its outputs. Values are dropped after their last use."""
    nodes = [n for n in graph.nodes if n.op != "input"]
    last: dict[Node, Node] = {}
    for node in nodes:
        for i in node.inputs:
            last[i] = node
    kept = set(graph.outputs)
    dead: dict[Node, list[Node]] = {}
    for value, user in last.items():
        if value not in kept:
            dead.setdefault(user, []).append(value)

    def run(arrays: Sequence[Array]) -> list[Array]:
        values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
        for node in nodes:
            match node.op:
                case "constant":
                    values[node] = node.params["value"]
                case "item":
                    values[node] = values[node.inputs[0]][node.params["index"]]
                case name:
                    try:
                        found = OPS[name].evaluate([values[i] for i in node.inputs], node.params)
                    except Error as e:
                        e.site = node.site
                        raise e.within(name, [i.type for i in node.inputs]) from None
                    values[node] = found[0] if len(found) == 1 else found
            for gone in dead.get(node, ()):
                del values[gone]
        return [np.asarray(values[o]) for o in graph.outputs]

    return run
