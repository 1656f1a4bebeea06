"""`backlit check`: worksheets marked as a good marker would."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


@commands.command(epilog="Example:\n\n  backlit check homework.md --html report.html")
def check(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with ```worksheet blocks.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, on standard output.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page, too.")] = None,
) -> None:
    """Check worked examples: every number right, following from an earlier slip, or a slip, and which slip it is.

    Exit code 0: all is right. 1: there are slips. 2: a file cannot be read.
    """
    import json
    import sys

    from rich.console import Console
    from rich.markup import escape

    from backlit.audit.check import check as check_file
    from backlit.audit.reports import write
    from backlit.audit.syntax import WorksheetError
    from backlit.cli.console import say

    code = 0
    reports = []
    console = Console(file=sys.stdout, highlight=False)
    for path in files:
        try:
            report = check_file(path)
        except (WorksheetError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            say(f"[red]error:[/] {escape(str(path))}: {escape(str(reason).removeprefix(f'{path}: '))}")
            code = 2
            continue
        reports.append(report)
        if as_json:
            print(json.dumps(report.json(), ensure_ascii=False, allow_nan=False))
        else:
            if len(reports) > 1:
                console.print()
            write(report, console)
        if not report.ok:
            code = max(code, 1)
    if html is not None:
        from backlit.audit.page import as_html

        html.write_text(as_html(reports), encoding="utf-8")
        say(f"written  {html}")
    raise typer.Exit(code)
