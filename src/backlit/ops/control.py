"""Loops: `scan` carries a state along a sequence. Its body is a graph, kept as a parameter of the node.

    scan(f, init, xs):   carry = init;   for t in 0 .. T-1:   carry, y[t] = f(carry, x[t]);   result: carry, y

The node's inputs are what the body needs from outside (found by looking at what it uses: anything that does not depend
on the carry or on x[t] is computed once, outside), then the initial carry, then the sequences.

Differentiating it takes two scans. The forward one is run with every value that the backward pass will need as a
further result; the backward one runs the other way, carries the gradient of the carry and adds up the gradient of what
came from outside. `passes.loops` later merges the forward scan with the one that the user wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backlit.errors import ShapeError, StructureError
from backlit.ir import Graph, Node, Type, reachable, substitute
from backlit.ops.elementwise import add, multiply
from backlit.ops.interpret import interpreter
from backlit.ops.record import Array, Case, Context, Notation, Op, Samples, Spec, Value, constant_like, told_as
from backlit.pytree import as_array, flatten, unflatten
from backlit.tracing import Traced, input_node, trace_function, type_of


def _rule(*types: Type, body: Graph, carry: int, outside: int, length: int, reverse: bool) -> tuple[Type, ...]:
    given = (
        types[:outside]
        + types[outside : outside + carry]
        + tuple(t.with_shape(t.shape[1:]) for t in types[outside + carry :])
    )
    if any(not t.shape or t.shape[0] != length for t in types[outside + carry :]):
        raise ShapeError(f"every sequence has {length} elements along its first axis")
    wanted = tuple(i.type for i in body.inputs)
    if given != wanted:
        raise ShapeError(f"the body takes {', '.join(map(str, wanted))}, not {', '.join(map(str, given))}")
    results = tuple(o.type for o in body.outputs)
    if results[:carry] != given[outside : outside + carry]:
        raise ShapeError("the carry changes its type from one step to the next")
    return results[:carry] + tuple(t.with_shape((length, *t.shape)) for t in results[carry:])


def _scan_numpy(*arrays: Array, body: Graph, carry: int, outside: int, length: int, reverse: bool) -> tuple[Array, ...]:
    run = interpreter(body)
    fixed, state, sequences = arrays[:outside], list(arrays[outside : outside + carry]), arrays[outside + carry :]
    ys = [np.empty((length, *o.type.shape), o.type.dtype) for o in body.outputs[carry:]]
    for t in reversed(range(length)) if reverse else range(length):
        results = run([*fixed, *state, *(np.asarray(s[t]) for s in sequences)])
        state = results[:carry]
        for y, result in zip(ys, results[carry:], strict=True):
            y[t] = result
    return tuple(state) + tuple(ys)


def _saved(backward: Sequence[Node], fresh: set[Node], at_hand: set[Node]) -> list[Node]:
    """The forward values that the backward nodes use and that have to be kept for each step: states, and what was made
    from them; not what is at hand in the backward step, too.
    """
    late = set(fresh)  # nodes that depend on an incoming gradient
    found: dict[Node, None] = {}
    for node in reachable(backward):
        if any(i in late for i in node.inputs):
            late.add(node)
    for node in reachable(backward):
        if node in late:
            for i in node.inputs:
                if i not in late and i not in at_hand and i.op != "constant" and len(i.types) == 1:
                    found[i] = None
    for node in backward:  # a gradient that is a plain forward value
        if node not in late and node not in at_hand and node.op != "constant":
            found[node] = None
    return list(found)


def _vjp(ctx: Context, g: Value | tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    g = _results(g)
    params = dict(ctx.params)
    body: Graph = params["body"]
    carry, outside, length = params["carry"], params["outside"], params["length"]
    states, xs = body.inputs[outside : outside + carry], body.inputs[outside + carry :]
    # one step of the backward pass, as nodes over the body's own
    incoming = [input_node(o.type, f"grad {i}") for i, o in enumerate(body.outputs)]
    wrt = [i for i in body.inputs if i.type.dtype.kind == "f"]
    shares = ctx.reverse(body.outputs, [Traced(i) for i in incoming], wrt)
    share = {i: s if s is not None else constant_like(Traced(i), 0.0) for i, s in zip(wrt, shares, strict=True)}
    fixed_wrt = [i for i in body.inputs[:outside] if i in share]
    state_wrt = [i for i in states if i in share]
    x_wrt = [i for i in xs if i in share]
    wanted = [share[i].node for i in (*state_wrt, *fixed_wrt, *x_wrt)]
    kept = _saved(wanted, set(incoming), {*body.inputs[:outside], *xs})

    # the forward scan, with the kept values as further results
    forward = Graph(body.inputs, (*body.outputs, *kept), body.name)
    history = _results(_scan(*ctx.inputs, **(params | {"body": forward})))[len(body.outputs) :]

    # the backward scan: carries the gradients of the state and the sums for what came from outside
    sums = [input_node(i.type, f"sum {i.name}") for i in fixed_wrt]
    seen = [input_node(n.type, f"kept {i}") for i, n in enumerate(kept)]
    old = dict(zip(kept, seen, strict=True))
    new = substitute(wanted, old)
    n, m = len(state_wrt), len(fixed_wrt)
    totals = [add(Traced(s), Traced(v)).node for s, v in zip(sums, new[n : n + m], strict=True)]
    moving = [incoming[states.index(i)] for i in state_wrt]
    still = [j for j in range(carry) if states[j] not in share]
    zeros = {incoming[j]: constant_like(Traced(incoming[j]), 0).node for j in still}
    ys = [j for j in range(carry, len(body.outputs)) if body.outputs[j].type.dtype.kind == "f"]
    zeros |= {
        incoming[j]: constant_like(Traced(incoming[j]), 0).node for j in range(carry, len(body.outputs)) if j not in ys
    }
    outputs = substitute([*new[:n], *totals, *new[n + m :]], zeros)
    backward = Graph(
        (*body.inputs[:outside], *moving, *sums, *(incoming[j] for j in ys), *xs, *seen),
        tuple(outputs),
        f"{body.name}_backward",
    )

    def arriving(j: int) -> Value:
        return g[j] if g[j] is not None else constant_like(ctx.results[j], 0.0)

    found = _results(
        _scan(
            *ctx.inputs[:outside],
            *(arriving(states.index(i)) for i in state_wrt),
            *(constant_like(Traced(i), 0.0) for i in fixed_wrt),
            *(arriving(j) for j in ys),
            *ctx.inputs[outside + carry :],
            *history,
            body=backward,
            carry=n + m,
            outside=outside,
            length=length,
            reverse=not params["reverse"],
        )
    )
    # where a step passes nothing back the loop does not either, but for a state that no step has changed
    flows = {i for i, s in zip(wrt, shares, strict=True) if s is not None or length == 0}
    by_input = {i: v for i, v in zip((*state_wrt, *fixed_wrt, *x_wrt), found, strict=True) if i in flows}
    return tuple(by_input.get(i) for i in body.inputs)


def _results(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)


def _sample_body() -> Graph:
    """c' = w c + x, y = c'^2."""
    step = Type(np.dtype(np.float64), (2,))
    w, c, x = inputs = [input_node(step, name) for name in "wcx"]
    new = add(multiply(Traced(w), Traced(c)), Traced(x))
    return Graph(tuple(inputs), (new.node, multiply(new, new).node), "step")


def _samples() -> Samples:
    """Forwards and backwards, and a loop of no steps."""
    spec = Spec((2,), dtype="float64")
    return tuple(
        Case(
            (spec, spec, Spec((length, 2), dtype="float64")),
            {"body": _sample_body(), "carry": 1, "outside": 1, "length": length, "reverse": reverse},
        )
        for length, reverse in [(3, False), (2, True), (0, False)]
    )


_scan = Op(
    "scan",
    "control",
    "A loop that carries a state along sequences; `body` is one step.",
    rule=_rule,
    numpy=_scan_numpy,
    vjp=_vjp,
    notation=Notation("scan"),
    samples=_samples,
    signature="*values",
)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry a state along sequences: `carry, y = f(carry, x)` for each x; gives the last carry and all y, stacked.

    init and xs are trees (nested dicts, lists, ...) of values; each leaf of xs is cut along its first axis; y may be a
    tree too. The carry keeps its structure, shapes and dtypes. `xs=None` needs `length`. `reverse` goes from the last
    element to the first (y stays in the order of xs). f may use traced values from outside.

    Raises ShapeError where the lengths differ or the carry changes its type, StructureError where f gives no pair.
    """
    state, state_paths, state_structure = flatten(init)
    sequences, paths, _ = flatten(xs)
    with told_as("scan", *state, *sequences):
        length = _length(sequences, paths, length)
        state = [s if isinstance(s, Traced) else as_array(s) for s in state]

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            result = f(carry, x)
            if not isinstance(result, tuple) or len(result) != 2:
                raise StructureError(
                    "the body must return a pair (carry, y)", fix="return carry, None if there is no y"
                )
            if flatten(result[0])[2] != state_structure:
                raise StructureError(
                    f"the body returns a carry of the structure {flatten(result[0])[2]}, not {state_structure}"
                )
            return result

        elements = unflatten(flatten(xs)[2], [_element(type_of(s)) for s in sequences])
        traced = trace_function(step, unflatten(state_structure, state), elements)
    body, outside = _closed(traced.graph)
    for i, (path, old, new) in enumerate(zip(state_paths, state, body.outputs, strict=False)):
        if type_of(old) != new.type:
            raise ShapeError(
                f"the carry{path and ' ' + path} (number {i}) is {type_of(old)} before a step and {new.type} after it",
                op="scan",
                fix="start with the type that the step gives: ops.astype, ops.broadcast_to",
            )
    found = _results(
        _scan(
            *_outside_values(outside),
            *state,
            *sequences,
            body=body,
            carry=len(state),
            outside=len(outside),
            length=length,
            reverse=bool(reverse),
        )
    )
    return unflatten(traced.result, found)  # type: ignore[no-any-return]


def _length(sequences: Sequence[Value], paths: Sequence[str], length: int | None) -> int:
    for s, path in zip(sequences, paths, strict=True):
        shape = type_of(s).shape
        if not shape:
            raise ShapeError(f"the sequence {path} has no axis to go along")
        if length is not None and shape[0] != length:
            raise ShapeError(f"the sequence {path} has {shape[0]} elements where {length} are expected")
        length = shape[0]
    if length is None:
        raise ShapeError("there is no sequence and no length", fix="pass xs or length=")
    if length < 0:
        raise ShapeError(f"a loop cannot take {length} steps")
    return length


def _element(sequence: Type) -> Array:
    """A stand-in for one element: tracing looks at its type only."""
    return np.broadcast_to(np.zeros((), sequence.dtype), sequence.shape[1:])


def _outside_values(nodes: Sequence[Node]) -> list[Value]:
    """Their numbers where they have some (nothing around the scan is being traced), else traced values."""
    if any(n.op == "input" for n in reachable(nodes)):
        return [Traced(n) for n in nodes]
    return list(interpreter(Graph((), tuple(nodes)))([]))


def _closed(graph: Graph) -> tuple[Graph, list[Node]]:
    """The body with everything that does not depend on its inputs taken out, and what was taken out.

    Numbers (0-d constants) stay inside.
    """
    inner = set(graph.inputs)
    for node in reachable(graph.outputs):
        if any(i in inner for i in node.inputs):
            inner.add(node)
    outside: dict[Node, Node] = {}

    def take_out(node: Node) -> None:
        if node not in inner and node not in outside and not (node.op == "constant" and not node.type.shape):
            outside[node] = input_node(node.type, node.name or f"outside {len(outside)}")

    for node in reachable(graph.outputs):
        if node in inner:
            for i in node.inputs:
                take_out(i)
    for output in graph.outputs:
        take_out(output)
    outputs = substitute(graph.outputs, outside)
    return Graph((*outside.values(), *graph.inputs), tuple(outputs), graph.name), list(outside)
