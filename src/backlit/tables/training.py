"""From a table to a model in one call: hold rows out, fit the schema, train a network, score it on what it never saw.

The rows are parted three ways: the test part is only scored; the validation part says when to stop; the training part
gives the schema's statistics and the gradients. With classes, each part holds equal shares of each class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit import data
from backlit.errors import CheckpointError, DataError, SettingError
from backlit.tables.model import TableModel
from backlit.tables.schema import Fitted, fit, target_column
from backlit.tables.scores import Scores
from backlit.tables.target import Array, Classes, Task, fit_target

if TYPE_CHECKING:
    import polars as pl

    from backlit.executors import Executor
    from backlit.train.history import History
    from backlit.train.trainer import Trainer


@dataclass(frozen=True)
class Trained:
    """What `train` gives.

    model    with the weights of the best epoch
    fitted   its schema, why the task was chosen, and which columns were left out
    history  what was measured after each epoch
    parts    the numbers of the training, validation and test rows
    scores   on the test part, after training
    seconds  of training
    """

    model: TableModel
    fitted: Fitted
    history: History
    parts: tuple[Array, Array, Array]
    scores: Scores
    seconds: float


def split(cells: pl.Series, task: Task | None, test: float, validation: float, seed: int) -> tuple[Array, Array, Array]:
    """The training, validation and test rows of a target column. `validation` is a share of what the test leaves."""
    target, _ = fit_target(cells, np.arange(len(cells)), task)
    if isinstance(target, Classes):
        labels = target.encode(cells)
        rest, out = data.stratified_split(labels, test, seed)
        train, watch = data.stratified_split(labels[rest], validation, seed + 1)
    else:
        rest, out = data.random_split(len(cells), test, seed)
        train, watch = data.random_split(len(rest), validation, seed + 1)
    return rest[train], rest[watch], out


def train(
    frame: pl.DataFrame,
    target: str,
    *,
    task: Task | None = None,
    hidden: Sequence[int] = (64, 32),
    dropout: float = 0.0,
    epochs: int = 200,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    patience: int = 20,
    balance: bool = False,
    test: float = 0.2,
    validation: float = 0.2,
    categories: Iterable[str] = (),
    drop: Iterable[str] = (),
    keep: Iterable[str] = (),
    seed: int = 0,
    executor: str | Executor = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_fitted: Callable[[Fitted, tuple[Array, Array, Array]], None] | None = None,
) -> Trained:
    """Train a network of ReLU layers to predict a column of a table.

    task           "classification" or "regression"; by default found from the target
    hidden         units of each hidden layer; none gives linear or logistic regression
    dropout        the share of hidden units that each training step leaves out
    epochs         at most so many; training stops when the validation loss has not fallen for `patience` epochs, and
                   the weights of the best epoch are kept
    batch_size     rows a step; by default about a thirtieth of the training rows, from 16 to 256
    learning_rate  of AdamW, with `weight_decay`
    balance        rare classes weigh as much as common ones
    categories, drop, keep  as for `fit`
    executor       what runs the training; on several processes (`backlit.distributed`) each is given the same table
    checkpoint     a file to which the run is saved after each epoch. If it is there, the run in it goes on
    on_fitted      is given the schema and the parts, before training begins

    Classes are trained by cross-entropy, quantities by mean squared error. Raises DataError for a table that cannot be
    learnt from, SettingError for settings out of range, DivergenceError where training breaks down.
    """
    from backlit import nn, optim
    from backlit.nn import losses
    from backlit.train.callbacks import BestWeights, Callback, Checkpoint, EarlyStopping
    from backlit.train.trainer import Trainer

    if any(units < 1 for units in hidden):
        raise SettingError(f"hidden={list(hidden)}: a layer has at least one unit")
    parts = split(target_column(frame, target), task, test, validation, seed)
    fitted = fit(frame, target, parts[0], task=task, categories=categories, drop=drop, keep=keep)
    if on_fitted is not None:
        on_fitted(fitted, parts)
    schema = fitted.schema
    x, y = schema.features(frame), schema.labels(frame)
    (x_train, y_train), watch, _ = [(x[rows], y[rows]) for rows in parts]

    layers: list[Any] = []
    for units in hidden:
        layers.append(nn.Dense(units, activation="relu"))
        if dropout:
            layers.append(nn.Dropout(dropout))
    net = nn.Network([*layers, nn.Dense(schema.target.width)], input_shape=(x.shape[1],), seed=seed)
    loss: Any = "mse"
    metrics: tuple[str, ...] = ("mae", "r2")
    if isinstance(schema.target, Classes):
        loss = losses.CrossEntropy(class_weight=losses.balanced(y_train) if balance else None)
        metrics = ("accuracy",)
    elif balance:
        raise DataError("a quantity has no classes to balance", fix="leave out --balance")
    trainer = Trainer(net, loss, optim.AdamW(learning_rate, weight_decay=weight_decay), metrics, executor=executor)
    callbacks: list[Callback] = [EarlyStopping(patience=patience), BestWeights()]
    if checkpoint is not None:
        callbacks.append(Checkpoint(checkpoint))
        if Path(checkpoint).exists():
            trainer = _resumed(trainer, checkpoint)
    began = time.perf_counter()
    history = trainer.fit(
        x_train,
        y_train,
        epochs=epochs,
        batch_size=batch_size or int(min(max(len(y_train) // 30, 16), 256)),
        validation=watch,
        callbacks=callbacks,
        progress=progress,
        seed=seed,
    )
    seconds = time.perf_counter() - began
    model = TableModel(trainer.net, schema)
    scores = model.evaluate(frame[parts[2]])
    return Trained(model, fitted, history, parts, scores, seconds)


def _resumed(wanted: Trainer, checkpoint: str | Path) -> Trainer:
    """The trainer of the checkpoint, which has to be of the run that is wanted."""
    found = type(wanted).resume(checkpoint, executor=wanted.executor)
    for name, own, other in (
        ("network", found.net.config(), wanted.net.config()),
        ("loss", found.objective.loss.config(), wanted.objective.loss.config()),
        ("optimiser", found.optimizer.config(), wanted.optimizer.config()),
    ):
        if own != other:
            raise CheckpointError(
                f"{checkpoint} is of a run with another {name}",
                fix="give the settings and the table it was begun with, or another checkpoint",
            )
    return found
