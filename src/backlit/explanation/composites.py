"""Closed forms of composites: softmax, log-sum-exp and what follows from them, as textbooks write them.

A composite is run as several ops (softmax takes the largest element out, exponentiates, sums and divides), and read
op by op it takes a page. Here it is read as one: p_i = e^(x_i) / sum_j e^(x_j), with the Jacobian p_i (delta_ij -
p_j), and with cross-entropy after it p - y. The numbers are still those of the run: the closed form says how the
gradient that the run produced follows from other numbers that the run produced, and a line whose two sides differed
would not print.

`unfolded=True` in `bl.explain` reads op by op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.explanation.elements import Reader, scopes
from backlit.explanation.expressions import ONE, divide, is_number, linear_parts, negative, product, total
from backlit.explanation.steps import Apply, Element, Expression, Number, Operand, operands
from backlit.ir import Node, Scope

Closed = Callable[[Reader, Element], Expression]
_LARGE = 300.0  # e^x of a larger x is not written out
_MANY = 64  # classes, of which all are looked at for a common factor


@dataclass(frozen=True)
class Composite:
    """One call of a composite, found in a graph.

    kind      "softmax", "logsumexp" or "log_softmax"
    x, y      what goes in and what comes out
    centre    x less its largest element: its gradient is the share of the gradient that goes through the exponentials
    inside    every node of the call but y
    """

    kind: str
    x: Node
    y: Node
    axis: int
    centre: Node
    inside: frozenset[Node]


def found(nodes: Sequence[Node]) -> list[Composite]:
    """The composites with a closed form among the forward nodes."""
    calls: dict[Scope, list[Node]] = {}
    for node in nodes:
        for s in scopes(node):
            if s.kind == "composite" and s.name in ("softmax", "logsumexp", "log_softmax"):
                calls.setdefault(s, []).append(node)
    composites = []
    for scope, own in calls.items():
        call = _recognised(scope.name, own)
        if call is not None:
            composites.append(call)
    return composites


def _recognised(kind: str, own: list[Node]) -> Composite | None:
    exp = next((n for n in own if n.op == "exp"), None)
    sums = next((n for n in own if n.op == "sum"), None)
    if exp is None or sums is None or exp.inputs[0].op != "subtract" or len(sums.params["axis"]) != 1:
        return None
    centre = exp.inputs[0]
    y = own[-1]
    return Composite(kind, centre.inputs[0], y, sums.params["axis"][0], centre, frozenset(own) - {y})


def closed_forms(
    composites: Sequence[Composite],
    values: dict[Node, Any],
    arriving: dict[Node, Node],
    probabilities: dict[Node, Node],
) -> dict[Node, Closed]:
    """Node -> how an element of it is written. `probabilities`: the result of a log_softmax -> its exponential."""
    forms: dict[Node, Closed] = {}
    by_result = {c.y: c for c in composites}
    for c in composites:
        x = values[c.x]
        if x.size and np.all(np.isfinite(x)) and np.max(np.abs(x)) <= _LARGE:
            forms[c.y] = _forward(c)
        share = arriving.get(c.centre)
        outer = arriving.get(c.y)
        if share is None or outer is None:
            continue
        if c.kind == "softmax":
            log = _log_of(c.y, outer)
            if log is not None:
                forms[share] = _through_log(c, outer.inputs[0], c.y, log)
            else:
                forms[share] = _softmax_share(c, outer)
        elif c.kind == "logsumexp" and not any(c.y in d.inside for d in composites if d.kind == "log_softmax"):
            forms[share] = _logsumexp_share(c, outer)
    # log_softmax: its own share and that of the logsumexp inside meet in an addition
    for c in composites:
        if c.kind == "log_softmax" and c.y in arriving and c.centre in arriving and c.y in probabilities:
            own, inner = arriving[c.y], arriving[c.centre]
            whole = next((n for n in _users(arriving.values(), own) if n.op == "add" and inner in n.inputs), None)
            if whole is not None:
                forms[whole] = _through_log(c, own, probabilities[c.y], c.y)
            else:
                forms[inner] = _log_softmax_rest(c, own, probabilities[c.y])
    assert all(c.y in by_result for c in composites)
    return forms


def _users(roots: Any, of: Node) -> list[Node]:
    from backlit.ir import reachable

    return [n for n in reachable(roots) if of in n.inputs]


def _along(shape: tuple[int, ...], axis: int, element: Element) -> list[Element]:
    """The elements along an axis through an element."""
    return [(*element[:axis], j, *element[axis + 1 :]) for j in range(shape[axis])]


# --- forward ----------------------------------------------------------------------------------------------------------


def _forward(c: Composite) -> Closed:
    def exponentials(r: Reader, element: Element, keep: int | None) -> Expression:
        row = _along(c.x.type.shape, c.axis, element)
        values = np.exp(np.array([r.values[c.x][e] for e in row], np.float64))
        kept = None if keep is None else np.arange(len(row)) == keep
        return r.fold("sum", values, lambda j: Apply("exp", (r.at(c.x, row[j]),)), kept)

    def softmax(r: Reader, element: Element) -> Expression:
        return divide(Apply("exp", (r.at(c.x, element),)), exponentials(r, element, element[c.axis]))

    def logsumexp(r: Reader, element: Element) -> Expression:
        whole = element if len(element) == c.x.type.ndim else (*element[: c.axis], 0, *element[c.axis :])
        return Apply("log", (exponentials(r, whole, None),))

    def log_softmax(r: Reader, element: Element) -> Expression:
        return total([r.at(c.x, element), negative(Apply("log", (exponentials(r, element, element[c.axis]),)))])

    return {"softmax": softmax, "logsumexp": logsumexp, "log_softmax": log_softmax}[c.kind]


# --- backward ---------------------------------------------------------------------------------------------------------


def _softmax_share(c: Composite, outer: Node) -> Closed:
    """sum_j g_j p_j (delta_ij - p_i)."""

    def share(r: Reader, element: Element) -> Expression:
        row, i = _along(c.y.type.shape, c.axis, element), element[c.axis]
        p = np.array([r.values[c.y][e] for e in row], np.float64)
        g = np.array([r.values[outer][e] for e in row], np.float64)
        own = r.at(c.y, element)

        def term(j: int) -> Expression:
            slope = total([ONE if j == i else Number(0.0), negative(own)])
            return product([r.at(outer, row[j], c.y), r.at(c.y, row[j]), slope])

        return r.fold("sum", g * p * ((np.arange(len(row)) == i) - p[i]), term)

    return share


def _logsumexp_share(c: Composite, outer: Node) -> Closed:
    """g e^(x_i - log sum_j e^(x_j))."""

    def share(r: Reader, element: Element) -> Expression:
        dims = outer.type.ndim
        place = element if dims == len(element) else (*element[: c.axis], *element[c.axis + 1 :])
        place = tuple(0 if n == 1 else k for n, k in zip(outer.type.shape, place, strict=True))
        return product(
            [r.at(outer, place, c.y), Apply("exp", (total([r.at(c.x, element), negative(r.at(c.y, place))]),))]
        )

    return share


def _through_log(c: Composite, outer: Node, p: Node, log: Node) -> Closed:
    """h_i - p_i sum_j h_j, with h the gradient by log p. With cross-entropy h_j = -c y_j, and that is c (p_i - y_i)."""

    def share(r: Reader, element: Element) -> Expression:
        row, i = _along(p.type.shape, c.axis, element), element[c.axis]
        h = np.array([r.values[outer][e] for e in row], np.float64)
        own = r.at(p, element)
        if len(row) <= _MANY:
            soft = _targets([r.definition(outer, e) for e in row], 4 * float(np.finfo(r.values[outer].dtype).eps))
            if soft is not None:
                scale, targets = soft
                return product([negative(scale), total([own, negative(targets[i])])])
        hits = np.flatnonzero(h)
        if len(hits) == 1:  # one class is the right one
            scale = r.at(outer, row[int(hits[0])], log)
            return product([negative(scale), total([own, negative(Number(1.0 if i == hits[0] else 0.0))])])
        together = r.fold("sum", h, lambda j: r.at(outer, row[j], log))
        return total([r.at(outer, element, log), negative(product([own, together]))])

    return share


def _log_softmax_rest(c: Composite, outer: Node, p: Node) -> Closed:
    def share(r: Reader, element: Element) -> Expression:
        row = _along(p.type.shape, c.axis, element)
        h = np.array([r.values[outer][e] for e in row], np.float64)
        return negative(product([r.at(p, element), r.fold("sum", h, lambda j: r.at(outer, row[j], c.y))]))

    return share


def _targets(gradients: list[Expression], rough: float) -> tuple[Expression, list[Expression]] | None:
    """If every gradient is one number times a target, and the targets add up to 1: that number and the targets."""
    scale: Expression | None = None
    targets: list[Expression] = []
    for g in gradients:
        if is_number(g, 0.0):
            targets.append(Number(0.0))
            continue
        leaves = list(operands(g))
        if len(leaves) != 1:
            return None
        parts, left = linear_parts(g, lambda o: True)
        if len(parts) != 1 or not is_number(left, 0.0) or scale not in (None, parts[0][1]):
            return None
        scale = parts[0][1]
        targets.append(parts[0][0])
    values = [t.value for t in targets if isinstance(t, Operand | Number)]
    return (scale, targets) if scale is not None and abs(sum(values) - 1) < rough else None


def _log_of(p: Node, outer: Node) -> Node | None:
    """The logarithm of p, if p goes nowhere else: then p's gradient is that of the logarithm divided by p."""
    log = outer.origin
    return log if log is not None and log.op == "log" and outer.op == "divide" and log.inputs[0] is p else None
