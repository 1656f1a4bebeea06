"""The learning-rate finder: one short run whose rate grows at every step, to see where learning sets in and breaks.

Smith 2017 (Cyclical learning rates for training neural networks, section 3.3). The rate of step t is
lowest · (highest / lowest)^(t / (steps - 1)). The trainer is left as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit import ops
from backlit.errors import Error
from backlit.extras import require
from backlit.train import checks
from backlit.train.history import figure as shown

if TYPE_CHECKING:
    from backlit.train.trainer import Trainer

Array = np.ndarray[Any, np.dtype[Any]]

SMOOTHING = 0.9
BROKEN = 4.0
"""The search ends when the smoothed loss is this many times the smallest one so far above the first."""


@dataclass(frozen=True, slots=True, eq=False)
class RateSearch:
    """What a search measured.

    rates, losses   the learning rate of each step, and the loss of its minibatch before the step
    smoothed        the losses as an exponential moving average
    suggestion      a tenth of the rate at which the smoothed loss was smallest
    """

    rates: Array
    losses: Array
    smoothed: Array
    suggestion: float

    def plot(self, path: str | Path | None = None) -> Any:
        """The loss against the rate, as a matplotlib Figure; saved to `path` if one is given. Needs matplotlib."""
        figure = require("matplotlib.figure", "plot").Figure(figsize=(5.2, 3.4), layout="constrained")
        ax = figure.subplots()
        ax.plot(self.rates, self.losses, alpha=0.3, color="C0")
        ax.plot(self.rates, self.smoothed, color="C0")
        ax.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggestion: {self.suggestion:.2g}")
        ax.set_xscale("log")
        low, first = float(self.smoothed.min()), float(self.smoothed[0])
        ax.set_ylim(low - 0.1 * abs(first - low), first + 1.5 * abs(first - low))
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend(frameon=False)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __str__(self) -> str:
        low = int(self.smoothed.argmin())
        return (
            f"suggested learning rate: {self.suggestion:.2g} (tried {self.rates[0]:.1g} to {self.rates[-1]:.1g}; "
            f"the loss is smallest, {shown(float(self.smoothed[low]))}, at {self.rates[low]:.2g})"
        )

    __repr__ = __str__


def search(
    trainer: Trainer,
    x: Any,
    y: Any = None,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    sample_weight: Any = None,
    mask: Any = None,
    seed: int = 0,
    check: bool = True,
) -> RateSearch:
    """Try `steps` learning rates between `lowest` and `highest`, a minibatch each, from the network's parameters.

    The data are those of `fit`. Stops early where the loss grows beyond bounds. Raises Error where nothing was learned
    at any rate: the loss never fell.
    """
    if not 0 < lowest < highest or not math.isfinite(highest):
        raise Error(f"the rates go from {lowest} to {highest}", fix="give 0 < lowest < highest")
    checks.at_least(10, "steps", steps)
    examples = checks.examples(trainer.objective, (x, y, sample_weight, mask), check=check)
    dropout_key, order_key = ops.random.split(ops.random.key(seed), 3)[:2]
    feed = examples.feed(checks.at_least(1, "batch_size", batch_size), trainer.processes, order_key)
    optimizer = trainer.optimizer.with_learning_rate(1.0)
    params, state = dict(trainer.net.params), dict(trainer.net.state)
    carry = (params, state, optimizer.init(params), dropout_key, np.zeros((), np.uint32))
    rates, losses, smoothed = [], [], []
    average, epoch, batch = 0.0, 0, 0
    for t in range(steps):
        stretch = feed.take(epoch, batch, 1)
        if stretch is None:
            epoch, batch = epoch + 1, 0
            stretch = feed.take(epoch, batch, 1)
            assert stretch is not None
        batch += 1
        rate = lowest * (highest / lowest) ** (t / (steps - 1))
        scale = np.asarray(rate, np.asarray(carry[2]["scale"]).dtype)
        carry = (*carry[:2], carry[2] | {"scale": scale}, *carry[3:])
        carry, sums = trainer.program("train", stretch, optimizer)(carry, stretch)
        total, weight = sums["loss"]
        loss = float(total[0]) / float(weight[0])
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(average / (1 - SMOOTHING ** (t + 1)))
        if t >= 10 and smoothed[-1] - min(smoothed) > BROKEN * max(smoothed[0] - min(smoothed), 0.1 * abs(smoothed[0])):
            break
    if not losses:
        raise Error("the loss is not finite before the first step", fix="fit says where that arises")
    low = int(np.argmin(smoothed))
    if low == 0:
        raise Error(
            "the loss fell at no learning rate",
            fix="search before training, from fresh parameters; or start lower: find_learning_rate(..., lowest=1e-9)",
        )
    return RateSearch(np.array(rates), np.array(losses), np.array(smoothed), rates[low] / 10)
