"""Derivations as one HTML file that needs nothing else: no network, no script.

Equations are MathML with a font of their own; what is folded unfolds by itself (`<details>`); an equation under the
pointer lights its lines in the picture, and a line its equation, by style rules alone. A content policy in the page
forbids everything that it does not need. All text that comes from names or files is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from html import escape
from importlib.resources import files

from backlit.explanation.derivation import Derivation
from backlit.explanation.drawing import drawing
from backlit.explanation.mathml import formula, math, number, symbol
from backlit.explanation.sections import Section, legend, sections
from backlit.explanation.steps import Step, Symbol

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
_UNFOLDED = 6000  # terms that a page unfolds, all equations together


def page(d: Derivation) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(d.title)}</title>\n<style>\n{_font()}{_style()}{_links(d)}</style>\n</head>\n<body>\n"
        f"{_body(d)}\n</body>\n</html>\n"
    )


def fragment(d: Derivation) -> str:
    """What a notebook shows: the page within a frame, so that its style stays its own."""
    return (
        f'<iframe srcdoc="{escape(page(d))}" sandbox="" title="{escape(d.title)}" '
        'style="width:100%;height:640px;border:1px solid #8884;border-radius:8px"></iframe>'
    )


@cache
def _font() -> str:
    data = b64encode((files("backlit.explanation") / "assets" / "math.woff2").read_bytes()).decode()
    return f"@font-face{{font-family:'Backlit Math';src:url(data:font/woff2;base64,{data}) format('woff2')}}\n"


@cache
def _style() -> str:
    return (files("backlit.explanation") / "assets" / "page.css").read_text(encoding="utf-8")


def _links(d: Derivation) -> str:
    """The rules that tie equations and lines of the picture to each other."""
    rules = []
    for s in d.steps:
        if s.kind not in ("given", "check"):
            n = s.number
            rules.append(f"body:has(#e{n}:is(:hover,:target,:focus-within)) .s{n}{{--on:1}}")
            rules.append(f"body:has(.s{n}:hover) #e{n}{{background:var(--light)}}")
    return "\n".join(rules) + "\n"


def _body(d: Derivation) -> str:
    wanted = math(symbol(Symbol(d.wrt.name, d.wrt.layer, d.wrt.index, d.wrt.step, over=d.loss)))
    last = next((s for s in reversed(d.steps) if s.kind in ("gradient", "path")), None)
    value = math("<mo>=</mo>" + number(last.text)) if last is not None and not last.shape else ""
    picture = drawing(d)
    words = f"<p>{escape(legend(d))}</p>" if legend(d) else ""
    spent = [0]
    return (
        f'<header><h1>{wanted} {value}</h1><p class="asked">The chain rule for <code>{escape(d.name)}</code>, '
        f"every number from the run.</p>{words}</header>\n"
        + (f'<figure aria-label="The network">{picture}</figure>\n' if picture else "")
        + f"<main>{''.join(_section(d, section, spent) for section in sections(d))}</main>"
    )


def _section(d: Derivation, section: Section, spent: list[int]) -> str:
    title = escape(section.title)
    if section.steps[0].kind == "given":
        items = "".join(
            f'<li id="e{s.number}"><b>({s.number})</b> {math(symbol(s.symbol) + "<mo>=</mo>" + number(s.text))}</li>'
            for s in section.steps
        )
        opened = " open" if len(section.steps) <= 40 else ""
        return f"<details{opened}><summary><h2>{title}</h2></summary><ul class='given'>{items}</ul></details>\n"
    return f"<section><h2>{title}</h2>{''.join(_equation(d, s, spent) for s in section.steps)}</section>\n"


def _equation(d: Derivation, s: Step, spent: list[int]) -> str:
    forms = [formula(s.chain, numbers=False)] if s.chain is not None else []
    if s.expression is not None:
        forms.append(formula(s.expression, numbers=False))
        if s.shows_numbers:
            forms.append(formula(s.expression, numbers=True))
    if s.shows_value:
        forms.append(f"<strong>{math(number(s.text))}</strong>")
    rows = "".join(f"<div><span>{math('<mo>=</mo>')}</span><span>{form}</span></div>" for form in forms)
    uses = ", ".join(f'<a href="#e{n}">({n})</a>' for n in s.uses)
    uses = f' <span class="uses">uses {uses}</span>' if uses else ""
    return (
        f'<article id="e{s.number}" class="{s.kind}" tabindex="0"><b class="n">({s.number})</b>'
        f'<div class="eq"><span>{math(symbol(s.symbol))}</span><div class="forms">{rows}</div></div>'
        f"<p>{escape(s.sentence)}{uses}</p>{_unfolded(d, s, spent)}</article>"
    )


def _unfolded(d: Derivation, s: Step, spent: list[int]) -> str:
    """A folded equation in full, behind a summary."""
    if not s.folded or spent[0] > _UNFOLDED:
        return ""
    whole = d.unfold(s.number)
    if whole is None:
        return ""
    spent[0] += len(whole.operands)
    left = f" {whole.folded} remain in one number." if whole.folded else ""
    return (
        f"<details><summary>Unfold ({s.number})</summary><p><code>{escape(whole.symbolic)}</code></p>"
        f"<p><code>= {escape(whole.substituted)}</code></p><p><code>= {escape(whole.text)}</code>{left}</p></details>"
    )
