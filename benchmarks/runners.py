"""Who runs a workload: a runner is a library, called in one of its ways. A peer that is asked for may have several."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.givens import Givens
from benchmarks.workloads import ConvNet, LeNet5, Mlp, Workload


@dataclass(frozen=True)
class Runner:
    """`prepare(workload, givens, **how)` of the module gives a function that trains for an epoch."""

    peer: str
    module: str
    needs: tuple[str, ...] = ()
    how: dict[str, Any] = field(default_factory=dict)
    images: bool = False  # for images only

    def fits(self, workload: Workload) -> bool:
        if self.peer == "sklearn":
            return isinstance(workload.net, Mlp) and workload.net.output is None
        return not self.images or isinstance(workload.net, LeNet5 | ConvNet)

    def prepare(self, workload: Workload, givens: Givens) -> Callable[[], Sequence[Any]]:
        module = importlib.import_module(f"benchmarks.{self.module}")
        return module.prepare(workload, givens, **self.how)


RUNNERS = {
    "backlit": Runner("backlit", "with_backlit"),
    "torch": Runner("torch", "with_torch", ("torch",)),
    "torch channels-last": Runner("torch", "with_torch", ("torch",), {"channels_last": True}, images=True),
    "torch-compile": Runner("torch-compile", "with_torch", ("torch",), {"compiled": True}),
    "torch-compile channels-last": Runner(
        "torch-compile", "with_torch", ("torch",), {"compiled": True, "channels_last": True}, images=True
    ),
    "jax": Runner("jax", "with_jax", ("jax", "optax")),
    "jax-scan": Runner("jax-scan", "with_jax", ("jax", "optax"), {"scan": True}),
    "sklearn": Runner("sklearn", "with_sklearn", ("sklearn",)),
}

PEERS = tuple(dict.fromkeys(r.peer for r in RUNNERS.values() if r.peer != "backlit"))

PRODUCTS = {
    "product numpy": Runner("product", "products", (), {"library": "numpy"}),
    "product torch": Runner("product", "products", ("torch",), {"library": "torch"}),
}
"""What runs beside the workloads: a large matrix product, whose speed stands for the most that the machine can do."""


def missing(runner: Runner) -> list[str]:
    """The modules that the runner needs and that are not installed."""
    return [name for name in runner.needs if importlib.util.find_spec(name) is None]
