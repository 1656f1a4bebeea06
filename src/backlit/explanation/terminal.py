"""Derivations in the terminal: plain text, or with rich's colours where there is a terminal that shows them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from backlit.explanation.derivation import Derivation
from backlit.explanation.notation import TEXT, plain, write
from backlit.explanation.sections import legend, sections
from backlit.explanation.steps import Step

_SYMBOL, _NUMBERS, _VALUE, _QUIET = "bold", "cyan", "bold green", "dim"
_WIDE = 90  # characters in one line


def rendered(d: Derivation) -> Group:
    """A derivation for rich's console."""
    rows: list[RenderableType] = [Text(d.title, "bold underline")]
    if legend(d):
        rows.append(Text(legend(d), _QUIET))
    for section in sections(d):
        rows.append(Text(f"\n{section.title}", "bold"))
        rows.append(_givens(section.steps) if section.steps[0].kind == "given" else _equations(section.steps))
    return Group(*rows)


def _givens(steps: Sequence[Step]) -> Padding:
    line = Text()
    for s in steps:
        line.append(f"({s.number})\u00a0", _QUIET)
        line.append(f"{plain(s.symbol)} = {s.text}".replace(" ", "\u00a0"))
        line.append("   " if s is not steps[-1] else "")
    return Padding(line, (0, 0, 0, 2))


def _equations(steps: Sequence[Step]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", no_wrap=True, style=_QUIET)
    grid.add_column(overflow="fold")
    for s in steps:
        words = Text(s.sentence + (f"  [{', '.join(map(str, s.uses))}]" if s.uses else ""), _QUIET)
        grid.add_row(f"  ({s.number})", Group(equation(s), words) if s.sentence else equation(s))
    return grid


def equation(s: Step) -> Text:
    """One numbered equation, symbols = numbers = value; a form a line where they do not fit into one."""
    forms = [(write(s.chain, TEXT, numbers=False), "")] if s.chain is not None else []
    if s.expression is not None:
        forms.append((s.symbolic, ""))
        if s.shows_numbers:
            forms.append((s.substituted, _NUMBERS))
    if s.shows_value:
        forms.append((s.text, _VALUE))
    line = Text(plain(s.symbol), _SYMBOL)
    wide = len(line) + sum(len(form) + 3 for form, _ in forms) > _WIDE
    for i, (form, style) in enumerate(forms):
        line.append("\n  = " if wide and i else " = ")
        line.append(form, style)
    return line


def text(d: Derivation, width: int = 100) -> str:
    """A derivation as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False, highlight=False, soft_wrap=False)
    with console.capture() as capture:
        console.print(rendered(d))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
