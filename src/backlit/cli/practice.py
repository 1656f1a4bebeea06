"""`backlit practice` and `backlit grade`: problem sheets for a class, and their marking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


@commands.command(epilog="Example:\n\n  backlit practice --shape 2-2-1 --digits 4 --seed 7 --count 30 --out sheets")
def practice(
    shape: Annotated[str, typer.Option(help="Layer sizes.")] = "2-2-1",
    activation: Annotated[str, typer.Option(help="sigmoid, tanh, relu or softplus.")] = "sigmoid",
    loss: Annotated[str, typer.Option(help="half-mse, mse, sse or crossentropy.")] = "half-mse",
    digits: Annotated[int, typer.Option(help="Decimals asked for.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sheets.")] = 0,
    count: Annotated[int, typer.Option(help="How many problems.")] = 1,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("practice"),
) -> None:
    """Write problems with nice numbers, answer sheets and keys; common slips can be told apart in the answers."""
    from backlit.audit.practice import problems, write
    from backlit.cli.console import say

    made = problems(shape, activation, loss, digits, seed, count)
    write(made, out)
    say(f"written  {out}/: {count} problems, answer sheets (.md and .csv) and keys")
    say(f"next     backlit grade {out}/key-01.md SUBMISSIONS... --csv marks.csv --html class.html")


@commands.command(epilog="Example:\n\n  backlit grade key-01.md answers/*.csv --csv marks.csv --html class.html")
def grade(
    key: Annotated[Path, typer.Argument(help="The key: a worksheet with the right numbers.")],
    submissions: Annotated[list[Path], typer.Argument(help="Answer sheets, CSV or Markdown.")],
    marks: Annotated[Path | None, typer.Option("--csv", help="Write the marks as CSV, too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the class's slips as one HTML page, too.")] = None,
) -> None:
    """Mark answer sheets with follow-through credit.

    Exit code 1 where a submission could not be read, 2 where the key could not.
    """
    from rich.markup import escape

    from backlit.audit.grading import class_page, histogram, marks_csv, read_key
    from backlit.audit.grading import grade as mark
    from backlit.audit.syntax import WorksheetError
    from backlit.cli.console import say, show
    from backlit.errors import DataError

    try:
        found = read_key(key)
    except (WorksheetError, DataError, OSError) as error:
        say(f"[red]error:[/] {escape(str(key))}: {escape(str(getattr(error, 'strerror', None) or error))}")
        raise typer.Exit(2) from None
    marked = [mark(found, path) for path in submissions]
    for m in marked:
        if m.error:
            show(f"{escape(m.name)}  [red]not marked:[/] {escape(m.error)}")
        else:
            first = m.slips[0] if m.slips else None
            reason = "" if first is None else f"  first slip {first.claim.quantity}"
            if first is not None and first.diagnoses:
                reason += f": {first.diagnoses[0].text}"
            show(f"{escape(m.name)}  {m.marks:g} / {found.out_of:g}{escape(reason)}")
    slips = ", ".join(f"{rule} {n}" for rule, n in histogram(marked)[:8])
    if slips:
        show(f"slips: {slips}")
    if marks is not None:
        marks.write_text(marks_csv(found, marked), encoding="utf-8")
        say(f"written  {marks}")
    if html is not None:
        html.write_text(class_page(found, marked, f"{key.stem}: the class"), encoding="utf-8")
        say(f"written  {html}")
    raise typer.Exit(1 if any(m.error for m in marked) else 0)
