"""How formulas are written, and written as plain text: `sigmoid(0.4·0.5 + 0.1)`, `∂E/∂w5`.

Glyphs and precedence come from the ops' own `Notation`; a dialect says how fractions, powers, indices and signs look.
An argument is put in parentheses exactly where the reading would change without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backlit.explanation.steps import Apply, Expression, Number, Operand, Rest, Symbol
from backlit.ops.record import OPS

ATOM, POWER, SIGN, PRODUCT, SUM, COMPARE, CHOICE = 100, 40, 30, 20, 10, 5, 1


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one output format writes.

    symbol, number   a symbol, the text of a number
    rest             the folded part of a sum, in symbols (its number is None) or in numbers
    operation        (op, written arguments with precedence) -> written with precedence; None: in the common way
    times, plus, minus, negative, comma     what stands between and before
    group            puts parentheses around
    leaf             an operand with what was written for it
    """

    symbol: Callable[[Symbol], str]
    number: Callable[[str], str]
    rest: Callable[[Rest, bool], str]
    operation: Callable[[Apply, list[tuple[str, int]]], tuple[str, int] | None]
    glyph: Callable[[str], str]
    group: Callable[[str], str]
    times: str = "·"
    plus: str = " + "
    minus: str = " - "
    negative: str = "-"
    comma: str = ", "
    leaf: Callable[[Operand, str], str] = lambda operand, written: written


def write(e: Expression, dialect: Dialect, numbers: bool) -> str:
    """An expression in symbols, or (`numbers`) with the printed number in the place of each symbol."""
    return _write(e, dialect, numbers, True)[0]


def _write(e: Expression, d: Dialect, numbers: bool, first: bool) -> tuple[str, int]:
    """The text, and how tightly its outermost operation binds. `first`: nothing stands to the left of it."""
    if isinstance(e, Operand | Number):
        if isinstance(e, Number) or numbers:
            text = e.text or ("[…]" if hasattr(e.value, "shape") else f"{e.value:.6g}")
            written = d.number(text)
            if isinstance(e, Operand):
                written = d.leaf(e, written)
            if text.startswith("-"):
                return (written, SIGN) if first else (d.group(written), ATOM)
            return written, ATOM
        return d.leaf(e, d.symbol(e.symbol)), PRODUCT if e.symbol.over is not None else ATOM  # a fraction
    match e.op:
        case "sum":
            return "".join(_terms(e, d, numbers, first)), SUM
        case "product":
            factors = []
            for i, a in enumerate(e.args):
                text, binds = _write(a, d, numbers, first and i == 0)
                tight = PRODUCT if i == 0 or not (isinstance(a, Apply) and a.op == "divide") else PRODUCT + 1
                factors.append(d.group(_write(a, d, numbers, True)[0]) if binds < tight else text)
            return d.times.join(factors), PRODUCT
        case "negative":
            text = _inside(e.args[0], d, numbers, PRODUCT, first=False)
            return (d.negative + text, SIGN) if first else (d.group(d.negative + text), ATOM)
    found = d.operation(e, [_write(a, d, numbers, True) for a in e.args])
    if found is not None:
        return found
    notation = OPS[e.op].notation if e.op in OPS else None
    if notation is not None and notation.form == "infix":
        binds = notation.precedence
        left = _inside(
            e.args[0], d, numbers, binds + (e.op == "pow"), first=first and (e.op == "divide" or binds == COMPARE)
        )
        right = _inside(e.args[1], d, numbers, binds + 1, first=False)
        return left + d.glyph(e.op) + right, binds
    if notation is not None and notation.form == "prefix":
        return f"{d.glyph(e.op)}{_inside(e.args[0], d, numbers, SIGN, first=False)}", SIGN
    inside = d.comma.join(
        [_write(a, d, numbers, True)[0] for a in e.args] + ([d.rest(e.rest, numbers)] if e.rest else [])
    )
    return f"{d.glyph(e.op)}{d.group(inside)}", ATOM


def _inside(e: Expression, d: Dialect, numbers: bool, binds: int, first: bool) -> str:
    text, own = _write(e, d, numbers, first)
    return d.group(_write(e, d, numbers, True)[0]) if own < binds else text


def pieces(e: Expression, d: Dialect, numbers: bool) -> list[str]:
    """An expression in pieces between which a line may be broken: the terms of a sum, each with its sign."""
    if isinstance(e, Apply) and e.op == "sum":
        return _terms(e, d, numbers, True)
    return [write(e, d, numbers)]


def _terms(e: Apply, d: Dialect, numbers: bool, first: bool) -> list[str]:
    """The terms of a sum with their signs."""
    found: list[str] = []
    for i, a in enumerate(e.args):
        sign = d.plus if i else ""
        if isinstance(a, Apply) and a.op == "negative":
            sign, a = (d.minus if i else d.negative), a.args[0]
        elif isinstance(a, Number) and a.text.startswith("-") and i:
            sign, a = d.minus, Number(-a.value, a.text[1:])
        text, binds = _write(a, d, numbers, first and not found and not sign)
        loose = binds < SUM or (binds == SUM and bool(sign))  # the left end of a sum needs no parentheses
        found.append(sign + (d.group(_write(a, d, numbers, True)[0]) if loose else text))
    if e.rest is not None:
        found.append((d.plus if found else "") + d.rest(e.rest, numbers))
    return found


# --- plain text -------------------------------------------------------------------------------------------------------

WORDS = {"terms": "more terms", "elements": "more", "paths": "other paths", "rounding": "rounding"}


def _plain_symbol(s: Symbol) -> str:
    if s.over is not None:
        return f"∂{_plain_symbol(s.over)}/∂{_plain_symbol(Symbol(s.name, s.layer, s.index, s.step))}"
    base = ("δ" if s.name == "delta" else s.name) + s.layer
    where = ([f"t={s.step}"] if s.step is not None else []) + [str(i) for i in s.index]
    return base + ("'" if s.new else "") + (f"[{', '.join(where)}]" if where else "")


def _plain_rest(rest: Rest, numbers: bool) -> str:
    if not numbers:
        return f"⟨{label(rest)}⟩"
    return f"{f'({rest.text})' if rest.text.startswith('-') else rest.text}⟨{label(rest)}⟩"


def _plain_operation(e: Apply, args: list[tuple[str, int]]) -> tuple[str, int] | None:
    match e.op:
        case "bracket":
            return f"[{args[0][0]}]", ATOM
        case "where":
            condition, a, b = (text for text, _ in args)
            return f"({a} if {condition} else {b})", ATOM
        case "abs":
            return f"|{args[0][0]}|", ATOM
        case "hadamard":
            return " ⊙ ".join(text if binds >= PRODUCT else f"({text})" for text, binds in args), PRODUCT
        case "outer":
            return " ⊗ ".join(text if binds > PRODUCT else f"({text})" for text, binds in args), PRODUCT
        case "matmul":
            left, right = (
                text if binds > least else f"({text})"
                for (text, binds), least in zip(args, (SUM, PRODUCT), strict=True)
            )
            return f"{left} @ {right}", PRODUCT
        case "transpose":
            return f"{args[0][0] if args[0][1] == ATOM else f'({args[0][0]})'}ᵀ", ATOM
        case "sum_of" | "max_of" | "min_of":
            axes = ", ".join(map(str, dict(e.params)["axis"]))
            kept = ", keepdims" if dict(e.params)["keepdims"] else ""
            return f"{e.op.removesuffix('_of')}({args[0][0]}, axis={axes}{kept})", ATOM
        case "reshape" | "broadcast_to":
            shape = "×".join(map(str, dict(e.params)["shape"])) or "1"
            return f"{e.op.removesuffix('_to')}({args[0][0]}, {shape})", ATOM
        case "contract":
            return f"contract({args[0][0]}, {args[1][0]}, {dict(e.params)['spec']})", ATOM
    return None


def _plain_glyph(op: str) -> str:
    if op in OPS:
        notation = OPS[op].notation
        glyph = {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}.get(notation.glyph, notation.glyph)
        return f" {glyph} " if notation.form == "infix" and op not in ("divide", "pow") else glyph
    return op


TEXT = Dialect(
    symbol=_plain_symbol,
    number=lambda text: text,
    rest=_plain_rest,
    operation=_plain_operation,
    glyph=_plain_glyph,
    group=lambda text: f"({text})",
)


def label(rest: Rest) -> str:
    """What a folded part is: `12 more terms`."""
    if rest.what == "rounding":
        return "rounding"
    word = WORDS[rest.what]
    return f"{rest.count} {word.removesuffix('s') if rest.count == 1 else word}"


def plain(symbol: Symbol) -> str:
    """A symbol as plain text: `z1[0]`, `∂E/∂w5`."""
    return _plain_symbol(symbol)
