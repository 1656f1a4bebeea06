"""`backlit explain`: the chain rule for one weight, of a model or of a worksheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from backlit.cli.console import say, show
from backlit.errors import DataError, Error, SettingError

if TYPE_CHECKING:
    from backlit.explanation import Derivation

commands = typer.Typer()

_OUTPUT = "Write to a file"


def _file(kind: str) -> Any:
    return typer.Option(help=f"{kind} to write.", rich_help_panel=_OUTPUT, show_default=False)


@commands.command(
    epilog="Examples:\n\n"
    "  backlit explain penguins-model --data penguins.csv --row 3 --wrt 'dense_1.weight[0, 1]' --html why.html\n\n"
    "  backlit explain sheet.md --wrt w5\n\n"
    "  backlit explain sheet.md --wrt w1 --view paths --tex why.tex"
)
def explain(
    source: Annotated[
        Path, typer.Argument(metavar="MODEL|SHEET", help="A model that train wrote, or a worksheet (.md).")
    ],
    wrt: Annotated[str, typer.Option(help="The weight, such as dense_1.weight[0, 1] or w5.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="For a model: the table that the row is of.", show_default=False)
    ] = None,
    row: Annotated[int, typer.Option(min=1, help="For a model: which row, the first being 1.")] = 1,
    loss: Annotated[
        str | None,
        typer.Option(help="For a model, the loss; for a sheet, the quantity to differentiate.", show_default=False),
    ] = None,
    view: Annotated[
        Literal["deltas", "paths", "matrix"], typer.Option(help="Layer by layer, path by path, or whole arrays.")
    ] = "deltas",
    terms: Annotated[int, typer.Option(min=1, help="Terms of a long sum to write out.")] = 6,
    depth: Annotated[int, typer.Option(min=0, help="Folded sums to follow in full.")] = 1,
    digits: Annotated[int, typer.Option(min=1, max=17, help="Significant digits, at least.")] = 6,
    lr: Annotated[float | None, typer.Option(help="Show the update with this rate.", show_default=False)] = None,
    html: Annotated[Path | None, _file("A page")] = None,
    md: Annotated[Path | None, _file("Markdown")] = None,
    tex: Annotated[Path | None, _file("LaTeX")] = None,
    json: Annotated[Path | None, _file("JSON")] = None,
) -> None:
    """Show the chain rule for one weight, in symbols and in numbers."""
    options: dict[str, Any] = {"view": view, "terms": terms, "depth": depth, "digits": digits}
    if source.suffix == ".md":
        from backlit.explanation.worksheets import explain_sheet, first_sheet

        found = explain_sheet(first_sheet(source, loss, wrt), wrt, loss, lr, **options)
    else:
        found = _of_model(source, data, row, wrt, loss, lr, options)
    targets = {".html": html, ".md": md, ".tex": tex, ".json": json}
    for ending, target in targets.items():
        if target is not None and target.suffix != ending:
            raise SettingError(f"{target} does not end in {ending}")
    written = [found.save(target) for target in targets.values() if target is not None]
    for target in written:
        say(f"written to {target}")
    if not written:
        show(found)


def _of_model(
    source: Path, data: Path | None, row: int, wrt: str, loss: str | None, lr: float | None, options: dict[str, Any]
) -> Derivation:
    """The derivation for one row of a table and a model that was trained on such tables."""
    import backlit as bl
    from backlit import tables
    from backlit.tables.target import Classes

    if data is None:
        raise SettingError("a model is explained for a row of a table", fix="pass --data FILE.csv and --row")
    model = tables.load(source)
    missing = [m for m in model.about.get("missing", []) if isinstance(m, str)]
    frame = tables.read(data, missing=missing)
    if row > frame.height:
        raise DataError(f"{data} has {frame.height} rows, and row {row} is asked for")
    one = frame[row - 1 : row]
    usual = "crossentropy" if isinstance(model.schema.target, Classes) else "mse"
    try:
        x, y = model.schema.features(one), model.schema.labels(one)
    except DataError as error:
        raise DataError(f"row {row} of {data}: {error.what}", fix=error.fix) from None
    try:
        return bl.explain(model.net, x, y, loss=loss or usual, wrt=wrt, lr=lr, **options)
    except Error as error:
        raise type(error)(error.what, fix=error.fix) from None
