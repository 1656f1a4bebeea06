"""What all runners of a workload are given, so that they compute the same: first weights, data, and the batches.

The weights are those of the backlit network, under its names and in its layout; each runner turns them into its own.
Labels are a function of the data, so that there is something to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Transformer, Workload

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Givens:
    """`rows[t]` are the numbers of the examples, rows of x and y, that make the minibatch of step t."""

    weights: dict[str, Array]
    x: Array
    y: Array
    rows: Array

    def batches(self) -> list[tuple[Array, Array]]:
        """The minibatches of an epoch, already drawn."""
        return [(self.x[rows], self.y[rows]) for rows in self.rows]

    def save(self, path: Path) -> None:
        named = {f"weights/{name}": value for name, value in self.weights.items()}
        np.savez(path, x=self.x, y=self.y, rows=self.rows, **named)

    @classmethod
    def load(cls, path: Path) -> Givens:
        with np.load(path, allow_pickle=False) as file:
            weights = {name.removeprefix("weights/"): file[name] for name in file if name.startswith("weights/")}
            return cls(weights, file["x"], file["y"], file["rows"])


def make(workload: Workload, seed: int = 0) -> Givens:
    """Weights and data of a workload, the same ones for the same seed."""
    from benchmarks.with_backlit import network

    rng = np.random.default_rng(seed)
    net, examples = workload.net, workload.steps * workload.batch
    if isinstance(net, Transformer):
        x: Array = rng.integers(0, net.classes, (examples, *net.input_shape))
        y: Array = (3 * x + 1) % net.classes
    else:
        x = rng.standard_normal((examples, *net.input_shape), np.float32)
        flat = x.reshape(examples, -1)
        if workload.loss == "mse":
            y = (np.prod(flat, axis=1, keepdims=True) < 0).astype(np.float32)  # exclusive or of the signs
        else:
            y = np.argmax(flat @ rng.standard_normal((flat.shape[1], net.classes), np.float32), axis=1)
    rows = rng.permutation(examples).reshape(workload.steps, workload.batch)
    return Givens(dict(network(workload).params), x, y, rows)
