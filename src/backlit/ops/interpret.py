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
        with np.errstate(all="ignore"):
            for node in nodes:
                values[node] = result_of(node, [values[i] for i in node.inputs])
                for gone in dead.get(node, ()):
                    del values[gone]
        return [np.asarray(values[o]) for o in graph.outputs]

    return run


def result_of(node: Node, inputs: Sequence[Any]) -> Any:
    """What the node gives for these values of its inputs: an array, or a tuple of arrays where it has several results.

    Errors that depend on values (an index out of range) name the node's own line.
    """
    match node.op:
        case "constant":
            return node.params["value"]
        case "item":
            return inputs[0][node.params["index"]]
        case name:
            try:
                found = OPS[name].numpy(*inputs, **node.params)
            except Error as e:
                e.site = node.site
                raise e.within(name, [i.type for i in node.inputs]) from None
            if len(node.types) > 1:
                return tuple(map(np.asarray, found))
            return np.asarray(found[0] if isinstance(found, tuple) else found)  # a scan of one result gives a tuple
