"""Making, evaluating and taking apart expressions. All here is ordinary school algebra on small trees.

The constructors drop what says nothing (times 1, plus 0, a number negated twice) and keep sums and products flat, so
that the formula that autodiff wrote by rote reads as a person would write it. They never change a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backlit.explanation.steps import Apply, Expression, Number, Operand, Rest, operands
from backlit.ops.record import OPS

ZERO, ONE = Number(0.0), Number(1.0)


def is_number(e: Expression, value: float) -> bool:
    """Whether the expression is this very number."""
    return (
        isinstance(e, Number)
        and isinstance(e.value, float | int)
        and not isinstance(e.value, bool)
        and e.value == value
    )


def total(terms: Sequence[Expression], rest: Rest | None = None) -> Expression:
    """The sum of the terms, flat; two equal terms become twice the term."""
    flat: list[Expression] = []
    for term in terms:
        if isinstance(term, Apply) and term.op == "sum" and (term.rest is None or rest is None):
            flat.extend(term.args)
            rest = rest or term.rest
        elif not is_number(term, 0.0):
            flat.append(term)
    if len(flat) == 2 and flat[0] == flat[1] and not isinstance(flat[0], Number):
        flat = [product([Number(2.0), flat[0]])]
    if not flat and rest is None:
        return ZERO
    if len(flat) == 1 and rest is None:
        return flat[0]
    return Apply("sum", tuple(flat), rest)


def negative(e: Expression) -> Expression:
    """-e."""
    if isinstance(e, Number) and not isinstance(e.value, bool):
        return e if is_number(e, 0.0) else Number(-e.value)
    if isinstance(e, Apply) and e.op == "negative":
        return e.args[0]
    if isinstance(e, Apply) and e.op == "product" and isinstance(e.args[0], Number):
        return product([Number(-e.args[0].value), *e.args[1:]])
    if isinstance(e, Apply) and e.op == "divide" and isinstance(e.args[0], Number):
        return divide(negative(e.args[0]), e.args[1])
    return Apply("negative", (e,))


def product(factors: Sequence[Expression]) -> Expression:
    """The product of the factors, flat, a sign in front."""
    flat: list[Expression] = []
    minus = False
    for f in factors:
        if isinstance(f, Apply) and f.op == "negative":
            minus, f = not minus, f.args[0]
        if isinstance(f, Apply) and f.op == "product":
            flat.extend(f.args)
        elif is_number(f, -1.0):
            minus = not minus
        elif not is_number(f, 1.0):
            flat.append(f)
    if len(flat) > 1 and flat[-1] == flat[-2] and isinstance(flat[-1], Operand):
        flat[-2:] = [power(flat[-1], Number(2.0))]
    if any(is_number(f, 0.0) for f in flat):
        return ZERO
    found: Expression = ONE if not flat else flat[0] if len(flat) == 1 else Apply("product", tuple(flat))
    return negative(found) if minus else found


def divide(a: Expression, b: Expression) -> Expression:
    """a / b."""
    if is_number(b, 1.0) or (is_number(a, 0.0) and isinstance(b, Number) and np.all(b.value)):
        return a
    if isinstance(a, Apply) and a.op == "negative":
        return negative(Apply("divide", (a.args[0], b)))
    return Apply("divide", (a, b))


def power(a: Expression, n: Expression) -> Expression:
    """a^n."""
    return a if is_number(n, 1.0) else Apply("pow", (a, n))


def bracket(condition: Expression, holds: bool = True) -> Expression:
    """1 where the condition holds, else 0."""
    return Apply("bracket", (condition if holds else opposite(condition),))


_OPPOSITE = {
    "greater": "less_equal",
    "less": "greater_equal",
    "greater_equal": "less",
    "less_equal": "greater",
    "equal": "not_equal",
    "not_equal": "equal",
}


def opposite(condition: Expression) -> Expression:
    """The condition that holds where this one does not (for numbers that are numbers)."""
    if isinstance(condition, Apply) and condition.op in _OPPOSITE:
        return replace(condition, op=_OPPOSITE[condition.op])
    if isinstance(condition, Number):
        return Number(not condition.value)
    return Apply("bitwise_invert", (condition,))


def extreme(op: str, args: Sequence[Expression], rest: Rest | None = None) -> Expression:
    """The largest ("max") or smallest ("min") of some expressions."""
    flat = [b for a in args for b in (a.args if isinstance(a, Apply) and a.op == op and a.rest is None else (a,))]
    return flat[0] if len(flat) == 1 and rest is None else Apply(op, tuple(flat), rest)


_MAKERS: dict[str, Callable[..., Expression]] = {
    "add": lambda a, b: total([a, b]),
    "subtract": lambda a, b: total([a, negative(b)]),
    "multiply": lambda a, b: product([a, b]),
    "divide": divide,
    "negative": negative,
    "pow": power,
    "maximum": lambda a, b: extreme("max", [a, b]),
    "minimum": lambda a, b: extreme("min", [a, b]),
}


def apply(op: str, args: Sequence[Expression], params: Sequence[tuple[str, Any]] = ()) -> Expression:
    """The application of an elementwise op."""
    maker = _MAKERS.get(op)
    return maker(*args) if maker else Apply(op, tuple(args), params=tuple(params))


# --- values -----------------------------------------------------------------------------------------------------------


def evaluate(e: Expression, read: Callable[[Expression | Rest], Any]) -> Any:
    """The number that an expression comes to; `read` gives the number of an operand, a number or a rest."""
    if not isinstance(e, Apply):
        return read(e)
    values = [evaluate(a, read) for a in e.args]
    return combine(e.op, values, read(e.rest) if e.rest is not None else None, dict(e.params))


def combine(op: str, values: Sequence[Any], rest: Any = None, params: dict[str, Any] | None = None) -> Any:
    """What an operation of an expression gives for these numbers, in Python's own arithmetic or NumPy's float64."""
    match op:
        case "sum":
            found: Any = values[0] if values else 0.0
            for v in values[1:]:
                found = found + v
            return found if rest is None else found + rest
        case "product":
            found = values[0]
            for v in values[1:]:
                found = found * v
            return found
        case "max" | "min":
            everything = [*values] if rest is None else [*values, rest]
            return (np.maximum if op == "max" else np.minimum).reduce(everything)
        case "bracket":
            return np.asarray(values[0], np.float64) if np.ndim(values[0]) else float(values[0])
    with np.errstate(all="ignore"):
        rule = WHOLE.get(op) or OPS[op].numpy
        found = np.asarray(rule(*(np.asarray(v) for v in values), **(params or {})))
    return found if found.ndim else found.item()


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


WHOLE: dict[str, Callable[..., Any]] = {
    "matmul": lambda a, b: a @ b,
    "outer": np.multiply.outer,
    "transpose": lambda a: a.T,
    "hadamard": lambda *factors: math.prod(factors, start=np.float64(1.0)),
    "sum_of": lambda a, axis, keepdims: a.sum(axis, keepdims=keepdims),
    "max_of": lambda a, axis, keepdims: a.max(axis, keepdims=keepdims),
    "min_of": lambda a, axis, keepdims: a.min(axis, keepdims=keepdims),
    "row_sums": lambda a: a.sum(-1, keepdims=True),
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
}
"""What operations on whole arrays give, beside the ops' own semantics."""


def own_value(e: Expression | Rest) -> Any:
    """The unrounded number of an operand, a number or a rest."""
    assert not isinstance(e, Apply)
    return e.value


def value_of(e: Expression) -> Any:
    """The number that an expression comes to from the unrounded numbers of the run."""
    return evaluate(e, own_value)


def same(a: float, b: float, relative: float) -> bool:
    """Whether two numbers agree, nan with nan and inf with inf."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= relative * max(abs(a), abs(b)))


# --- derivatives ------------------------------------------------------------------------------------------------------


def linear_parts(
    e: Expression, wanted: Callable[[Operand], bool]
) -> tuple[list[tuple[Operand, Expression]], Expression]:
    """An expression that is linear in the wanted operands, as (operand, factor) pairs, each operand once, and what is
    left.

    The sum of operand times factor, plus what is left, is the expression.
    """
    found: dict[Operand, list[Expression]] = {}
    left: list[Expression] = []

    def visit(e: Expression, factors: list[Expression]) -> None:
        if isinstance(e, Operand) and wanted(e):
            found.setdefault(e, []).append(product(factors))
        elif not any(wanted(o) for o in operands(e)):
            left.append(product([*factors, e]))
        elif isinstance(e, Apply):
            _visit(e, factors)

    def _visit(e: Apply, factors: list[Expression]) -> None:
        match e.op:
            case "sum":
                for a in e.args:
                    visit(a, factors)
                if e.rest is not None:
                    left.append(product([*factors, Apply("sum", (), e.rest)]))
            case "negative":
                visit(e.args[0], [Number(-1.0), *factors])
            case "divide":
                parts, rest = linear_parts(e.args[0], wanted)
                for o, f in parts:
                    found.setdefault(o, []).append(product([*factors, divide(f, e.args[1])]))
                if not is_number(rest, 0.0):
                    left.append(product([*factors, divide(rest, e.args[1])]))
            case "product":
                i = next(i for i, a in enumerate(e.args) if any(wanted(o) for o in operands(a)))
                visit(e.args[i], [*factors, *e.args[:i], *e.args[i + 1 :]])
            case "where":
                condition, a, b = e.args
                visit(a, [*factors, bracket(condition)])
                visit(b, [*factors, bracket(condition, False)])

    visit(e, [])
    return [(o, total(terms)) for o, terms in found.items()], total(left)


def substituted(e: Expression, change: Callable[[Operand | Number | Rest], Any]) -> Expression:
    """The same tree with every leaf and every rest replaced."""
    if not isinstance(e, Apply):
        return change(e)
    rest = change(e.rest) if e.rest is not None else None
    return replace(e, args=tuple(substituted(a, change) for a in e.args), rest=rest)
