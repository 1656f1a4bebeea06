"""A plan as a table that a person can read: one line a kernel, in the order in which they run.

    #   what it computes   kind       loops            split    operations   bytes    made of

`loops` are the axes of the result, then the reduced ones in brackets; the axis that is cut into vectors has the
number of lanes after it, products say their tile. `split` is the axis that threads share; where it has a bar, all
threads wait for one another first. What a loop repeats stands under it, indented. A narrow terminal gets
shorter columns, a very narrow one without the last or the last two.
"""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from backlit.executors.native.dots import Dots
from backlit.executors.native.groups import Groups
from backlit.executors.native.kernels import Call, Nest, Rows, Winograd, WinogradSum
from backlit.executors.native.method import method
from backlit.executors.native.plan import Plan, traffic
from backlit.executors.native.rows import block
from backlit.executors.native.schedule import Schedule, schedule
from backlit.executors.native.sharing import Pending, Share, flows, share_of
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import Tiling
from backlit.executors.native.transpose import Transpose
from backlit.executors.native.winograd_product import blocks

_WIDEST = (3, 30, 14, 28, 8, 10, 5, 34)  # characters of each column
_LEAST = (3, 24, 13, 12, 8, 10, 5, 8)
_WIDE = 140
_HEAD = ("#", "computes", "kind", "loops", "split", "operations", "bytes", "made of")


def table(plan: Plan, target: Target, shares: int, width: int = 0) -> str:
    """The lines of the table, and a summary, in `width` characters: those of the terminal, if there is one."""
    width = width or (shutil.get_terminal_size((_WIDE, 0)).columns if sys.stdout.isatty() else _WIDE)
    number = count(1)
    rows = [_HEAD] + [
        (row[0] or str(next(number)), *row[1:]) for row in _rows(plan.steps, target, Pending(target, shares))
    ]
    widths = [min(limit, max(len(r[c]) for r in rows)) for c, limit in enumerate(_WIDEST)]
    _fit(widths, width)
    lines = [
        "  ".join(_placed(c, w, k) for k, (c, w) in enumerate(zip(r, widths, strict=False))).rstrip() for r in rows
    ]
    calls = plan.calls()
    kernels = len({c.kernel for c in calls})
    summary = (
        f"{len(calls)} calls of {kernels} kernels, {short(plan.flops)} operations, {short(plan.bytes)}B moved, "
        f"arena {short(plan.arena)}B, {shares} thread{'s' * (shares > 1)} on {target.name}"
    )
    lines += textwrap.wrap(summary, width)
    return "\n".join(lines)


def _fit(widths: list[int], width: int) -> None:
    """Make the columns fit: the last ones go, or else those that can best be spared get shorter."""
    least = [*map(min, widths, _LEAST)]
    while len(least) > 6 and sum(least) + 2 * (len(least) - 1) > width:
        least.pop()
    del widths[len(least) :]
    while sum(widths) + 2 * (len(widths) - 1) > width and widths != least:
        widths[max(range(len(widths)), key=lambda c: widths[c] - least[c])] -= 1


def _rows(steps: Sequence[Any], target: Target, pending: Pending, indent: str = "") -> Iterator[tuple[str, ...]]:
    for step in steps:
        if isinstance(step, Call):
            waits = pending.add(step) and pending.count > 1
            yield _row(step, target, share_of(step, target), waits, indent)
            continue
        yield from _rows(step.start, target, pending, indent)
        waits = pending.count > 1 and not flows(step, target, pending.count)
        yield ("-", f"{indent}{step.label}, a loop:", "", step.steps, "|" if waits else "", "", "", "")
        pending.clear()
        yield from _rows([*step.calls, *step.moves], target, pending, indent + "  ")
        pending.clear()


def _row(call: Call, target: Target, share: Share, waits: bool, indent: str) -> tuple[str, ...]:
    kind, loops = describe(call, target)
    ops = list(dict.fromkeys(n.op for n in call.nodes))
    split = f"axis {share.axis}" if share.axis >= 0 else "-"
    flops = getattr(call.kernel, "flops", 0)
    return (
        "", f"{indent}{call.label}", kind, loops, f"{'| ' if waits else ''}{split}", short(flops),
        short(traffic(call)), ", ".join(ops),
    )  # fmt: skip


def describe(call: Call, target: Target) -> tuple[str, str]:
    """What kind of kernel a call has, and its loops."""
    kernel = call.kernel
    if isinstance(kernel, Rows):
        at_once, axes = block(kernel, target), len(kernel.space)
        space = " ".join(map(str, kernel.space)) + (f"/{at_once}" if at_once > 1 else "")
        return "rows", f"{space}: {', '.join(_loops(n, schedule(n, target), axes) for n in kernel.nests)}"
    if isinstance(kernel, WinogradSum):
        units, down, across, *channels = kernel.shape
        return "winograd", f"{units} 3 3 {channels[0]} {channels[1]} [{down} {across}]"
    if not isinstance(kernel, Nest):
        return type(kernel).__name__.lower(), " ".join(
            map(str, getattr(kernel, "shape", kernel.space if hasattr(kernel, "space") else ()))
        )
    plan = method(kernel, target)
    return _kind(kernel, plan, target), _loops(kernel, plan)


def _kind(nest: Nest, plan: Schedule, target: Target) -> str:
    match plan:
        case _ if isinstance(nest, Winograd):
            made = blocks(nest, target, [nest.space[plan.split]])
            return f"winograd {made.squares}x{made.vectors}"
        case Groups() | Tiling():
            kind = "groups" if isinstance(plan, Groups) else "product"
            return f"{kind} {plan.rows * math.prod(nest.space[a] for a in plan.whole)}x{plan.vectors}"
        case Dots():
            return f"dots {plan.rows}x{plan.columns}"
        case Transpose():
            return "turn"
        case _:
            return "reduce" if nest.prologue else "map"


def _loops(nest: Nest, plan: Schedule, first: int = 0) -> str:
    """The axes of a nest from `first` on."""
    vector = plan.summed if isinstance(plan, Dots) else plan.vector
    at_once = plan.groups if isinstance(plan, Groups) else plan.lanes
    sizes = [f"{n}/{at_once}" if a == vector else str(n) for a, n in enumerate(nest.space + nest.reduced)]
    outer, inner = sizes[first : len(nest.space)], sizes[len(nest.space) :]
    return " ".join([*outer, *([f"[{' '.join(inner)}]"] if inner else [])])


def short(n: float) -> str:
    """1234567 as 1.2M."""
    for unit in ("", "k", "M", "G", "T"):
        if n < 1000 or unit == "T":
            return f"{n:.0f}{unit}" if unit == "" or n >= 100 else f"{n:.1f}{unit}"
        n /= 1000
    return ""


def _placed(text: str, width: int, column: int) -> str:
    """The text in so many characters, its end left out if it is longer; numbers end at the right."""
    if len(text) > width:
        text = f"{text[: width - 3]}..."
    return text.rjust(width) if _HEAD[column] in ("operations", "bytes") else text.ljust(width)
