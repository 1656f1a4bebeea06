"""Callbacks: what happens between epochs. Stopping early, keeping the best weights, lowering the rate, saving, logging.

A callback is asked at four moments and is given the trainer and, after an epoch, its record. It acts through the
trainer (`trainer.stop(why)`, `trainer.scale_learning_rate(factor)`, `trainer.save(path)`), never on the values of a
running step. A plain function of one record is a callback too. What a callback remembers is part of a checkpoint
(`state`, `restore`), so a resumed run stops and saves where the uninterrupted one would have.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.errors import CheckpointError, Error
from backlit.train.history import direction, figure

if TYPE_CHECKING:
    from backlit.train.trainer import Trainer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Epoch(Mapping[str, float]):
    """The record of one epoch: a mapping from the columns of the history to numbers.

    `record["val_loss"]`, `record.loss`; `number` counts epochs from 1, `step` the steps since the training began.
    """

    number: int
    step: int
    columns: Mapping[str, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    @property
    def loss(self) -> float:
        return self.columns["loss"]

    def __getitem__(self, name: str) -> float:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def watched(self, name: str, who: str) -> float:
        """The value of a column that a callback watches; Error if the epoch has no such column."""
        if name in self.columns:
            return self.columns[name]
        fix = "pass validation= to fit" if name.startswith("val_") and "val_loss" not in self.columns else ""
        raise Error(f"{who} watches {name!r}, and an epoch has only {', '.join(self.columns)}", fix=fix)


class Callback:
    """Base of callbacks: override what is needed.

    every_steps   call `on_steps` when the number of steps is a multiple of this
    last          called after the others, to see what they have done
    """

    every_steps: int | None = None
    last: bool = False

    def on_start(self, trainer: Trainer) -> None:
        """`fit` begins, or goes on."""

    def on_steps(self, trainer: Trainer) -> None:
        """Another `every_steps` steps are done."""

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        """An epoch has ended."""

    def on_end(self, trainer: Trainer) -> None:
        """`fit` ends, also by an error or Ctrl-C."""

    def state(self) -> dict[str, Any]:
        """What is remembered: numbers and arrays by name."""
        return {}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Remember again what `state` gave; an empty state is that of a new run."""


@dataclass
class LambdaCallback(Callback):
    """Functions as a callback: `epoch(record)` after an epoch, `steps(trainer)` after every `every_steps` steps."""

    epoch: Callable[[Epoch], Any] | None = None
    steps: Callable[[Trainer], Any] | None = None
    every_steps: int | None = None

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        if self.epoch is not None:
            self.epoch(record)

    def on_steps(self, trainer: Trainer) -> None:
        if self.steps is not None:
            self.steps(trainer)


@dataclass
class Watcher(Callback):
    """A callback that watches one column for improvement.

    watch       a column of the history; by default val_loss, or loss where there is no validation
    mode        "min" or "max": which is better; by default told by the name
    min_delta   how much better counts as better
    """

    watch: str = ""
    mode: str = ""
    min_delta: float = 0.0
    best: float = field(init=False, default=math.nan)
    waited: int = field(init=False, default=0)  # epochs since the best

    def __post_init__(self) -> None:
        if self.mode not in ("", "min", "max"):
            raise Error(f"mode is {self.mode!r}", fix='use "min" or "max"')
        if self.min_delta < 0:
            raise Error(f"min_delta is {self.min_delta}", fix="give a number of at least 0")

    def improved(self, trainer: Trainer, record: Epoch) -> bool:
        """Look at the record; whether the watched value is the best so far. nan never is."""
        watch = self.watch or ("val_loss" if "val_loss" in record else "loss")
        value = record.watched(watch, type(self).__name__)
        metrics = {**trainer.objective.metrics, **trainer.objective.whole}
        sign = 1.0 if (self.mode or direction(watch, metrics)) == "min" else -1.0
        if not math.isnan(value) and (math.isnan(self.best) or sign * value < sign * self.best - self.min_delta):
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Array]) -> None:
        self.best, self.waited = float(state.get("best", math.nan)), int(state.get("waited", 0))


@dataclass
class EarlyStopping(Watcher):
    """Stops the run when the watched value has not improved for `patience` epochs."""

    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one("patience", self.patience)

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        if not self.improved(trainer, record) and self.waited >= self.patience:
            name = self.watch or ("val_loss" if "val_loss" in record else "loss")
            trainer.stop(f"{name} has not improved on {figure(self.best)} for {self.waited} epochs")


@dataclass
class BestWeights(Watcher):
    """Keeps the parameters of the best epoch and puts them into the network when the run ends."""

    epoch: int = field(init=False, default=0)
    _kept: dict[str, Array] | None = field(init=False, default=None, repr=False)

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        if self.improved(trainer, record):
            self._kept, self.epoch = trainer.snapshot(), record.number

    def on_end(self, trainer: Trainer) -> None:
        if self._kept is not None and trainer.finished:
            trainer.use(self._kept)

    def state(self) -> dict[str, Any]:
        kept = {f"kept/{k}": v for k, v in (self._kept or {}).items()}
        return Watcher.state(self) | {"epoch": self.epoch} | kept

    def restore(self, state: Mapping[str, Array]) -> None:
        Watcher.restore(self, state)
        self.epoch = int(state.get("epoch", 0))
        self._kept = {k.removeprefix("kept/"): v for k, v in state.items() if k.startswith("kept/")} or None


@dataclass
class ReduceOnPlateau(Watcher):
    """Multiplies the learning rate by `factor` when the watched value has not improved for `patience` epochs.

    It is done again after every `patience` epochs without improvement, down to `min_rate`.
    """

    factor: float = 0.1
    patience: int = 5
    min_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < 1:
            raise Error(f"factor is {self.factor}", fix="give a number between 0 and 1")
        _at_least_one("patience", self.patience)

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        if not self.improved(trainer, record) and self.waited % self.patience == 0:
            rate = trainer.learning_rate
            if rate > self.min_rate:
                trainer.scale_learning_rate(max(self.factor, self.min_rate / rate))


@dataclass
class Checkpoint(Callback):
    """Saves the whole run to `path`: after every `every_epochs` epochs, every `every_steps` steps, and when it ends.

    `{epoch}` in the path is replaced by the number of the epoch, to keep them all; otherwise the file is replaced, in
    one step. `Trainer.resume(path)` goes on from it.
    """

    path: str | Path
    every_epochs: int | None = 1
    every_steps: int | None = None
    last: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        for name in ("every_epochs", "every_steps"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))

    def on_start(self, trainer: Trainer) -> None:
        directory = Path(self.path).parent
        if trainer.processes.id == 0 and not directory.is_dir():
            raise CheckpointError(f"there is no directory {directory} to save to", fix="make it first")

    def on_steps(self, trainer: Trainer) -> None:
        self._save(trainer)

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        if trainer.finished or (self.every_epochs is not None and record.number % self.every_epochs == 0):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save(str(self.path).replace("{epoch}", str(trainer.epoch)))


@dataclass
class Log(Callback):
    """Writes each epoch's record to a file as it ends: CSV, or JSON lines for the suffixes .json and .jsonl.

    A resumed run takes out what was written after the checkpoint it resumes from, and goes on.
    """

    path: str | Path
    _rows: int = field(init=False, default=0)  # epochs written

    def on_start(self, trainer: Trainer) -> None:
        if trainer.processes.id != 0:
            return
        lines = Path(self.path).read_text().splitlines(keepends=True) if Path(self.path).exists() else []
        Path(self.path).write_text("".join(lines[: self._rows + (not self._is_json and self._rows > 0)]))

    @property
    def _is_json(self) -> bool:
        return Path(self.path).suffix in (".json", ".jsonl")

    def on_epoch(self, trainer: Trainer, record: Epoch) -> None:
        self._rows += 1
        if trainer.processes.id != 0:
            return
        row = {k: int(v) if k in ("epoch", "step") else v for k, v in record.items()}
        with open(self.path, "a", newline="") as file:
            if self._is_json:
                plain = {k: v if math.isfinite(v) else None for k, v in row.items()}
                file.write(json.dumps(plain) + "\n")
            else:
                writer = csv.writer(file, lineterminator="\n")
                if self._rows == 1:
                    writer.writerow(row)
                writer.writerow(row.values())

    def state(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def restore(self, state: Mapping[str, Array]) -> None:
        self._rows = int(state.get("rows", 0))


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise Error(f"{name} is {value}", fix="give a whole number of at least 1")


def as_callback(value: Any) -> Callback:
    """The callback, or the function as one."""
    if isinstance(value, Callback):
        return value
    if callable(value) and not isinstance(value, type):
        return LambdaCallback(epoch=value)
    raise Error(
        f"{getattr(value, '__name__', repr(value))} is no callback",
        fix="pass a Callback (an object, not its class) or a function of one record",
    )
