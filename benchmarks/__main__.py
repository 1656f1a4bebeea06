"""The command: `python -m benchmarks --help`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import machine, measuring, report
from benchmarks.measuring import Result
from benchmarks.runners import PEERS, PRODUCTS, RUNNERS, missing
from benchmarks.workloads import WORKLOADS, Workload

app = typer.Typer(add_completion=False)


@app.command()
def main(
    workload: Annotated[
        list[str] | None, typer.Option(help="Only workloads whose name contains this; may be given again.")
    ] = None,
    peers: Annotated[str, typer.Option(help="Libraries to compare with, with commas between.")] = ",".join(PEERS),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each runner.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long a turn takes, at least an epoch.")] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the ratios: a file .png, .svg or .pdf.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables for a page to this file.")] = None,
    stored: Annotated[
        Path | None, typer.Option("--from", help="Show the figures of a --json file; run nothing.")
    ] = None,
) -> None:
    """Time training steps of backlit, PyTorch, JAX and scikit-learn side by side, each in its own process.

    python -m benchmarks --workload mnist --peers torch,jax-scan --json figures.json --picture ratios.png
    """
    for path in (json_file, picture, markdown):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent}")
    if picture is not None and picture.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"{picture} is no .png, .svg or .pdf")
    console, notes = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=140)  # lines of a file need not fit a screen
    if stored is not None:
        found, settings, results = _read(stored)
    else:
        chosen, runners = _workloads(workload or []), _runners(peers, notes)
        found, settings = machine.describe(), {"rounds": rounds, "seconds": seconds}
        results = []
        for one in chosen:
            names = [n for n in runners if n in PRODUCTS or RUNNERS[n].fits(one)]
            with notes.status(one.name) as status:
                result = measuring.measure(one, names, rounds, seconds, status.update)
            results.append(result)
            report.show(console, result.title, report.COLUMNS, report.details(result))
            for name, why in result.failures.items():
                notes.print(f"{one.name}: {name}: {why}", markup=False, soft_wrap=True)
            if json_file is not None:  # after each workload, so that a long run that ends early leaves something
                report.write(json_file, report.as_json(found, settings, results))
    report.show(console, report.heading(found), report.SUMMARY, report.summary(results))
    if stored is not None and json_file is not None:
        report.write(json_file, report.as_json(found, settings, results))
    if markdown is not None:
        report.write(markdown, report.markdown(found, results))
    if picture is not None:
        report.picture(found, results, picture)
    if any(result.failures for result in results):
        raise typer.Exit(1)


def _workloads(wanted: list[str]) -> list[Workload]:
    for text in wanted:
        if not any(text in name for name in WORKLOADS):
            raise typer.BadParameter(f"no workload's name contains {text!r}: there are {'; '.join(WORKLOADS)}")
    return [w for name, w in WORKLOADS.items() if not wanted or any(text in name for text in wanted)]


def _runners(peers: str, notes: Console) -> list[str]:
    """The runners of backlit and of the peers that are installed; one line says what is missing."""
    asked = {name.strip() for name in peers.split(",") if name.strip()}
    if unknown := asked - set(PEERS):
        raise typer.BadParameter(f"there is no peer {', '.join(sorted(unknown))}: use {', '.join(PEERS)}")
    wanted = {n: r for n, r in (RUNNERS | PRODUCTS).items() if r.peer in asked | {"backlit", "product"}}
    lacking = {module for runner in wanted.values() if runner.peer in asked for module in missing(runner)}
    if lacking:
        notes.print(
            f"left out, not installed: {', '.join(sorted(lacking))}: pip install -e '.[bench]'",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    return [name for name, runner in wanted.items() if not missing(runner)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], list[Result]]:
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        return whole["machine"], whole["settings"], [Result.from_json(r) for r in whole["results"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise typer.BadParameter(f"{path} holds no figures that --json wrote: {error}") from None


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
