"""Where the time of a step goes: each kernel of backlit's plan timed alone, beside the whole step.

    python -m benchmarks.kernels "mnist 784-512" [--threads 1]

A kernel is run many times in a row on the memory of a real epoch, with as many threads as the step has, so its time is
that of warm caches and no waiting; what the kernels leave of the whole step is barriers and cold memory. GFLOP/s and
GB/s are the plan's own counts over the measured time: the worst row is what to work on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import givens
from benchmarks.with_backlit import network
from benchmarks.workloads import WORKLOADS, Workload

_ROUNDS = 5


def profile(workload: Workload, seconds: float) -> tuple[float, list[tuple[Any, float]]]:
    """Seconds of a whole step, and for each call or loop of its plan its seconds alone."""
    import backlit as bl
    from backlit.executors.native import memory
    from backlit.executors.native.artifact import Artifact
    from backlit.executors.native.code import Code
    from backlit.executors.native.executor import Native
    from backlit.executors.native.kernels import Loop
    from backlit.executors.native.target import known
    from backlit.pytree import flatten
    from backlit.train.feeding import ROLES, Stretch

    given = givens.make(workload)
    net = network(workload)
    trainer = bl.Trainer(net, workload.loss, _optimizer(workload), executor=Native())
    epoch = Stretch({"x": given.x, "y": given.y}, given.rows)
    step = trainer.program("train", epoch)
    data = [epoch.data[r] for r in ROLES if r in epoch.data]
    carried = step.run.storage.arrays()  # type: ignore[attr-defined]
    for new, old in zip(carried, flatten(trainer.moment.carry)[0], strict=True):
        np.copyto(new, old)
    steps = len(epoch.rows)
    watched = [np.empty((steps, *o.type.shape), o.type.dtype) for o in step.graph.outputs[len(carried) :]]
    lengths = [len(d) for d in data]
    code, plan = step.run.code(lengths), step.run.plan(lengths)  # type: ignore[attr-defined]
    arrays = [*data, np.ascontiguousarray(epoch.rows, np.int64), *carried, *watched]
    whole = _fastest(lambda: code.run(arrays, 0, steps), steps, seconds)
    (loop,) = plan.steps
    memory.place([loop])
    found = []
    for call in [*loop.start, *loop.calls, *loop.moves]:
        alone = replace(plan, steps=[Loop(None, False, [call], [], [], (), "alone", loop.rows)])
        one = Code(Artifact.of(alone, known("host"), code.shares), known("host"))
        one.seconds = code.seconds  # as many threads as the whole has
        found.append((call, _fastest(lambda one=one: one.run(arrays, 0, steps), steps, seconds)))  # type: ignore[misc]
    return whole, found


def _optimizer(workload: Workload) -> Any:
    from backlit import optim

    return {"sgd": optim.SGD, "adam": optim.Adam}[workload.optimizer](workload.learning_rate)


def _fastest(run: Callable[[], None], steps: int, seconds: float) -> float:
    best, until = float("inf"), time.perf_counter() + seconds
    for _ in range(_ROUNDS):
        run()
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        best = min(best, (time.perf_counter() - start) / steps)
    return best


def main(
    workload: Annotated[str, typer.Argument(help="A workload whose name contains this.")],
    threads: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each kernel.")] = 0.1,
) -> None:
    """Time each kernel of a workload's training step alone."""
    if threads:
        os.environ["BACKLIT_THREADS"] = str(threads)
    chosen = [w for name, w in WORKLOADS.items() if workload in name]
    if not chosen:
        raise typer.BadParameter(f"no workload's name contains {workload!r}: there are {'; '.join(WORKLOADS)}")
    from backlit.executors.native.kernels import Call
    from backlit.executors.native.plan import total, traffic
    from backlit.executors.native.table import describe
    from backlit.executors.native.target import host

    for one in chosen:
        whole, rows = profile(one, seconds)
        table = Table("computes", "kind", "loops", "us", "of the step", "GFLOP/s", "GB/s", title=one.title)
        for call, taken in rows:
            kind, loops = describe(call, host()) if isinstance(call, Call) else ("loop", f"{call.length} steps")
            flops, moved = total([call], lambda c: getattr(c.kernel, "flops", 0)), total([call], traffic)
            share = f"{100 * taken / whole:.0f}%"
            table.add_row(
                call.label, kind, loops.replace("[", "\\["), f"{taken * 1e6:.2f}", share,
                f"{flops / taken / 1e9:.1f}", f"{moved / taken / 1e9:.1f}",
            )  # fmt: skip
        total = sum(t for _, t in rows)
        table.add_row("all kernels alone", "", "", f"{total * 1e6:.2f}", f"{100 * total / whole:.0f}%", "", "")
        table.add_row("the step", "", "", f"{whole * 1e6:.2f}", "", "", "")
        Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    typer.run(main)
