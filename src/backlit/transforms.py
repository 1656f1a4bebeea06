"""Functions of functions: gradients, vector-Jacobian, Jacobian-vector and Hessian-vector products.

Each traces the function, differentiates the graph, and runs it (by the reference executor) or, when called inside
another trace, becomes part of that trace: so they nest to any order. For speed, compile the result:
`bl.compile(bl.grad(f))`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from backlit.autodiff import gradient_graph, reverse, zeros_if_none
from backlit.errors import DtypeError, GradientError, ShapeError, StructureError
from backlit.executors.api import get
from backlit.ir import Graph, Node, Type, substitute
from backlit.ops.record import Value, constant_like, is_number
from backlit.pytree import Structure, as_array, leaves_like, unflatten
from backlit.tracing import Trace, Traced, inline, input_node, is_traced, needs_enclosing, trace_function, type_of

Function = Callable[..., Any]


def apply_graph(graph: Graph, values: Sequence[Value]) -> list[Value]:
    """The outputs of the graph for these values: run at once, or made part of the trace that is going on."""
    if is_traced(*values) or needs_enclosing(graph):
        return list(inline(graph, values))
    return list(get("reference").compile(graph)(*(as_array(v) for v in values)))


def _chosen(trace: Trace, argnums: int | Sequence[int], wrt: str | Sequence[str] | None) -> list[int]:
    """The numbers of the leaves that `argnums` or `wrt` names."""
    if wrt is not None:
        names = [wrt] if isinstance(wrt, str) else list(wrt)
        found = [i for name in names for i, path in enumerate(trace.paths) if _is_at(path, name)]
        missing = [n for n in names if not any(_is_at(p, n) for p in trace.paths)]
        if missing:
            raise GradientError(f"there is no argument {missing[0]!r}", fix=f"choose from {', '.join(trace.paths)}")
        return found
    positional, _ = trace.arguments.children
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    ranges = []
    start = 0
    for child in positional.children:
        count = child.size
        ranges.append(range(start, start + count))
        start += count
    for n in numbers:
        if not -len(ranges) <= n < len(ranges):
            raise GradientError(f"argnums={n} is out of range: {len(ranges)} positional arguments were given")
    return [i for n in numbers for i in ranges[n]]


def _is_at(path: str, name: str) -> bool:
    return path == name or path.startswith((f"{name}.", f"{name}["))


def value_and_grad(
    f: Function, argnums: int | Sequence[int] = 0, wrt: str | Sequence[str] | None = None, has_aux: bool = False
) -> Function:
    """A function that gives f's value and its gradient.

    f gives one floating-point number (with `has_aux`, a pair of it and anything else, passed through). The gradient has
    the structure of the first argument, or is chosen by `argnums` (an int, or several: then a tuple) or by name:
    `wrt="p.w1"` gives the one array (or the tree at that name as a dict of paths), `wrt=["p.w1", "x"]` a dict of them.

    Raises GradientError where f gives no scalar, a chosen leaf is no floating-point value, or an op without a gradient
    stands in every path.
    """

    def inner(*args: Any, **kwargs: Any) -> Any:
        trace = trace_function(f, *args, **kwargs)
        _refuse_result(trace, has_aux)
        return gradient_of_trace(trace, trace.leaves, argnums, wrt)

    return _titled(inner, f, "value_and_grad")


def gradient_of_trace(
    trace: Trace, leaves: Sequence[Value], argnums: int | Sequence[int] = 0, wrt: str | Sequence[str] | None = None
) -> tuple[Any, Any]:
    """What a traced function gives for these leaves of its arguments, and the gradient of its first result."""
    chosen = _chosen(trace, argnums, wrt)
    results = apply_graph(gradient_graph(trace.graph, chosen), leaves)
    count = len(trace.graph.outputs)
    value = unflatten(trace.result, results[:count])
    return value, _gradient_tree(trace, argnums, wrt, dict(zip(chosen, results[count:], strict=True)))


def _refuse_result(trace: Trace, has_aux: bool) -> None:
    """Raise GradientError unless the function gives one value, or a pair of one and anything else."""
    loss = trace.result
    if has_aux:
        if loss.kind is not tuple or len(loss.children) != 2:
            raise StructureError("with has_aux=True the function must return a pair (loss, aux)")
        loss = loss.children[0]
    if loss.kind is type(None):
        raise GradientError(f"{trace.graph.name} gives None", fix="does it lack a return?")
    if loss.kind is not None:
        raise GradientError(
            f"{trace.graph.name} gives more than one number: {loss}", fix="return the loss alone, or has_aux=True"
        )


def _titled(inner: Function, f: Function, title: str) -> Function:
    """`inner` with the signature and documentation of f, called `title` f."""
    wraps(f, updated=())(inner)
    inner.__name__ = f"{title}_{getattr(f, '__name__', 'f')}"
    return inner


def _gradient_tree(
    trace: Trace, argnums: int | Sequence[int], wrt: str | Sequence[str] | None, gradients: dict[int, Value]
) -> Any:
    if wrt is not None:
        named = {trace.paths[i]: g for i, g in gradients.items()}
        return named[wrt] if isinstance(wrt, str) and wrt in named else named
    positional, _ = trace.arguments.children

    def tree(n: int) -> Any:
        before = sum(c.size for c in positional.children[: n % len(positional.children)])
        child = positional.children[n]
        return unflatten(child, [gradients[before + i] for i in range(child.size)])

    return tree(argnums) if isinstance(argnums, int) else tuple(tree(n) for n in argnums)


def grad(
    f: Function, argnums: int | Sequence[int] = 0, wrt: str | Sequence[str] | None = None, has_aux: bool = False
) -> Function:
    """A function that gives the gradient of f: see `value_and_grad`. With `has_aux` it gives (gradient, aux)."""
    both = value_and_grad(f, argnums, wrt, has_aux)

    def inner(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return _titled(inner, f, "grad")


def _like(tree: Any, structure: Structure, types: Sequence[Type], what: str) -> list[Value]:
    """The leaves of a tree that must match a structure and, where they are floating-point, types."""
    matched = []
    for (leaf, path), t in zip(leaves_like(structure, tree, what), types, strict=True):
        have = type_of(leaf)
        if t.dtype.kind == "f":
            if have.shape != t.shape:
                raise ShapeError(f"{path} has the shape {have.shape}, not {t.shape}")
            if have.dtype != t.dtype and not is_number(leaf):
                raise DtypeError(f"{path} is {have}, not {t}", fix="convert it with ops.astype")
        matched.append(leaf if isinstance(leaf, Traced) else as_array(leaf).astype(t.dtype))
    return matched


def vjp(f: Function, *primals: Any) -> tuple[Any, Function]:
    """f's value, and the function that takes a cotangent v to the tuple of v^T df/dx, one for each primal x.

    v has the structure of the value.
    """
    trace = trace_function(f, *primals)
    graph = trace.graph
    incoming = [input_node(o.type, f"grad {i}") for i, o in enumerate(graph.outputs)]
    found = reverse(graph.outputs, [Traced(i) for i in incoming], graph.inputs).gradients
    gradients = tuple(zeros_if_none(g, i).node for g, i in zip(found, graph.inputs, strict=True))
    pullback = Graph((*graph.inputs, *incoming), gradients, f"vjp_{graph.name}")

    def back(cotangent: Any) -> tuple[Any, ...]:
        values = _like(cotangent, trace.result, [o.type for o in graph.outputs], "cotangent")
        results = apply_graph(pullback, [*trace.leaves, *values])
        return unflatten(trace.arguments.children[0], results)

    return unflatten(trace.result, apply_graph(graph, trace.leaves)), back


def _tangents(outputs: Sequence[Node], inputs: Sequence[Node], tangents: Sequence[Node]) -> list[Node]:
    """J v for each output: the gradient by u of (J^T u) . v, which is linear in u, so that u is of no matter."""
    u = [input_node(o.type, "u") for o in outputs]
    back = reverse(outputs, [Traced(i) for i in u], inputs).gradients
    pairs = [(b.node, Traced(t)) for b, t in zip(back, tangents, strict=True) if b is not None]
    found = reverse([b for b, _ in pairs], [t for _, t in pairs], u).gradients
    results = [zeros_if_none(g, o).node for g, o in zip(found, outputs, strict=True)]
    return substitute(results, {i: constant_like(Traced(i), 0.0).node for i in u})  # a loop still computes with u


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f's value at the primals, and its derivative in the direction of the tangents, df/dx v.

    Tangents have the structure of the primals; those of integer leaves are ignored.
    """
    trace = trace_function(f, *primals)
    graph = trace.graph
    values = _like(tuple(tangents), trace.arguments.children[0], [i.type for i in graph.inputs], "tangents")
    directions = [input_node(i.type, f"tangent {i.name}") for i in graph.inputs]
    derivative = _tangents(graph.outputs, graph.inputs, directions)
    whole = Graph((*graph.inputs, *directions), (*graph.outputs, *derivative), f"jvp_{graph.name}")
    results = apply_graph(whole, [*trace.leaves, *values])
    count = len(graph.outputs)
    return unflatten(trace.result, results[:count]), unflatten(trace.result, results[count:])


def hvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """The Hessian of the scalar f at the primals times the tangents: a tuple of the structure of the primals.

    Tangents have that structure too; those of integer leaves are ignored, and their results are zeros. Computed as the
    gradient of (grad f) . v, at about the cost of three evaluations of f (Pearlmutter 1994).
    """
    trace = trace_function(f, *primals)
    graph = trace.graph
    values = _like(tuple(tangents), trace.arguments.children[0], [i.type for i in graph.inputs], "tangents")
    directions = [input_node(i.type, f"tangent {i.name}") for i in graph.inputs]
    moving = [k for k, i in enumerate(graph.inputs) if i.type.dtype.kind == "f"]
    first = gradient_graph(graph, moving).outputs[len(graph.outputs) :]
    second = reverse(first, [Traced(directions[k]) for k in moving], graph.inputs).gradients
    outputs = tuple(zeros_if_none(g, i).node for g, i in zip(second, graph.inputs, strict=True))
    results = apply_graph(Graph((*graph.inputs, *directions), outputs, f"hvp_{graph.name}"), [*trace.leaves, *values])
    return unflatten(trace.arguments.children[0], results)
