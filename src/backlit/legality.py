"""When a graph is legal: every type is what its op's rule says, every input is declared, and nothing has a cycle.

Run after every pass in the tests. A graph that fails is a bug in backlit.
"""

from __future__ import annotations

import numpy as np

from backlit.errors import Error, LegalityError
from backlit.ir import Graph, Node
from backlit.ops.record import OPS


def check(graph: Graph) -> None:
    """Raise LegalityError at the first node that breaks a rule; checks the bodies of loops too."""
    declared = set(graph.inputs)
    if len(declared) != len(graph.inputs):
        raise LegalityError(f"{graph.name} declares an input twice")
    seen: set[Node] = set()
    for node in graph.nodes:
        late = [i for i in node.inputs if i not in seen]
        if late:
            raise LegalityError(f"{node!r} is older than its input {late[0]!r}", op=node.op)
        seen.add(node)
        _check_node(node, declared)
        for value in node.params.values():
            if isinstance(value, Graph):
                check(value)
    for output in graph.outputs:
        if len(output.types) != 1:
            raise LegalityError(f"the output {output!r} is no single value", op=output.op)


def _check_node(node: Node, declared: set[Node]) -> None:
    match node.op:
        case "input":
            if node not in declared:
                raise LegalityError(f"{node!r} is an input that the graph does not declare")
            if node.inputs or node.params or len(node.types) != 1:
                raise LegalityError(f"{node!r} has inputs or params")
        case "constant":
            value = node.params.get("value")
            if not isinstance(value, np.ndarray) or (value.dtype, value.shape) != (node.type.dtype, node.type.shape):
                raise LegalityError(f"{node!r} does not hold an array of its type")
            if value.flags.writeable:
                raise LegalityError(f"{node!r} can be changed from outside")
        case "item":
            (source,) = node.inputs
            if len(source.types) < 2 or node.type != source.types[node.params["index"]]:
                raise LegalityError(f"{node!r} is not that result of {source!r}")
        case name if name not in OPS:
            raise LegalityError(f"there is no op {name!r}")
        case name:
            if any(len(i.types) != 1 for i in node.inputs):
                raise LegalityError(f"{node!r} takes several results as one value")
            try:
                expected = OPS[name].types([i.type for i in node.inputs], node.params)
            except Error as e:
                raise LegalityError(f"{node!r} breaks the rule of its op: {e.what}", op=name, site=node.site) from None
            except TypeError as e:
                raise LegalityError(f"{node!r} has not the params of its op: {e}", op=name, site=node.site) from None
            if expected != node.types:
                raise LegalityError(f"{node!r} should have the type {', '.join(map(str, expected))}", op=name)
