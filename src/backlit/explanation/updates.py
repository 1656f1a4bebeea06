"""The update after the gradient: what an optimiser makes of it, read from the optimiser's own traced step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backlit.explanation.maker import Draft, Maker
from backlit.explanation.quantities import Quantity
from backlit.explanation.steps import Element, operands
from backlit.ir import Graph, Node
from backlit.ops.record import Value
from backlit.pytree import as_array, flatten
from backlit.tracing import Traced, input_node, type_of


@dataclass
class Plan:
    """What an update adds to the run.

    graph    the forward graph with the learning rate and the optimiser's state as further inputs; `arrays` are those
    others   further parameters whose gradients the update needs
    outputs  gradients -> the nodes of the update
    new      the node of the new parameter, once `outputs` has been called
    """

    graph: Graph
    arrays: list[Any] = field(default_factory=list)
    others: list[Node] = field(default_factory=list)
    outputs: Callable[[Sequence[Value]], Sequence[Value]] = lambda gradients: ()
    new: Node | None = None


def plan(problem: Any, i: int) -> Plan:
    """The update that a problem asks for."""
    graph: Graph = problem.graph
    leaf = graph.inputs[i]
    found = Plan(graph)
    if problem.optimizer is None and problem.lr is None:
        return found
    if problem.optimizer is None:
        rate = as_array(type_of_rate(problem.lr, leaf))
        lr = input_node(type_of(rate), "lr")
        found.graph = Graph((*graph.inputs, lr), graph.outputs, graph.name)
        found.arrays = [rate]

        def outputs(gradients: Sequence[Value]) -> list[Value]:
            (g,) = gradients
            w = Traced(leaf)
            if g is None:
                return []
            found.new = unplaced((w - Traced(lr) * g).node)
            return [Traced(found.new)]

        found.outputs = outputs
        return found
    return _optimizer(problem, i, found)


def unplaced(node: Node) -> Node:
    """The node without a call site: what it is computed by is this file's business, not a line of the user's."""
    return replace(
        node, site=None, inputs=tuple(replace(i, site=None) if i.op == "multiply" else i for i in node.inputs)
    )


def type_of_rate(rate: float, leaf: Node) -> Any:
    """The learning rate in the parameter's own dtype."""
    return leaf.type.dtype.type(rate)


def _optimizer(problem: Any, i: int, found: Plan) -> Plan:
    """The step of an optimiser for all parameters beside the chosen one: those of the same argument."""
    from backlit.optim import optimizer as optim

    rule = optim.get(problem.optimizer, **({} if problem.lr is None else {"learning_rate": problem.lr}))
    root = problem.paths[i].split(".")[0].split("[")[0]
    names = {p: k for k, p in enumerate(problem.paths) if p.split(".")[0].split("[")[0] == root}
    names = {p: k for p, k in names.items() if problem.graph.inputs[k].type.dtype.kind == "f"}
    nodes = {p: problem.graph.inputs[k] for p, k in names.items()}
    arrays = {p: problem.arrays[k] for p, k in names.items()}
    state = problem.state if problem.state is not None else rule.init(arrays)
    leaves, paths, structure = flatten(state)
    state_arrays = [as_array(v) for v in leaves]
    own = [path.removesuffix(f".{problem.paths[i]}") for path in paths]
    state_nodes = [input_node(type_of(a), name) for a, name in zip(state_arrays, own, strict=True)]
    found.graph = Graph((*problem.graph.inputs, *state_nodes), problem.graph.outputs, problem.graph.name)
    found.arrays = state_arrays
    leaf = problem.graph.inputs[i]
    found.others = [n for n in nodes.values() if n is not leaf]

    def outputs(gradients: Sequence[Value]) -> list[Value]:
        from backlit.ops.record import constant_like
        from backlit.pytree import unflatten

        by_node = dict(zip([leaf, *found.others], gradients, strict=True))
        gs = {p: by_node[n] if by_node[n] is not None else constant_like(Traced(n), 0.0) for p, n in nodes.items()}
        new, _ = rule.update(
            gs, unflatten(structure, [Traced(n) for n in state_nodes]), {p: Traced(n) for p, n in nodes.items()}
        )
        node = new[problem.paths[i]].node
        if node is not leaf:
            found.new = node
        return [new[problem.paths[i]]]

    found.outputs = outputs
    return found


def drafts(maker: Maker, plan: Plan, leaf: Node, element: Element) -> list[Draft]:
    """The equations of the update, from the gradient to the new parameter."""
    assert plan.new is not None
    q = maker.quantities
    target = q.of[plan.new]
    waiting: list[tuple[Quantity, Element]] = [(target, element)]
    found: dict[tuple[str, Element], Draft] = {}
    while waiting:
        own, e = waiting.pop()
        if (own.key, e) in found or (own.key, e) in maker.drafts:
            continue
        draft = maker.add(own, e, "update")
        if draft.expression is None:
            draft.kind = "given"
        found[own.key, e] = draft
        for o in operands(draft.expression):
            inner = q.by_key[o.quantity]
            if inner.kind in ("update", "input"):
                waiting.append((inner, o.element))
    givens = [d for d in found.values() if d.kind == "given"]
    order = maker.run.numbers
    rest = sorted((d for d in found.values() if d.kind != "given"), key=lambda d: (order[d.quantity.node], d.element))
    return givens + rest
