"""Tracing: running a Python function on values without numbers, so that what it does becomes a graph.

A `Traced` stands for one result of one node. Ops applied to it make nodes (`emit`); nothing is recorded anywhere else,
so a trace needs no global state and traces nest freely. What was written is what is recorded: nothing is simplified
here. A function is traced on fresh input nodes; values of an enclosing trace that it closes over stay what they are,
and show up as free inputs of the inner graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias

import numpy as np

from backlit.errors import ControlFlowError, StructureError
from backlit.garbage import uncollected
from backlit.ir import Graph, Node, Scope, Type, array_type, frozen, make_node, rebuilt, substitute
from backlit.pytree import Structure, as_array, flatten, unflatten
from backlit.sites import Site, naming_site

Labels: TypeAlias = tuple[Scope | None, Site | None, Node | None]
"""The scope, site and origin of a node."""

_scope: ContextVar[Scope | None] = ContextVar("scope", default=None)
_labels: ContextVar[Labels | None] = ContextVar("labels", default=None)
# the inputs of all traces that are going on, from the outermost to the innermost
_open: ContextVar[frozenset[Node]] = ContextVar("open", default=frozenset())


class Traced:
    """A value that will exist when the graph runs. It has a shape and a dtype, and the operators of an array.

    The operators themselves are set by `ops.operators`, in terms of the ops.
    """

    __slots__ = ("node",)
    __array_priority__ = 1000

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def type(self) -> Type:
        return self.node.type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return self.type.size

    def __len__(self) -> int:
        if not self.shape:
            raise ControlFlowError(f"{self.describe()} has no length: it is 0-d")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Traced({self.node!r})"

    __hash__ = None  # type: ignore[assignment]  # `==` is elementwise

    def describe(self) -> str:
        """`the traced value (f32[8,3], made by tanh)`, for messages."""
        name = f" {self.node.name}" if self.node.name else ""
        maker = "an argument" if self.node.op == "input" else f"made by {self.node.op}"
        return f"the traced value{name} ({', '.join(map(str, self.node.types))}, {maker})"

    def _has_no_number(self, wanted: str, fix: str) -> NoReturn:
        raise ControlFlowError(
            f"Python asked for {wanted} of {self.describe()}: it has no numbers before the graph runs", fix=fix
        )

    def __bool__(self) -> bool:
        self._has_no_number(
            "the truth", "a graph has no branches on values: use ops.where(condition, a, b), or ops.scan for a loop"
        )

    def __float__(self) -> float:
        self._has_no_number("the float", "keep the value as it is and return it to see its number")

    def __int__(self) -> int:
        self._has_no_number("the integer", "keep the value as it is and return it to see its number")

    def __index__(self) -> int:
        self._has_no_number(
            "the integer", "index with ops.take(x, indices, axis); a loop is ops.scan, and its length is fixed"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._has_no_number(
            "the array", "use the functions of backlit.ops in place of NumPy's; ops.take(array, x, axis) for array[x]"
        )

    def __format__(self, spec: str) -> str:
        if spec:
            self._has_no_number("the digits", "print it without a format, or return it to see its number")
        return repr(self)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise ControlFlowError(
            f"{self.describe()} cannot be assigned to in place",
            fix="make a new one: ops.where(mask, new, old), ops.scatter_add(x, indices, updates) or ops.concat([...])",
        )

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]


def _spot() -> Labels:
    """The labels of a node that is made now."""
    return _labels.get() or (_scope.get(), naming_site(), None)


def emit(op: str, inputs: Sequence[Any], types: Sequence[Type], params: Mapping[str, Any]) -> Node:
    """A new node that applies `op`; the inputs are Traced or concrete (and then become constants)."""
    spot = _spot()
    nodes = tuple([i.node if isinstance(i, Traced) else _constant(i, spot) for i in inputs])
    return Node(op, nodes, frozen(params), tuple(types), None, *spot)


def lift(value: Any) -> Traced:
    """The value as a Traced; a concrete one becomes a constant."""
    return value if isinstance(value, Traced) else Traced(_constant(value, _spot()))


def _constant(value: Any, spot: Labels) -> Node:
    array = as_array(value)
    if array.flags.writeable:  # the user may go on to change theirs
        array = array.copy()
        array.setflags(write=False)
    return Node("constant", (), frozen({"value": array}), (array_type(array.dtype, array.shape),), None, *spot)


def type_of(value: Any) -> Type:
    """The type of a concrete or traced value."""
    if isinstance(value, Traced):
        return value.type
    array = as_array(value)
    return array_type(array.dtype, array.shape)


def is_traced(*values: Any) -> bool:
    """Whether one of the values is traced."""
    return any(isinstance(v, Traced) for v in values)


class scope:
    """Nodes made inside belong to the stretch `name`: the graph, the plan and the derivation show it."""

    __slots__ = ("kind", "name", "token")

    def __init__(self, name: str, kind: str = "layer") -> None:
        self.name, self.kind = name, kind

    def __enter__(self) -> Scope:
        inner = Scope(self.name, self.kind, _scope.get())
        self.token = _scope.set(inner)
        return inner

    def __exit__(self, *exception: object) -> None:
        _scope.reset(self.token)


class _Labelled:
    """Nodes made inside have these labels; None leaves them to the place that makes them."""

    __slots__ = ("labels", "token")

    def __init__(self, labels: Labels | None) -> None:
        self.labels = labels
        self.token: Token[Labels | None] | None = None

    def __enter__(self) -> None:
        self.token = _labels.set(self.labels)

    def __exit__(self, *exception: object) -> None:
        assert self.token is not None
        _labels.reset(self.token)


def gradient_of(node: Node) -> _Labelled:
    """Nodes made inside are part of the gradient of `node`: they take its site and its scope."""
    return _Labelled((node.scope, node.site, node))


class InPlaceOf(_Labelled):
    """Nodes made inside replace the one that was named last: they take its scope, site and origin."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__((None, None, None))

    def name(self, node: Node) -> None:
        """What is made from now on replaces this node."""
        self.labels = node.scope, node.site, node.origin
        if self.token is not None:
            _labels.set(self.labels)


def in_place_of(node: Node) -> InPlaceOf:
    """Nodes made inside replace `node`."""
    place = InPlaceOf()
    place.name(node)
    return place


def named(value: Any, name: str) -> Any:
    """The same value under a name of the user's choice; concrete values are returned as they are.

    An argument keeps the name that the function gives it: what is named is a copy.
    """
    if not isinstance(value, Traced):
        return value
    node = value.node
    if node.op == "input":
        node = emit("reshape", (value,), node.types, {"shape": node.type.shape})
    return Traced(replace(rebuilt(node, node.inputs), name=name))


@dataclass(frozen=True, slots=True)
class Trace:
    """A traced function: its graph, the structures of its arguments and of its result, and the concrete leaves."""

    graph: Graph
    paths: tuple[str, ...]
    arguments: Structure
    result: Structure
    leaves: tuple[Any, ...]


def argument_tree(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments under the names that the function gives them, in the order of the call."""
    try:
        signature = inspect.signature(function)
        signature.bind(*args, **kwargs)
    except ValueError:  # a built-in without a signature
        return {f"arg{i}": a for i, a in enumerate(args)} | kwargs
    except TypeError as e:
        raise StructureError(f"{getattr(function, '__name__', function)}: {e}") from None
    return signature.bind_partial(*args).arguments | kwargs


def input_node(type: Type, name: str) -> Node:
    """A place for an argument of this type."""
    return make_node("input", (), (type,), name=name)


def trace_function(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Trace:
    """Trace `function` on fresh inputs of the arguments' types. Numbers of the arguments are not looked at."""
    _, paths, _ = flatten(argument_tree(function, args, kwargs))
    leaves, _, structure = flatten((args, kwargs))
    for leaf, path in zip(leaves, paths, strict=True):
        if not isinstance(leaf, Traced):
            as_array(leaf, path)
    inputs = [input_node(type_of(leaf), path) for leaf, path in zip(leaves, paths, strict=True)]
    call_args, call_kwargs = unflatten(structure, [Traced(i) for i in inputs])
    token = _open.set(_open.get() | set(inputs))
    try:
        with uncollected(), _Labelled(None):  # the function is the user's own, even when a gradient rule calls it
            result = function(*call_args, **call_kwargs)
    finally:
        _open.reset(token)
    outputs, out_paths, out_structure = flatten(result)
    for output, path in zip(outputs, out_paths, strict=True):
        if not isinstance(output, Traced):
            as_array(output, f"result{path}" if path.startswith("[") else path or "result")
    graph = Graph(tuple(inputs), tuple(lift(o).node for o in outputs), getattr(function, "__name__", "graph"))
    return Trace(graph, tuple(paths), structure, out_structure, tuple(leaves))


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Graph:
    """The graph that `function` computes for arguments of these types.

    The arguments are nested dicts, lists, tuples and dataclasses of arrays and numbers (Python floats count as
    float32, ints as int64); only their types matter. `print` the result to read it.

    Raises ControlFlowError where the function asks for a value's number, ShapeError and DtypeError where an op is given
    what it does not take, StructureError for an argument or result that is no array.
    """
    found = trace_function(function, *args, **kwargs).graph
    refuse_leaks(found)
    return found


def refuse_leaks(graph: Graph) -> None:
    """Raise ControlFlowError if the graph needs a value of another trace."""
    for leaked in graph.free:
        users = [n for n in graph.nodes if leaked in n.inputs]
        raise ControlFlowError(
            f"{Traced(leaked).describe()} belongs to another function, whose trace is over",
            op=users[0].op if users else "",
            inputs=[t for i in users[0].inputs for t in i.types] if users else (),
            site=users[0].site if users else None,
            fix="pass it as an argument; do not keep traced values in globals, attributes or lists",
        )


def needs_enclosing(graph: Graph) -> bool:
    """Whether the graph uses values of a trace that is going on around it, so that it can only become part of that.

    Raises ControlFlowError if it uses a value of a trace that is over.
    """
    free = graph.free
    if not set(free) <= _open.get():
        refuse_leaks(graph)
    return bool(free)


def inline(graph: Graph, values: Sequence[Any]) -> list[Traced]:
    """The outputs of the graph applied to traced or concrete values, as part of the caller's trace."""
    replacements = {node: lift(value).node for node, value in zip(graph.inputs, values, strict=True)}
    return [Traced(n) for n in substitute(graph.outputs, replacements)]
