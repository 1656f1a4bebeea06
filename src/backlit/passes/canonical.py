"""Rewrites that bring a graph to a normal form: what does nothing goes, what is done in two steps is done in one.

The rule that holds here: a rewrite is true for every floating-point number, inf, nan and -0.0 included, bit for bit
(but for the payload of a nan) or, where it says so, up to the rounding of a result. These therefore stay as they are:

    x + 0, 0 - x      -0.0 + 0.0 is 0.0 (x - 0.0 and x + -0.0 are x)
    0 * x, x - x      nan where x is inf or nan, and 0 * -1.0 is -0.0
    x / x             nan at 0, inf and nan
    (x * a) * b       x * (a * b) over- or underflows at another x; the same for sums
    x / a             x * (1 / a) rounds twice
    x ^ 0.5           (-inf) ^ 0.5 is inf and -0.0 ^ 0.5 is 0.0, which sqrt denies
    x ^ -2            1 / (x * x) is 0 where x ^ -2 is still a small number
    exp(log(x))       nan where x < 0
    not (a < b)       a >= b is false for nan

Sums are a case of their own: the order in which a sum adds is no part of its meaning, so neither are its last bits nor
the sign of a zero sum, and two sums may become one.

The normal form: broadcasts stand as late as they can (elementwise ops stretch their inputs anyway), transpositions are
part of the specs of contractions, reductions drop their axes and a reshape puts them back.

`stop_gradient` goes too, so a graph is differentiated before it is simplified.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backlit.ir import Graph, Node
from backlit.ops import elementwise as ew
from backlit.ops.contraction import parts_of
from backlit.ops.movement import broadcast_to, concat, flip, permute_dims, reshape
from backlit.ops.record import OPS, Value, constant_like
from backlit.passes.rewrite import number, rewrite, stretched, table
from backlit.tracing import Traced

Shape = tuple[int, ...]

# --- elementwise: arithmetic ------------------------------------------------------------------------------------------


def _is(node: Node, wanted: float) -> bool:
    """Whether a node is this number; tells -0.0 from 0.0."""
    found = number(node)
    return found is not None and found == wanted and math.copysign(1, found) == math.copysign(1, wanted)


def _negated(node: Node) -> Value | None:
    """x of a node -x."""
    return Traced(node.inputs[0]) if node.op == "negative" else None


def _add(node: Node) -> Value | None:
    """x + -0.0 = x (of integers: x + 0 = x); a + -b = a - b."""
    a, b = node.inputs
    zero = -0.0 if node.type.dtype.kind == "f" else 0
    for x, y in ((a, b), (b, a)):
        if _is(y, zero):
            return stretched(x, node.type)
        if (z := _negated(y)) is not None:
            return Traced(x) - z
    return None


def _subtract(node: Node) -> Value | None:
    """x - 0 = x; a - -b = a + b."""
    a, b = node.inputs
    if _is(b, 0):
        return stretched(a, node.type)
    z = _negated(b)
    return None if z is None else Traced(a) + z


def _multiply(node: Node) -> Value | None:
    """x * 1 = x; x * -1 = -x; -a * -b = a * b."""
    a, b = node.inputs
    for x, y in ((a, b), (b, a)):
        if _is(y, 1):
            return stretched(x, node.type)
        if _is(y, -1):
            return -stretched(x, node.type)
    p, q = _negated(a), _negated(b)
    return None if p is None or q is None else p * q


def _divide(node: Node) -> Value | None:
    """x / 1 = x; x / -1 = -x; -a / -b = a / b."""
    a, b = node.inputs
    if _is(b, 1):
        return stretched(a, node.type)
    if _is(b, -1):
        return -stretched(a, node.type)
    p, q = _negated(a), _negated(b)
    return None if p is None or q is None else p / q


def _pow(node: Node) -> Value | None:
    """x^0 = 1 (of nan too); x^1 = x; up to rounding x^2 = x * x, x^3 = x * x * x, x^-1 = 1 / x."""
    base, exponent = node.inputs
    n, x = number(exponent), stretched(base, node.type)
    if n == 0:
        return constant_like(x, 1.0)
    if n == 1:
        return x
    if n == 2:
        return x * x
    if n == 3:
        return x * x * x
    if n == -1:
        return 1.0 / x
    return None


def _negative(node: Node) -> Value | None:
    """-(-x) = x; -(a - b) is not b - a where a = b."""
    return _negated(node.inputs[0])


def _abs(node: Node) -> Value | None:
    """|-x| = |x|."""
    z = _negated(node.inputs[0])
    return None if z is None else ew.abs(z)


def _invert(node: Node) -> Value | None:
    """~(~x) = x."""
    (x,) = node.inputs
    return Traced(x.inputs[0]) if x.op == "bitwise_invert" else None


def _idempotent(node: Node) -> Value | None:
    """f(f(x)) = f(x)."""
    (x,) = node.inputs
    return Traced(x) if x.op == node.op else None


def _of_equals(node: Node) -> Value | None:
    """f(x, x) = x."""
    a, b = node.inputs
    return Traced(a) if a is b else None


def _stop_gradient(node: Node) -> Value | None:
    return Traced(node.inputs[0])


def _where(node: Node) -> Value | None:
    """A choice between equals, by a constant, by a negation, or made again inside a branch."""
    condition, a, b = node.inputs
    if a is b:
        return stretched(a, node.type)
    known = number(condition)
    if known is not None:
        return stretched(a if known else b, node.type)
    if condition.op == "bitwise_invert":
        return ew.where(Traced(condition.inputs[0]), Traced(b), Traced(a))
    inner_a = a.inputs[1] if a.op == "where" and a.inputs[0] is condition else a
    inner_b = b.inputs[2] if b.op == "where" and b.inputs[0] is condition else b
    if inner_a is a and inner_b is b:
        return None
    return stretched(ew.where(*map(Traced, (condition, inner_a, inner_b))).node, node.type)


def _holds(wide: np.dtype[Any], narrow: np.dtype[Any]) -> bool:
    """Whether every number of the narrow dtype is one of the wide dtype."""
    if wide.kind == "f" and narrow.kind in "iu":
        return np.finfo(wide).nmant + 1 >= np.iinfo(narrow).bits
    return np.can_cast(narrow, wide, "safe")


def _cast(node: Node) -> Value | None:
    """A conversion that changes nothing; one after another that lost nothing."""
    (x,) = node.inputs
    if x.type == node.type:
        return Traced(x)
    if x.op != "cast":
        return None
    (source,) = x.inputs
    # what leaves the range of an integer dtype is not specified, and need not become so
    wraps = x.type.dtype.kind == "f" and source.type.dtype.kind in "iu" and node.type.dtype.kind in "iu"
    if wraps and not _holds(node.type.dtype, source.type.dtype):
        return None
    return ew.astype(Traced(source), node.type.dtype) if _holds(x.type.dtype, source.type.dtype) else None


# --- elementwise: broadcasting ----------------------------------------------------------------------------------------


def _without_lead(node: Node) -> Node:
    """x of a node that only puts axes of size 1 in front of x."""
    if node.op != "reshape":
        return node
    (x,) = node.inputs
    lead = node.type.ndim - x.type.ndim
    return x if lead >= 0 and node.type.shape == (1,) * lead + x.type.shape else node


def _unstretched(node: Node) -> Node:
    """What a node broadcasts; itself if it is no broadcast."""
    while node.op == "broadcast_to" or _without_lead(node) is not node:
        node = node.inputs[0]
    return node


def _stretch_late(node: Node) -> Value | None:
    """f(broadcast(a), b) = broadcast(f(a, b)): elementwise ops stretch their inputs, and act on fewer elements so."""
    if not any(i.op in ("broadcast_to", "reshape") for i in node.inputs):
        return None
    inputs = [_unstretched(i) for i in node.inputs]
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return None
    return stretched(OPS[node.op](*map(Traced, inputs), **node.params).node, node.type)


# --- movement ---------------------------------------------------------------------------------------------------------


def _of_uniform(node: Node) -> Value | None:
    """Elements that are all the same may be moved at will: what comes out is a broadcast."""
    (x,) = node.inputs
    if x.op != "broadcast_to" or x.inputs[0].type.size != 1:
        return None
    return broadcast_to(reshape(Traced(x.inputs[0]), ()), node.type.shape)


def _reshape(node: Node) -> Value | None:
    """To the shape it has; after another."""
    (x,) = node.inputs
    if x.type == node.type:
        return Traced(x)
    return reshape(Traced(x.inputs[0]), node.type.shape) if x.op == "reshape" else None


def _broadcast(node: Node) -> Value | None:
    """To the shape it has; by axes of size 1 only; after another."""
    (x,) = node.inputs
    if x.type == node.type:
        return Traced(x)
    if x.type.size == node.type.size != 0:
        return reshape(Traced(x), node.type.shape)
    inner = _unstretched(x)
    return None if inner is x else broadcast_to(Traced(inner), node.type.shape)


def _permute(node: Node) -> Value | None:
    """Of axes of size 1 only; after another."""
    (x,) = node.inputs
    axes: Shape = node.params["axes"]
    large = [a for a in axes if x.type.shape[a] != 1]
    if large == sorted(large):
        return reshape(Traced(x), node.type.shape)
    if x.op == "permute_dims":
        return permute_dims(Traced(x.inputs[0]), [x.params["axes"][a] for a in axes])
    return None


def _slice(node: Node) -> Value | None:
    """Of everything; of a slice. Up to the last element that is taken, and in steps of 1 where that is one."""
    (x,) = node.inputs
    if x.type == node.type:
        return Traced(x)
    start, step = node.params["start"], node.params["step"]
    if x.op == "slice":
        start = [a + b * k for a, b, k in zip(x.params["start"], start, x.params["step"], strict=True)]
        step = [k * m for k, m in zip(x.params["step"], step, strict=True)]
        (x,) = x.inputs
    sizes = node.type.shape
    params = {
        "start": tuple(a if n else 0 for a, n in zip(start, sizes, strict=True)),
        "stop": tuple(a + (n - 1) * k + 1 if n else 0 for a, n, k in zip(start, sizes, step, strict=True)),
        "step": tuple(k if n > 1 else 1 for k, n in zip(step, sizes, strict=True)),
    }
    if x is node.inputs[0] and params == node.params:
        return None
    return OPS["slice"](Traced(x), **params)


def _pad(node: Node) -> Value | None:
    """With nothing."""
    return Traced(node.inputs[0]) if node.inputs[0].type == node.type else None


def _flip(node: Node) -> Value | None:
    """Along axes that have two ends; after another."""
    (x,) = node.inputs
    axes = {a for a in node.params["axis"] if x.type.shape[a] > 1}
    if x.op == "flip":
        return flip(Traced(x.inputs[0]), tuple(axes ^ set(x.params["axis"])))
    if not axes:
        return Traced(x)
    return flip(Traced(x), tuple(axes)) if len(axes) < len(node.params["axis"]) else None


def _concat(node: Node) -> Value | None:
    """Of one value, empty ones aside."""
    axis = node.params["axis"]
    parts = [i for i in node.inputs if i.type.shape[axis]] or [node.inputs[0]]
    if len(parts) == 1:
        return Traced(parts[0])
    return concat([Traced(p) for p in parts], axis) if len(parts) < len(node.inputs) else None


# --- reductions and contractions --------------------------------------------------------------------------------------


def _large(shape: Shape) -> list[int]:
    return [a for a, n in enumerate(shape) if n != 1]


def _reduce(node: Node) -> Value | None:
    """Over axes of size 1, or over none; with its axes kept; of a reshape that adds or drops axes of size 1; twice."""
    (x,) = node.inputs
    op, axis = OPS[node.op], node.params["axis"]

    def reduced(value: Value, axes: Shape) -> Value:
        """In the shape of the node. Integers are summed in another dtype, also over no axes."""
        found = op(value, axis=axes, keepdims=False) if axes else ew.astype(value, node.type.dtype)
        return reshape(found, node.type.shape)

    if all(x.type.shape[a] == 1 for a in axis):
        return reduced(Traced(x), ())
    if node.params["keepdims"]:
        return reduced(Traced(x), axis)
    if x.op == "reshape":
        (source,) = x.inputs
        before, after = _large(source.type.shape), _large(x.type.shape)
        if [source.type.shape[a] for a in before] == [x.type.shape[a] for a in after]:
            place = dict(zip(after, before, strict=True))
            every = tuple(range(source.type.ndim))
            return reduced(Traced(source), tuple(place[a] for a in axis if a in place) if node.type.ndim else every)
    if x.op == node.op and not x.params["keepdims"]:  # its axes are those that are left of its own input
        left = [a for a in range(x.inputs[0].type.ndim) if a not in x.params["axis"]]
        return reduced(Traced(x.inputs[0]), tuple(sorted({*x.params["axis"], *(left[a] for a in axis)})))
    return _reduce_broadcast(node) if x.op == "broadcast_to" else None


def _reduce_broadcast(node: Node) -> Value | None:
    """sum(broadcast(x)) = n sum(x), up to rounding; max and min do not count."""
    (x,) = node.inputs
    shape, axis = x.type.shape, node.params["axis"]
    (source,) = x.inputs
    lead = len(shape) - source.type.ndim
    own = [a for a in range(lead, len(shape)) if source.type.shape[a - lead] == shape[a]]
    count = math.prod(shape[a] for a in axis if a not in own)
    is_float = node.type.dtype.kind == "f"
    if count == 0 or (is_float and count > np.finfo(node.type.dtype).max):  # 0 inf is nan, and inf no count
        return None
    real = tuple(a - lead for a in axis if a in own)
    found = OPS[node.op](Traced(source), axis=real, keepdims=False)
    kept = [a for a in range(lead, len(shape)) if a not in axis]
    found = reshape(found, [source.type.shape[a - lead] for a in kept])
    if node.op == "sum" and count > 1:
        found = found * (float(count) if is_float else count)
    return broadcast_to(found, node.type.shape)


def _contract(node: Node) -> Value | None:
    """Transposed operands: the letters say in which order the axes come. Up to the order of the sums."""
    left, right, result = parts_of(node.params["spec"])
    terms, inputs = [left, right], list(node.inputs)
    for k, x in enumerate(node.inputs):
        if x.op == "permute_dims":
            letters = dict(zip(x.params["axes"], terms[k], strict=True))  # axis of what is permuted -> letter
            terms[k] = "".join(letters[a] for a in range(x.type.ndim))
            inputs[k] = x.inputs[0]
    if inputs == [*node.inputs]:
        return None
    return OPS["contract"](*map(Traced, inputs), spec=f"{terms[0]},{terms[1]}->{result}")


_SPECIAL: dict[str, tuple[Callable[[Node], Value | None], ...]] = {
    "add": (_add,),
    "subtract": (_subtract,),
    "multiply": (_multiply,),
    "divide": (_divide,),
    "pow": (_pow,),
    "negative": (_negative,),
    "abs": (_abs, _idempotent),
    "relu": (_idempotent,),
    "sign": (_idempotent,),
    "floor": (_idempotent,),
    "round": (_idempotent,),
    "bitwise_invert": (_invert,),
    "maximum": (_of_equals,),
    "minimum": (_of_equals,),
    "bitwise_and": (_of_equals,),
    "bitwise_or": (_of_equals,),
    "where": (_where,),
    "cast": (_cast,),
    "stop_gradient": (_stop_gradient,),
    "reshape": (_reshape, _of_uniform),
    "broadcast_to": (_broadcast,),
    "permute_dims": (_permute, _of_uniform),
    "slice": (_slice, _of_uniform),
    "flip": (_flip, _of_uniform),
    "windows": (_of_uniform,),
    "pad": (_pad,),
    "concat": (_concat,),
    "sum": (_reduce,),
    "max": (_reduce,),
    "min": (_reduce,),
    "contract": (_contract,),
}

RULES = {name: (_stretch_late,) for name, op in OPS.items() if op.family == "elementwise"} | {
    name: (_stretch_late, *rules) if OPS[name].family == "elementwise" else rules for name, rules in _SPECIAL.items()
}


def canonicalise(graph: Graph) -> Graph:
    """The graph in its normal form."""
    return rewrite(graph, table(RULES))
