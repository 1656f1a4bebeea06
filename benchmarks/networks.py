"""How training steps of networks of odd sizes compare with those of neat ones.

    python -m benchmarks.networks [LSTM] [--threads 1]

Each workload of more than a few numbers has odd neighbours here: sizes, batches and images that neither vectors nor
threads divide. An odd one and its neat one train in turn, in one process. The last column is the odd one's GFLOP/s
(products only, as in `python -m benchmarks`) over the neat one's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import givens, with_backlit
from benchmarks.workloads import WORKLOADS, ConvNet, LeNet5, Lstm, Mlp, Net, Transformer, Workload

Sized = tuple[Net, int]  # a network, and how many examples a batch has

PAIRS: list[tuple[str, Sized, Sized]] = [  # the workload whose data and training they share, neat, odd
    ("digits", (Mlp((64, 100, 10)), 200), (Mlp((63, 101, 11)), 199)),
    ("digits", (Mlp((64, 96, 8)), 32), (Mlp((65, 99, 7)), 33)),
    ("mnist 784-128", (Mlp((784, 128, 10)), 64), (Mlp((781, 127, 9)), 61)),
    ("mnist 784-128", (Mlp((784, 128, 10)), 64), (Mlp((785, 129, 3)), 67)),
    ("mnist 784-512", (Mlp((784, 512, 512, 10)), 128), (Mlp((783, 513, 511, 9)), 127)),
    ("mnist 784-512", (Mlp((784, 512, 512, 10)), 128), (Mlp((787, 499, 521, 3)), 131)),
    ("wide", (Mlp((1024, 2048, 2048, 10)), 256), (Mlp((1023, 2049, 2047, 11)), 253)),
    ("LeNet", (LeNet5(), 128), (LeNet5((29, 29, 1)), 127)),
    ("LeNet", (LeNet5((32, 32, 3)), 64), (LeNet5((31, 27, 3)), 61)),
    ("CNN", (ConvNet(), 64), (ConvNet((31, 31, 3)), 63)),
    ("CNN", (ConvNet((32, 32, 1)), 32), (ConvNet((33, 35, 1), 7), 37)),
    ("LSTM", (Lstm(), 64), (Lstm((27, 29), 63), 61)),
    ("LSTM", (Lstm(), 64), (Lstm((29, 27), 65), 67)),
    ("transformer", (Transformer(), 16), (Transformer((61,), 63, 132), 17)),
    ("transformer", (Transformer(), 16), (Transformer((67,), 67, 129, 3), 13)),
]


@dataclass(frozen=True, eq=False)
class Training:
    """A network that is being trained, and the operations of a step's products."""

    workload: Workload
    epoch: Callable[[], Any]
    operations: int

    @classmethod
    def of(cls, workload: Workload) -> Training:
        given = givens.make(workload)
        return cls(workload, with_backlit.prepare(workload, given), with_backlit.operations(workload, given))

    def step(self) -> float:
        """Train for an epoch: seconds of a step."""
        start = time.perf_counter()
        self.epoch()
        return (time.perf_counter() - start) / self.workload.steps

    def __str__(self) -> str:
        net, parts = self.workload.net, ["x".join(map(str, self.workload.net.input_shape))]
        match net:
            case Mlp():
                parts = ["-".join(map(str, net.sizes))]
            case Lstm():
                parts.append(f"{net.units} units")
            case Transformer():
                parts.append(f"width {net.width}, {net.heads} heads")
        return f"{', '.join(parts)}, {net.classes} classes, b{self.workload.batch}"


def pairs(name: str) -> Iterator[tuple[Workload, Workload]]:
    """The neat and odd neighbours of the workloads whose names contain this."""
    for part, *both in PAIRS:
        found = next(w for title, w in WORKLOADS.items() if part in title)
        if name in found.name:
            neat, odd = (replace(found, net=net, batch=batch) for net, batch in both)
            yield neat, odd


def fastest(trainings: tuple[Training, ...], seconds: float) -> list[float]:
    """The least seconds of a step of each, taken in turn for so long."""
    for one in trainings:
        for _ in range(6):  # compile, and let each try how many threads it should have
            one.step()
    found = [[t.step() for t in trainings]]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        found.append([t.step() for t in trainings])
    return [min(times) for times in zip(*found, strict=True)]


def main(
    name: Annotated[str, typer.Argument(help="Workloads whose name contains this.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each pair.")] = 2.0,
) -> None:
    """Time training steps of networks of odd sizes beside those of neat ones."""
    if threads:
        os.environ["BACKLIT_THREADS"] = str(threads)
    chosen = list(pairs(name))
    if not chosen:
        raise typer.BadParameter(f"no workload's name contains {name!r}: there are {'; '.join(WORKLOADS)}")
    table = Table("workload", "odd", "neat", *(f"{whose}\nGFLOP/s" for whose in ("odd", "neat")), "of it")
    for both in chosen:
        neat, odd = (Training.of(w) for w in both)
        rates = [t.operations / s / 1e9 for t, s in zip((odd, neat), fastest((odd, neat), seconds), strict=True)]
        share = f"{100 * rates[0] / rates[1]:.0f}%"
        table.add_row(neat.workload.name, str(odd), str(neat), *(f"{r:.3g}" for r in rates), share)
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    typer.run(main)
