"""A name for what a graph becomes: equal names, equal machine code.

The name is a hash of the graph as it was given, before any pass: ops, params, types, wiring, the order of the program,
and the bytes of its constants. Names, scopes and call sites do not count. Of a graph that follows from another one it
is a hash of that and of the rule, so that the graph need not be made. To it come the processor, the versions of
LLVM and backlit, and the source of everything that derives graphs and turns them into code, so that a changed compiler
never finds what an older one has made. A graph with an op of the user's own has no name: its code may be another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from backlit.executors.native.target import Target
from backlit.ir import Graph, Node, Type
from backlit.ops.record import OPS, Op
from backlit.sites import is_own

_PARTS = (
    "ir.py", "pytree.py", "settings.py", "tracing.py", "autodiff.py", "transforms.py", "ops/*.py", "passes/*.py",
    "optim/*.py", "train/step.py", "executors/native/*.py",
)  # fmt: skip


def _stamp() -> str:
    package = Path(__file__).parents[2]
    found = hashlib.sha256()
    for part in _PARTS:
        for path in sorted(package.glob(part)):
            found.update(path.read_bytes())
    return f"{found.hexdigest()} {version('backlit')} {llvm.llvm_version_info} {llvmlite.__version__} {np.__version__}"


_STAMP = _stamp()
"""The compiler. Taken when it is imported: a file that is edited later is not the code that runs."""


def digest(graph: Graph, target: Target, *how: object) -> str | None:
    """The name of the code of a graph for a target, compiled as `how` says; None if the graph has no name."""
    try:
        text = "\n".join([_STAMP, repr(target), repr(how), graph.rule, *_lines(graph.source)])
    except TypeError:  # a param of a kind that is not known here, or an op
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def everything(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of the bodies of its loops, in an order that its digest fixes."""
    for node in graph.nodes:
        yield node
        for value in node.params.values():
            if isinstance(value, Graph):
                yield from everything(value)


@cache
def _is_builtin(op: Op) -> bool:
    """Whether what the op means is written in backlit."""
    return all(f is None or is_own(f) for f in (op.rule, op.scalar, op.vjp))


def _lines(graph: Graph) -> Iterator[str]:
    if not all(_is_builtin(OPS[op]) for op in graph.ops if op in OPS):
        raise TypeError
    number: dict[Node, int] = {}
    for node in graph.nodes:
        number[node] = len(number)
        params = _value(node.params) if node.params else ""
        yield f"{node.op} {[number[i] for i in node.inputs]} {params} {' '.join(map(_type, node.types))}"
    yield f"{[number[i] for i in graph.inputs]} {[number[o] for o in graph.outputs]}"


@cache
def _type(type: Type) -> str:
    return f"{type.dtype.str}{type.shape}"


def _value(value: Any) -> str:
    match value:
        case np.generic():
            return f"{value.dtype.str}{value.tobytes().hex()}"
        case None | bool() | int() | str():
            return repr(value)
        case float():
            return value.hex()
        case np.dtype():
            return value.str
        case np.ndarray():
            return f"{value.dtype.str}{value.shape}{hashlib.sha256(np.ravel(value).data).hexdigest()}"
        case Type():
            return _type(value)
        case Graph():
            return f"({'; '.join(_lines(value))})"
        case Mapping():
            return f"{{{', '.join(f'{k!r}: {_value(v)}' for k, v in sorted(value.items()))}}}"
        case tuple() | list():
            return f"({', '.join(map(_value, value))})"
        case _:
            raise TypeError(type(value))
