"""`explain`: from a function and its arguments to a derivation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlit.autodiff import gradient_graph
from backlit.errors import GradientError, IndexingError, ShapeError
from backlit.explanation import checks, networks, paths, updates
from backlit.explanation.derivation import Derivation
from backlit.explanation.execution import Execution, execute
from backlit.explanation.maker import Draft, Maker, Options, numbered
from backlit.explanation.numbers import fitted
from backlit.explanation.quantities import Quantities, chosen
from backlit.explanation.steps import Element, Step, operands
from backlit.ir import Graph, Node
from backlit.pytree import as_array
from backlit.tracing import refuse_leaks, trace_function

VIEWS = ("deltas", "paths", "matrix")
_FEW, _MOST = 100, 20_000  # numbers that paths may lead through, when they come for free and when they are asked for


@dataclass(frozen=True)
class Problem:
    """What is asked: a graph whose first output is the loss, its arguments by name, and an element of one of them.

    `loss` is what the loss is called where nothing else names it, `outside` the arrays that the function reads from
    outside itself, by name. For the rest see `explain`.
    """

    graph: Graph
    paths: tuple[str, ...]
    arrays: tuple[Any, ...]
    wrt: str
    verify: bool = True
    lr: float | None = None
    optimizer: Any = None
    state: Any = None
    unfolded: bool = False
    loss: str | None = None
    outside: tuple[tuple[str, Any], ...] = ()


def explain(
    function: Any,
    *arguments: Any,
    wrt: str,
    loss: Any = None,
    training: bool = False,
    key: Any = None,
    mask: Any = None,
    view: str = "deltas",
    terms: int = 6,
    depth: int = 1,
    digits: int = 6,
    lr: float | None = None,
    optimizer: Any = None,
    state: Any = None,
    verify: bool = True,
    unfolded: bool = False,
) -> Derivation:
    """The chain rule for one element `wrt`, in symbols and in numbers, from the graph that runs for these arguments.

        bl.explain(f, *arguments, wrt="w5")
        bl.explain(net, x, y, loss="half_mse", wrt="dense_1.weight[0, 1]")

    function   gives one floating-point number when called with the arguments; or a network, and the arguments are one
               example or a batch x and its targets y
    wrt        an element of an argument by its path: "w5", "p.w1[0, 1]", or any unmistakable end of it: "w1[0, 1]"
    loss       for a network: its loss (a name, a loss, or a function of predictions and targets)
    training, key, mask   for a network: whether it trains, the key for what is random, the padding mask
    view       "deltas": layer by layer from the loss (the textbook form); "paths": every path; "matrix": whole arrays
    terms      how many terms of a long sum are written out; the rest becomes one number
    depth      how many folded sums deep everything shown is followed; below that the largest term only
    digits     significant digits, at least; each line prints as many as it takes to be true
    lr         adds the update w' = w - lr dL/dw
    optimizer  adds the update of this optimiser (a name or an `optim` object), from `state` or its first step
    verify     adds the same derivative by central finite differences
    unfolded   reads softmax and its kin op by op, not in closed form

    Raises GradientError where the function gives no single floating-point number, or `wrt` names no element of a
    floating-point argument.
    """
    for name, value, least in (("terms", terms, 1), ("depth", depth, 0), ("digits", digits, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ShapeError(f"{name}={value!r} is not a whole number from {least} on")
    if view not in VIEWS:
        raise GradientError(f"there is no view {view!r}", fix=f"use one of {', '.join(VIEWS)}")
    if not callable(function) or hasattr(function, "forward"):
        function, arguments = networks.function_of(function, arguments, loss, training, key, mask)
    elif loss is not None:
        raise GradientError("loss= is for networks", fix="let the function give the loss itself")
    trace = trace_function(function, *arguments)
    refuse_leaks(trace.graph)
    arrays = tuple(as_array(leaf, path) for leaf, path in zip(trace.leaves, trace.paths, strict=True))
    problem = Problem(
        trace.graph, trace.paths, arrays, wrt, verify, lr, optimizer, state, unfolded, outside=_outside(function)
    )
    return derive(problem, Options(view, terms, depth, digits))


def derive(problem: Problem, options: Options) -> Derivation:
    """The derivation that answers a problem."""
    arrays = list(problem.arrays)
    i, element = located(problem.wrt, problem.paths, [a.shape for a in arrays], whole=options.view == "matrix")
    gradient_graph(problem.graph, [i])  # says what is wrong, if something is
    leaf = problem.graph.inputs[i]
    plan = updates.plan(problem, i)
    run = execute(plan.graph, [*arrays, *plan.arrays], [leaf, *plan.others], plan.outputs, folded=not problem.unfolded)
    updated = None if plan.new is None else (leaf, plan.new)
    quantities = chosen(run, problem.loss, updated, problem.outside)
    if options.view == "matrix":
        from backlit.explanation.matrices import derived

        drafts, maker = derived(run, quantities, leaf, element, options)
    else:
        maker = Maker(run, quantities, options)
        assert element is not None
        drafts = _drafts(maker, leaf, element)
    if plan.new is not None and element is not None:
        drafts += updates.drafts(maker, plan, leaf, element)
    if problem.verify and element is not None:
        drafts += checks.drafts(maker, [*arrays, *plan.arrays], leaf, element)
    drafts.sort(key=lambda d: d.kind != "given")  # stable: all that is given comes first
    steps = numbered(drafts, maker)
    value = run.gradient(leaf)[element] if element is not None else run.gradient(leaf)
    wrt = quantities.of[leaf].symbol.at(element or ())
    return Derivation(
        tuple(steps),
        quantities.of[run.loss].symbol,
        wrt,
        problem.wrt,
        value.item() if isinstance(value, np.generic) or not value.ndim else value,
        quantities.layers,
        _described(run, quantities, steps),
        options,
        _lit(quantities, maker, drafts, leaf, element),
        lambda number: _unfolded(maker, drafts, steps, number),
        lambda changed: derive(problem, changed),
    )


def _outside(function: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    """The arrays that a function reads from outside itself, by the names that it uses."""
    try:
        found = inspect.getclosurevars(function)
    except TypeError:  # no Python function
        return ()
    variables = {**found.globals, **found.nonlocals}
    return tuple((name, v) for name, v in variables.items() if isinstance(v, np.ndarray) and v.ndim)


def located(
    wrt: str, paths: Sequence[str], shapes: Sequence[tuple[int, ...]], whole: bool = False
) -> tuple[int, Element | None]:
    """Which leaf, and which of its elements, a name such as `p.w1[0, 1]` means; no element for the `whole` array."""
    found: list[tuple[int, int, str]] = []
    for i, path in enumerate(paths):
        for start in [0, *(m.end() for m in re.finditer(r"\.", path))]:
            name = path[start:]
            if wrt == name or (wrt.startswith(name) and wrt[len(name)] == "["):
                found.append((start, i, wrt[len(name) :]))
                break
    if not found:
        raise GradientError(f"there is no argument {wrt!r}", fix=f"choose from {', '.join(paths)}")
    exact = [f for f in found if f[0] == 0] or found
    longest = [f for f in exact if len(f[2]) == min(len(e[2]) for e in exact)]
    if len(longest) > 1:
        names = ", ".join(paths[i] for _, i, _ in longest)
        raise GradientError(f"{wrt!r} may mean {names}", fix="write more of the path")
    _, i, index = longest[0]
    shape = shapes[i]
    if not index:
        if whole or not shape:
            return i, None if whole and shape else ()
        if np.prod(shape) == 1:
            return i, (0,) * len(shape)
        example = ", ".join("0" for _ in shape)
        raise GradientError(f"{wrt} has the shape {shape}", fix=f"name one element, such as {wrt}[{example}]")
    numbers = re.fullmatch(r"\[\s*(-?\d+(?:\s*,\s*-?\d+)*)\s*,?\s*\]", index)
    place = tuple(int(n) for n in numbers[1].split(",")) if numbers else ()
    if not numbers or len(place) != len(shape) or any(not -n <= k < n for k, n in zip(place, shape, strict=True)):
        raise IndexingError(
            f"{wrt} is no element of {paths[i]}",
            fix=f"it has the shape {shape}: name one index an axis, counted from 0" if shape else "it is one number",
        )
    return i, tuple(k % n for k, n in zip(place, shape, strict=True))


def _drafts(maker: Maker, leaf: Node, element: Element) -> list[Draft]:
    """Givens, forward pass, loss, backward pass, gradient, and the product along each path."""
    run, q = maker.run, maker.quantities
    if leaf not in q.gradients:  # it does not enter the loss at all
        maker.follow_forward([(q.of[run.loss], ())])
        return [*maker.ordered(), maker.nothing(leaf, element)]
    target = q.gradients[leaf]
    maker.follow_back(target, element)
    last = maker.drafts[target.key, element]
    last.kind = "gradient"
    used = [o for d in maker.drafts.values() for o in operands(d.expression) if not maker.backward(o)]
    ways: list[Draft] = []
    if maker.options.view == "paths":
        ways = paths.drafts(maker, target, element, _MOST, required=True)
        used += [o for d in ways for o in operands(d.expression) if o.quantity in q.by_key and not maker.backward(o)]
    else:
        ways = paths.drafts(maker, target, element, _FEW, required=False)
    maker.follow_forward([(q.of[run.loss], ()), *((q.by_key[o.quantity], o.element) for o in used)])
    ordered = [d for d in maker.ordered() if d is not last]
    if maker.options.view == "paths":
        ordered = [d for d in ordered if d.kind != "backward"]
        return [*ordered, *ways]
    return [*ordered, last, *ways]


def _lit(
    quantities: Quantities, maker: Maker, drafts: Sequence[Draft], leaf: Node, element: Element | None
) -> frozenset[tuple[str, Element]]:
    """The forward values through which the element reaches the loss.

    Those whose gradient was taken, and those that a closed form passes over (the log of a softmax).
    """
    loss: tuple[str, Element] = (quantities.of[maker.run.loss].key, ())
    taken: set[tuple[str, Element]] = {loss}
    whole = maker.options.view == "matrix"
    for node, marks in maker.marked.items():
        places = [()] if whole else [tuple(map(int, place)) for place in np.argwhere(marks)]
        taken |= {(quantities.of[node].key, place) for place in places}
    if element is not None or whole:
        taken.add((quantities.of[leaf].key, () if whole else element or ()))
    passed = {quantities.of[node].key for node in maker.marked}
    forward = [d for d in drafts if d.kind in ("forward", "loss")]  # each after what it uses
    after = set(taken) - {loss}
    for d in forward:
        if any((o.quantity, o.element) in after for o in operands(d.expression)):
            after.add(d.place)
    before: set[tuple[str, Element]] = {loss}
    for d in reversed(forward):
        if d.place in before:
            before |= {(o.quantity, o.element) for o in operands(d.expression)}
    return frozenset(taken | {place for place in after & before if place[0] not in passed})


_WHOLE = 200  # terms of an unfolded equation


def _unfolded(maker: Maker, drafts: Sequence[Draft], steps: Sequence[Step], number: int) -> Step | None:
    """A folded equation with nearly all its terms; None where nothing is folded."""
    draft, step = drafts[number - 1], steps[number - 1]
    if not step.folded or draft.quantity.key not in maker.quantities.by_key:
        return None
    wide = replace(maker, options=replace(maker.options, terms=_WHOLE))
    e = wide.expression(draft.quantity, draft.element)
    if e is None:
        return None
    e, text = fitted(e, draft.value, maker.options.digits, maker.run.rough)
    return replace(step, expression=e, text=text)


def _described(run: Execution, quantities: Quantities, steps: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """What each quantity that the steps name is."""
    used = {s.quantity for s in steps} | {o.quantity for s in steps for o in s.operands}
    described: dict[str, dict[str, Any]] = {}
    for key, q in quantities.by_key.items():
        if key in used:
            owner = q.forward or q.node
            described[key] = {
                "kind": q.kind,
                "name": q.symbol.name,
                "node": run.numbers[q.node],
                "op": q.node.op,
                "shape": list(q.node.type.shape),
                "dtype": q.node.type.dtype.name,
                "line": owner.site.short() if owner.site is not None and owner.op != "input" else "",
            }
    return described
