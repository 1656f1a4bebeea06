"""`backlit train`, `predict` and `evaluate`: a network for the user's own table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from backlit.cli.console import leave_speaking_to_others, say
from backlit.errors import SettingError

if TYPE_CHECKING:
    import polars as pl

    from backlit.executors import Executor
    from backlit.tables import TableModel

commands = typer.Typer()

_READING = "How the file is written"
_COLUMNS = "Columns"
_TRAINING = "Training"
_PROCESSES = "Several processes"

TableFile = Annotated[Path, typer.Argument(metavar="TABLE", help="A CSV or Parquet file, gzipped or not.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="The folder or the model.backlit that train wrote.")]
Separator = Annotated[
    str | None, typer.Option(help="Between the cells of a CSV file; by default found.", rich_help_panel=_READING)
]
Encoding = Annotated[
    str | None, typer.Option(help="Of a CSV file, such as cp1252; by default UTF-8.", rich_help_panel=_READING)
]
Missing = Annotated[
    list[str] | None,
    typer.Option(help="A cell that means not known, such as -999; repeat for more.", rich_help_panel=_READING),
]
DropMissing = Annotated[
    bool,
    typer.Option("--drop-missing-target", help="Leave rows without a target out.", rich_help_panel=_READING),
]


def _hidden(text: str) -> str:
    """Check the sizes of the hidden layers as soon as they are read."""
    try:
        _sizes(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of sizes, such as 64,32 (or none)") from None
    return text


def _sizes(text: str) -> list[int]:
    sizes = [] if text in ("", "none") else [int(part) for part in text.split(",")]
    if any(size < 1 for size in sizes):
        raise ValueError(text)
    return sizes


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter(f"{value} is no share: give a number between 0 and 1, such as 0.2")
    return value


@commands.command(
    epilog="Examples:\n\n"
    "  backlit train penguins.csv --target species\n\n"
    "  backlit train houses.csv --target price --hidden 128,64 --epochs 500 --out houses\n\n"
    "  backlit train visits.parquet --target returned --category postcode --drop name --balance\n\n"
    "  srun backlit train big.parquet --target price --distributed --checkpoint run.backlit"
)
def train(
    table: TableFile,
    target: Annotated[str, typer.Option(help="The column to predict.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to; by default TABLE-model.", show_default=False)
    ] = None,
    task: Annotated[
        Literal["classification", "regression"] | None,
        typer.Option(help="By default found from the target.", rich_help_panel=_COLUMNS),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(help="A column of codes, not amounts; repeat for more.", rich_help_panel=_COLUMNS),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="A column to leave out; repeat for more.", rich_help_panel=_COLUMNS)
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to use though it looks like an identifier.", rich_help_panel=_COLUMNS),
    ] = None,
    hidden: Annotated[
        str,
        typer.Option(callback=_hidden, help="Units of each hidden layer, or none.", rich_help_panel=_TRAINING),
    ] = "64,32",
    epochs: Annotated[int, typer.Option(min=1, help="At most so many epochs.", rich_help_panel=_TRAINING)] = 200,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without improvement before it stops.", rich_help_panel=_TRAINING)
    ] = 20,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows a step; by default by the size.", rich_help_panel=_TRAINING)
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_TRAINING)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.", rich_help_panel=_TRAINING)] = 1e-4,
    dropout: Annotated[
        float, typer.Option(help="Share of hidden units left out in a step.", rich_help_panel=_TRAINING)
    ] = 0.0,
    balance: Annotated[
        bool, typer.Option("--balance", help="Rare classes weigh as much as common ones.", rich_help_panel=_TRAINING)
    ] = False,
    test: Annotated[
        float, typer.Option(callback=_share, help="Share of the rows for the test.", rich_help_panel=_TRAINING)
    ] = 0.2,
    validation: Annotated[
        float,
        typer.Option(callback=_share, help="Share of the rest that says when to stop.", rich_help_panel=_TRAINING),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.", rich_help_panel=_TRAINING)] = 0,
    executor: Annotated[str, typer.Option(help="What runs the training.", rich_help_panel=_TRAINING)] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Save the run here after each epoch, and go on from it.", rich_help_panel=_TRAINING),
    ] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Train in several processes at once.", rich_help_panel=_PROCESSES)
    ] = False,
    coordinator: Annotated[
        str | None, typer.Option(help="host:port of process 0; by default found.", rich_help_panel=_PROCESSES)
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="How many there are; by default found.", rich_help_panel=_PROCESSES)
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(help="Which this is, from 0; by default found.", rich_help_panel=_PROCESSES)
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the other processes.", rich_help_panel=_PROCESSES)
    ] = 300.0,
    heartbeat: Annotated[
        float, typer.Option(help="Seconds of silence after which one is lost.", rich_help_panel=_PROCESSES)
    ] = 60.0,
    separator: Separator = None,
    encoding: Encoding = None,
    missing: Missing = None,
    drop_missing_target: DropMissing = False,
) -> None:
    """Train a network to predict a column of your table, and test it on rows held out.

    Classification or regression is found from the target; numbers are standardised, categories and dates encoded and
    missing cells filled, all inside the saved model.
    """
    from backlit import tables
    from backlit.cli import reports

    runner: str | Executor = executor
    speaks = True
    if distributed:
        runner, speaks = _joined(executor, coordinator, processes, process_id, timeout, heartbeat)
    elif any(given is not None for given in (coordinator, processes, process_id)):
        raise SettingError("settings of several processes are given for one", fix="add --distributed")
    frame = tables.read(table, separator=separator, encoding=encoding, missing=missing or ())
    if drop_missing_target:
        frame = _with_target(frame, target)
    trained = tables.train(
        frame,
        target,
        task=task,
        hidden=_sizes(hidden),
        dropout=dropout,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        balance=balance,
        test=test,
        validation=validation,
        categories=category or (),
        drop=drop or (),
        keep=keep or (),
        seed=seed,
        executor=runner,
        checkpoint=checkpoint,
        on_fitted=lambda fitted, parts: reports.announce(table.name, frame, fitted, parts),
    )
    trained.model.about["missing"] = list(missing or ())
    if not speaks:
        return
    folder = out if out is not None else Path(f"{table.name.partition('.')[0]}-model")
    reports.write_table_run(folder, table, frame, trained)
    reports.show_scores("test", trained.scores)
    say(f"\n[bold]next[/]\n  backlit predict {folder} NEW.csv\n  backlit evaluate {folder} OTHER.csv")


@commands.command(
    epilog="Examples:\n\n"
    "  backlit predict penguins-model new.csv\n\n"
    "  backlit predict penguins-model new.csv --with-columns --out predictions.csv"
)
def predict(
    model: ModelFile,
    table: TableFile,
    out: Annotated[
        Path | None,
        typer.Option(help="A CSV or Parquet file; by default CSV on standard output.", show_default=False),
    ] = None,
    with_columns: Annotated[
        bool, typer.Option("--with-columns", help="Put the columns of the table before the predictions.")
    ] = False,
    separator: Separator = None,
    encoding: Encoding = None,
    missing: Missing = None,
) -> None:
    """Predict the target for each row of a table, in its order."""
    found, frame = _open(model, table, separator, encoding, missing)
    predictions = found.predict(frame)
    if with_columns:
        predictions = frame.hstack(predictions.get_columns())
    if out is None:
        print(predictions.write_csv(), end="")
    else:
        _write(predictions, out)
        say(f"{predictions.height} predictions written to {out}")


@commands.command(
    epilog="Examples:\n\n"
    "  backlit evaluate penguins-model other.csv\n\n"
    "  backlit evaluate penguins-model other.csv --json | jq .accuracy"
)
def evaluate(
    model: ModelFile,
    table: TableFile,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    separator: Separator = None,
    encoding: Encoding = None,
    missing: Missing = None,
    drop_missing_target: DropMissing = False,
) -> None:
    """Score a model on a table whose targets are known."""
    from backlit.cli import reports

    found, frame = _open(model, table, separator, encoding, missing)
    if drop_missing_target:
        frame = _with_target(frame, found.schema.target.name)
    scores = found.evaluate(frame)
    if json:
        print(reports.as_json(scores))
    else:
        reports.show_scores(table.name, scores)


def _joined(
    executor: str,
    coordinator: str | None,
    processes: int | None,
    process_id: int | None,
    timeout: float,
    heartbeat: float,
) -> tuple[Executor, bool]:
    """The executor over the devices of all processes, and whether this one prints and writes."""
    from backlit import distributed

    if executor not in ("auto", "xla"):
        raise SettingError(f"--executor {executor} runs in one process only", fix="use xla, or leave out --distributed")
    me = distributed.initialize(coordinator, processes, process_id, timeout=timeout, heartbeat=heartbeat)
    if me.id != 0:
        leave_speaking_to_others(f"process {me.id}")
    say(f"cluster  {me.processes} processes, {me.coordinator}")
    from backlit.executors import XLA

    return XLA(devices=None), me.id == 0


def _open(
    model: Path, table: Path, separator: str | None, encoding: str | None, missing: list[str] | None
) -> tuple[TableModel, pl.DataFrame]:
    """The model and the table, read as the model's training table was; remarks are said."""
    from backlit import tables

    found = tables.load(model)
    known = [m for m in found.about.get("missing", []) if isinstance(m, str)]
    frame = tables.read(table, separator=separator, encoding=encoding, missing=[*known, *(missing or ())])
    for note in found.schema.surprises(frame):
        say(f"[yellow]note:[/] {note}")
    return found, frame


def _with_target(frame: pl.DataFrame, target: str) -> pl.DataFrame:
    from backlit import tables

    known = tables.target_column(frame, target).is_not_null()
    lacking = int((~known).sum())
    if lacking:
        say(f"[yellow]note:[/] {lacking} of {frame.height} rows have no {target!r}; rows are counted without them")
    return frame.filter(known)


def _write(frame: pl.DataFrame, path: Path) -> None:
    """A CSV or Parquet file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    write: Any = frame.write_parquet if path.suffix in (".parquet", ".pq") else frame.write_csv
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
