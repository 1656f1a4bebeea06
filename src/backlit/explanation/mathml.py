"""Formulas as MathML, written straight from their trees, so that each number can carry its place in the network.

Names and texts are escaped; parentheses do not stretch; a formula comes in pieces between which a line may break.
"""

from __future__ import annotations

from html import escape

import numpy as np

from backlit.explanation.latex import GREEK, has_arrays, name_parts
from backlit.explanation.notation import ATOM, CHOICE, POWER, PRODUCT, SUM, Dialect, label, pieces
from backlit.explanation.numbers import listed
from backlit.explanation.steps import Apply, Expression, Operand, Rest, Symbol
from backlit.ops.record import OPS

_LETTER = {name: chr(c) for name, c in zip(GREEK, GREEK.values(), strict=True)}


def mi(text: str) -> str:
    """A word of a name; one letter is set in italics by itself."""
    if text in _LETTER:
        return f"<mi>{_LETTER[text]}</mi>"
    for sign in "⁺⁻":
        if text.endswith(sign):
            return f"<msup>{mi(text[:-1])}<mo>{'+' if sign == '⁺' else '−'}</mo></msup>"
    if " " in text:
        return f"<mtext>{escape(text)}</mtext>"
    return f"<mi>{escape(text)}</mi>"


def symbol(s: Symbol) -> str:
    """A symbol: letters, the layer above, the index below; a derivative as a fraction."""
    if s.over is not None:
        by = symbol(Symbol(s.name, s.layer, s.index, s.step))
        return f"<mfrac><mrow><mo>∂</mo>{symbol(s.over)}</mrow><mrow><mo>∂</mo>{by}</mrow></mfrac>"
    hat, body, below = name_parts(s.name)
    letters = mi(body)
    if hat:
        letters = f'<mover accent="true">{letters}<mo stretchy="false">^</mo></mover>'
    under = [f"<mtext>{escape(part)}</mtext>" if not part.isdigit() else f"<mn>{part}</mn>" for part in below]
    under += [f"<mn>{i}</mn>" for i in s.index]
    sub = "<mo>,</mo>".join(under)
    over = f'<mo stretchy="false">(</mo><mn>{escape(s.layer)}</mn><mo stretchy="false">)</mo>' if s.layer else ""
    if s.step is not None:
        over += f'<mo stretchy="false">⟨</mo><mn>{s.step}</mn><mo stretchy="false">⟩</mo>'
    if s.new:
        over += "<mo>′</mo>"
    if sub and over:
        return f"<msubsup>{letters}<mrow>{sub}</mrow><mrow>{over}</mrow></msubsup>"
    if sub:
        return f"<msub>{letters}<mrow>{sub}</mrow></msub>"
    return f"<msup>{letters}<mrow>{over}</mrow></msup>" if over else letters


def number(text: str) -> str:
    """A printed number, or a printed array as a table."""
    if text.startswith("⟨"):  # the shape of an array that is too large
        return f"<mtext>{escape(text)}</mtext>"
    if text.startswith("["):
        table = np.atleast_2d(listed(text))
        if table.ndim > 2:
            return f"<mtext>{escape(text)}</mtext>"
        rows = "".join(f"<mtr>{''.join(f'<mtd>{number(n)}</mtd>' for n in row)}</mtr>" for row in table)
        return f"<mrow><mo>(</mo><mtable>{rows}</mtable><mo>)</mo></mrow>"
    minus = "<mo form='prefix'>−</mo>" if text.startswith("-") else ""
    mantissa, _, exponent = text.removeprefix("-").partition("e")
    if mantissa == "inf":
        return f"<mrow>{minus}<mi>∞</mi></mrow>"
    found = f"<mn>{escape(mantissa)}</mn>"
    if exponent:
        ten = f"<msup><mn>10</mn><mn>{escape(exponent.replace('-', '−'))}</mn></msup>"
        found = f"<mrow>{minus}{found}<mo>·</mo>{ten}</mrow>"
    elif minus:
        found = f"<mrow>{minus}{found}</mrow>"
    return found


def _group(inside: str) -> str:
    return f'<mrow><mo stretchy="false">(</mo>{inside}<mo stretchy="false">)</mo></mrow>'


def _rest(rest: Rest, numbers: bool) -> str:
    words = f"<mtext>{escape(label(rest))}</mtext>"
    if not numbers:
        return f'<mrow><mo stretchy="false">⟨</mo>{words}<mo stretchy="false">⟩</mo></mrow>'
    found = _group(number(rest.text)) if rest.text.startswith("-") else number(rest.text)
    return f"<munder>{found}{words}</munder>"


def _operation(e: Apply, args: list[tuple[str, int]]) -> tuple[str, int] | None:
    texts = [text for text, _ in args]
    match e.op:
        case "divide":
            return f"<mfrac><mrow>{texts[0]}</mrow><mrow>{texts[1]}</mrow></mfrac>", PRODUCT + 1
        case "pow":
            plain = args[0][1] == ATOM and "<msup" not in texts[0] and "<msubsup" not in texts[0]
            base = texts[0] if plain else _group(texts[0])
            return f"<msup><mrow>{base}</mrow><mrow>{texts[1]}</mrow></msup>", POWER
        case "exp" if not has_arrays(e):
            return f"<msup><mi>e</mi><mrow>{texts[0]}</mrow></msup>", POWER
        case "sqrt":
            return f"<msqrt>{texts[0]}</msqrt>", ATOM
        case "abs":
            return f'<mrow><mo stretchy="false">|</mo>{texts[0]}<mo stretchy="false">|</mo></mrow>', ATOM
        case "bracket":
            return f'<mrow><mo stretchy="false">[</mo>{texts[0]}<mo stretchy="false">]</mo></mrow>', ATOM
        case "hadamard" | "matmul" | "outer":
            sign = {"hadamard": "<mo>⊙</mo>", "outer": "<mo>⊗</mo>"}.get(e.op, "")
            lowest = [PRODUCT if e.op == "hadamard" else SUM + 1, *(PRODUCT + 1 for _ in args[1:])]
            return sign.join(t if b >= low else _group(t) for (t, b), low in zip(args, lowest, strict=True)), PRODUCT
        case "transpose":
            base = texts[0] if args[0][1] == ATOM else _group(texts[0])
            return f"<msup><mrow>{base}</mrow><mo>⊤</mo></msup>", POWER
        case "reshape" | "broadcast_to":
            shape = "<mo>×</mo>".join(f"<mn>{n}</mn>" for n in dict(e.params)["shape"]) or "<mn>1</mn>"
            return f"<mi>{e.op.removesuffix('_to')}</mi>{_group(f'{texts[0]}<mo>,</mo>{shape}')}", ATOM
        case "sum_of" | "max_of" | "min_of":
            axes = escape(", ".join(map(str, dict(e.params)["axis"])))
            sign = "<mo>∑</mo>" if e.op == "sum_of" else f"<mi>{e.op.removesuffix('_of')}</mi>"
            under = f"<munder>{sign}<mtext>axis {axes}</mtext></munder>"
            return under + (texts[0] if args[0][1] > SUM else _group(texts[0])), PRODUCT
        case "where":
            condition, a, b = texts
            rows = [(a, f"<mtext>if&#160;</mtext>{condition}"), (b, "<mtext>else</mtext>")]
            table = "".join(f"<mtr><mtd><mrow>{x}</mrow></mtd><mtd><mrow>{when}</mrow></mtd></mtr>" for x, when in rows)
            return f"<mrow><mo>{{</mo><mtable columnalign='left left'>{table}</mtable></mrow>", CHOICE
    return None


_INFIX = {"add": "+", "subtract": "−", "multiply": "·", "equal": "=", "not_equal": "≠", "less_equal": "≤",
          "greater_equal": "≥"}  # fmt: skip
_FUNCTIONS = {"sigmoid": "σ", "relu": "ReLU", "log": "ln"}


def _glyph(op: str) -> str:
    notation = OPS[op].notation if op in OPS else None
    if notation is not None and notation.form in ("infix", "prefix"):
        return f"<mo>{escape(_INFIX.get(op, notation.glyph))}</mo>"
    return f"<mi>{escape(_FUNCTIONS.get(op, op if notation is None else notation.glyph))}</mi>"


def _leaf(o: Operand, written: str) -> str:
    """An operand, tied to its place in the graph and to the equation that gives it."""
    place = ",".join(map(str, o.element))
    kind = f' class="u{o.step}"' if o.step else ""
    return f'<mrow{kind} data-at="{o.node}:{place}">{written}</mrow>'


MATHML = Dialect(
    symbol=symbol,
    number=number,
    rest=_rest,
    operation=_operation,
    glyph=_glyph,
    group=_group,
    times='<mo form="infix" lspace="0.22em" rspace="0.22em">·</mo>',
    plus='<mo form="infix" lspace="0.22em" rspace="0.22em">+</mo>',
    minus='<mo form="infix" lspace="0.22em" rspace="0.22em">−</mo>',
    negative='<mo form="prefix">−</mo>',
    comma="<mo>,</mo>",
    leaf=_leaf,
)


def math(content: str) -> str:
    """One piece of a formula."""
    return f'<math displaystyle="true">{content}</math>'


def formula(e: Expression, numbers: bool) -> str:
    """A formula as pieces between which a line may break.

    Browsers set no space after a sign that begins a piece, so it is given one.
    """
    signs = (MATHML.plus, MATHML.minus)
    found = []
    for piece in pieces(e, MATHML, numbers):
        sign = next((s for s in signs if piece.startswith(s)), "")
        found.append(math(f'{sign}<mspace width="0.22em"></mspace>{piece.removeprefix(sign)}' if sign else piece))
    return " ".join(found)
