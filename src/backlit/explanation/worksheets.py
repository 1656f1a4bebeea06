"""Derivations of worksheets: the same chain rule for what somebody wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.errors import Error
from backlit.explanation.derivation import Derivation
from backlit.explanation.explainer import Problem, derive
from backlit.explanation.maker import Options

if TYPE_CHECKING:
    from backlit.audit.sheet import Sheet


def explain_sheet(
    sheet: Sheet, wrt: str, loss: str | None = None, lr: float | None = None, verify: bool = True, **options: Any
) -> Derivation:
    """The derivation for a given or param of a worksheet, as its numbers are before the first step.

    loss  the quantity that is differentiated: by default the one that the sheet steps down, else the last one defined
    lr    by default the learning rate of the sheet's step

    Raises Error where the sheet has no such quantity.
    """
    names = sheet.epochs[0]
    scalars = [n for n, node in names.items() if node.inputs and not node.type.shape and node.type.dtype.kind == "f"]
    if loss is not None and loss not in scalars:
        raise Error(f"the sheet computes no number {loss!r}", fix=f"it computes {', '.join(scalars) or 'none'}")
    if loss is None and not scalars:
        raise Error("the sheet computes nothing that could be differentiated", fix="define a loss, such as E = ...")
    if loss is None:
        node = sheet.updates[0].loss if sheet.updates else names[scalars[-1]]
        lr = sheet.updates[0].rate if sheet.updates and lr is None else lr
    else:
        node = names[loss]
    graph = sheet.graph(node)
    arrays = tuple(np.asarray(a) for a in sheet.inputs.values())
    paths = tuple(str(n.name) for n in graph.inputs)
    called = next((name for name, n in names.items() if n is node), None)
    problem = Problem(graph, paths, arrays, wrt, verify, lr, loss=called)
    return derive(problem, Options(**options))


def first_sheet(path: Path, loss: str | None, wrt: str) -> Sheet:
    """The first worksheet of a Markdown file that has these names. Raises Error where there is none."""
    from backlit.audit.sheet import read
    from backlit.audit.syntax import blocks

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Error(f"{path} is no UTF-8 text") from None
    sheets = [read(block) for block in blocks(text)]
    name = wrt.split("[")[0]
    for sheet in sheets:
        known = {str(n.name) for n in sheet.inputs}
        if name in known and (loss is None or loss in sheet.epochs[0]):
            return sheet
    if not sheets:
        raise Error(f"{path} has no worksheet", fix="it stands in a block that begins with ```worksheet")
    inputs = ", ".join(dict.fromkeys(str(n.name) for sheet in sheets for n in sheet.inputs))
    raise Error(f"no worksheet of {path} has the quantity {wrt!r}", fix=f"choose from {inputs}")
