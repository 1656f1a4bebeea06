"""How formulas are written: plain text and LaTeX, from the same trees.

Glyphs and precedence come from the ops' own `Notation`; a dialect says how fractions, powers, indices and signs look. An
argument is put in parentheses exactly where the reading would change without them.
"""

from __future__ import annotations

import re
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
    operation        (op, written arguments with their precedence) -> written with precedence, or None for the common way
    times, minus     signs
    group            puts parentheses around
    """

    symbol: Callable[[Symbol], str]
    number: Callable[[str], str]
    rest: Callable[[Rest, bool], str]
    operation: Callable[[Apply, list[tuple[str, int]]], tuple[str, int] | None]
    glyph: Callable[[str], str]
    times: str
    group: Callable[[str], str]
    leaf: Callable[[Operand, str], str] = lambda operand, written: written


def write(e: Expression, dialect: Dialect, numbers: bool) -> str:
    """An expression in symbols, or (`numbers`) with the printed number in the place of each symbol."""
    return _write(e, dialect, numbers, True)[0]


def _write(e: Expression, d: Dialect, numbers: bool, first: bool) -> tuple[str, int]:
    """The text, and how tightly its outermost operation binds. `first`: nothing stands to the left of it."""
    if isinstance(e, Operand | Number):
        if isinstance(e, Number) or numbers:
            text = e.text or f"{e.value:.6g}"
            written = d.number(text)
            if isinstance(e, Operand):
                written = d.leaf(e, written)
            if text.startswith("-"):
                return (written, SIGN) if first else (d.group(written), ATOM)
            return written, ATOM
        return d.leaf(e, d.symbol(e.symbol)), PRODUCT if e.symbol.over is not None else ATOM  # a fraction
    match e.op:
        case "sum":
            return _sum(e, d, numbers, first), SUM
        case "product":
            factors = []
            for i, a in enumerate(e.args):
                text, binds = _write(a, d, numbers, first and i == 0)
                tight = PRODUCT if i == 0 or not (isinstance(a, Apply) and a.op == "divide") else PRODUCT + 1
                factors.append(d.group(_write(a, d, numbers, True)[0]) if binds < tight else text)
            return d.times.join(factors), PRODUCT
        case "negative":
            text = _inside(e.args[0], d, numbers, PRODUCT, first=False)
            return (f"-{text}", SIGN) if first else (d.group(f"-{text}"), ATOM)
    found = d.operation(e, [_write(a, d, numbers, True) for a in e.args])
    if found is not None:
        return found
    notation = OPS[e.op].notation if e.op in OPS else None
    if notation is not None and notation.form == "infix":
        binds = notation.precedence
        left = _inside(e.args[0], d, numbers, binds + (e.op == "pow"), first=first and e.op == "divide")
        right = _inside(e.args[1], d, numbers, binds + 1, first=False)
        space = "" if e.op in ("divide", "pow") else " "
        return f"{left}{space}{d.glyph(e.op)}{space}{right}", binds
    if notation is not None and notation.form == "prefix":
        return f"{d.glyph(e.op)}{_inside(e.args[0], d, numbers, SIGN, first=False)}", SIGN
    inside = ", ".join([_write(a, d, numbers, True)[0] for a in e.args] + ([d.rest(e.rest, numbers)] if e.rest else []))
    return f"{d.glyph(e.op)}{d.group(inside)}", ATOM


def _inside(e: Expression, d: Dialect, numbers: bool, binds: int, first: bool) -> str:
    text, own = _write(e, d, numbers, first)
    return d.group(_write(e, d, numbers, True)[0]) if own < binds else text


def _sum(e: Apply, d: Dialect, numbers: bool, first: bool) -> str:
    """Terms with their signs between them."""
    found = ""
    for i, a in enumerate(e.args):
        sign = " + " if i else ""
        if isinstance(a, Apply) and a.op == "negative":
            sign, a = (" - " if i else "-"), a.args[0]
        elif isinstance(a, Number) and a.text.startswith("-") and i:
            sign, a = " - ", Number(-a.value, a.text[1:])
        text, binds = _write(a, d, numbers, first and not found and not sign)
        # the left end of a sum needs no parentheses; what follows a minus does
        loose = binds < SUM or (binds == SUM and i > 0) or (binds == SUM and sign.strip() == "-")
        found += sign + (d.group(_write(a, d, numbers, True)[0]) if loose else text)
    if e.rest is not None:
        found += (" + " if found else "") + d.rest(e.rest, numbers)
    return found


# --- plain text -------------------------------------------------------------------------------------------------------

_WORDS = {"terms": "more terms", "elements": "more", "paths": "other paths", "rounding": "rounding"}


def _plain_symbol(s: Symbol) -> str:
    if s.over is not None:
        return f"∂{_plain_symbol(s.over)}/∂{_plain_symbol(Symbol(s.name, s.layer, s.index, s.step))}"
    base = ("δ" if s.name == "delta" else s.name) + s.layer
    where = ([f"t={s.step}"] if s.step is not None else []) + [str(i) for i in s.index]
    return base + ("'" if s.new else "") + (f"[{', '.join(where)}]" if where else "")


def _plain_rest(rest: Rest, numbers: bool) -> str:
    label = "rounding" if rest.what == "rounding" else f"{rest.count} {_WORDS[rest.what]}"
    if not numbers:
        return f"⟨{label}⟩"
    return f"{f'({rest.text})' if rest.text.startswith('-') else rest.text}⟨{label}⟩"


def _plain_operation(e: Apply, args: list[tuple[str, int]]) -> tuple[str, int] | None:
    match e.op:
        case "bracket":
            return f"[{args[0][0]}]", ATOM
        case "where":
            condition, a, b = (text for text, _ in args)
            return f"({a} if {condition} else {b})", ATOM
        case "abs":
            return f"|{args[0][0]}|", ATOM
    return None


def _plain_glyph(op: str) -> str:
    if op in OPS:
        notation = OPS[op].notation
        return {"==": "=", "!=": "≠", "<=": "≤", ">=": "≥"}.get(notation.glyph, notation.glyph)
    return op


TEXT = Dialect(
    symbol=_plain_symbol,
    number=lambda text: text,
    rest=_plain_rest,
    operation=_plain_operation,
    glyph=_plain_glyph,
    times="·",
    group=lambda text: f"({text})",
)


def plain(symbol: Symbol) -> str:
    """A symbol as plain text: `z1[0]`, `∂E/∂w5`."""
    return _plain_symbol(symbol)


# --- LaTeX ------------------------------------------------------------------------------------------------------------

_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi", "rho",
    "sigma", "tau", "phi", "chi", "psi", "omega",
}  # fmt: skip
_ESCAPES = {c: f"\\{c}" for c in "#$%&_{}"} | {"~": r"\sim ", "^": r"\wedge ", "\\": r"\backslash "}


def _tex_letters(text: str) -> str:
    """A word of a name: one letter in italics, a Greek letter by its name, others upright."""
    if text in _GREEK:
        return f"\\{text}"
    if text == "yhat":
        return r"\hat{y}"
    escaped = "".join(_ESCAPES.get(c, c) for c in text)
    return escaped if len(text) == 1 else rf"\mathrm{{{escaped}}}"


def tex_name(name: str) -> tuple[str, list[str]]:
    """The body of a name and its subscripts: `net_o1` -> net, [o1]; `w11` -> w, [11]."""
    head, *tail = [part for part in name.split("_") if part] or [name]
    found = re.fullmatch(r"([^\W\d]+?)(\d+)", head)
    if found:
        head, tail = found[1], [found[2], *tail]
    return _tex_letters(head), ["".join(_ESCAPES.get(c, c) for c in part) for part in tail]


def latex_symbol(s: Symbol) -> str:
    """A symbol in LaTeX: `z^{(1)}_{0}`, a fraction of differentials."""
    if s.over is not None:
        return rf"\frac{{\partial {latex_symbol(s.over)}}}{{\partial {latex_symbol(Symbol(s.name, s.layer, s.index, s.step))}}}"
    body, below = tex_name(s.name)
    below += [", ".join(map(str, s.index))] if s.index else []
    above = f"({s.layer})" if s.layer else ""
    if s.step is not None:
        above += rf"\langle {s.step}\rangle"
    found = body + ("'" if s.new and not above else "")
    if above:
        found += f"^{{{above}{chr(39) if s.new else ''}}}"
    return found + (f"_{{{', '.join(below)}}}" if below else "")


def _latex_number(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    if exponent and mantissa not in ("inf", "-inf"):
        return rf"{mantissa}\cdot 10^{{{int(exponent)}}}"
    return {"inf": r"\infty", "-inf": r"-\infty", "nan": r"\mathrm{nan}"}.get(text, text)


def _latex_rest(rest: Rest, numbers: bool) -> str:
    label = "rounding" if rest.what == "rounding" else f"{rest.count} {_WORDS[rest.what]}"
    if not numbers:
        return rf"\langle\text{{{label}}}\rangle"
    number = _latex_number(rest.text)
    if rest.text.startswith("-"):
        number = f"({number})"
    return rf"\underbrace{{{number}}}_{{\text{{{label}}}}}"


def _latex_operation(e: Apply, args: list[tuple[str, int]]) -> tuple[str, int] | None:
    texts = [text for text, _ in args]
    match e.op:
        case "divide":
            return rf"\frac{{{texts[0]}}}{{{texts[1]}}}", PRODUCT + 1
        case "pow":
            base = texts[0] if args[0][1] == ATOM and r"\frac" not in texts[0] else f"({texts[0]})"
            return f"{base}^{{{texts[1]}}}", POWER
        case "exp":
            return f"e^{{{texts[0]}}}", POWER
        case "sqrt":
            return rf"\sqrt{{{texts[0]}}}", ATOM
        case "abs":
            return rf"|{texts[0]}|", ATOM
        case "bracket":
            return f"[{texts[0]}]", ATOM
        case "where":
            condition, a, b = texts
            return rf"\begin{{cases}}{a} & \text{{if }} {condition}\\ {b} & \text{{else}}\end{{cases}}", CHOICE
    return None


def _latex_glyph(op: str) -> str:
    if op in ("max", "min"):
        return f"\\{op}"
    return OPS[op].notation.latex or rf"\operatorname{{{''.join(_ESCAPES.get(c, c) for c in op)}}}"


LATEX = Dialect(
    symbol=latex_symbol,
    number=_latex_number,
    rest=_latex_rest,
    operation=_latex_operation,
    glyph=_latex_glyph,
    times=r" \cdot ",
    group=lambda text: f"({text})",
)
