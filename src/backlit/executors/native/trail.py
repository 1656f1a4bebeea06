"""Where a loop's state lies if the states of all steps are kept: each step reads a row, and writes the next one.

The rows are one more than the steps, and all results are views of them: the states before each step are all rows but
the last, those after each step all but the first, the final state is the last row. So nothing is copied, and a step may
read any part of its state while the new one is written. A loop that runs backwards has its first state in the last row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from backlit.executors.native.kernels import Buffer
from backlit.ir import Graph, Node, Type


@dataclass(frozen=True)
class Trail:
    """The parts of the rows: the first state, the last one, and the states before and after each step.

    `kept` are the results of the loop that are the states before or after each step, by their number.
    """

    first: Buffer
    last: Buffer
    before: Buffer
    after: Buffer
    kept: dict[int, Buffer]


def trails(scan: Node, taken: Collection[int], arena: Callable[[Type, str], Buffer], name: str) -> dict[int, Trail]:
    """The trail of each state that has one, by its number; not where a result is `taken`, as it has memory already."""
    p = scan.params
    body: Graph = p["body"]
    outside, carry, length = p["outside"], p["carry"], p["length"]
    found: dict[int, Trail] = {}
    given: set[int] = set()
    for k in range(carry):
        old, new = body.inputs[outside + k], body.outputs[k]
        stacks = [i for i in range(carry, len(scan.types)) if body.outputs[i] in (old, new) and i not in given]
        if new is old or not stacks or not {k, *stacks}.isdisjoint(taken):
            continue
        given.update(stacks)
        rows = arena(old.type.with_shape((length + 1, *old.type.shape)), f"{name}[{k}]")
        low, high = (0, length) if not p["reverse"] else (length, 0)
        before, after = (_part(rows, at, length) for at in ((0, 1) if not p["reverse"] else (1, 0)))
        kept = {i: before if body.outputs[i] is old else after for i in stacks}
        found[k] = Trail(_part(rows, low), _part(rows, high), before, after, kept)
    return found


def _part(rows: Buffer, at: int, count: int | None = None) -> Buffer:
    """One row as a value, or so many of them."""
    row = rows.type.shape[1:]
    type = rows.type.with_shape(row if count is None else (count, *row))
    size = rows.bytes // rows.type.shape[0]
    return Buffer(type, rows.name, "part", offset=at * size, base=rows)
