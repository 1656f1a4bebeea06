"""Rewrites for numerical stability: the same function, computed so that it neither overflows nor cancels.

Each rule is an identity of real numbers. In the ordinary range both sides agree up to rounding; where the left side
loses everything (log(e^x) at x = 1000 is inf, log(1 + x) at x = 1e-20 is 0) the right side is what was meant. So these
rewrites, unlike those of `canonical`, change results: to better ones.

They do so for values. A gradient that was taken of the left side still divides by what underflowed: take it of the
stable form (`ops.log_softmax`, `ops.softplus`), or stabilise the graph before it is differentiated.
"""

from __future__ import annotations

from backlit.ir import Graph, Node
from backlit.ops import elementwise as ew
from backlit.ops.composite import softmax
from backlit.ops.movement import reshape
from backlit.ops.record import Value
from backlit.ops.reduction import logsumexp, max, sum
from backlit.passes.rewrite import number, rewrite, table
from backlit.tracing import Traced

_SEEN_THROUGH = ("reshape", "broadcast_to", "stop_gradient")


def _source(node: Node) -> Node:
    """What a node holds, whatever shape it was given."""
    while node.op in _SEEN_THROUGH:
        node = node.inputs[0]
    return node


def _is_largest(node: Node, x: Node) -> bool:
    """Whether a node is the largest element of x (or a finite stand-in for it, as in `logsumexp`)."""
    node = _source(node)
    if node.op == "where":
        return any(_is_largest(branch, x) for branch in node.inputs[1:] if _source(branch).op == "max")
    return node.op == "max" and _source(node.inputs[0]) is _source(x)


def may_overflow(exponent: Node) -> bool:
    """Whether e^x of this x may be infinite: not if the largest element has been taken out."""
    return exponent.op != "subtract" or not _is_largest(exponent.inputs[1], exponent.inputs[0])


def sum_of_exp(node: Node) -> tuple[Node, tuple[int, ...]] | None:
    """x and the axes of a sum(e^x) over some axes, whatever shape it was given."""
    total = _source(node)
    if total.op != "sum" or total.inputs[0].op != "exp" or total.type.size != node.type.size:
        return None
    (x,) = total.inputs[0].inputs
    return x, total.params["axis"]


def _log_of_exp(node: Node) -> Value | None:
    """log(e^x) = x: e^x overflows, and rounds to 1 for small x."""
    (x,) = node.inputs
    return Traced(x.inputs[0]) if x.op == "exp" else None


def _log_of_sum_of_exp(node: Node) -> Value | None:
    """log(sum(e^x)) = logsumexp(x): one large element overflows, and only small ones add up to 0."""
    found = sum_of_exp(node.inputs[0])
    if found is None or not may_overflow(found[0]) or 0 in found[0].type.shape:
        return None
    x, axis = found
    return reshape(logsumexp(Traced(x), axis), node.type.shape)


def _log_of_quotient(node: Node) -> Value | None:
    """log(e^x / s) = x - log(s) for s = sum(e^x), as in log(softmax(x)): e^x / s underflows to 0.

    Only where the largest element has been taken out of x: a large x and log(s) would cancel.
    """
    (quotient,) = node.inputs
    if quotient.op != "divide" or quotient.inputs[0].op != "exp":
        return None
    e, s = quotient.inputs
    if may_overflow(e.inputs[0]) or sum_of_exp(s) is None:
        return None
    return Traced(e.inputs[0]) - ew.log(Traced(s))


def _log_of_sigmoid(node: Node) -> Value | None:
    """log(sigmoid(x)) = -softplus(-x): sigmoid(x) underflows to 0."""
    (x,) = node.inputs
    return -ew.softplus(ew.negative(Traced(x.inputs[0]))) if x.op == "sigmoid" else None


def _log1p(x: Value) -> Value:
    """log(1 + x), looking at what x is: a tiny x vanishes beside 1, and e^x overflows."""
    inner = x.node
    if inner.op == "exp":  # log(1 + e^x) = softplus(x)
        return ew.softplus(Traced(inner.inputs[0]))
    if inner.op == "negative" and inner.inputs[0].op == "sigmoid":  # log(1 - sigmoid(x)) = -softplus(x)
        return -ew.softplus(Traced(inner.inputs[0].inputs[0]))
    return ew.log1p(x)


def _log_of_one_plus(node: Node) -> Value | None:
    """log(1 + x) = log1p(x), log(1 - x) = log1p(-x)."""
    (x,) = node.inputs
    if x.op not in ("add", "subtract"):
        return None
    a, b = x.inputs
    if x.op == "add":
        rest = b if number(a) == 1 else a if number(b) == 1 else None
        return None if rest is None else reshape(_log1p(Traced(rest)), node.type.shape)
    if number(a) != 1:
        return None
    return reshape(_log1p(ew.negative(Traced(b))), node.type.shape)


def _log1p_of(node: Node) -> Value | None:
    """log1p(e^x) = softplus(x), log1p(-sigmoid(x)) = -softplus(x)."""
    found = _log1p(Traced(node.inputs[0]))
    return None if found.node.op == "log1p" else found


def _exp_minus_one(node: Node) -> Value | None:
    """e^x - 1 = expm1(x), 1 - e^x = -expm1(x): the difference cancels for small x."""
    a, b = node.inputs
    if a.op == "exp" and number(b) == 1:
        return reshape(ew.expm1(Traced(a.inputs[0])), node.type.shape)
    if b.op == "exp" and number(a) == 1:
        return reshape(-ew.expm1(Traced(b.inputs[0])), node.type.shape)
    return None


def _softmax(node: Node) -> Value | None:
    """e^x / sum(e^x) with the largest element taken out: inf / inf is nan, and so is 0 / 0."""
    e, total = node.inputs
    found = sum_of_exp(total)
    if e.op != "exp" or e.type != node.type or found is None or found[0] is not e.inputs[0]:
        return None
    x, axis = found
    kept = tuple(1 if a in axis else n for a, n in enumerate(x.type.shape))
    aligned = (1,) * (e.type.ndim - total.type.ndim) + total.type.shape
    if not may_overflow(x) or aligned != kept or 0 in x.type.shape:
        return None
    if len(axis) == 1:
        return softmax(Traced(x), axis[0])
    shifted = ew.exp(Traced(x) - max(Traced(x), axis, keepdims=True))
    return shifted / sum(shifted, axis, keepdims=True)


def _sigmoid(node: Node) -> Value | None:
    """e^x / (1 + e^x) = sigmoid(x): inf / inf is nan."""
    e, total = node.inputs
    if e.op != "exp" or total.op != "add" or e not in total.inputs or total.type != node.type:
        return None
    a, b = total.inputs
    return ew.sigmoid(Traced(e.inputs[0])) if 1 in (number(a), number(b)) and e.type == node.type else None


RULES = {
    "log": (_log_of_exp, _log_of_sum_of_exp, _log_of_quotient, _log_of_sigmoid, _log_of_one_plus),
    "log1p": (_log1p_of,),
    "subtract": (_exp_minus_one,),
    "divide": (_softmax, _sigmoid),
}


def stabilise(graph: Graph) -> Graph:
    """The graph with what may overflow or cancel computed in another way."""
    return rewrite(graph, table(RULES))
