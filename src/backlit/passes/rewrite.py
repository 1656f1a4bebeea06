"""The engine of all passes: one sweep over a graph, from its inputs to its outputs.

A rule is shown one node, whose inputs have been rewritten already, and answers with a value that takes its place, or
with None to leave it. It builds the value with ops, as a user would, so a rule reads as the equation it stands for. The
answer is shown to the rules again until they have nothing more to say.

The rule that holds here: an answer has the types of what it replaces, and a rule looks only at a bounded neighbourhood
of its node, so a sweep takes time linear in the graph. What is made in place of a node keeps its name, scope, call site
and origin; the order of the program stays as it was; and a graph in which nothing changes is given back as the same
object, which is how a fixed point is recognised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from backlit.errors import LegalityError
from backlit.ir import Graph, Node, Type, make_node, rebuilt
from backlit.ops.movement import broadcast_to
from backlit.ops.record import Value
from backlit.tracing import InPlaceOf, Traced

Pass: TypeAlias = Callable[[Graph], Graph]

Answer: TypeAlias = Value | tuple[Value | None, ...] | None
Rule: TypeAlias = Callable[[Node, Node], Answer]
"""(node with its new inputs, the node of the old graph it stands for) -> what takes its place, or None.

For a node of several results that is a value that has as many, or a tuple of values, one for each result that is used.
"""

_REPEATS = 32  # far more than any node needs; a rule that never rests is a bug that tests find as a missing fixed point


def rewrite(graph: Graph, rule: Rule, ops: Collection[str] | None = None) -> Graph:
    """The graph after one sweep; the same object if the rule had no answer anywhere.

    `ops`: the rule has answers for nodes of these ops alone.
    """
    if ops is not None and graph.ops.isdisjoint(ops):
        return graph
    new: dict[Node, Node] = {}
    results: dict[Node, tuple[Value, ...]] = {}  # of nodes that fell apart into separate values
    changed = False
    place = InPlaceOf()
    with place:
        for old in graph.nodes:
            op = old.op
            if op == "input":
                new[old] = old
                continue
            if op == "item" and old.inputs[0] in results:
                new[old] = results[old.inputs[0]][old.params["index"]].node
                continue
            # once something has changed every later node is made anew, so that the order of the program stays
            node = rebuilt(old, [new[i] for i in old.inputs]) if changed else old
            if ops is None or op in ops:
                place.name(old)
                for _ in range(_REPEATS):
                    found = None if node.op == "input" else rule(node, old)
                    if found is None:
                        break
                    changed = True
                    _check(node, found)
                    if isinstance(found, tuple):
                        results[old] = found
                        node = next((v.node for v in found if v is not None), node)
                        break
                    is_new = found.node.serial > node.serial and found.node.name is None
                    node = replace(found.node, name=old.name) if is_new and old.name is not None else found.node
            new[old] = node
    return Graph(graph.inputs, tuple(new[o] for o in graph.outputs), graph.name) if changed else graph


def _check(node: Node, found: Value | tuple[Value | None, ...]) -> None:
    types: Sequence[Type | None] = (
        [None if v is None else v.type for v in found] if isinstance(found, tuple) else found.node.types
    )
    if len(types) != len(node.types) or any(t not in (None, u) for t, u in zip(types, node.types, strict=True)):
        raise LegalityError(f"a rewrite of {node!r} gives {', '.join(map(str, types))}", op=node.op, site=node.site)


def table(*rules: Mapping[str, Sequence[Callable[[Node], Value | None]]]) -> Rule:
    """The rule that asks those listed for the node's op, in their order."""
    by_op = {op: [ask for listed in rules for ask in listed.get(op, ())] for op in set().union(*rules)}

    def rule(node: Node, old: Node) -> Value | None:
        for ask in by_op.get(node.op, ()):
            found = ask(node)
            if found is not None:
                return found
        return None

    return rule


def in_turn(*rules: Rule) -> Rule:
    """The rule that gives the first answer of several."""

    def rule(node: Node, old: Node) -> Answer:
        for ask in rules:
            found = ask(node, old)
            if found is not None:
                return found
        return None

    return rule


def once(rule: Rule) -> Rule:
    """The rule, not asked again about a node that it left, in this sweep or a later one.

    For rules whose answer depends on the node and its inputs alone, which never change.
    """
    left: set[Node] = set()

    def ask(node: Node, old: Node) -> Answer:
        if node in left:
            return None
        found = rule(node, old)
        if found is None:
            left.add(node)
        return found

    return ask


def in_bodies(graph: Graph, transform: Pass) -> Graph:
    """The graph with the pass applied to the body of each of its loops."""
    done: dict[int, Graph] = {}

    def rule(node: Node, old: Node) -> Value | None:
        if node.op != "scan":
            return None
        body = old.params["body"]
        if id(body) not in done:
            done[id(body)] = transform(body)
        return None if node.params["body"] is done[id(body)] else Traced(with_params(node, body=done[id(body)]))

    return rewrite(graph, rule, ("scan",))


def count_readers(graph: Graph) -> Counter[Node]:
    """How often each node is read: by others, and as an output."""
    readers = Counter(i for node in graph.nodes for i in node.inputs)
    readers.update(graph.outputs)
    return readers


def with_params(node: Node, **params: Any) -> Node:
    """The same application with some params changed."""
    labels = {"name": node.name, "scope": node.scope, "site": node.site, "origin": node.origin}
    return make_node(node.op, node.inputs, node.types, {**node.params, **params}, **labels)


def number(node: Node) -> float | int | None:
    """The number that a node is, if it is a constant of one element."""
    if node.op != "constant" or node.type.size != 1:
        return None
    return node.params["value"].item()  # type: ignore[no-any-return]


def stretched(x: Node, like: Type) -> Value:
    """x, broadcast to the shape of `like` where it has another."""
    return Traced(x) if x.type.shape == like.shape else broadcast_to(Traced(x), like.shape)
