"""Derivations as Markdown: headings, and equations that are readable as they stand."""

from __future__ import annotations

import re

from backlit.explanation.derivation import Derivation
from backlit.explanation.notation import TEXT, plain, write
from backlit.explanation.sections import legend, sections
from backlit.explanation.steps import Step


def markdown(d: Derivation) -> str:
    """A derivation as Markdown."""
    lines = [f"# {code(d.title)}", ""]
    if legend(d):
        lines += [escaped(legend(d)), ""]
    for section in sections(d):
        lines += [f"## {section.title}", ""]
        if section.steps[0].kind == "given":
            lines += ["| | | |", "| ---: | --- | --- |"]
            lines += [f"| ({s.number}) | {cell(plain(s.symbol))} | {cell(s.text)} |" for s in section.steps]
            lines.append("")
            continue
        for s in section.steps:
            lines += equation(s)
    return "\n".join(lines)


def equation(s: Step) -> list[str]:
    """One numbered equation as an indented block of code, and its sentence."""
    forms = [write(s.chain, TEXT, numbers=False)] if s.chain is not None else []
    if s.expression is not None:
        forms.append(s.symbolic)
        if s.shows_numbers:
            forms.append(s.substituted)
    if s.shows_value:
        forms.append(s.text)
    name = plain(s.symbol)
    if not forms:
        return [f"**({s.number})** {escaped(s.sentence)}", "", f"    {name}", ""]
    block = [f"    {name} = {forms[0]}", *(f"    {' ' * len(name)} = {form}" for form in forms[1:])]
    uses = f" Uses {', '.join(f'({n})' for n in s.uses)}." if s.uses else ""
    return [f"**({s.number})** {escaped(s.sentence)}{uses}", "", *block, ""]


def code(text: str) -> str:
    """A name as code: as many backticks around it as it takes."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def cell(text: str) -> str:
    """A name or number as code within a table."""
    return code(text.replace("|", "\\|").replace("\n", " "))


def escaped(text: str) -> str:
    """Words in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~$&])", r"\\\1", text.replace("\n", " "))
