"""One runner in a process of its own: `python -m benchmarks.worker RUNNER WORKLOAD GIVENS`.

It says one line of JSON when it has trained its first epoch, and one for each line that it reads, which is how many
seconds to go on training for. What libraries print goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.givens import Givens
from benchmarks.runners import PRODUCTS, RUNNERS
from benchmarks.workloads import WORKLOADS


def serve(name: str, workload_name: str, path: str) -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what: Any) -> None:
        print(json.dumps(what), file=channel, flush=True)

    workload, givens = WORKLOADS[workload_name], Givens.load(Path(path))
    train = (RUNNERS | PRODUCTS)[name].prepare(workload, givens)
    start = time.perf_counter()
    losses = train()
    first = time.perf_counter() - start
    say(seconds=first, losses=[float(loss) for loss in losses])
    for line in sys.stdin:
        until, best = time.perf_counter() + float(line), float("inf")
        while best == float("inf") or time.perf_counter() < until:
            start = time.perf_counter()
            train()
            best = min(best, time.perf_counter() - start)
        say(seconds=best, memory=machine.peak_memory())


if __name__ == "__main__":
    serve(*sys.argv[1:])
