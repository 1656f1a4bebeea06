"""How training scales beyond one device: `python -m benchmarks.scaling --help`.

    devices   weak and strong scaling over virtual devices of this machine's processor: what each device computes, holds
              and sends, read from the compiled program
    sizes     steps a second of the executors "native" and "xla" for dense networks from a thousand parameters up
    paper     a model of 8 to 1,024 GPUs (`scaling_model`); runs nothing

Virtual devices share the cores of one processor: their times say what the partitioned program costs in all, and nothing
of what separate devices would gain. Operations, bytes and memory are those of the program, whatever runs it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import givens, machine, report, scaling_model
from benchmarks.scaling_model import GPUS, H100, MODELS
from benchmarks.workloads import WORKLOADS, Mlp, Workload

DEVICES = (1, 2, 4, 8)
CUT = {"*.weight": 1}
"""The parameters that are cut, where some are: every weight by its outputs."""

COLUMNS = (
    "devices", "batch", "time per step", "GFLOP a device", "MB a device", "collectives", "MB reduced", "MB gathered",
    "MB sent a device",
)  # fmt: skip
SIZES = tuple(10**k for k in range(3, 9))

app = typer.Typer(add_completion=False, help=(__doc__ or "").split("\n\n")[0])
Markdown = Annotated[bool, typer.Option("--markdown", help="Print tables for a page.")]


@dataclass(frozen=True)
class Share:
    """A step over some devices: examples in all, seconds, and for each device operations, bytes held and sent."""

    devices: int
    batch: int
    seconds: float
    operations: float
    memory: int
    count: int
    reduced: float
    gathered: float
    sent: float

    def row(self) -> tuple[str, ...]:
        amounts = (self.operations / 1e9, self.memory / 1e6), (self.reduced / 1e6, self.gathered / 1e6, self.sent / 1e6)
        first, last = ([f"{a:.3g}" for a in part] for part in amounts)
        return str(self.devices), str(self.batch), report.duration(self.seconds), *first, str(self.count), *last


def measure_share(workload: Workload, devices: int, shard: dict[str, int] | None, seconds: float) -> Share:
    """A training step of the workload over so many devices."""
    import backlit as bl
    from backlit.executors.xla import XLA
    from backlit.pytree import flatten
    from backlit.train.feeding import Stretch
    from benchmarks.scaling_program import collectives
    from benchmarks.with_backlit import network

    given = givens.make(workload)
    trainer = bl.Trainer(network(workload), workload.loss, _rule(workload), executor=XLA(devices=devices, shard=shard))
    epoch = Stretch({"x": given.x, "y": given.y}, given.rows)
    step = trainer.program("train", epoch)
    data = [given.x, given.y]
    taken = _fastest(step.run, flatten(trainer.moment.carry)[0], data, given.rows, seconds)
    (compiled,) = step.run.programs.values()  # type: ignore[attr-defined]
    found = [c for c in collectives(compiled.as_text(), devices) if c.group > 1]
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Share(
        devices=devices,
        batch=workload.batch,
        seconds=taken,
        operations=float(compiled.cost_analysis()["flops"]),
        memory=held + memory.temp_size_in_bytes,
        count=sum(c.times for c in found),
        reduced=sum(c.times * c.bytes for c in found if c.kind in ("all-reduce", "reduce-scatter")),
        gathered=sum(c.times * c.bytes for c in found if c.kind not in ("all-reduce", "reduce-scatter")),
        sent=sum(c.sent for c in found),
    )


def _fastest(run: Any, state: Any, data: Any, rows: Any, seconds: float) -> float:
    """Seconds of a step, the least of several calls; the state goes on."""
    for d in data:
        d.flags.writeable = False
    state, _ = run(state, data, rows)
    best, until = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < until:
        start = time.perf_counter()
        state, _ = run(state, data, rows)
        best = min(best, (time.perf_counter() - start) / len(rows))
    return best


def _rule(workload: Workload) -> Any:
    from backlit import optim

    return {"sgd": optim.SGD, "adam": optim.Adam}[workload.optimizer](workload.learning_rate)


def dense(parameters: int, steps: int) -> Workload:
    """A network 64-n-n-10 of about so many parameters, in batches of 64."""
    n = max(1, round((math.sqrt(76**2 + 4 * parameters) - 76) / 2))  # n² + (64 + 10 + 2) n + 10
    return Workload(name=f"dense 64-{n}-{n}-10", net=Mlp((64, n, n, 10)), batch=64, steps=steps, goal=1)


def steps_a_second(parameters: int, executor: str, seconds: float) -> tuple[float, float]:
    """(steps a second, seconds of the first call) of a dense network of so many parameters."""
    import backlit as bl
    from backlit.pytree import flatten
    from backlit.train.feeding import Stretch
    from benchmarks.with_backlit import network

    workload = dense(parameters, steps=max(3, min(2000, round(2e9 / (6 * 64 * parameters)))))
    given = givens.make(workload)
    trainer = bl.Trainer(network(workload), workload.loss, _rule(workload), executor=executor)
    start = time.perf_counter()
    step = trainer.program("train", Stretch({"x": given.x, "y": given.y}, given.rows))
    state, _ = step.run(flatten(trainer.moment.carry)[0], [given.x, given.y], given.rows[:1])
    first = time.perf_counter() - start
    return 1 / _fastest(step.run, state, [given.x, given.y], given.rows, seconds), first


@app.command()
def devices(
    workload: Annotated[str, typer.Argument(help="A workload whose name contains this.")] = "mnist 784-512-512-10",
    seconds: Annotated[float, typer.Option(min=0.0, help="For each number of devices.")] = 1.0,
    batch: Annotated[int, typer.Option(min=8, help="Examples: on each device (weak), in all (strong).")] = 128,
    markdown: Markdown = False,
) -> None:
    """Weak and strong scaling over 1, 2, 4 and 8 virtual devices, data parallel and with parameters cut."""
    chosen = [w for name, w in WORKLOADS.items() if workload in name]
    if not chosen:
        raise typer.BadParameter(f"no workload's name contains {workload!r}: there are {'; '.join(WORKLOADS)}")
    if batch % max(DEVICES):
        raise typer.BadParameter(f"a batch of {batch} cannot be cut over {max(DEVICES)} devices")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={max(DEVICES)}"
    for shard, how in ((None, "data parallel"), (CUT, "weights cut")):
        for weak in (True, False):
            cases = [(n, replace(chosen[0], batch=batch * n if weak else batch, steps=4)) for n in DEVICES]
            rows = [measure_share(one, n, shard, seconds).row() for n, one in cases]
            kind = f"weak: {batch} examples a device" if weak else f"strong: {batch} examples in all"
            _show(f"{chosen[0].name}, {how}, {kind}", COLUMNS, rows, markdown)


@app.command()
def sizes(
    at: Annotated[list[int] | None, typer.Option(help="Parameters; may be given again.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each network and executor.")] = 1.0,
    markdown: Markdown = False,
) -> None:
    """Steps a second of dense networks, by the native executor and through XLA, on this machine's processor."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["BACKLIT_CACHE"] = ""  # first calls compile
    rows = []
    for parameters in at or SIZES:
        found = {name: steps_a_second(parameters, name, seconds) for name in ("native", "xla")}
        (native, first), (xla, compiled) = found["native"], found["xla"]
        rows.append(
            (
                f"{parameters:,}", dense(parameters, 1).name.removeprefix("dense "), _rounded(native), _rounded(xla),
                f"{native / xla:.2f}x", report.duration(first), report.duration(compiled),
            )
        )  # fmt: skip
    columns = (
        "parameters", "network", "native, steps a second", "xla, steps a second", "native is faster by",
        "first call, native", "xla",
    )  # fmt: skip
    _show(report.heading(machine.describe()), columns, rows, markdown)


def efficiencies() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the table that has all models side by side."""
    kinds = ("weak", scaling_model.weak), ("strong", scaling_model.strong)
    columns = "GPUs", *(f"{training.short}, {kind}" for training in MODELS for kind, _ in kinds)
    rows = []
    for gpus in GPUS:
        steps = [function(training, H100, gpus) for training in MODELS for _, function in kinds]
        rows.append((f"{gpus:,}", *(f"{s.plain:.0%} to {s.hidden:.0%}" for s in steps)))
    return columns, rows


@app.command()
def paper(markdown: Markdown = False) -> None:
    """Weak and strong scaling of data parallel training over 8 to 1,024 GPUs, on paper."""
    _show(f"efficiency without and with overlap, {H100.name}", *efficiencies(), markdown)
    for training in MODELS:
        for kind, function in (("weak", scaling_model.weak), ("strong", scaling_model.strong)):
            rows = []
            for gpus in GPUS:
                step = function(training, H100, gpus)
                rows.append(
                    (
                        f"{gpus:,}", f"{step.batch:g}", report.duration(step.compute),
                        report.duration(step.communication), f"{step.plain:.0%}", f"{step.hidden:.0%}",
                    )
                )  # fmt: skip
            columns = "GPUs", "examples a GPU", "compute", "communication", "efficiency", "with overlap"
            _show(f"{training.name}, {kind} scaling, {H100.name}", columns, rows, markdown)


def _rounded(amount: float) -> str:
    """Three digits."""
    return f"{float(f'{amount:.3g}'):,g}"


def _show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], markdown: bool) -> None:
    if markdown:
        print(f"{title}\n\n{report.pipes(columns, rows)}\n")
    else:
        report.show(Console(width=None if Console().is_terminal else 140), title, columns, rows)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.scaling")
