"""Where a number first became infinite or nan: the step is run again, node by node, on the reference semantics.

The rule: what is named is a cause, not a bystander. Infinite values that a program makes on purpose and masks away do
no harm, so the search starts at the result that went wrong and goes back along values that are themselves infinite or
nan; the oldest of these is where it arose. A loop (`scan`) is opened and its first wrong step is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlit.ir import Graph, Node, Type
from backlit.ops.record import OPS

Array = np.ndarray[Any, np.dtype[Any]]


def all_finite(arrays: Sequence[Array]) -> bool:
    """Whether no floating-point array has an infinite or nan element."""
    return all(np.count_nonzero(np.isfinite(a)) == a.size for a in arrays if a.dtype.kind == "f")


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is to say of a value: how many elements are nan and infinite, and the range of the others."""

    type: Type
    nans: int
    infinities: int
    low: float
    high: float
    first: tuple[int, ...]  # the index of the first element that is not finite

    @property
    def finite(self) -> bool:
        return not self.nans and not self.infinities

    def __str__(self) -> str:
        bad = [f"{n} {what}" for n, what in ((self.nans, "nan"), (self.infinities, "infinite")) if n]
        span = f"{self.low:.4g} to {self.high:.4g}" if self.low <= self.high else ""
        return f"{self.type}" + (f", {' and '.join(bad)} of {self.type.size}" if bad else "") + (span and f", {span}")


def summary(array: Array) -> Summary:
    """The summary of a value."""
    kind = Type(array.dtype, array.shape)
    if array.dtype.kind != "f":
        low, high = (float(array.min()), float(array.max())) if array.size else (math.inf, -math.inf)
        return Summary(kind, 0, 0, low, high, ())
    finite = np.isfinite(array)
    good = array[finite]
    low, high = (float(good.min()), float(good.max())) if good.size else (math.inf, -math.inf)
    if good.size == array.size:
        return Summary(kind, 0, 0, low, high, ())
    first = tuple(int(i) for i in np.argwhere(~finite)[0])
    nans = int(np.isnan(array).sum())
    return Summary(kind, nans, array.size - good.size - nans, low, high, first)


@dataclass(frozen=True, slots=True)
class Origin:
    """The node at which the first wrong number arose, and what it was made from.

    `position` is the step of the loop, for a node inside a scan.
    """

    node: Node
    name: str
    value: Summary
    inputs: tuple[tuple[str, Summary], ...]
    position: int | None = None

    @property
    def layer(self) -> str:
        """`dense_2`, or `encoder.dense_1` for nested layers; "" outside every layer."""
        scopes = self.node.scope.path() if self.node.scope else ()
        return ".".join(s.name for s in scopes if s.kind == "layer")

    @property
    def phase(self) -> str:
        """`input`, `forward`, `gradient` or `update`."""
        if self.node.op == "input":
            return "input"
        if self.node.origin is not None:
            return "gradient"
        return "update" if self.layer.startswith("update") else "forward"

    def describe(self) -> str:
        """Several lines for people: what, in which layer, from what, and what helps."""
        kind = "nan" if self.value.nans else "infinite"
        if self.node.op == "input":
            return f"{self.name} is {kind} already, before the step ({self.value})"
        quantity = f"the result of {self.node.op}" if self.name.startswith("%") else self.name
        if self.phase == "gradient":
            assert self.node.origin is not None
            quantity = f"the gradient of {self.node.origin.op}"
        layer = self.layer.removeprefix("update").removeprefix(".")
        where = (
            {"update": "the update of ", "gradient": "in ", "forward": "in "}[self.phase] + layer + ": "
            if layer
            else ""
        )
        lines = [f"{where}{quantity} became {kind} ({self.value})"]
        if self.position is not None:
            lines[0] += f", at element {self.position} of the sequence"
        lines.append(f"  computed by {self.node.op} from:")
        lines += [f"    {name}: {s}" for name, s in self.inputs]
        return "\n".join(lines)

    def advice(self) -> str:
        """What usually helps here."""
        match self.node.op:
            case "log" | "log1p":
                return (
                    "a logarithm of 0 or less: use a loss that takes logits, or add a small number inside the logarithm"
                )
            case "divide":
                return "a division by 0, or of a large number by a tiny one: add a small number to the denominator"
            case "sqrt" | "pow":
                return "a root or power outside its domain, or its infinite slope at 0: add a small number inside"
            case "exp" | "expm1":
                return "an exponential of a large number: scale the inputs, or take a loss from logits"
            case "input":
                return "look at the step before, or at the values that were set by hand"
            case _:
                return "lower the learning rate, clip the gradients (clip_global_norm=1.0), or scale the inputs"


def find_origin(graph: Graph, arrays: Sequence[Array], watched: Sequence[int] | None = None) -> Origin | None:
    """Where the first infinite or nan value behind the outputs numbered in `watched` (default: all) arose.

    None if all of these outputs are finite.
    """
    found, _ = _search(graph, arrays, watched)
    return found


def _run(node: Node, values: Mapping[Node, Any]) -> Any:
    if node.op == "constant":
        return node.params["value"]
    if node.op == "item":
        return values[node.inputs[0]][node.params["index"]]
    results = OPS[node.op].evaluate([values[i] for i in node.inputs], node.params)
    return results if len(node.types) > 1 else results[0]


def _search(graph: Graph, arrays: Sequence[Array], watched: Sequence[int] | None) -> tuple[Origin | None, list[Array]]:
    outputs = [o for i, o in enumerate(graph.outputs) if watched is None or i in watched]
    last: dict[Node, Node] = {i: n for n in graph.nodes for i in n.inputs}
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    summaries: dict[Node, Summary] = {n: summary(a) for n, a in values.items()}
    wrong: set[Node] = {n for n, s in summaries.items() if not s.finite}
    loops: dict[Node, list[Array]] = {}  # the inputs of loops that gave something wrong
    for node in graph.nodes:
        if node.op != "input":
            values[node] = _run(node, values)
            parts = values[node] if len(node.types) > 1 else (values[node],)
            found = [summary(p) for p in parts]
            summaries[node] = next((s for s in found if not s.finite), found[0])
            if not summaries[node].finite:
                wrong.add(node)
                if node.op == "scan":
                    loops[node] = [values[i] for i in node.inputs]
        for i in {*node.inputs}:
            if last[i] is node and i not in graph.outputs:
                del values[i]
    results = [values[o] for o in graph.outputs]
    # back from what went wrong along wrong values; constants are on purpose
    chain, stack = set(), [o for o in outputs if o in wrong]
    while stack:
        node = stack.pop()
        if node not in chain and node.op != "constant":
            chain.add(node)
            stack += [i for i in node.inputs if i in wrong]
    if not chain:
        return None, results
    names = graph.names()
    first = min(chain, key=lambda n: n.serial)
    if first in loops:
        inner = _search_loop(first, loops[first])
        if inner is not None:
            return inner, results
    inputs = tuple((names[i], summaries[i]) for i in first.inputs)
    return Origin(first, names[first], summaries[first], inputs), results


def _search_loop(node: Node, arrays: Sequence[Array]) -> Origin | None:
    """Where in the body of a scan, and at which of its steps, the first wrong value arose."""
    body: Graph = node.params["body"]
    carry, outside, length = node.params["carry"], node.params["outside"], node.params["length"]
    fixed, state, sequences = arrays[:outside], list(arrays[outside : outside + carry]), arrays[outside + carry :]
    for t in reversed(range(length)) if node.params["reverse"] else range(length):
        found, results = _search(body, [*fixed, *state, *(np.asarray(s[t]) for s in sequences)], None)
        if found is not None:
            if found.node.op == "input":
                return None  # it came from outside
            inner = found.node
            if inner.scope is None:
                inner = replace(inner, scope=node.scope, site=inner.site or node.site)
            return replace(found, node=inner, position=t)
        state = results[:carry]
    return None
