"""Call sites: which line of the user's code made a node, and what the user called the result.

A site is a code object and the offset of an instruction in it, which costs nothing to record. Python (3.11 and later)
keeps the exact columns of every instruction, so the text of the expression, and the name it is assigned to in
`h = ops.tanh(x @ w)`, are read from the source only when somebody asks.
"""

from __future__ import annotations

import ast
import linecache
import os
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from textwrap import shorten
from types import CodeType, FrameType
from typing import Any

_PACKAGE = os.path.dirname(__file__) + os.sep
# Layers, losses, optimisers and the training step are written in ops as a user would write them, so their lines count
# as places where quantities are named; the rest of the package is machinery.
_NAMING = tuple(_PACKAGE + part for part in ("nn/", "optim/", "train/step.py"))


@dataclass(frozen=True, slots=True)
class Site:
    """One instruction of somebody's code."""

    code: CodeType
    offset: int

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        return self._span()[0]

    def describe(self) -> str:
        """`model.py:12, in loss: h = ops.tanh(x @ w)`"""
        text = shorten(linecache.getline(self.file, self.line), 100, placeholder=" ...")
        where = f"{os.path.basename(self.file)}:{self.line}, in {self.code.co_name}"
        return f"{where}: {text}" if text else where

    def short(self) -> str:
        """`model.py:12`"""
        return f"{os.path.basename(self.file)}:{self.line}"

    def target(self) -> str | None:
        """The variable that the whole expression at this site is assigned to, or None."""
        return _targets(self.file).get(self._span())

    def _span(self) -> tuple[int, int, int, int]:
        return _span(self.code, self.offset)


@lru_cache(maxsize=65536)
def _span(code: CodeType, offset: int) -> tuple[int, int, int, int]:
    """First line, last line, first column, last column (in UTF-8 bytes) of an instruction."""
    line, end_line, column, end_column = next(islice(code.co_positions(), offset // 2, None))
    first = line if line is not None else code.co_firstlineno
    return first, end_line or first, column or 0, end_column or 0


@lru_cache(maxsize=256)
def _targets(file: str) -> dict[tuple[int, int, int, int], str]:
    """Where the value of each plain assignment `name = expression` of a file stands -> the name."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[tuple[int, int, int, int], str] = {}
    for statement in ast.walk(tree):
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                assert value.end_lineno is not None
                assert value.end_col_offset is not None
                found[(value.lineno, value.end_lineno, value.col_offset, value.end_col_offset)] = name
            case ast.AugAssign(target=ast.Name(id=name)):
                assert statement.end_lineno is not None
                assert statement.end_col_offset is not None
                found[(statement.lineno, statement.end_lineno, statement.col_offset, statement.end_col_offset)] = name
    return found


def is_own(thing: Any) -> bool:
    """Whether a class or a function is written in backlit."""
    return (getattr(thing, "__module__", None) or "").split(".")[0] == "backlit"


@cache
def _is_ours(file: str, naming: bool) -> bool:
    """Whether a file is part of the machinery (with `naming`: and gives no names)."""
    return file.startswith(_PACKAGE) and not (naming and file.startswith(_NAMING))


def _outside(depth: int, naming: bool) -> Site | None:
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not _is_ours(file, naming) and (file != "<string>" or code.co_name != "__init__"):  # that of a dataclass
            return Site(code, frame.f_lasti)
        frame = frame.f_back
    return None


def user_site() -> Site | None:
    """The innermost line on the stack that is not backlit's own: where an error is reported."""
    return _outside(2, naming=False)


def naming_site() -> Site | None:
    """The innermost line that gives quantities their names: the user's, or that of a layer."""
    return _outside(2, naming=True)
