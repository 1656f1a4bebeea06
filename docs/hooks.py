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

from backlit import nn, ops, optim
from backlit.audit.malrules import RULES
from backlit.audit.malrules.digits import PEN
from backlit.audit.readings import ALTERNATIVES
from backlit.ir import Type
from backlit.nn.activations import ACTIVATIONS
from backlit.nn.losses import LOSSES
from backlit.nn.metrics import METRICS, WholeMetric
from backlit.ops.record import OPS
from backlit.settings import Settings, kinds


def code(text: object) -> str:
    """Text as code, every character an entity: a bar would end its table cell."""
    return "<code>" + "".join(f"&#{ord(char)};" for char in str(text)) + "</code>"


def op_page() -> str:
    """Every op by family, then every function that is made of ops."""
    functions = {name: getattr(ops, name) for name in ops.__all__ if name not in OPS}
    functions |= {
        f"random.{name}": f
        for name, f in vars(ops.random).items()
        if inspect.isfunction(f) and f.__module__ == ops.random.__name__ and not name.startswith("_")
    }
    functions = {name: f for name, f in functions.items() if inspect.isfunction(f)}
    parts = [
        "# Ops",
        f"{len(OPS)} ops, each one record, and {len(functions)} functions made of them. `bl.trace` shows ops by these "
        "names. This page is generated from the registry.",
    ]
    for family in dict.fromkeys(op.family for op in OPS.values()):
        parts += [f"## {family.capitalize()}", op_table(family)]
    parts += ["## Functions made of ops", function_table(functions)]
    return "\n\n".join(parts) + "\n"


def op_table(family: str) -> str:
    """The ops of a family by name: how they are called, what they take, how they are written, what they mean."""
    rows = ["| op | takes | gradient | notation | meaning |", "| --- | --- | --- | --- | --- |"]
    for op in sorted((op for op in OPS.values() if op.family == family), key=lambda op: op.name):
        gradient = "none" if op.vjp is None else "yes"
        call = code(op.name + called(getattr(ops, op.name, op)))
        rows.append(f"| {call} | {KINDS[op.kinds]} | {gradient} | {code(op.notation.glyph)} | {cell(op.doc)} |")
    return "\n".join(rows)


def function_table(functions: dict[str, Callable[..., object]]) -> str:
    """Functions with their parameters and the first paragraph of what they say of themselves."""
    rows = ["| function | meaning |", "| --- | --- |"]
    for name, f in functions.items():
        rows.append(f"| {code(name + called(f))} | {cell((inspect.getdoc(f) or '').split(chr(10) * 2)[0])} |")
    return "\n".join(rows)


def called(f: Callable[..., object]) -> str:
    """The parameters of a function and their defaults, without types."""
    parameters = [p for p in inspect.signature(f).parameters.values() if not p.name.startswith("_")]
    shown = ["*" * (p.kind is p.VAR_POSITIONAL) + p.name for p in parameters]
    plain = [p.default is p.empty or isinstance(p.default, type) for p in parameters]
    return f"({', '.join(s if e else f'{s}={p.default!r}' for s, e, p in zip(shown, plain, parameters, strict=True))})"


def cell(text: str) -> str:
    """Prose in a table cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")


KINDS = {
    "b": "bool", "u": "uint", "iu": "int, uint", "biu": "bool, int, uint", "f": "float", "iuf": "numbers", "biuf": "any"
}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to the files of the build."""
    files.append(File.generated(config, "ops.md", content=op_page()))
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


def first_paragraph(documented: object) -> str:
    """The first paragraph of a docstring, fit for a table's cell."""
    return " ".join(inspect.getdoc(documented).split("\n\n")[0].split()).replace("|", r"\|").replace("*", r"\*")


def layers_by_module() -> list[type[nn.Layer]]:
    """The layers of backlit."""
    own = [kind for kind in kinds(nn.Layer).values() if kind.__module__.startswith("backlit.nn.")]
    return sorted(own, key=lambda kind: kind.__module__)


def layer_table() -> str:
    """The layers by module: settings, and the docstring without its indented formulas."""
    rows = ["| layer | settings | what it does |", "| --- | --- | --- |"]
    for kind in layers_by_module():
        settings = settings_of(kind, nn.Layer).replace(", ", "<br>") or "none"
        parts = [part for part in inspect.getdoc(kind).split("\n\n") if not part.startswith(" ")]
        text = "<br>".join(" ".join(part.split()).replace("|", r"\|").replace("*", r"\*") for part in parts)
        rows.append(f"| {code(f'nn.{kind.__name__}')} | {settings} | {text} |")
    return "\n".join(rows)


def layer_formulas() -> str:
    """The indented formulas of the layers that have some."""
    found = [(kind, re.findall(r"^    .*", inspect.getdoc(kind), flags=re.MULTILINE)) for kind in layers_by_module()]
    return "\n\n".join(
        "\n".join(["```text", f"{kind.__name__}: {inspect.getdoc(kind).splitlines()[0]}", *formulas, "```"])
        for kind, formulas in found
        if formulas
    )


def activation_table() -> str:
    """The activations by name."""
    rows = ["| name | formula |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| {code(repr(n))} | {first_paragraph(f)} |" for n, f in ACTIVATIONS.items())])


def loss_table() -> str:
    """The losses by name: settings and formula."""
    rows = ["| name | class | settings | of one example |", "| --- | --- | --- | --- |"]
    for name, loss in LOSSES.items():
        kind = type(loss)
        settings = settings_of(kind, nn.losses.MeanSquaredError).replace(", ", "<br>")
        rows.append(f"| {code(repr(name))} | {code(kind.__name__)} | {settings} | {first_paragraph(kind)} |")
    return "\n".join(rows)


def metric_table() -> str:
    """The metrics by name: settings, meaning, and when they are computed."""
    rows = ["| name | class | settings | meaning | computed |", "| --- | --- | --- | --- | --- |"]
    for name, metric in METRICS.items():
        kind = type(metric)
        when = "of all predictions" if isinstance(metric, WholeMetric) else "in the step"
        settings = settings_of(kind, nn.metrics.R2).replace(", ", "<br>")
        rows.append(f"| {code(repr(name))} | {code(kind.__name__)} | {settings} | {first_paragraph(kind)} | {when} |")
    return "\n".join(rows)


def summary() -> str:
    """The summary of the network on the page about layers."""
    layers = [nn.Conv2d(16, 3, padding="same"), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool(2), nn.Flatten()]
    return nn.Network([*layers, nn.Dropout(0.2), nn.Dense(10)], (8, 8, 1)).summary().text(80).strip("\n")


def malrule_table() -> str:
    """The mal-rules: name, what goes wrong, how ordinary it is."""
    rows = ["| mal-rule | what goes wrong | prior | |", "| --- | --- | ---: | --- |"]
    for rule in sorted(RULES.values(), key=lambda rule: (-rule.prior, rule.name)):
        note = "a convention" if rule.conventional else ""
        rows.append(f"| {code(rule.name)} | {cell(rule.sentence)} | {rule.prior} | {note} |")
    rows += [f"| {code(name)} | {cell(sentence)} | | |" for name, sentence in PEN.items()]
    for reading in ALTERNATIVES:
        note = "a convention" if reading.conventional else ""
        rows.append(f"| {code(reading.rule)} | at every step: {cell(reading.sentence)} | | {note} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "malrules": malrule_table,
    "layers": layer_table,
    "layer_formulas": layer_formulas,
    "activations": activation_table,
    "losses": loss_table,
    "metrics": metric_table,
    "summary": summary,
    "optimisers": optimiser_table,
    "formulas": formula_sections,
    "schedules": schedule_table,
    "rates": rate_table,
}
