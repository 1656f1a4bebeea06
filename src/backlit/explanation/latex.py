"""Derivations as LaTeX: formulas, and a whole document that compiles with amsmath alone."""

from __future__ import annotations

import re

import numpy as np

from backlit.explanation.derivation import Derivation
from backlit.explanation.notation import ATOM, CHOICE, POWER, PRODUCT, SUM, Dialect, label, pieces, write
from backlit.explanation.numbers import listed
from backlit.explanation.sections import legend, sections
from backlit.explanation.steps import Apply, Expression, Rest, Step, Symbol, operands
from backlit.ops.record import OPS

GREEK = {
    "alpha": 0x3B1, "beta": 0x3B2, "gamma": 0x3B3, "delta": 0x3B4, "epsilon": 0x3B5, "zeta": 0x3B6, "eta": 0x3B7,
    "theta": 0x3B8, "kappa": 0x3BA, "lambda": 0x3BB, "mu": 0x3BC, "nu": 0x3BD, "xi": 0x3BE, "pi": 0x3C0, "rho": 0x3C1,
    "sigma": 0x3C3, "tau": 0x3C4, "phi": 0x3C6, "chi": 0x3C7, "psi": 0x3C8, "omega": 0x3C9,
}  # fmt: skip
"""Greek letters that names may spell out, with their code points."""

_BY_LETTER = {chr(c): name for name, c in GREEK.items()}
_ESCAPES = {c: f"\\{c}" for c in "#$%&_{}"} | {"~": r"\sim ", "^": r"\wedge ", "\\": r"\backslash "}
_ESCAPES |= {"⁺": "^{+}", "⁻": "^{-}"}


def name_parts(name: str) -> tuple[bool, str, list[str]]:
    """Whether a name wears a hat, its body, and its subscripts: `net_o1` -> net, [o1]; `w11` -> w, [11]; `m_hat` ->
    m.
    """
    head, *tail = [part for part in name.split("_") if part] or [name]
    hat = "hat" in tail or head == "yhat"
    tail = [part for part in tail if part != "hat"]
    head = "y" if head == "yhat" else head
    found = re.fullmatch(r"([^\W\d]+?)(\d+)", head)
    return (hat, found[1], [found[2], *tail]) if found else (hat, head, tail)


def _letters(text: str) -> str:
    """A word of a name: one letter in italics, a Greek letter by its name, others upright."""
    if text in GREEK or text in _BY_LETTER:
        return f"\\{_BY_LETTER.get(text, text)} "
    escaped = "".join(_ESCAPES.get(c, c) for c in text)
    if " " in text:
        return rf"\text{{{escaped}}}"
    return escaped if len(text) == 1 else rf"\mathrm{{{escaped}}}"


def latex_symbol(s: Symbol) -> str:
    """A symbol in LaTeX: `z^{(1)}_{0}`, a fraction of differentials."""
    if s.over is not None:
        by = latex_symbol(Symbol(s.name, s.layer, s.index, s.step))
        return rf"\frac{{\partial {latex_symbol(s.over)}}}{{\partial {by}}}"
    hat, name, words = name_parts(s.name)
    body = rf"\hat{{{_letters(name)}}}" if hat else _letters(name)
    below = ["".join(_ESCAPES.get(c, c) for c in word) for word in words]
    below += [", ".join(map(str, s.index))] if s.index else []
    above = f"({s.layer})" if s.layer else ""
    if s.step is not None:
        above += rf"\langle {s.step}\rangle"
    found = body + ("'" if s.new and not above else "")
    if above:
        found += f"^{{{above}{chr(39) if s.new else ''}}}"
    return found + (f"_{{{', '.join(below)}}}" if below else "")


def _latex_number(text: str) -> str:
    if text.startswith("⟨"):  # the shape of an array that is too large
        sizes = text[1:-1].replace("×", r" \times ")
        return rf"\langle {sizes}\rangle"
    if text.startswith("["):
        table = np.atleast_2d(listed(text))
        if table.ndim > 2:
            return rf"\text{{{text}}}"
        rows = r" \\ ".join(" & ".join(map(_latex_number, row)) for row in table)
        return rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"
    mantissa, _, exponent = text.partition("e")
    if exponent and mantissa not in ("inf", "-inf"):
        return rf"{mantissa}\cdot 10^{{{int(exponent)}}}"
    return {"inf": r"\infty", "-inf": r"-\infty", "nan": r"\mathrm{nan}"}.get(text, text)


def _latex_rest(rest: Rest, numbers: bool) -> str:
    words = label(rest)
    if not numbers:
        return rf"\langle\text{{{words}}}\rangle"
    number = _latex_number(rest.text)
    if rest.text.startswith("-"):
        number = f"({number})"
    return rf"\underbrace{{{number}}}_{{\text{{{words}}}}}"


def has_arrays(e: Expression) -> bool:
    """Whether whole arrays stand in an expression: e^x is then the exponential of each element."""
    return any(isinstance(o.value, np.ndarray) for o in operands(e))


def _latex_operation(e: Apply, args: list[tuple[str, int]]) -> tuple[str, int] | None:
    texts = [text for text, _ in args]
    match e.op:
        case "divide":
            return rf"\frac{{{texts[0]}}}{{{texts[1]}}}", PRODUCT + 1
        case "pow":
            plain = args[0][1] == ATOM and "^" not in texts[0] and r"\frac" not in texts[0]
            base = texts[0] if plain else f"({texts[0]})"
            return f"{base}^{{{texts[1]}}}", POWER
        case "exp" if not has_arrays(e):
            return f"e^{{{texts[0]}}}", POWER
        case "sqrt":
            return rf"\sqrt{{{texts[0]}}}", ATOM
        case "abs":
            return rf"|{texts[0]}|", ATOM
        case "bracket":
            return f"[{texts[0]}]", ATOM
        case "hadamard":
            return r" \odot ".join(text if binds >= PRODUCT else f"({text})" for text, binds in args), PRODUCT
        case "outer":
            return r" \otimes ".join(text if binds > PRODUCT else f"({text})" for text, binds in args), PRODUCT
        case "matmul":
            left, right = (
                text if binds > least else f"({text})"
                for (text, binds), least in zip(args, (SUM, PRODUCT), strict=True)
            )
            return rf"{left}\, {right}", PRODUCT
        case "transpose":
            return f"{{{texts[0] if args[0][1] == ATOM else f'({texts[0]})'}}}^{{\\top}}", POWER
        case "reshape" | "broadcast_to":
            sizes = r" \times ".join(map(str, dict(e.params)["shape"])) or "1"
            return rf"\operatorname{{{e.op.removesuffix('_to')}}}({texts[0]}, {sizes})", ATOM
        case "sum_of" | "max_of" | "min_of":
            axes = ", ".join(map(str, dict(e.params)["axis"]))
            inside = texts[0] if args[0][1] > SUM else f"({texts[0]})"
            return rf"\{e.op.removesuffix('_of')}_{{\text{{axis }} {axes}}} {inside}", PRODUCT
        case "where":
            condition, a, b = texts
            return rf"\begin{{cases}}{a} & \text{{if }} {condition}\\ {b} & \text{{else}}\end{{cases}}", CHOICE
    return None


def _latex_glyph(op: str) -> str:
    if op in ("max", "min"):
        return f"\\{op}"
    own = rf"\operatorname{{{''.join(_ESCAPES.get(c, c) for c in op)}}}"
    notation = OPS[op].notation if op in OPS else None
    if notation is None or not notation.latex:
        return own
    return f" {notation.latex} " if notation.form == "infix" else notation.latex


LATEX = Dialect(
    symbol=latex_symbol,
    number=_latex_number,
    rest=_latex_rest,
    operation=_latex_operation,
    glyph=_latex_glyph,
    group=lambda text: f"({text})",
    times=r" \cdot ",
)


_LONG = 110  # characters of LaTeX in one line


def equation(s: Step) -> str:
    """One step as rows of an align environment, with its number as the tag."""
    forms = [[write(s.chain, LATEX, numbers=False)]] if s.chain is not None else []
    if s.expression is not None:
        forms += [pieces(s.expression, LATEX, numbers=False)]
        if s.shows_numbers:
            forms += [pieces(s.expression, LATEX, numbers=True)]
    if s.shows_value:
        forms.append([_latex_number(s.text)])
    rows = []
    for form in forms:
        line, count = "", 0
        for piece in form:
            if count and count + len(piece) > _LONG:
                rows.append(line)
                line, count = r"\quad ", 0
            line += piece
            count += len(piece)
        rows.append(line)
    started = [False]

    def row(text: str) -> str:
        if text.startswith(r"\quad "):
            return f"& {text}"
        head = latex_symbol(s.symbol) + " " if not started[0] else ""
        started[0] = True
        return f"{head}&= {text}"

    lines = [row(r) for r in rows]
    lines[0] += rf" \tag{{{s.number}}}"
    return " \\\\\n".join(lines)


def document(d: Derivation) -> str:
    """A derivation as a LaTeX document."""
    parts = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,margin=2cm]{geometry}",
        r"\usepackage{amsmath}",
        r"\allowdisplaybreaks",
        r"\begin{document}",
        rf"\section*{{The derivation of ${latex_symbol(d.wrt) if d.wrt.over else latex_symbol(_gradient(d))}$}}",
        _words(legend(d)),
    ]
    for section in sections(d):
        parts.append(rf"\subsection*{{{section.title}}}")
        for s in section.steps:
            words = "" if s.kind == "given" else _words(s.sentence)
            parts += [words, r"\begin{align}", equation(s), r"\end{align}"]
    parts.append(r"\end{document}")
    return "\n".join(p for p in parts if p) + "\n"


def _gradient(d: Derivation) -> Symbol:
    return Symbol(d.wrt.name, d.wrt.layer, d.wrt.index, d.wrt.step, over=d.loss)


_PLAIN = {
    "δ": r"$\delta$",
    "∂": r"$\partial$",
    "→": r"$\to$",
    "×": r"$\times$",
    "⁺": "$^+$",
    "⁻": "$^-$",
    "\\": r"\textbackslash{}",
}


def _words(text: str) -> str:
    """Plain words in which nothing is LaTeX."""
    special = _PLAIN | {c: f"\\{c}" for c in "#$%&_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, c) for c in text)
