"""From the text of a line to a statement.

A worksheet is read line by line, because what `dE/dw5` means depends on what has been defined above it. The parser is
lark's (LALR: no recursion, time linear in the text); nothing is ever evaluated by Python. What people type in more than
one way (`·`, `×`, `*`; `−`, `-`; `ŷ`, `yhat`; `x₁`, `x1`) is brought to one form first, and columns stay true.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache

from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from backlit.audit.syntax import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_ELEMENTS,
    MAX_LINE,
    MAX_REPEAT,
    Array,
    Binary,
    Call,
    Chain,
    Derivative,
    Expr,
    Given,
    Name,
    Number,
    Repeat,
    Statement,
    Step,
    Unary,
    WorksheetError,
    too_many,
)

# ---------------------------------------------------------------------------------------------------------------------
# Characters

_MARKS = {"\u0302": "hat", "\u0304": "bar", "\u0305": "bar", "\u0303": "tilde", "\u0307": "dot"}
_SAME = str.maketrans("−–·⋅×∗÷’′⁺𝜕\t", "--****/'''∂ ")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")


def canonical(name: str) -> str:
    """One spelling for a name: `ŷ` is yhat, `x₁` is x1."""
    letters: list[str] = []
    for c in unicodedata.normalize("NFD", name):
        letters.append(_MARKS.get(c, c))
    return "".join(letters).translate(_SUBSCRIPTS)


_WORD = r"[^\W\d](?:\w|[\u0302-\u0307])*"
_SLOPE = re.compile(rf"(?<![\w∂])(d\s+|d|∂\s*)({_WORD})(\s*/\s*)(d\s+|d|∂\s*)({_WORD})")


def mark_derivatives(line: str, is_quantity: Callable[[str], bool]) -> str:
    """`dE/dw5` as `∂E/∂w5` where E and w5 are quantities and dE is none; columns stay true."""

    def rewrite(match: re.Match[str]) -> str:
        d, of, slash, d2, by = match.groups()
        written = d.strip() == "∂" or d2.strip() == "∂"
        known = is_quantity(canonical(of)) and is_quantity(canonical(by.removesuffix("_new")))
        if not written and (not known or (d == "d" and is_quantity(canonical("d" + of)))):
            return match[0]
        return "∂" + d[1:] + of + slash + "∂" + d2[1:] + by

    return _SLOPE.sub(rewrite, line)


# ---------------------------------------------------------------------------------------------------------------------
# Grammar

_GRAMMAR = r"""
    start: given | param | step | repeat | chain
    given: "given" assignments
    param: "param" assignments
    assignments: assignment ("," assignment)*
    assignment: NAME "=" expr
    step: "step" NAME ["," "lr" "=" signed] ["," "on" NAME ("," NAME)*]
    repeat: "repeat" expr
    chain: target ("=" expr)+
    target: NAME -> name
          | NAME PRIME -> primed
          | PARTIAL NAME "/" PARTIAL NAME -> derivative

    ?expr: product
         | expr PLUS product -> binary
         | expr MINUS product -> binary
    ?product: unary
            | product TIMES unary -> binary
            | product OVER unary -> binary
            | product AT unary -> binary
    ?unary: power
          | MINUS unary -> negative
          | PLUS unary -> positive
    ?power: atom
          | atom POWER unary -> binary
          | atom SUPERSCRIPT -> superscript
    ?atom: NUMBER -> number
         | NAME -> name
         | NAME PRIME -> primed
         | NAME "(" [expr ("," expr)*] ")" -> call
         | PARTIAL NAME "/" PARTIAL NAME -> derivative
         | "(" expr ")" -> group
         | "[" [expr ("," expr)*] "]" -> array
    ?signed: NUMBER -> number
           | MINUS NUMBER -> negative_number

    NUMBER: /(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
    NAME: /[^\W\d](\w|[\u0302-\u0307])*/
    SUPERSCRIPT: /[⁰¹²³⁴⁵⁶⁷⁸⁹]+/
    PRIME: "'"
    PARTIAL: "∂"
    PLUS: "+"
    MINUS: "-"
    TIMES: "*"
    OVER: "/"
    AT: "@"
    POWER: "**" | "^"
    %ignore /[ ]+/
"""
_EXPECTED = {
    "NUMBER": "a number", "NAME": "a name", "EQUAL": "'='", "RPAR": "')'", "LPAR": "'('", "COMMA": "','", "RSQB": "']'",
    "LSQB": "'['", "PLUS": "'+'", "MINUS": "'-'", "TIMES": "'*'", "OVER": "'/'", "POWER": "'^'", "AT": "'@'",
    "PRIME": "'''", "$END": "the end of the line", "SUPERSCRIPT": "a power", "LR": "lr", "ON": "on", "GIVEN": "given",
    "PARAM": "param", "STEP": "step", "REPEAT": "repeat",
    "PARTIAL": "a derivative",
}  # fmt: skip


def _depth(column: int, *children: Expr) -> int:
    """How deep an expression over these children is nested. Raises WorksheetError past the limit."""
    depth = 1 + max((getattr(c, "depth", 0) for c in children), default=0)
    if depth > MAX_DEPTH:
        raise too_many("the expression is nested too deeply", MAX_DEPTH, column)
    return depth


@v_args(inline=True)
class _Build(Transformer):
    """Called by the parser bottom-up, so that a deep expression is stopped before anything recursive sees it."""

    def number(self, token: Token) -> Number:
        digits = re.sub(r"[eE].*|\D", "", token)
        exponent = re.search(r"[eE]([+-]?\d+)", token)
        if len(digits) > MAX_DIGITS or (exponent and (len(exponent[1]) > 5 or abs(int(exponent[1])) > 300)):
            raise WorksheetError(f"the number {str(token)[:20]}... has too many digits", column=token.column or 1)
        return Number(str(token), token.column or 1)

    def negative_number(self, sign: Token, token: Token) -> Number:
        return Number("-" + self.number(token).text, sign.column or 1)

    def name(self, token: Token) -> Name:
        text = canonical(token)
        if text.endswith("_new"):
            return Name(text.removesuffix("_new"), True, token.column or 1)
        return Name(text, False, token.column or 1)

    def primed(self, token: Token, _: Token) -> Name:
        return Name(canonical(token), True, token.column or 1)

    def derivative(self, _: Token, of: Token, __: Token, by: Token) -> Derivative:
        return Derivative(canonical(of), canonical(by), (of.column or 2) - 1)

    def binary(self, left: Expr, op: Token, right: Expr) -> Expr:
        symbol = "^" if op == "**" else str(op)
        column = op.column or 1
        return Binary(symbol, left, right, column, _depth(column, left, right))

    def superscript(self, base: Expr, power: Token) -> Expr:
        column = power.column or 1
        exponent = Number(power.translate(_SUPERSCRIPTS), column)
        return Binary("^", base, exponent, column, _depth(column, base))

    def negative(self, sign: Token, operand: Expr) -> Expr:
        column = sign.column or 1
        if isinstance(operand, Number) and not operand.text.startswith("-"):
            return Number("-" + operand.text, column)
        return Unary(operand, column, _depth(column, operand))

    def positive(self, _: Token, operand: Expr) -> Expr:
        return operand

    def group(self, inner: Expr) -> Expr:
        return inner

    def call(self, name: Token, *arguments: Expr | None) -> Expr:
        inner = tuple(a for a in arguments if a is not None)
        column = name.column or 1
        return Call(canonical(name), inner, column, _depth(column, *inner))

    def array(self, *items: Expr | None) -> Expr:
        inner = tuple(i for i in items if i is not None)
        column = inner[0].column - 1 if inner else 1
        if len(inner) > MAX_ELEMENTS:
            raise too_many("the array has too many elements", MAX_ELEMENTS, column)
        return Array(inner, column, _depth(column, *inner))

    def assignment(self, name: Token, value: Expr) -> tuple[Name, Expr]:
        return Name(canonical(name), False, name.column or 1), value

    def assignments(self, *pairs: tuple[Name, Expr]) -> tuple[tuple[Name, Expr], ...]:
        return pairs

    def given(self, pairs: tuple[tuple[Name, Expr], ...]) -> Given:
        return Given(pairs, trainable=False)

    def param(self, pairs: tuple[tuple[Name, Expr], ...]) -> Given:
        return Given(pairs, trainable=True)

    def step(self, loss: Token, rate: Number | None, *on: Token | None) -> Step:
        if rate is None:
            raise WorksheetError("a step needs its learning rate", column=1, fix="write: step E, lr = 0.5")
        names = tuple(Name(canonical(n), False, n.column or 1) for n in on if n is not None)
        return Step(Name(canonical(loss), False, loss.column or 1), rate.value, names)

    def repeat(self, count: Expr) -> Repeat:
        n = _whole(count)
        if n is None:
            raise WorksheetError("repeat takes a whole number", column=count.column, fix="write: repeat 9999")
        if n > MAX_REPEAT:
            raise too_many("too many steps", MAX_REPEAT, count.column)
        return Repeat(n)

    def chain(self, left: Name | Derivative, *parts: Expr) -> Chain:
        return Chain(left, parts)

    def start(self, statement: Statement) -> Statement:
        return statement


def _whole(expr: Expr) -> int | None:
    """A whole number, or a power of two of them, `10^4`."""
    match expr:
        case Number(text=text) if re.fullmatch(r"\d{1,12}", text):
            return int(text)
        case Binary("^", Number(text=base), Number(text=power)) if re.fullmatch(r"\d{1,3} \d{1,2}", f"{base} {power}"):
            return int(base) ** int(power)
        case _:
            return None


@cache
def _lark() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=_Build(), maybe_placeholders=True)


def parse_line(text: str, names: Collection[str] | Callable[[str], bool]) -> Statement | None:
    """The statement on a line, None for an empty line or a comment. `names` are the quantities defined above it.

    Raises WorksheetError with the column (the caller knows the line).
    """
    if len(text) > MAX_LINE:
        raise too_many("the line is too long", MAX_LINE, MAX_LINE)
    line = text.split("#", 1)[0].translate(_SAME).rstrip()
    if not line.strip():
        return None
    line = mark_derivatives(line, names if callable(names) else names.__contains__)
    try:
        return _lark().parse(line)  # type: ignore[return-value]
    except UnexpectedInput as e:
        ended = isinstance(e, UnexpectedToken) and e.token.type == "$END"
        column = len(line) + 1 if ended else e.column
        expected = sorted(
            {_EXPECTED.get(t, t) for t in getattr(e, "accepts", None) or getattr(e, "allowed", None) or ()}
        )
        found = f"{line[column - 1]!r}" if column <= len(line) else "the end of the line"
        raise WorksheetError(
            f"{found} does not fit here",
            column=column,
            fix=f"expected {', '.join(expected)}" if expected else "",
        ) from None
    except VisitError as e:
        if isinstance(e.orig_exc, WorksheetError):
            raise e.orig_exc from None
        raise
