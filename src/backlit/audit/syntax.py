"""The worksheet language: its expressions and statements, its limits, and the blocks of a Markdown text.

Everything here is data; `grammar` makes it from the text of a line, `sheet` makes a graph from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from backlit.errors import Error

MAX_BYTES = 1_000_000
MAX_LINE = 4_000
MAX_LINES = 1_000  # of one worksheet
MAX_DEPTH = 200
MAX_DIGITS = 40
MAX_ELEMENTS = 10_000
MAX_REPEAT = 1_000_000


class WorksheetError(Error, ValueError):
    """A worksheet that cannot be read: says the line, the column and what was expected."""

    def __init__(self, what: str, line: int = 0, column: int = 0, text: str = "", **rest: Any) -> None:
        self.line, self.column, self.text = line, column, text
        rest.setdefault("site", None)
        super().__init__(what, **rest)
        self.site = None
        self.args = (str(self),)

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        lines = [where + self.what]
        if self.text:
            start = max(0, self.column - 81)  # of a long line, what stands around the place
            lines += [f"  {self.text[start : start + 100]}", "  " + " " * (self.column - 1 - start) + "^"]
        if self.fix:
            lines.append(f"  {self.fix}")
        return "\n".join(lines)

    def at(self, line: int, text: str) -> WorksheetError:
        """The same error with its line, where only the column was known."""
        return WorksheetError(self.what, self.line or line, self.column or 1, self.text or text, fix=self.fix)


def too_many(what: str, limit: int, column: int) -> WorksheetError:
    """The error for what goes past a limit."""
    return WorksheetError(f"{what}: the limit is {limit:,}", column=column)


# ---------------------------------------------------------------------------------------------------------------------
# Expressions and statements


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was printed. `text` keeps its digits: they say how precise it is meant to be."""

    text: str
    column: int = 0

    @property
    def value(self) -> float:
        return float(self.text)


@dataclass(frozen=True, slots=True)
class Array:
    """`[a, b, ...]`, nested for matrices."""

    items: tuple[Expr, ...]
    column: int = 0
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A quantity. `primed` is its value after the next step."""

    name: str
    primed: bool = False
    column: int = 0


@dataclass(frozen=True, slots=True)
class Derivative:
    """The derivative of the scalar `of` by `by`."""

    of: str
    by: str
    column: int = 0

    @property
    def name(self) -> str:
        return f"d{self.of}/d{self.by}"


@dataclass(frozen=True, slots=True)
class Unary:
    """-a."""

    operand: Expr
    column: int = 0
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """a op b, op one of + - * / ^ @."""

    op: str
    left: Expr
    right: Expr
    column: int = 0
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """f(a, ...)."""

    function: str
    arguments: tuple[Expr, ...]
    column: int = 0
    depth: int = field(default=1, compare=False, repr=False)


Expr: TypeAlias = Number | Array | Name | Derivative | Unary | Binary | Call


@dataclass(frozen=True, slots=True)
class Given:
    """`given` and `param`: names with their numbers."""

    values: tuple[tuple[Name, Expr], ...]
    trainable: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """`quantity = part = part ...`: a definition, claims, or both."""

    left: Name | Derivative
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of gradient descent on `loss`; `on` is empty for all params."""

    loss: Name
    rate: float
    on: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat:
    """The last step, `count` times more."""

    count: int


Statement: TypeAlias = Given | Chain | Step | Repeat


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the line its first line stands on in the file (from 1), and its lines."""

    line: int
    lines: tuple[str, ...] = field(repr=False)


def blocks(text: str) -> list[Block]:
    """The fenced `worksheet` blocks of a Markdown text. Raises WorksheetError where the text is too large or a block
    does not end.
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise WorksheetError(f"the text is larger than {MAX_BYTES:,} bytes", fix="split it into several files")
    found: list[Block] = []
    fence, start, lines = "", 0, list[str]()
    inside = False  # of a worksheet; other fenced blocks are prose
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r" {0,3}(`{3,}|~{3,})\s*(\S*)\s*$", line)
        if not fence:
            if mark:
                fence, inside, start, lines = mark[1], mark[2] == "worksheet", number + 1, []
        elif mark and mark[1].startswith(fence) and not mark[2]:
            if inside:
                found.append(Block(start, tuple(lines)))
            fence = ""
        elif inside:
            lines.append(line)
            if len(lines) > MAX_LINES:
                raise too_many("the worksheet has too many lines", MAX_LINES, 1).at(number, line[:80])
    if fence and inside:
        raise WorksheetError("this worksheet does not end", start - 1, 1, fence, fix=f"close it with a line {fence}")
    return found
