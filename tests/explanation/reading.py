"""Reading printed equations back: a small evaluator of the plain-text notation, written apart from the code that
prints.

A line is true when the numbers printed in it, put together as it says, give its value at the last printed digit.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

import numpy as np

from backlit.ops.record import OPS

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf\b|nan\b)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<note>⟨[^⟩]*⟩)|(?P<sign>//|<<|>>|[-+·/^()\[\],|&~<>=≤≥≠@⊙⊗ᵀ×]))"
)


class Reader:
    """A recursive-descent parser that computes as it goes."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            assert found, f"cannot read {text[at : at + 20]!r} in {text!r}"
            at = found.end()
            kind = found.lastgroup
            if kind != "note":  # what a fold says about itself
                self.tokens.append((kind, found[kind]))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        if self.peek() in wanted and self.peek():
            self.at += 1
            return self.tokens[self.at - 1][1]
        return ""

    def expect(self, wanted: str) -> None:
        assert self.take(wanted), f"expected {wanted!r}, found {self.peek()!r}"

    def choice(self):
        value = self.bits()
        if self.take("if"):
            condition = self.bits()
            assert self.take("else")
            other = self.bits()
            return np.where(condition, value, other)[()]
        return value

    def bits(self):
        value = self.comparison()
        while sign := self.take("&", "|b"):
            other = self.comparison()
            value = value and other if sign == "&" else value or other
        return value

    def comparison(self):
        value = self.sum()
        tests = {"<": "less", ">": "greater", "=": "equal", "≤": "less_equal", "≥": "greater_equal", "≠": "not_equal"}
        while sign := self.take(*tests):
            value = OPS[tests[sign]].numpy(np.asarray(value), np.asarray(self.sum()))[()]
        return value

    def sum(self):
        value = -self.product() if self.take("-") else self.product()
        while sign := self.take("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self):
        value = self.power()
        while sign := self.take("·", "⊙", "⊗", "@", "/", "//", "mod"):
            other = self.power()
            with np.errstate(all="ignore"):
                value = {
                    "·": lambda a, b: a * b,
                    "⊙": lambda a, b: a * b,
                    "⊗": np.multiply.outer,
                    "@": lambda a, b: a @ b,
                    "/": np.divide,
                    "//": np.floor_divide,
                    "mod": np.remainder,
                }[sign](value, other)
        return value

    def power(self):
        value = self.atom()
        while self.take("ᵀ"):
            value = value.T
        if self.take("^"):
            with np.errstate(all="ignore"):
                return np.power(np.asarray(value, np.float64)[()], self.power())
        return value

    def items(self):
        """A list of numbers, or a condition in brackets: 1 where it holds, else 0."""
        found = [self.choice()]
        while self.take(","):
            found.append(self.choice())
        self.expect("]")
        if len(found) == 1 and np.asarray(found[0]).dtype == bool:
            return np.asarray(found[0], np.float64)[()]
        return np.array(found)

    def sizes(self):
        """Sizes or axes after the first argument: `2×3`, `axis=0, 1`."""
        if self.take("axis"):
            self.expect("=")
        found = [int(self.atom())] if self.peek() != ")" else []
        while self.take("×", ","):
            if not self.take("keepdims"):
                found.append(int(self.atom()))
            else:
                return tuple(found), True
        return tuple(found), False

    def atom(self):
        if self.take("("):
            value = self.choice()
            self.expect(")")
            return value
        if self.take("["):
            return self.items()
        if self.take("|"):
            value = self.choice()
            self.expect("|")
            return abs(value)
        if self.take("~"):
            return not self.atom()
        if self.take("-"):
            return -self.atom()
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return np.float64(text)
        assert kind == "name", f"cannot read {text!r}"
        self.expect("(")
        arguments = [self.choice()]
        if text in _SHAPED and not (text in ("max", "min") and self.tokens[self.at + 1][1] != "axis"):
            self.expect(",")
            value = _SHAPED[text](np.asarray(arguments[0]), *self.sizes())
            self.expect(")")
            return value
        while self.take(","):
            arguments.append(self.choice())
        self.expect(")")
        if text in ("max", "min"):
            return getattr(np, text)(arguments)
        if text in _WHOLE:
            return _WHOLE[text](*arguments)
        with np.errstate(all="ignore"):
            return OPS[text].numpy(*map(np.asarray, arguments))[()]


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# what stands in formulas of whole arrays
_SHAPED = {
    "sum": lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims),
    "max": lambda x, axis, keepdims: x.max(axis, keepdims=keepdims),
    "min": lambda x, axis, keepdims: x.min(axis, keepdims=keepdims),
    "reshape": lambda x, shape, _: x.reshape(shape),
    "broadcast": lambda x, shape, _: np.broadcast_to(x, shape),
}
_WHOLE = {
    "row_sums": lambda x: np.sum(x, -1, keepdims=True),
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
}
# what is told by name alone, without all its settings
_NAMED_ONLY = (
    "windows(",
    "contract(",
    "gather(",
    "slice(",
    "pad(",
    "flip(",
    "concat(",
    "fold(",
    "scatter_add(",
    "transpose(",
)


def read(text: str) -> float:
    """The number that a printed expression comes to."""
    return float(read_array(text))


def read_array(text: str):
    """The numbers that a printed expression comes to."""
    reader = Reader(text)
    value = reader.choice()
    assert not reader.peek(), f"{reader.peek()!r} is left over in {text!r}"
    return np.asarray(value)


def agrees(value: float, printed: str) -> bool:
    """Whether a number rounds to what is printed."""
    if printed in ("nan", "inf", "-inf"):
        return str(float(value)) == printed
    if not math.isfinite(value):
        return False
    places = Decimal(printed).as_tuple().exponent
    unit = 10.0 ** float(places if "." in printed or "e" in printed else 0)
    return abs(value - float(printed)) <= 0.5 * unit * (1 + 1e-9)


def check_lines(derivation) -> int:
    """Assert that every printed line of a derivation is true; how many there are."""
    lines = 0
    for step in derivation.steps:
        if step.expression is None or not step.complete:
            continue
        if derivation.options.view == "matrix" and any(name in step.substituted for name in _NAMED_ONLY):
            continue
        found, printed = read_array(step.substituted), re.findall(r"[^\s,\[\]]+", step.text)
        assert found.size == len(printed), f"({step.number}) {step.substituted} is {found}, printed {step.text}"
        for value, text in zip(found.ravel(), printed, strict=True):
            assert agrees(float(value), text), f"({step.number}) {step.substituted} is {found}, printed {step.text}"
        lines += 1
    return lines


def check_locals(derivation) -> int:
    """Assert that each d(r)/d(q) of the chain rule is what its name says; how many there are.

    A line can be true and yet name the wrong derivative. So q is moved in the forward equation of r, as it is written
    there, all else held: that knows nothing of the backward pass.
    """
    from backlit.explanation.expressions import evaluate
    from backlit.explanation.steps import Apply

    forward = {(s.quantity, s.element): s for s in derivation if s.kind in ("forward", "loss")}
    count = 0
    for step in derivation:
        chain = step.chain if step.kind in ("backward", "gradient") else None
        terms = () if chain is None else chain.args if chain.op == "sum" else (chain,)
        for term in terms:
            if not (isinstance(term, Apply) and term.op == "product" and len(term.args) == 2):
                continue
            after, local = term.args
            source = forward.get(("n" + after.quantity[1:], after.element))
            if source is None or source.folded:
                continue
            q, h = ("n" + step.quantity[1:], step.element), 1e-6

            def moved(by, q=q):
                return lambda e: e.value + by if getattr(e, "quantity", None) == q[0] and e.element == q[1] else e.value

            up, down = (evaluate(source.expression, moved(by)) for by in (h, -h))
            slope = (float(up) - float(down)) / (2 * h)
            if math.isfinite(slope) and math.isfinite(local.value):
                assert abs(slope - local.value) <= 1e-5 * max(1.0, abs(slope)), (
                    f"({step.number}) {local.symbol} is {local.value}, and moving it gives {slope}"
                )
                count += 1
    return count
