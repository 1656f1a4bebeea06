"""One plain sentence for each step: what happens in it, said with the numbers of the run where they decide."""

from __future__ import annotations

from dataclasses import replace

from backlit.explanation.execution import Execution
from backlit.explanation.expressions import value_of
from backlit.explanation.notation import plain
from backlit.explanation.quantities import Quantity
from backlit.explanation.steps import Apply, Expression, Operand, Step, parts


def sentence(step: Step, q: Quantity, run: Execution) -> str:
    """What a step says, in words."""
    match step.kind:
        case "given":
            return _given(q)
        case "forward" | "loss" | "update":
            return _forward(step, q)
        case _:
            return _backward(step, q, run)


def _given(q: Quantity) -> str:
    if q.node.op == "input":
        return "Given." if q.node.type.dtype.kind == "f" else "Given, as a whole number or a truth value."
    return "Drawn or counted in the run."


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _forward(step: Step, q: Quantity) -> str:
    e = step.expression
    name = plain(step.symbol)
    if step.kind == "update" and step.symbol.new and step.operands:
        return f"The new value, from {_listed(step)}."
    tail = f" {_count(step.folded, 'more term')} in one number." if step.folded and _top(e) != "max" else ""
    match e:
        case Operand():
            return f"{name} is {plain(e.symbol)} by another name."
        case Apply(op="sum", args=args):
            products = sum(isinstance(a, Apply) and a.op == "product" for a in args)
            more = f" and {_count(len(args) - products, 'further term')}" if products < len(args) else ""
            if products > 1 or (products and more):
                return f"{name} adds up {_count(products, 'product')}{more}.{tail}"
            return f"{name} adds up {_count(len(args), 'term')}.{tail}"
        case Apply(op="max" | "min", args=args):
            best = max if e.op == "max" else min
            winner = best((a for a in args if isinstance(a, Operand)), key=lambda a: a.value, default=None)
            word = "largest" if e.op == "max" else "smallest"
            of = len(args) + step.folded
            return (
                f"{plain(winner.symbol)} is the {word} of {of}, so {name} takes its value."
                if winner
                else f"{name} is the {word} of {of}."
            )
        case Apply(op="relu", args=(Operand() as z,)):
            return (
                f"{plain(z.symbol)} is positive and passes unchanged."
                if z.value > 0
                else f"{plain(z.symbol)} is not positive, so {name} is 0."
            )
        case Apply(op=op, args=(Operand() as z,)) if op in _FUNCTIONS:
            return f"{name} is {_FUNCTIONS[op]} of {plain(z.symbol)}."
    if step.kind == "loss":
        return f"{name} is the number whose gradient is wanted.{tail}"
    return f"{name} follows from {_listed(step)}.{tail}"


_FUNCTIONS = {
    "sigmoid": "the logistic function",
    "tanh": "the hyperbolic tangent",
    "exp": "the exponential",
    "log": "the natural logarithm",
    "sqrt": "the square root",
    "abs": "the size",
    "softplus": "the softplus",
}


def _top(e: Expression | None) -> str:
    return e.op if isinstance(e, Apply) else ""


def _listed(step: Step) -> str:
    names = [plain(o.symbol) for o in step.operands[:4]]
    more = len(step.operands) - len(names)
    if not names:
        return "numbers of the formula alone"
    if more:
        return ", ".join(names) + f" and {more} more"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _backward(step: Step, q: Quantity, run: Execution) -> str:
    if q.kind == "helper":
        return "A part of the gradient that is used more than once."
    name = _by(step)
    tail = f" {_count(step.folded, 'more term')} in one number." if step.folded else ""
    shut = [p for p in parts(step.expression) if isinstance(p, Apply) and p.op == "bracket" and not _holds(p)]
    if shut and step.value == 0:
        return f"Nothing passes here: the condition in brackets does not hold.{tail}"
    if q.node in run.closed:
        if step.chain is None:
            return f"Softmax and cross-entropy together: the probability less the target.{tail}"
        return f"Through softmax, whose Jacobian is p_i (δ_ij - p_j).{tail}"
    if isinstance(step.expression, Operand):
        return f"{name} enters unchanged, so the gradient is the same."
    chain = step.chain
    single = chain.args[1] if isinstance(chain, Apply) and chain.op == "product" and len(chain.args) == 2 else None
    if isinstance(single, Operand) and single.symbol.over is not None:
        return f"{name} reaches the loss only through {plain(single.symbol.over)}."
    ways = len({o for o in step.operands if o.quantity.startswith("g")}) + step.folded
    if ways > 1:
        return f"{name} reaches the loss in {ways} ways, and they add up.{tail}"
    if ways == 1:
        return f"{name} reaches the loss through what comes after it, and directly."
    return (
        f"The loss depends on {name} directly." if step.operands else f"The loss changes with {name} at a fixed rate."
    )


def _by(step: Step) -> str:
    """The quantity that a gradient is taken by, as text."""
    s = step.symbol
    return plain(replace(s, name="z") if s.name == "delta" else replace(s, over=None))


def _holds(p: Apply) -> bool:
    return bool(value_of(p))
