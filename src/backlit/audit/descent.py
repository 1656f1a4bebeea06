"""Gradient descent as graphs: one step on a loss, in the language's way or in another that some authors follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from backlit.autodiff import reverse, zeros_if_none
from backlit.ir import Node, reachable, rebuilt
from backlit.ops.record import constant_like
from backlit.tracing import Traced, lift

Value: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Reading:
    """How the statement `step` is carried out. The language's own way is the default; the others are conventions that
    some authors follow, and slips that some make, at every step.

    sequential      earlier layers are reached through weights that have been changed already
    uphill          the gradient is added
    rate_power      how often the learning rate is a factor
    more_steps      steps taken beyond those that are said (fewer, where negative), in the sheet's `repeat` or `step`
    bias            biases are trained although they are given ("trained"), or held although they are params ("held")
    """

    sequential: bool = False
    uphill: bool = False
    rate_power: int = 1
    more_steps: int = 0
    bias: str = "as said"


def descend(
    loss: Node, before: Mapping[str, Node], rate: Value, reading: Reading
) -> tuple[dict[str, Node], dict[str, Node]]:
    """The gradients of the loss by some quantities, and the quantities after one step of gradient descent."""
    slopes = reverse([loss], [constant_like(Traced(loss), 1.0)], list(before.values())).gradients
    gradients = {n: zeros_if_none(g, w).node for (n, w), g in zip(before.items(), slopes, strict=True)}
    factor = (rate**reading.rate_power) * (-1 if reading.uphill else 1)

    def moved(weight: Value, gradient: Value) -> Node:
        return lift(weight - factor * gradient).node

    if not reading.sequential:
        return gradients, {n: moved(Traced(w), Traced(gradients[n])) for n, w in before.items()}
    after: dict[str, Node] = {}
    names = {w: n for n, w in before.items()}
    used = {n: weights_of_the_way_back(g, names) - {n} for n, g in gradients.items()}
    while used:
        ready = [n for n, needs in used.items() if needs <= set(after)] or list(used)
        for n in ready:
            changed = {before[m]: after[m] for m in used.pop(n) if m in after}
            gradients[n] = passed_through(gradients[n], changed)
            after[n] = moved(Traced(before[n]), Traced(gradients[n]))
    return gradients, {n: after[n] for n in before}


def weights_of_the_way_back(gradient: Node, names: Mapping[Node, str]) -> set[str]:
    """The weights that a gradient is passed back through."""
    return {names[i] for node in reachable([gradient]) if node.origin is not None for i in node.inputs if i in names}


def passed_through(gradient: Node, changed: Mapping[Node, Node]) -> Node:
    """The gradient passed back through changed weights; the forward pass keeps the old ones."""
    new: dict[Node, Node] = {}
    for node in reachable([gradient]):
        swap = changed if node.origin is not None else {}
        inputs = [new.get(i, swap.get(i, i)) for i in node.inputs]
        if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
            new[node] = rebuilt(node, inputs)
    return new.get(gradient, gradient)
