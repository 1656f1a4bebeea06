"""The command line: `backlit COMMAND ...`.

Each module named in `GROUPS` holds commands as functions of a `typer.Typer` called `commands`; to add a command, write
it there, or add a module. Heavy imports stand inside the commands, so that `backlit --help` is quick.

Exit codes: 0 the work was done, 1 it failed, 2 the command or its input cannot be used. What a user did wrong is said
in a few lines; only a bug in backlit shows a traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer
from rich.markup import escape

from backlit.cli.console import complain
from backlit.errors import CheckpointError, DataError, Error, SettingError

GROUPS = ("demo", "tables", "explain", "check", "practice")
"""Modules of this package, in the order in which help shows their commands."""


def build() -> typer.Typer:
    """The command line with the commands of all groups."""
    app = typer.Typer(
        name="backlit",
        help="Train neural networks by backpropagation, and see the work.",
        epilog="New here? Run: backlit demo",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def common(
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Say which version it is."
        ),
    ) -> None:
        pass

    for group in GROUPS:
        app.add_typer(importlib.import_module(f"backlit.cli.{group}").commands)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        import backlit

        typer.echo(f"backlit {backlit.__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command (by default that of the process) and leave the process with its exit code."""
    try:
        build()(args=arguments, prog_name="backlit")
    except (DataError, CheckpointError, SettingError) as error:
        _fail(error, 2)
    except Error as error:
        _fail(error, 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stdout = None  # nothing is left to flush
        sys.exit(0)
    except OSError as error:
        _fail(Error(f"{error.filename or 'the operating system'}: {error.strerror or error}"), 1)


def _fail(error: Error, code: int) -> None:
    """Say what is wrong and what to do, without Python's own words."""
    complain(f"[red]error:[/] {escape(error.what)}")
    if error.fix:
        complain(escape(error.fix))
    sys.exit(code)
