"""What commands print: results on standard output, everything else (progress, remarks, errors) on standard error."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from rich.console import Console


@cache
def _console(stream: Any) -> Console:
    # Without a terminal lines are not folded: a log or a test sees whole sentences.
    terminal = stream.isatty()
    return Console(file=stream, highlight=False, soft_wrap=not terminal, width=None if terminal else 200)


def say(*things: Any) -> None:
    """Tell the person at the terminal; rich markup counts."""
    _console(sys.stderr).print(*things)


def show(*things: Any) -> None:
    """Print a result."""
    _console(sys.stdout).print(*things)
