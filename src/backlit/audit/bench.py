"""The numbers of a graph: the value of any node, truly, or with some nodes held at the numbers that an author wrote.

Nothing is computed before it is asked for, and nothing twice. A worksheet is a few dozen scalars, which NumPy computes
as they are; a loop of thousands of steps is compiled by the executor of this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from backlit.audit.printed import Values
from backlit.executors.api import get
from backlit.ir import Graph, Node, freeze, make_node, reachable, rebuilt
from backlit.ops.record import OPS
from backlit.tracing import input_node

NOTHING: Mapping[Node, Any] = MappingProxyType({})


class Bench:
    """Evaluates the nodes of a program whose inputs have numbers.

    `same` maps every node that was asked for to the one that stands for it: what is computed twice (by two derivatives,
    say) is one node here. `work` counts the nodes computed, so that what strangers send can be bounded.
    """

    def __init__(self, inputs: Mapping[Node, Any], wanted: Iterable[Node]) -> None:
        self.same = merged(wanted)
        self.order = [n for n in reachable(self.same.values()) if n.op != "input"]
        self.truth: dict[Node, Any] = dict(inputs)
        self.work = 0
        self._loops: dict[Node, Any] = {}

    def value(self, target: Node, held: Mapping[Node, Any] = NOTHING) -> Values:
        """The target's value when these nodes have these values; what the target is held at itself does not count."""
        known = {n: v for n, v in held.items() if n is not target}
        stale: set[Node] = set(known)
        for node in self._up_to(target, known):
            if any(i in stale for i in node.inputs):
                stale.add(node)
            elif node not in known:  # what does not depend on the held nodes is the truth
                known[node] = self.compute(node, self.truth)
        return np.asarray(self.compute(target, known))

    def _up_to(self, target: Node, known: Mapping[Node, Any]) -> list[Node]:
        """The nodes that the target is computed from, inputs first; what is known is not looked behind."""
        seen = {target}
        order: list[Node] = []
        stack = [(target, iter(target.inputs))]
        while stack:
            node, rest = stack[-1]
            for i in rest:
                if i not in seen and i not in known:
                    seen.add(i)
                    stack.append((i, iter(i.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
        self.work += len(order)
        return order

    def compute(self, target: Node, known: dict[Node, Any]) -> Any:
        """The target's value from what is known, to which everything computed on the way is added."""
        stack = [target]
        with np.errstate(all="ignore"):
            while stack:
                node = stack[-1]
                if node in known:
                    stack.pop()
                    continue
                missing = [i for i in node.inputs if i not in known]
                if missing:
                    stack += missing
                else:
                    known[node] = self.apply(node, [known[i] for i in node.inputs])
        return known[target]

    def apply(self, node: Node, inputs: list[Any]) -> Any:
        """What a node gives for these values of its inputs."""
        self.work += 1
        match node.op:
            case "constant":
                return node.params["value"]
            case "item":
                return inputs[0][node.params["index"]]
            case "scan":
                return self._loop(node)(*map(np.asarray, inputs))
            case name:
                found = OPS[name].numpy(*inputs, **node.params)
                return found[0] if isinstance(found, tuple) else found

    def _loop(self, node: Node) -> Any:
        if node not in self._loops:
            inputs = [input_node(i.type, f"x{k}") for k, i in enumerate(node.inputs)]
            loop = rebuilt(node, inputs)
            results = [make_node("item", (loop,), (t,), {"index": i}) for i, t in enumerate(loop.types)]
            outputs = (loop,) if len(loop.types) == 1 else tuple(results)
            run = get("auto").compile(Graph(tuple(inputs), outputs))
            self._loops[node] = (lambda *x: run(*x)[0]) if len(loop.types) == 1 else run
        return self._loops[node]

    def frontier(self, target: Node, held: Collection[Node]) -> tuple[list[Node], bool]:
        """The held nodes that the target is computed from directly, and whether a loop stands between."""
        found: dict[Node, None] = {}
        seen: set[Node] = set()
        stack = list(target.inputs)
        while stack:
            node = stack.pop()
            if node in held:
                found[node] = None
            elif node not in seen:
                seen.add(node)
                stack.extend(node.inputs)
        return list(found), any(n.op == "scan" for n in seen)


def merged(nodes: Iterable[Node]) -> dict[Node, Node]:
    """For each of the nodes, and of those they are computed from, the one node that stands for all that are equal.

    Origins are mapped too (which `passes.cse` has no need to do), so that a gradient's node still leads to the forward
    node it belongs to. A node that the author named is never merged into another.
    """
    new: dict[Node, Node] = {}
    seen: dict[Any, Node] = {}
    for node in sorted(reachable(nodes), key=lambda n: n.serial):
        if node.op == "input":
            new[node] = node
            continue
        inputs = tuple(new[i] for i in node.inputs)
        origin = None if node.origin is None else new.get(node.origin, node.origin)
        key = (node.op, inputs, freeze(node.params), node.types, node.name)
        if key not in seen:
            kept = all(a is b for a, b in zip(inputs, node.inputs, strict=True)) and origin is node.origin
            seen[key] = node if kept else replace(node, inputs=inputs, origin=origin)
        new[node] = seen[key]
    return new
