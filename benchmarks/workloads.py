"""What is timed: eleven networks with data, loss, optimiser and batch size, described once for all who take part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Workload:
    """One training step. `kind` says what the network is; `sizes` its widths."""

    name: str
    kind: str  # mlp, lenet, cnn, lstm, transformer
    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    loss: str = "crossentropy"
    optimizer: str = "adam"
    bar: float = 1.0  # how many times faster than the best peer backlit has to be


WORKLOADS = {
    w.name: w
    for w in [
        Workload("seed", "mlp", (2, 2, 1), 1, "sigmoid", "mse", "sgd", 0.9),
        Workload("xor", "mlp", (2, 8, 1), 4, "tanh", "mse", bar=8),
        Workload("iris", "mlp", (4, 16, 3), 16, bar=5),
        Workload("digits", "mlp", (64, 100, 10), 200, bar=2),
        Workload("mnist", "mlp", (784, 128, 10), 64, bar=2.2),
        Workload("mnist-deep", "mlp", (784, 512, 512, 10), 128, bar=1.3),
        Workload("wide", "mlp", (1024, 2048, 2048, 10), 256, bar=1.15),
        Workload("lenet", "lenet", (28, 28, 1), 128, bar=5),
        Workload("cnn", "cnn", (32, 32, 3), 64, bar=1.4),
        Workload("lstm", "lstm", (28, 28, 64), 64, bar=2.4),
        Workload("transformer", "transformer", (65, 64, 128, 4, 4), 16, bar=1.5),
    ]
}


def examples(work: Workload, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and targets, the same for everyone."""
    rng = np.random.default_rng(0)
    if work.kind == "transformer":
        vocabulary, time = work.sizes[:2]
        return rng.integers(0, vocabulary, (count, time)), rng.integers(0, vocabulary, (count, time))
    shape = {"mlp": work.sizes[:1], "lstm": work.sizes[:2]}.get(work.kind, work.sizes)
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    if work.loss == "mse":
        return x, rng.random((count, work.sizes[-1])).astype(np.float32)
    return x, rng.integers(0, work.sizes[-1] if work.kind == "mlp" else 10, count)
