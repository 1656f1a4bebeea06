"""Where the time of a step goes: each kernel of backlit's plan within the running step, by the processor's clock.

    python -m benchmarks.kernels "mnist 784-512" [--threads 1]

The program that carries out the calls reads the clock before and after each, so a kernel is timed on the data and
with the caches of a real epoch, and on the thread that took longest over its share. What is done once before the
steps has its part of each. Waiting is a line of its own. GFLOP/s and GB/s are the plan's own counts over the measured
time: the worst row is what to work on. A small program, which is one function otherwise, is timed as a list of calls
as well; calls of far less than a microsecond cost more to time than to do.
"""

from __future__ import annotations

import math
import os
import time
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from backlit.executors.native.threads import Choice
from benchmarks import givens
from benchmarks.with_backlit import network
from benchmarks.workloads import WORKLOADS, Workload


def profile(workload: Workload, seconds: float) -> tuple[float, list[tuple[Any, int, float]], float]:
    """Seconds of a step; for each call of its plan how often it runs and its seconds in all; seconds of waiting."""
    import backlit as bl
    from backlit.executors.native.artifact import Artifact
    from backlit.executors.native.clock import Clock
    from backlit.executors.native.code import Code
    from backlit.executors.native.executor import Native
    from backlit.executors.native.plan import counted
    from backlit.executors.native.steps import Steps
    from backlit.executors.native.target import known
    from backlit.pytree import leaves
    from backlit.train.feeding import ROLES, Stretch

    given = givens.make(workload)
    net = network(workload)
    trainer = bl.Trainer(net, workload.loss, _optimizer(workload), executor=Native())
    epoch = Stretch({"x": given.x, "y": given.y}, given.rows)
    step = trainer.program("train", epoch)
    data = [epoch.data[r] for r in ROLES if r in epoch.data]
    loop = step.run
    assert isinstance(loop, Steps)
    carried = leaves(trainer.moment.carry)
    steps = len(epoch.rows)
    watched = [np.empty((steps, *o.type.shape), o.type.dtype) for o in step.graph.outputs[len(carried) :]]
    lengths = [len(d) for d in data]
    code, plan = loop.code(lengths), loop.plan(lengths)
    arrays = [*data, np.ascontiguousarray(epoch.rows, np.int64), *carried, *watched]
    clock = Clock()
    timed = Code(Artifact.of(plan, known("host"), code.shares, clock), known("host"))
    taken, ticks = {code: math.inf, timed: math.inf}, clock.ticks.copy()
    for one in taken:
        if one._choice is not None:
            one.seconds, one._choice = code.seconds, _All(code.shares)
        until = time.perf_counter() + seconds
        while taken[one] == math.inf or time.perf_counter() < until:
            clock.ticks[:] = 0
            start = time.perf_counter()
            one.run(arrays, 0, steps)
            now = (time.perf_counter() - start) / steps
            if now < taken[one]:
                taken[one], ticks = now, clock.ticks.copy()
    loop_over_steps = next(at for at, function in clock.rows if function == "run_loop")
    per_tick = taken[timed] / ticks[0, loop_over_steps]
    found, waits = [], 0.0
    calls = counted(plan.steps)
    for at, function in clock.rows:
        if function == "wait_for_all":
            waits += float(ticks[:, at].sum()) * per_tick
        elif function != "run_loop":
            found.append((*next(calls), float(ticks[:, at].max()) * per_tick))
    return taken[code], found, waits


class _All(Choice):
    """Always all threads, so that times of several runs can be compared."""

    def next(self) -> tuple[int, float]:
        return self._most, math.inf


def _microseconds(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.2f}" if us >= 0.01 else f"{us:.1g}"


def _optimizer(workload: Workload) -> Any:
    from backlit import optim

    return {"sgd": optim.SGD, "adam": optim.Adam}[workload.optimizer](workload.learning_rate)


def main(
    workload: Annotated[str, typer.Argument(help="A workload whose name contains this.")],
    threads: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="For the step, and again with the clock.")] = 2.0,
    equal: Annotated[bool, typer.Option(help="Equal kernels in one line, the costliest first.")] = False,
) -> None:
    """Time each kernel of a workload's training step."""
    if threads:
        os.environ["BACKLIT_THREADS"] = str(threads)
    chosen = [w for name, w in WORKLOADS.items() if workload in name]
    if not chosen:
        raise typer.BadParameter(f"no workload's name contains {workload!r}: there are {'; '.join(WORKLOADS)}")
    from backlit.executors.native.plan import traffic
    from backlit.executors.native.table import describe
    from backlit.executors.native.target import host

    for one in chosen:
        whole, rows, waits = profile(one, seconds)
        table = Table("computes", "kind", "loops", "us", "of the step", "GFLOP/s", "GB/s", title=one.title)
        alike: dict[Any, list[tuple[Any, int, float]]] = {}
        for call, times, taken in rows:
            alike.setdefault(call.kernel if equal else call, []).append((call, times, taken))
        for found in sorted(alike.values(), key=lambda found: -sum(t for *_, t in found)) if equal else alike.values():
            call, taken = found[0][0], sum(t for *_, t in found)
            kind, loops = describe(call, host())
            flops = sum(times * getattr(c.kernel, "flops", 0) for c, times, _ in found)
            moved = sum(times * traffic(c) for c, times, _ in found)
            label = f"{len(found)} x {call.label}" if equal else call.label
            table.add_row(
                label, kind, loops.replace("[", "\\["), _microseconds(taken), f"{100 * taken / whole:.0f}%",
                f"{flops / taken / 1e9:.1f}", f"{moved / taken / 1e9:.1f}",
            )  # fmt: skip
        total = sum(t for *_, t in rows)
        table.add_row("all kernels", "", "", f"{total * 1e6:.2f}", f"{100 * total / whole:.0f}%", "", "")
        table.add_row("waiting, of all threads", "", "", f"{waits * 1e6:.2f}", f"{100 * waits / whole:.0f}%", "", "")
        table.add_row("the step", "", "", f"{whole * 1e6:.2f}", "", "", "")
        Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    typer.run(main)
