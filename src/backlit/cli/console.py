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


_speaker = ""  # the name of a process that has nothing to say but its errors


def leave_speaking_to_others(name: str) -> None:
    """Of several processes that do the same work one speaks; this one, of this name, prints its errors only."""
    global _speaker
    _speaker = name


def say(*things: Any) -> None:
    """Tell the person at the terminal; rich markup counts."""
    if not _speaker:
        _console(sys.stderr).print(*things)


def show(*things: Any) -> None:
    """Print a result."""
    if not _speaker:
        _console(sys.stdout).print(*things)


def complain(*things: Any) -> None:
    """Say what went wrong."""
    _console(sys.stderr).print(*([f"{_speaker}:"] if _speaker else []), *things)
