"""One large matrix product in float32, in NumPy or PyTorch: the speed that stands for the most the machine can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.givens import Givens
from benchmarks.machine import cores
from benchmarks.workloads import Workload

SIZE = 2048
OPERATIONS = 2 * SIZE**3


def prepare(workload: Workload, givens: Givens, *, library: str) -> Callable[[], Sequence[Any]]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIZE, SIZE), np.float32) for _ in range(2))
    if library == "numpy":
        out = np.empty_like(a)
        return lambda: [np.matmul(a, b, out=out)[0, 0]]
    import torch

    torch.set_num_threads(cores())
    left, right, result = torch.from_numpy(a), torch.from_numpy(b), torch.empty(SIZE, SIZE)
    return lambda: [torch.mm(left, right, out=result)[0, 0]]
