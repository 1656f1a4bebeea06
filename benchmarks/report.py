"""The results as tables for people, as JSON, as Markdown and as a picture."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Result

COLUMNS = (
    "runner", "time per step", "backlit is faster by", "GFLOP/s", "of peak", "first call", "from cache", "peak memory",
)  # fmt: skip
SUMMARY = ("workload", "backlit", "best other", "its time", "backlit is faster by", "goal", "GFLOP/s", "of peak")


def details(result: Result) -> list[tuple[str, ...]]:
    """A row for each runner of a workload, the fastest first."""
    ours = result.timings.get("backlit")
    rows: list[tuple[str, ...]] = []
    for name, timing in sorted(result.timings.items(), key=lambda pair: pair[1].step):
        rate = result.operations / timing.step
        rows.append(
            (
                name,
                duration(timing.step),
                f"{timing.step / ours.step:.2f}x" if ours and name != "backlit" else "",
                f"{rate / 1e9:.3g}",
                f"{rate / result.peak:.0%}" if result.peak else "",
                duration(timing.first_call),
                "" if timing.from_cache is None else duration(timing.from_cache),
                f"{timing.memory / 1e6:.0f} MB",
            )
        )
    return rows


def summary(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A row for each workload: backlit beside the best other."""
    rows: list[tuple[str, ...]] = []
    for result in results:
        ours, ratio = result.timings.get("backlit"), result.ratio
        rate = result.operations / ours.step if ours else 0.0
        rows.append(
            (
                result.title,
                duration(ours.step) if ours else "",
                result.best or "",
                duration(result.timings[result.best].step) if result.best else "",
                "" if ratio is None else f"{ratio:.2f}x",
                f"{result.goal:g}x" + ("" if ratio is None else " met" if ratio >= result.goal else " missed"),
                f"{rate / 1e9:.3g}" if ours else "",
                f"{rate / result.peak:.0%}" if ours and result.peak else "",
            )
        )
    return rows


def heading(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    return f"{where}, Python {machine['python']}, {machine['date']}\n{versions}"


def show(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column == "best other" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(machine: dict[str, Any], results: Sequence[Result]) -> str:
    """The summary and the table of each workload, for a page."""
    parts = [heading(machine), pipes(SUMMARY, summary(results))]
    for result in results:
        parts += [f"### {result.title}", pipes(COLUMNS, details(result))]
        parts += [f"{name}: {why}" for name, why in result.failures.items()]
    return "\n\n".join(parts) + "\n"


def pipes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_json(machine: dict[str, Any], settings: dict[str, Any], results: Sequence[Result]) -> str:
    whole = {"machine": machine, "settings": settings, "results": [r.json() for r in results]}
    return json.dumps(whole, indent=1) + "\n"


def picture(machine: dict[str, Any], results: Sequence[Result], path: Path) -> None:
    """A bar for each workload: how many times faster backlit is than the best other library."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    drawn = [r for r in results if r.ratio is not None][::-1]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.42 * len(drawn)), layout="constrained")
    ratios = [r.ratio or 0.0 for r in drawn]
    faster = ["tab:blue" if ratio >= 1 else "tab:gray" for ratio in ratios]
    axes.barh([r.title for r in drawn], [ratio - 1 for ratio in ratios], left=1, color=faster)
    for i, (result, ratio) in enumerate(zip(drawn, ratios, strict=True)):
        axes.annotate(
            f"{ratio:.{1 if ratio >= 9.95 else 2}f}x {result.best}",
            (max(ratio, 1.0), i),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    low, high = min([0.8, *ratios]), max([2.0, *ratios])
    axes.set_xlim(0.9 * low, high * (high / low) ** 0.35)  # room for the words
    marks = [m for m in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128) if 0.9 * low <= m <= 1.1 * high]
    axes.set_xticks(marks, [f"{m:g}x" for m in marks])
    axes.minorticks_off()
    figure.suptitle("A training step: how many times faster backlit is than the best other library", fontsize="medium")
    axes.set_xlabel(f"{machine['processor']}, {machine['cores']} cores, {machine['date'][:10]}", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    with _replacing(path) as name:
        plt.savefig(name, dpi=150, format=path.suffix.lstrip(".") or "png")
    plt.close(figure)


def write(path: Path, text: str) -> None:
    """The text as a file, which is whole or not there."""
    with _replacing(path) as name:
        Path(name).write_text(text, encoding="utf-8")


class _replacing:
    """A name to write to; the file takes the path's place when that went well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        handle, self.name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
        os.close(handle)
        return self.name

    def __exit__(self, kind: object, error: object, at: object) -> None:
        if error is None:
            os.chmod(self.name, 0o644)
            os.replace(self.name, self.path)
        else:
            os.unlink(self.name)


def duration(seconds: float) -> str:
    """Three digits, in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
