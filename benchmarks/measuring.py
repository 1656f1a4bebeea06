"""The measurement: every runner has a turn in every round, and its time is the fastest epoch of all its turns.

On a machine with other work the minimum is what comes closest to the work itself, and taking turns spreads what slows
the machine down over all. A runner first trains one epoch alone: what that takes beyond its steps is its compilation.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import agreement, givens, products
from benchmarks.processes import Process, RunnerError
from benchmarks.runners import PRODUCTS, RUNNERS
from benchmarks.workloads import Workload

STARTS = 3
"""Processes that start with compiled code on disk; the least of their times counts, as of all."""

PAUSE = 0.02
"""Between turns: threads that wait actively for more work (OpenMP's) have gone to sleep by then."""


@dataclass(frozen=True)
class Timing:
    """What was measured of a runner: seconds a step, of the first call beyond its steps, and peak bytes."""

    step: float
    first_call: float
    memory: int
    from_cache: float | None = None
    """The first call of later processes, where compiled code is kept on disk."""


@dataclass(frozen=True)
class Result:
    """A workload as it was measured. `timings` are by runner; `failures` say why one has none."""

    workload: str
    title: str
    goal: float
    operations: int
    peak: float
    timings: dict[str, Timing]
    failures: dict[str, str]

    @property
    def best(self) -> str | None:
        """The fastest runner but backlit."""
        others = {name: t.step for name, t in self.timings.items() if name != "backlit"}
        return min(others, key=lambda name: others[name]) if others else None

    @property
    def ratio(self) -> float | None:
        """How many times faster backlit is than the best other."""
        if self.best is None or "backlit" not in self.timings:
            return None
        return self.timings[self.best].step / self.timings["backlit"].step

    def json(self) -> dict[str, Any]:
        return asdict(self) | {"best": self.best, "ratio": self.ratio}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Result:
        fields = {name: found[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"timings": {name: Timing(**t) for name, t in found["timings"].items()}})


def measure(
    workload: Workload, runners: Sequence[str], rounds: int, seconds: float, say: Callable[[str], None]
) -> Result:
    """Run a workload in all runners, backlit first. `say` is told what is going on."""
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="backlit-bench-") as folder, ExitStack() as stack:
        path, cache = Path(folder, "givens.npz"), Path(folder, "cache")
        cache.mkdir()
        given = givens.make(workload)
        given.save(path)
        running: dict[str, Process] = {}
        for name in runners:
            say(f"{workload.name}: {name} starts")
            try:
                running[name] = stack.enter_context(Process(name, workload.name, path, cache))
            except RunnerError as error:
                failures[name] = str(error)
        again = _first_call_again(workload, path, cache) if "backlit" in running else None
        for name in [n for n in running if n in RUNNERS and n != "backlit" and "backlit" in running]:
            if wrong := agreement.difference(running["backlit"].losses, running[name].losses):
                failures[name] = f"does not do the same work: {wrong}"
                running.pop(name).close()
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
        for i in range(rounds):
            say(f"{workload.name}: round {i + 1} of {rounds}")
            for name, process in list(running.items()):
                time.sleep(PAUSE)
                try:
                    turns[name].append(process.turn(seconds))
                except RunnerError as error:
                    failures[name] = str(error)
                    del running[name]
        epochs = {name: min(turn["seconds"] for turn in turns[name]) for name in running}
        timings = {
            name: Timing(
                step=epochs[name] / workload.steps,
                first_call=max(0.0, process.first - epochs[name]),
                memory=turns[name][-1]["memory"],
                from_cache=max(0.0, again - epochs[name]) if name == "backlit" and again is not None else None,
            )
            for name, process in running.items()
            if name in RUNNERS
        }
        peak = max((products.OPERATIONS / epochs[name] for name in epochs if name in PRODUCTS), default=0.0)
    operations = _operations(workload, given)
    return Result(workload.name, workload.title, workload.goal, operations, peak, timings, failures)


def _first_call_again(workload: Workload, path: Path, cache: Path) -> float | None:
    """The first epoch of later processes of backlit, which find the code of the first one on disk: the least."""
    found = []
    for _ in range(STARTS):
        try:
            with Process("backlit", workload.name, path, cache) as process:
                found.append(process.first)
        except RunnerError:
            return None
    return min(found)


def _operations(workload: Workload, given: givens.Givens) -> int:
    from benchmarks.with_backlit import operations

    return operations(workload, given)
