"""How a step is timed: many steps at a time, the best of several rounds; and what is told about it."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable


def report(first: Callable[[], object], run: Callable[[int], object], seconds: float, **more: object) -> None:
    """Print one line of JSON: microseconds a step, the first call in milliseconds, the process's peak memory in MB.

    `first` compiles and runs one step, `run(n)` runs n. About `seconds` are spent.
    """
    start = time.perf_counter()
    first()
    compiled = time.perf_counter() - start
    count, best = 1, float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(count)
        taken = time.perf_counter() - start
        best = min(best, taken / count)
        if taken < seconds / 8:
            count = max(count + 1, min(count * 4, int(seconds / 6 / best)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"us": best * 1e6, "first_ms": compiled * 1e3, "memory_mb": memory, **more}), flush=True)
