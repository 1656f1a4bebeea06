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
from backlit.explanation import checks, networks, updates
from backlit.explanation.derivation import Derivation
from backlit.explanation.execution import Execution, execute
from backlit.explanation.expressions import product, substituted, total
from backlit.explanation.maker import Draft, Maker, Options, numbered
from backlit.explanation.numbers import fitted
from backlit.explanation.paths import END, Path, web
from backlit.explanation.quantities import Quantities, Quantity, chosen
from backlit.explanation.steps import Apply, Element, Expression, Number, Operand, Rest, Step, Symbol, operands
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
        drafts += _checked(maker, [*arrays, *plan.arrays], leaf, element)
    drafts.sort(key=lambda d: d.kind != "given")  # stable: all that is given comes first
    steps = numbered(drafts, maker)
    value = _gradient(run, leaf)[element] if element is not None else _gradient(run, leaf)
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


def _gradient(run: Execution, leaf: Node) -> Any:
    if leaf in run.gradients:
        return run.values[run.gradients[leaf]]
    return np.zeros(leaf.type.shape, leaf.type.dtype)


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
        ways = _paths(maker, target, element, _MOST, required=True)
        used += [o for d in ways for o in operands(d.expression) if o.quantity in q.by_key and not maker.backward(o)]
    else:
        ways = _paths(maker, target, element, _FEW, required=False)
    maker.follow_forward([(q.of[run.loss], ()), *((q.by_key[o.quantity], o.element) for o in used)])
    ordered = [d for d in maker.ordered() if d is not last]
    if maker.options.view == "paths":
        ordered = [d for d in ordered if d.kind != "backward"]
        return [*ordered, *ways]
    return [*ordered, last, *ways]


def _paths(maker: Maker, target: Quantity, element: Element, most: int, required: bool) -> list[Draft]:
    """The product along each path, and their sum; where they are `required`, with the local derivatives before."""
    q = maker.quantities

    def whole(place: tuple[str, Element]) -> Expression | None:
        e = maker.expression(q.by_key[place[0]], place[1], all_terms=True)
        return None if e is None else substituted(e, without_helpers)

    def without_helpers(leaf: Operand | Number | Rest) -> Any:
        if isinstance(leaf, Operand) and q.by_key[leaf.quantity].kind == "helper":
            return whole((leaf.quantity, leaf.element))
        return leaf

    start = (target.key, element)
    try:
        found = web(start, whole, lambda o: q.by_key[o.quantity].kind == "gradient", most)
    except GradientError:
        if required:
            raise
        return []
    many, shown = found.count(), maker.options.terms
    if not required and (many > shown or many == 0):
        return []
    largest = found.largest(many if many <= shown + 1 else shown)
    value = maker.run.values[target.node][element].item()
    if not largest:
        return []
    if many == 1 and len(largest[0].edges) < 2 and not required:
        return []  # the equation of the gradient says it all
    drafts: list[Draft] = []
    locally: dict[tuple[str, Element], Draft] = {}
    products: list[Expression] = []
    for number, path in enumerate(largest, 1):
        locals_, steps = _along(maker, target, element, path)
        if required:
            for s in steps:
                locally.setdefault(s.place, s)
            expression: Expression = product(list(locals_))
        else:
            expression = product([e.factor for e in reversed(path.edges)])
        label = target.symbol.at(element) if many == 1 else replace(Symbol(f"path{number}"), over=None)
        draft = Draft(
            Quantity(f"path{number}", "path", label, target.node),
            element,
            expression,
            value if many == 1 else path.value,
            "gradient" if many == 1 and required else "path",
            product(list(locals_)) if not required else None,
            _route(maker, target, element, path),
        )
        drafts.append(draft)
        products.append(Operand(label, path.value, f"path{number}", -1, element))
    if many > 1:
        hidden = value - sum(p.value for p in largest)
        rest = Rest(many - len(largest), hidden, "paths") if many > len(largest) else None
        note = (
            f"The sum over all {many} paths."
            if rest is None
            else f"The sum over all {many} paths, the largest written out."
        )
        drafts.append(
            Draft(target, element, total(products, rest), value, "gradient" if required else "path", None, note)
        )
    return [*locally.values(), *drafts]


def _along(maker: Maker, target: Quantity, element: Element, path: Path) -> tuple[list[Operand], list[Draft]]:
    """The local derivatives along a path, from the loss down, as operands and as steps."""
    q = maker.quantities
    symbols: list[Operand] = []
    drafts: list[Draft] = []
    place = (target.key, element)
    for edge in path.edges:
        own = q.by_key[place[0]]
        if edge.operand is None:
            o = maker.operand(own, place[1]) if edge.end == END else None
            assert o is not None
            symbol = own.symbol.at(maker.shown_index(own, place[1]))
            if symbol.name == "delta":
                symbol = replace(symbol, name="z", over=q.of[maker.run.loss].symbol)
            local = Operand(symbol, edge.value, f"local/{own.key}", -1, place[1])
        else:
            local = maker.local(own, place[1], edge.operand, edge.value)
        symbols.append(local)
        step = Draft(
            Quantity(local.quantity, "local", local.symbol, own.node), local.element, edge.factor, edge.value, "local"
        )
        step.note = "A local derivative: all else is held fixed."
        drafts.append(step)
        place = edge.end
    return symbols[::-1], drafts[::-1]


def _route(maker: Maker, target: Quantity, element: Element, path: Path) -> str:
    """The path in words."""
    from backlit.explanation.notation import plain

    q = maker.quantities
    names = []
    for key, e in [(target.key, element), *(edge.end for edge in path.edges)]:
        if key:
            g = q.by_key[key]
            assert g.forward is not None
            own = q.of[g.forward]
            names.append(plain(own.symbol.at(maker.shown_index(own, e))))
    names.append(plain(q.of[maker.run.loss].symbol))
    return "Along " + " → ".join(names) + "."


def _checked(maker: Maker, arrays: Sequence[Any], leaf: Node, element: Element) -> list[Draft]:
    """The finite differences and how far they are from the gradient."""
    q = maker.quantities
    loss, by = q.of[maker.run.loss].symbol, q.of[leaf].symbol.at(element)
    graph = Graph(maker.run.graph.inputs, (maker.run.loss,))
    expression, value = checks.differences(graph, arrays, leaf, element, loss, by)
    found = _gradient(maker.run, leaf)[element].item()
    step = checks.step_of(arrays[graph.inputs.index(leaf)][element])
    from backlit.explanation.notation import plain

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
    expression, far = checks.relative_difference(gradient, numerical)
    relative = isinstance(expression, Apply) and expression.op == "divide"
    word = "relative difference" if relative else "difference"
    agree = far < (1e-3 if maker.run.loss.type.dtype != np.float64 else 1e-5)
    note = "The two agree." if agree else "The two differ: the loss may have a kink near here, or be very steep."
    second = Draft(Quantity("difference", "check", Symbol(word), leaf), element, expression, far, "check", None, note)
    return [first, second]


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
    e, text = fitted(e, draft.value, maker.options.digits)
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
