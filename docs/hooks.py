"""A MkDocs hook: writes tables from the running registries at each build, so that they are never out of date.

`ops.md` is written whole; on other pages `<!-- table: NAME -->` stands for the table of that name.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields

import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from backlit import optim
from backlit.ir import Type
from backlit.ops.record import OPS
from backlit.settings import Settings, kinds


def code(text: object) -> str:
    """Text as code, every character an entity: a bar would end its table cell."""
    return "<code>" + "".join(f"&#{ord(char)};" for char in str(text)) + "</code>"


def op_table() -> str:
    """The registered ops as a Markdown table, by family and then by name."""
    rows = ["| op | family | notation | meaning |", "| --- | --- | --- | --- |"]
    for op in sorted(OPS.values(), key=lambda op: (op.family, op.name)):
        meaning = " ".join(op.doc.split()).replace("|", r"\|")
        rows.append(f"| {code(op.name)} | {op.family} | {code(op.notation.glyph)} | {meaning} |")
    return "\n".join(rows)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to the files of the build."""
    text = f"{len(OPS)} ops, each one record. This page is generated from the registry."
    files.append(File.generated(config, "ops.md", content=f"# Ops\n\n{text}\n\n{op_table()}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the tables where the page asks for them; a name that is no table fails the build."""
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found[1]](), markdown)


def settings_of(kind: type[Settings], without: type[Settings]) -> str:
    """The settings of a class that `without` does not have, with their defaults."""
    shared = {f.name for f in fields(without)}
    own = [f for f in fields(kind) if f.name not in shared]
    return ", ".join(code(f.name if f.default is MISSING else f"{f.name}={f.default!r}") for f in own)


def optimiser_table() -> str:
    """The rules by name: default rate, own settings, what is remembered for each parameter."""
    rows = ["| name | class | `learning_rate` | own settings | remembers |", "| --- | --- | --- | --- | --- |"]
    for name, kind in kinds(optim.Descent).items():
        made = kind()
        slots = made.slots(Type(np.dtype(np.float32), (1,)))
        rows.append(
            f"| {code(name)} | {code(f'optim.{kind.__name__}')} | {made.learning_rate} "
            f"| {settings_of(kind, optim.Descent)} | {', '.join(map(code, slots)) or 'nothing'} |"
        )
    return "\n".join(rows)


def formula_sections() -> str:
    """The docstring of every rule."""
    return "\n\n".join(f"### {kind.__name__}\n\n{inspect.getdoc(kind)}" for kind in kinds(optim.Descent).values())


def schedule_table() -> str:
    """The schedules: settings, and the docstring's first paragraph."""
    rows = ["| class | settings | rate |", "| --- | --- | --- |"]
    for kind in kinds(optim.Schedule).values():
        text = " ".join(inspect.getdoc(kind).split("\n\n")[0].split()).replace("|", r"\|")
        rows.append(f"| {code(f'optim.{kind.__name__}')} | {settings_of(kind, optim.Schedule)} | {text} |")
    return "\n".join(rows)


def rate_table() -> str:
    """What some schedules give along 100 steps."""
    schedules = {
        "StepDecay(0.1, every=30)": optim.StepDecay(0.1, every=30),
        "Exponential(0.1, 0.97)": optim.Exponential(0.1, 0.97),
        "Linear(0.1, steps=100)": optim.Linear(0.1, steps=100),
        "Cosine(0.1, steps=100)": optim.Cosine(0.1, steps=100),
        "Warmup(Cosine(0.1, steps=80), steps=20)": optim.Warmup(optim.Cosine(0.1, steps=80), steps=20),
        "OneCycle(0.1, steps=100)": optim.OneCycle(0.1, steps=100),
    }
    steps = range(0, 101, 10)
    rows = [f"| step | {' | '.join(map(str, steps))} |", "| --- |" + " ---: |" * len(steps)]
    for name, schedule in schedules.items():
        rows.append(f"| {code(name)} | {' | '.join(f'{float(schedule(t)):.4f}' for t in steps)} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "optimisers": optimiser_table,
    "formulas": formula_sections,
    "schedules": schedule_table,
    "rates": rate_table,
}
