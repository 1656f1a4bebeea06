"""What a training run leaves: a folder with the model, its history, a picture of its learning curve, and a report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from backlit.cli.console import say, show
from backlit.extras import MissingExtraError
from backlit.tables.scores import ClassScores, Scores
from backlit.tables.target import Array, Classes
from backlit.train.history import figure

if TYPE_CHECKING:
    import polars as pl

    from backlit.tables import Fitted, Trained
    from backlit.train.history import History

MOST_CLASSES_SHOWN = 12


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, bars in cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def announce(name: str, frame: pl.DataFrame, fitted: Fitted, parts: Sequence[Array]) -> None:
    """Say what was found in a table before training begins."""
    schema = fitted.schema
    train, watch, test = (len(part) for part in parts)
    say(f"[bold]{escape(name)}[/]  {frame.height:,} rows, {frame.width} columns")
    say(f"target   {escape(schema.target.name)}: {schema.target.task} ({fitted.why})")
    say(f"inputs   {len(schema.inputs)} from {len(schema.columns)} columns")
    say(f"rows     {train:,} for training, {watch:,} for validation, {test:,} for the test")
    for note in fitted.notes:
        say(f"[yellow]note:[/]    {escape(note)}")


def show_scores(name: str, scores: Scores) -> None:
    """Print the scores, and for classes who was taken for whom."""
    table = Table(title=f"{escape(name)}: {scores.rows:,} rows", title_justify="left", show_header=False)
    for label, value in scores.figures().items():
        table.add_row(label, figure(value))
    show(table)
    if isinstance(scores, ClassScores) and len(scores.classes) <= MOST_CLASSES_SHOWN:
        confusion = Table(title="rows are what it is, columns what it was taken for", title_justify="left")
        confusion.add_column("")
        for name in scores.classes:
            confusion.add_column(escape(name), justify="right")
        confusion.add_column("found", justify="right")
        for i, row in enumerate(scores.confusion):
            cells = [f"[bold]{n}[/]" if i == j else str(n) if n else "[dim]·[/]" for j, n in enumerate(row)]
            confusion.add_row(escape(scores.classes[i]), *cells, f"{scores.recall[i]:.1%}")
        show(confusion)


def as_json(scores: Scores) -> str:
    """The scores as JSON: figures by name, null for unknown ones, and the confusion matrix."""
    found: dict[str, Any] = {
        name.lower().replace(" ", "_"): value if math.isfinite(value) else None
        for name, value in scores.figures().items()
    }
    found["rows"] = scores.rows
    if isinstance(scores, ClassScores):
        found |= {"classes": list(scores.classes), "confusion": scores.confusion.tolist()}
    return json.dumps(found, indent=1)


def write_history(folder: Path, history: History) -> list[str]:
    """history.json, and learning-curve.png where matplotlib is installed; the names of what was written."""
    history.to_json(folder / "history.json")
    try:
        history.plot(folder / "learning-curve.png")
    except MissingExtraError as error:
        say(f"[yellow]note:[/] no learning-curve.png: {escape(error.what)}")
        return ["history.json"]
    return ["history.json", "learning-curve.png"]


def scores_markdown(scores: Scores) -> str:
    """The scores, and for classes the confusion matrix, as Markdown."""
    text = markdown_table(("score", "value"), [(name, figure(value)) for name, value in scores.figures().items()])
    if isinstance(scores, ClassScores):
        rows = [(f"**{name}**", *row) for name, row in zip(scores.classes, scores.confusion, strict=True)]
        text += "\n\nEach row is what it is, each column what it was taken for.\n\n"
        text += markdown_table(("", *scores.classes), rows)
    return text


def write_table_run(folder: Path, table: Path, frame: pl.DataFrame, trained: Trained) -> None:
    """The folder of `backlit train`."""
    best = trained.history.best("val_loss")["epoch"]
    say(f"trained  {trained.history.epochs} epochs in {trained.seconds:.1f} s; kept epoch {best:.0f}, the best")
    folder.mkdir(parents=True, exist_ok=True)
    trained.model.save(folder / "model.backlit")
    written = ["model.backlit", *write_history(folder, trained.history), "report.md"]
    (folder / "report.md").write_text(_table_report(folder, table, frame, trained, written), encoding="utf-8")
    say(f"written  [bold]{escape(str(folder))}/[/]: {', '.join(written)}")


def _table_report(folder: Path, table: Path, frame: pl.DataFrame, trained: Trained, written: Sequence[str]) -> str:
    schema, fitted = trained.model.schema, trained.fitted
    train, watch, test = (len(part) for part in trained.parts)
    best = trained.history.best("val_loss")
    columns = [(c.name, c.kind, len(c.inputs)) for c in schema.columns]
    target = schema.target
    classes = f" Classes: {', '.join(target.values[:50])}." if isinstance(target, Classes) else ""
    parts = [
        f"# {target.name} from {table.name}",
        f"A {target.task} ({fitted.why}).{classes} {frame.height:,} rows: {train:,} trained the network, {watch:,} "
        f"said when to stop, {test:,} were held out for this test.",
        f"## Test, {test:,} rows",
        scores_markdown(trained.scores),
        "## Training",
        f"{trained.history.epochs} epochs in {trained.seconds:.1f} s; the weights are those of epoch "
        f"{best['epoch']:.0f}, whose validation loss was the lowest ({figure(best['val_loss'])}).",
        "![learning curve](learning-curve.png)" if "learning-curve.png" in written else "",
        "```\n" + str(trained.model.net.summary()).strip("\n") + "\n```",
        "## Columns",
        markdown_table(("column", "taken as", "inputs"), columns),
        "\n".join(f"- {note}" for note in fitted.notes),
        "## Use it",
        f"    backlit predict {folder} NEW.csv",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
