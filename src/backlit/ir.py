"""The intermediate representation: Type, Node, Graph. Frozen data that knows no op.

A graph is a set of nodes that is closed under "input of". A node applies the op of its name to the results of other
nodes; nothing else points anywhere, so a graph is just its outputs and the order of its inputs. Building a graph is
making nodes; there is no builder, no tape and no global state. Two ops belong to this file because they have no inputs
and no meaning of their own: `input` (a place for an argument) and `constant` (params["value"], an array), and one
because it takes results apart: `item` (params["index"] of a node that has several results).

The rule that holds here: a node's inputs exist before it does (`serial` grows), so graphs have no cycles and the
creation order, which is the order in which the user wrote the program, is a topological order.

Everything is iterative: a chain of 100,000 nodes is as good as one of ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import count
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import numpy as np

from backlit.once import once
from backlit.sites import Site

_SHORT = {"float": "f", "int": "i", "uint": "u"}
_serials = count()
_serial = attrgetter("serial")


def dtype_name(dtype: np.dtype[Any]) -> str:
    """`f32`, `i64`, `u32`, `bool`."""
    kind = dtype.name.rstrip("0123456789")
    return _SHORT.get(kind, kind) + dtype.name[len(kind) :]


@dataclass(frozen=True, slots=True)
class Type:
    """The type of one array: its dtype and its shape. Prints as `f32[8,3]`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def with_shape(self, shape: Iterable[int]) -> Type:
        return array_type(self.dtype, tuple(shape))

    def with_dtype(self, dtype: Any) -> Type:
        return array_type(np.dtype(dtype), self.shape)

    def __str__(self) -> str:
        return f"{dtype_name(self.dtype)}[{','.join(map(str, self.shape))}]"


@lru_cache(4096)
def array_type(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Type:
    """The type of an array. Mostly the same object for equal types, so that they are compared at once."""
    return Type(dtype, tuple(map(int, shape)))


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A named stretch of a program: a layer (`dense_1`) or one call of a composite op (`softmax`).

    Compared by identity: two calls of softmax are two scopes.
    """

    name: str
    kind: str  # "layer" or "composite"
    parent: Scope | None = None

    def path(self) -> tuple[Scope, ...]:
        """From the outermost scope to this one."""
        found: list[Scope] = []
        scope: Scope | None = self
        while scope is not None:
            found.append(scope)
            scope = scope.parent
        return tuple(reversed(found))


_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False, repr=False, weakref_slot=True, init=False)
class Node:
    """One application of an op. Compared by identity.

    `types` has one entry a result; almost every op has one. `origin` is the forward node whose gradient rule made this
    node, None for nodes that the user's own code made.
    """

    op: str
    inputs: tuple[Node, ...]
    params: Mapping[str, Any]
    types: tuple[Type, ...]
    name: str | None = None
    scope: Scope | None = None
    site: Site | None = None
    origin: Node | None = None
    serial: int = 0

    def __init__(
        self,
        op: str,
        inputs: tuple[Node, ...],
        params: Mapping[str, Any],
        types: tuple[Type, ...],
        name: str | None = None,
        scope: Scope | None = None,
        site: Site | None = None,
        origin: Node | None = None,
        serial: int | None = None,
    ) -> None:
        """Takes half the time of the method that a frozen dataclass has: nodes are made by the ten thousand."""
        _set_op(self, op)
        _set_inputs(self, inputs)
        _set_params(self, params)
        _set_types(self, types)
        _set_name(self, name)
        _set_scope(self, scope)
        _set_site(self, site)
        _set_origin(self, origin)
        _set_serial(self, next(_serials) if serial is None else serial)

    @property
    def type(self) -> Type:
        (only,) = self.types
        return only

    def __repr__(self) -> str:
        return f"<{self.name or '%' + str(self.serial)} = {self.op}: {', '.join(map(str, self.types))}>"


(_set_op, _set_inputs, _set_params, _set_types, _set_name, _set_scope, _set_site, _set_origin, _set_serial) = (
    vars(Node)[f.name].__set__ for f in fields(Node)
)


def make_node(
    op: str,
    inputs: Sequence[Node],
    types: Sequence[Type],
    params: Mapping[str, Any] | None = None,
    **labels: Any,
) -> Node:
    """A new node; `params` are copied and frozen. `labels` are `name`, `scope`, `site`, `origin`."""
    return Node(op, tuple(inputs), frozen(params), tuple(types), **labels)


def frozen(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A copy of a node's params that nobody can change."""
    return MappingProxyType(dict(params)) if params else _NOTHING


def rebuilt(node: Node, inputs: Sequence[Node], origin: Node | None = None) -> Node:
    """The same application with other inputs of the same types, keeping name, scope, site and (if not given) origin."""
    labels = node.name, node.scope, node.site, origin or node.origin
    return Node(node.op, tuple(inputs), node.params, node.types, *labels)


def reachable(outputs: Iterable[Node]) -> list[Node]:
    """Every node that the outputs need, each once, inputs first, in an order that depends on structure alone."""
    seen: set[Node] = set()
    order: list[Node] = []
    for output in outputs:
        if output in seen:
            continue
        seen.add(output)
        stack = [(output, iter(output.inputs))]
        while stack:
            node, rest = stack[-1]
            for child in rest:
                if child not in seen:
                    seen.add(child)
                    stack.append((child, iter(child.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
    return order


def substitute(outputs: Sequence[Node], replacements: Mapping[Node, Node]) -> list[Node]:
    """The outputs with some nodes replaced by others of the same types. Only what depends on them is rebuilt."""
    copies: dict[Node, Node] = {}

    def new(node: Node) -> Node:
        return replacements.get(node) or copies.get(node, node)

    for node in Graph((), tuple(outputs)).nodes:  # a node comes after its origin
        if node in replacements:
            continue
        inputs = tuple(map(new, node.inputs))
        origin = node.origin and copies.get(node.origin, node.origin)
        if inputs != node.inputs or origin is not node.origin:
            copies[node] = rebuilt(node, inputs, origin)
    return list(map(new, outputs))


@dataclass(frozen=True, eq=False)
class Graph:
    """A program: named inputs, outputs, and every node in between.

    Two graphs are equal when they do the same thing in the same way: same ops, params, types and wiring; names, scopes
    and call sites do not count.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    name: str = "graph"

    @property
    def types(self) -> tuple[Type, ...]:
        """The types of the outputs."""
        return tuple(o.type for o in self.outputs)

    @property
    def source(self) -> Graph:
        """What tells this graph from others, together with `rule`: itself. See `Derived`."""
        return self

    @property
    def rule(self) -> str:
        """How the graph follows from its source."""
        return ""

    @once
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, inputs included, in the order in which they were made."""
        seen = {*self.inputs, *self.outputs}
        stack = list(seen)
        while stack:
            for i in stack.pop().inputs:
                if i not in seen:
                    seen.add(i)
                    stack.append(i)
        return tuple(sorted(seen, key=_serial))

    @once
    def ops(self) -> frozenset[str]:
        """The ops that there are."""
        return frozenset(n.op for n in self.nodes)

    @property
    def free(self) -> tuple[Node, ...]:
        """Inputs of some other graph that this one needs: it cannot run by itself when there are any."""
        own = set(self.inputs)
        return tuple(n for n in self.nodes if n.op == "input" and n not in own)

    @once
    def key(self) -> tuple[Any, ...]:
        """A hashable value that is equal for equal graphs."""
        number: dict[Node, int] = {n: i for i, n in enumerate(self.inputs)}
        rows: list[tuple[Any, ...]] = [("input", n.types) for n in self.inputs]
        for node in reachable(self.outputs):
            if node not in number:
                number[node] = len(number)
                rows.append((node.op, tuple(number[i] for i in node.inputs), freeze(node.params), node.types))
        return len(self.inputs), tuple(rows), tuple(number[o] for o in self.outputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def names(self, sources: bool = True) -> dict[Node, str]:
        """A different readable name for every node: its own, else the variable it was assigned to, else `%12`.

        Without `sources` no variable is looked up, and no source file read.
        """
        return _names(self, sources)


class Derived(Graph):
    """A graph that follows from another one, and is made when somebody looks at it.

    Who knows what became of an equal source by an equal rule need not look.

    source  the graph that it is made from, whose inputs have the same types and names
    rule    all else that it depends on, in words
    types   the types of its outputs
    make    makes it
    """

    _source: Graph
    _rule: str
    _types: tuple[Type, ...]
    _make: Callable[[], Graph]

    def __init__(self, source: Graph, rule: str, types: Sequence[Type], make: Callable[[], Graph]) -> None:
        vars(self).update(_source=source, _rule=rule, _types=tuple(types), _make=make)

    @property
    def source(self) -> Graph:
        return self._source

    @property
    def rule(self) -> str:
        return self._rule

    @property
    def types(self) -> tuple[Type, ...]:
        return self._types

    @once
    def made(self) -> Graph:
        """The graph itself."""
        return self._make()

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.made.inputs

    @property
    def name(self) -> str:
        return self.made.name

    @property
    def outputs(self) -> tuple[Node, ...]:
        return self.made.outputs


def freeze(value: Any) -> Any:
    """A hashable value that is equal for equal params."""
    match value:  # the most frequent ones first
        case str() | int():
            return value
        case tuple() | list():
            return tuple([freeze(v) for v in value])
        case MappingProxyType() | dict():
            return tuple([(k, freeze(v)) for k, v in sorted(value.items())])
        case float():
            return "float", value.hex() if value == value else "nan"  # tells -0.0 from 0.0, and makes nan equal to nan
        case np.ndarray():
            return "array", value.dtype.str, value.shape, value.tobytes()
        case Graph():
            return value.key
        case _:
            return value


def _assigned(nodes: Sequence[Node]) -> Iterator[tuple[Node, str]]:
    """The nodes that are the whole value of an assignment in the user's source, with the name assigned to.

    One expression may make several nodes (a composite; a cast before an addition); the last of them is its value.
    """

    def place(node: Node) -> object:
        if node.site is None or node.origin is not None or node.op in ("input", "constant"):
            return None
        composites = [s for s in (node.scope.path() if node.scope else ()) if s.kind == "composite"]
        return node.site, composites[0] if composites else None

    placed = [n for n in nodes if place(n) is not None]  # numbers that stand in an expression do not end it
    for node, following in zip(placed, [*placed[1:], None], strict=False):
        if following is None or place(following) != place(node):
            assert node.site is not None
            target = node.site.target()
            if target is not None:
                yield node, target


def _names(graph: Graph, sources: bool) -> dict[Node, str]:
    nodes = graph.nodes
    wanted = {n: n.name for n in nodes if n.name is not None}
    for node, target in _assigned(nodes) if sources else ():
        wanted.setdefault(node, ".".join((*_layers(node), target)))
    names: dict[Node, str] = {}
    used: dict[str, int] = {}
    for i, node in enumerate(nodes):
        name = wanted.get(node, f"%{i}")
        used[name] = used.get(name, 0) + 1
        while used[name] > 1 and f"{name}_{used[name]}" in used:
            used[name] += 1
        unique = name if used[name] == 1 else f"{name}_{used[name]}"
        used.setdefault(unique, 1)
        names[node] = unique
    return names


def _layers(node: Node) -> list[str]:
    """The names of the layers that the node stands in, from the outermost; none where a composite is outermost."""
    scopes = node.scope.path() if node.scope is not None else ()
    return [s.name for s in scopes if s.kind == "layer"] if scopes and scopes[0].kind == "layer" else []


def _shown(value: Any) -> str:
    match value:
        case np.ndarray() if value.size <= 4:
            return str(value.tolist())
        case np.ndarray():
            return f"{Type(value.dtype, value.shape)}"
        case np.dtype():
            return dtype_name(value)
        case Graph():
            return value.name
        case tuple():
            return f"({', '.join(_shown(v) for v in value)}{',' if len(value) == 1 else ''})"
        case _:
            return repr(value)


def _lines(graph: Graph, indent: str = "") -> Iterator[str]:
    names = graph.names()
    rows: list[tuple[str, str, str, list[Graph]]] = []
    for node in graph.nodes:
        if node.op == "input":
            continue
        if node.op == "constant":
            call = _shown(node.params["value"])
        else:
            args = [names[i] for i in node.inputs] + [f"{k}={_shown(v)}" for k, v in node.params.items()]
            call = f"{node.op}({', '.join(args)})"
        where = ".".join(s.name for s in node.scope.path()) if node.scope else ""
        site = node.site.short() if node.site else ""
        note = " ".join(part for part in (site, f"[{where}]" if where else "") if part)
        if node.origin is not None:
            note += f" gradient of {node.origin.op}"
        rows.append(
            (
                f"{names[node]} = {call}",
                ", ".join(map(str, node.types)),
                note,
                [v for v in node.params.values() if isinstance(v, Graph)],
            )
        )
    args = [f"{names[i]}: {i.type}" for i in graph.inputs]
    yield f"{indent}{graph.name}({', '.join(args)}):"
    left = min(72, max((len(r[0]) for r in rows), default=0))
    middle = max((len(r[1]) for r in rows), default=0)
    for text, types, note, inner in rows:
        yield f"{indent}  {text:<{left}}  {types:<{middle}}  {note}".rstrip()
        for body in inner:
            yield from _lines(body, indent + "    ")
    yield f"{indent}  return {', '.join(names[o] for o in graph.outputs)}"
