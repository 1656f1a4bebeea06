"""The same derivative by finite differences: a check that knows nothing of the chain rule.

(L(w + h) - L(w - h)) / 2h differs from dL/dw by h^2 L'''/6 and by the rounding of the two losses over 2h. Both runs
are in float64, whatever the dtype of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backlit.explanation.expressions import divide, negative, total
from backlit.explanation.maker import Draft, Maker
from backlit.explanation.notation import plain
from backlit.explanation.quantities import Quantity
from backlit.explanation.steps import Apply, Element, Expression, Number, Operand, Symbol
from backlit.ir import Graph, Node
from backlit.ops.interpret import interpreter

Array = np.ndarray[Any, np.dtype[Any]]


def step_of(value: float) -> float:
    """How far a number is moved."""
    return 1e-5 * max(1.0, abs(float(value)))


def differences(
    graph: Graph, arrays: Sequence[Array], leaf: Node, element: Element, loss: Symbol, by: Symbol
) -> tuple[Expression, float]:
    """The quotient of central differences, and its value."""
    exact = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
    i = graph.inputs.index(leaf)
    here = float(exact[i][element])
    h = step_of(here)
    run = interpreter(graph)

    def at(sign: float, text: str) -> Operand:
        moved = exact[i].copy()
        moved[element] = here + sign * h
        value = float(run([*exact[:i], moved, *exact[i + 1 :]])[0])
        return Operand(Symbol(f"{loss.name}{text}"), value, f"check{text}")

    up, down = at(1.0, "⁺"), at(-1.0, "⁻")
    with np.errstate(all="ignore"):
        value = float(np.divide(up.value - down.value, 2 * h))
    return divide(total([up, negative(down)]), Number(2 * h)), value


def relative_difference(gradient: Operand, numerical: Operand) -> tuple[Expression, float]:
    """|a - b| / max(|a|, |b|), and its value; |a - b| where both are next to nothing."""
    a, b = gradient.value, numerical.value
    size = max(abs(a), abs(b))
    distance = Apply("abs", (total([gradient, negative(numerical)]),))
    if size < 1e-9 or not np.isfinite(size):
        return distance, abs(a - b)
    larger = gradient if abs(a) >= abs(b) else numerical
    return divide(distance, Apply("abs", (larger,))), abs(a - b) / size


def drafts(maker: Maker, arrays: Sequence[Any], leaf: Node, element: Element) -> list[Draft]:
    """The finite differences and how far they are from the gradient."""
    q = maker.quantities
    loss, by = q.of[maker.run.loss].symbol, q.of[leaf].symbol.at(element)
    graph = Graph(maker.run.graph.inputs, (maker.run.loss,))
    expression, value = differences(graph, arrays, leaf, element, loss, by)
    found = maker.run.gradient(leaf)[element].item()
    step = step_of(arrays[graph.inputs.index(leaf)][element])
    quotient = Quantity("differences", "check", Symbol("difference quotient"), leaf)
    name = plain(replace(by, over=None))
    first = Draft(
        quotient,
        element,
        expression,
        value,
        "check",
        None,
        f"Central finite differences: {name} moved up and down by {step:g}, all else as it was, in float64.",
    )
    gradient = Operand(
        replace(by, over=loss), found, q.gradients[leaf].key if leaf in q.gradients else "nothing", -1, element
    )
    numerical = Operand(quotient.symbol, value, "differences", -1, element)
    expression, far = relative_difference(gradient, numerical)
    relative = isinstance(expression, Apply) and expression.op == "divide"
    word = "relative difference" if relative else "difference"
    agree = far < (1e-3 if maker.run.loss.type.dtype != np.float64 else 1e-5)
    note = "The two agree." if agree else "The two differ: the loss may have a kink near here, or be very steep."
    second = Draft(Quantity("difference", "check", Symbol(word), leaf), element, expression, far, "check", None, note)
    return [first, second]
