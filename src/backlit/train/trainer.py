"""The trainer: a network, what to minimise and how, and the life of its training.

One step (forward, loss, gradients, clipping, update, metrics) is one graph, compiled once for each size of batch; the
executor runs many steps in a call. The trainer only chooses the rows, keeps the state between calls, and asks the
callbacks. Same seed, same executor, same data: same bits, also across a resumed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit import ops
from backlit.errors import CheckpointError, DataError, Error
from backlit.executors.api import Executor, Processes, get
from backlit.ir import Graph
from backlit.pytree import flatten, unflatten
from backlit.train import agreement, checks
from backlit.train.arrays import is_memory_mapped
from backlit.train.callbacks import Callback, as_callback
from backlit.train.feeding import ArrayFeed, BatchFeed, Feed, Stretch
from backlit.train.history import History
from backlit.train.progress import Progress
from backlit.train.run import Moment, Plan, Run, joined
from backlit.train.step import (
    Objective,
    Program,
    TrainingStep,
    compile_step,
    evaluation_step,
    metrics_by_name,
    prediction_step,
)

if TYPE_CHECKING:
    from backlit.train.finder import RateSearch

Array = np.ndarray[Any, np.dtype[Any]]
Tree = Any

EVALUATION_BATCH = 256
"""Examples in a batch of evaluation and prediction, unless another number is asked for."""

_DEFAULTS: dict[str, Any] = {
    "batch_size": 32, "seed": 0, "shuffle": True, "drop_last": False, "steps_per_epoch": None, "holdout": 0.0,
}  # fmt: skip


class Trainer:
    """Trains a network.

        trainer = bl.Trainer(net, "crossentropy", "adam", metrics=["accuracy"])
        history = trainer.fit(x, y, epochs=20, validation=0.2)

    net        a Network; its parameters are replaced as training goes on
    loss       a name ("mse", "crossentropy", ...), a loss object, or a function (predicted, target) -> 0-d mean, with a
               third argument if it is to take sample weights
    optimizer  a name ("adam", "sgd", ...) or an optimiser of `backlit.optim`
    metrics    names, or functions (predicted, target) -> mean or (sum, count); a dict gives functions names
    penalty    a function params -> 0-d value that is added to what is minimised: lambda p: losses.l2(p, 1e-4)
    executor   "auto" is the fastest one that this machine has
    on_nan     what to do when the loss or a parameter is infinite or nan: "raise" stops at the step before and says
               where it arose; "skip" leaves such steps out; "rollback" goes back to the start of the epoch and halves
               the learning rate
    """

    def __init__(
        self,
        net: Any,
        loss: Any,
        optimizer: Any = "adam",
        metrics: Any = (),
        *,
        penalty: Callable[[Any], Any] | None = None,
        executor: str | Executor = "auto",
        on_nan: str = "raise",
    ) -> None:
        from backlit import optim
        from backlit.nn import losses

        if on_nan not in ("raise", "skip", "rollback"):
            raise Error(f"on_nan is {on_nan!r}", fix='use "raise", "skip" or "rollback"')
        self.net = net
        self.optimizer = optim.get(optimizer)
        self.executor = get(executor) if isinstance(executor, str) else executor
        if self.executor.needs_loss_scale:
            self.optimizer = optim.with_loss_scale(self.optimizer)
        self.on_nan = on_nan
        self.objective = Objective(net, losses.get(loss), *metrics_by_name(metrics), penalty)
        losses.refuse_probabilities(self.objective.loss, net.layers)
        self.history = History()
        key = ops.random.key(0)  # that of the seed, as soon as a run begins
        carry = dict(net.params), dict(net.state), self.optimizer.init(net.params), key, np.zeros((), np.uint32)
        arrays, _, structure = flatten(carry)
        self.moment = Moment(unflatten(structure, self.executor.copies(arrays)))
        self.epoch_start = self.moment
        self.plan: Plan | None = None
        self.stopped = ""
        self._given = self.moment.carry[:2]  # what the network held when last they agreed
        self.pending = False  # whether a run has begun and not ended
        self.rollbacks = 0  # in the present epoch
        self._resumed = False  # whether that was in another process
        self._callbacks: list[Callback] = []
        self._callback_states: list[tuple[str, dict[str, Array]]] = []
        self._programs: dict[Any, Program] = {}

    # --- what callbacks and the curious ask ---------------------------------------------------------------------------

    @property
    def processes(self) -> Processes:
        """The processes that train together; one, unless `backlit.distributed` and the executor "xla" are used."""
        return self.executor.processes

    @property
    def epoch(self) -> int:
        """Epochs done since the training began."""
        return self.moment.epoch

    @property
    def step(self) -> int:
        """Steps done since the training began."""
        return self.moment.step

    @property
    def params(self) -> Tree:
        """The parameters that are being trained (the network may hold their average: see optim.EMA)."""
        return self.moment.carry[0]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.rate(self.moment.carry[2]))

    @property
    def finished(self) -> bool:
        """Whether the run has done all its epochs, or was stopped."""
        return self.plan is None or bool(self.stopped) or self.epoch >= self.plan.until

    @property
    def graph(self) -> Graph | None:
        """The graph of the training step that was compiled last."""
        found = [p.graph for (kind, *_), p in self._programs.items() if kind == "train"]
        return found[-1] if found else None

    def stop(self, why: str = "stopped by a callback") -> None:
        """End the run after this epoch."""
        self.stopped = why

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate (its whole schedule) by a factor, from the next step on."""
        params, state, optimizer, *rest = self.moment.carry
        scale = np.asarray(optimizer["scale"])
        scaled = optimizer | {"scale": np.asarray(scale * factor, scale.dtype)}
        self.moment = replace(self.moment, carry=(params, state, scaled, *rest))

    def snapshot(self) -> dict[str, Array]:
        """The parameters and the layers' state that the network holds now, to give to `use`."""
        return {f"params/{k}": v for k, v in self.net.params.items()} | {
            f"state/{k}": v for k, v in self.net.state.items()
        }

    def use(self, kept: Mapping[str, Array]) -> None:
        """Put the parameters and the state of a `snapshot` into the network, and go on training from them."""
        params, state, *rest = self.moment.carry
        params = {k: kept[f"params/{k}"] for k in params}
        state = {k: kept[f"state/{k}"] for k in state}
        self.moment = replace(self.moment, carry=(params, state, *rest))
        self._give(params, state)

    def sync(self) -> None:
        """Give the network the parameters of this moment (their average, with optim.EMA)."""
        params, state, optimizer, *_ = self.moment.carry
        self._give(self.optimizer.averaged(optimizer, params), state)

    def _give(self, params: Tree, state: Tree) -> None:
        self.net.params, self.net.state = self._given = params, state

    def _take_changes(self) -> None:
        """Take over what was changed in the network from outside since `sync`."""
        held = self.net.params, self.net.state
        if not all(_same(a, b) for a, b in zip(self._given, held, strict=True)):
            held = _copy(held[0]), _copy(held[1])
            self.moment = replace(self.moment, carry=(*held, *self.moment.carry[2:]))
            self._given = held

    # --- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
        callbacks: Iterable[Callback | Callable[..., Any]] = (),
        progress: Any = True,
        seed: int | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        steps_per_epoch: int | None = None,
        check: bool = True,
    ) -> History:
        """Train, and return the history of all epochs so far.

        x, y             arrays, memory-mapped arrays, lists, pandas or polars tables, one row an example. Or x alone:
                         an iterable of batches (x, y[, sample_weight[, mask]]), or a function that gives one (of no
                         argument or of the number of the epoch)
        epochs           how many; each call trains that many more (default 10). Left out after `resume` or Ctrl-C,
                         the interrupted run is finished; given after `resume`, it is what the run comes to in all
        batch_size       examples a step (default 32); the last batch of an epoch may be smaller, unless `drop_last`
        validation       a share of the rows to hold out (0.2; a share of each class for integer labels), data as
                         (x, y[, sample_weight[, mask]]), or an iterable of batches; measured after each epoch
        sample_weight    (examples,) how much each counts
        mask             (examples, time) true where a sequence is real and not padding
        callbacks        see `backlit.train`; plain functions of one record are called after each epoch
        progress         show a live display on a terminal (or a rich Console to show it on)
        seed             for shuffling, dropout and the hold-out (default 0)
        shuffle          a new order of the rows in each epoch (default True)
        steps_per_epoch  cuts the batches of an endless iterator into epochs
        check            look at all data before training starts; what is not a finite number is refused

        Raises DataError for data that cannot be learned from, DivergenceError where values become infinite or nan (see
        `on_nan`). Ctrl-C stops between two steps: the network holds the parameters of that step, the history all whole
        epochs, and `fit(x, y)` goes on.
        """
        holdout = None if not checks.is_share(validation) else float(validation)
        given = {
            "batch_size": batch_size, "seed": seed, "shuffle": shuffle, "drop_last": drop_last,
            "steps_per_epoch": steps_per_epoch, "holdout": holdout,
        }  # fmt: skip
        going_on = self.pending and (epochs is None or self._resumed)
        plan = self._continued(epochs, given) if going_on else self._begun(epochs, given)
        order_key, holdout_key = ops.random.split(ops.random.key(plan.seed), 3)[1:]
        examples = checks.examples(self.objective, (x, y, sample_weight, mask), check=check)
        held: checks.Examples | None = None
        if plan.holdout:
            examples, held = examples.divided(plan.holdout, holdout_key)
        elif validation is not None:
            held = checks.examples(self.objective, checks.parts(validation), "validation ", check=check)
        key = order_key if plan.shuffle else None
        feed = examples.feed(plan.batch_size, self.processes, key, plan.drop_last, plan.steps_per_epoch)
        plan = self._fitting(plan, examples, feed)
        agreement.refuse_different(self.processes, self._given_to_all(plan, examples, held))
        asked = [as_callback(c) for c in callbacks]
        for number, callback in enumerate(asked):
            known = self._callback_states[number : number + 1] if going_on else []
            callback.restore(known[0][1] if known and known[0][0] == type(callback).__name__ else {})
        # nothing was changed so far; from here on training may be interrupted anywhere
        self._begin(plan, asked, going_on)
        display = Progress(
            plan.until - plan.first,
            feed.steps,
            console=None if isinstance(progress, bool) else progress,
            shown=progress is not False and self.processes.id == 0,
            done_epochs=self.epoch - plan.first,
        )
        measured = None if held is None else held.feed(EVALUATION_BATCH, self.processes)

        def validate() -> dict[str, float]:
            assert measured is not None
            found = self._measure(measured)
            return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}

        try:
            for callback in asked:
                callback.on_start(self)
            Run(self, feed, asked, validate if measured is not None else None, display).go()
            self.pending = False
        finally:
            self.sync()
            for callback in asked:
                callback.on_end(self)
            self._callback_states = self.callback_states()
            self._callbacks = []
        return self.history

    def _given_to_all(self, plan: Plan, *data: checks.Examples | None) -> dict[str, Any]:
        """What has to be the same in all processes."""
        arrays = [[{r: a for r, a in e.data.items() if not is_memory_mapped(a)}, e.rows] for e in data if e is not None]
        shapes = [{r: (a.dtype, a.shape) for r, a in e.data.items()} for e in data if e is not None]
        settings = plan, self.optimizer.config(), self.on_nan, repr(shapes)
        return {"plan or optimiser": repr(settings), "state": self.moment.carry, "data": arrays}

    def _begun(self, epochs: int | None, given: Mapping[str, Any]) -> Plan:
        """The plan of a new run."""
        count = 10 if epochs is None else checks.at_least(1, "epochs", epochs)
        settings = _DEFAULTS | {k: v for k, v in given.items() if v is not None}
        checks.at_least(1, "batch_size", settings["batch_size"])
        return Plan(self.epoch, self.epoch + count, **settings, examples=0)

    def _continued(self, epochs: int | None, given: Mapping[str, Any]) -> Plan:
        """The plan that was interrupted, with another number of epochs if one is given."""
        assert self.plan is not None
        for name, value in given.items():
            if value is not None and value != getattr(self.plan, name):
                raise CheckpointError(
                    f"the run that goes on here was begun with {name}={getattr(self.plan, name)!r}, not {value!r}",
                    fix=f"leave {name} out, or begin anew with a new Trainer",
                )
        if epochs is None:
            return self.plan
        return replace(self.plan, until=self.plan.first + checks.at_least(1, "epochs", epochs))

    def _fitting(self, plan: Plan, examples: checks.Examples, feed: Feed) -> Plan:
        """The plan with the number of examples in it. Raises where it is not that of the run that goes on."""
        if plan.examples and plan.examples != examples.count:
            raise CheckpointError(
                f"the run that goes on here was begun with {plan.examples} examples, not {examples.count}",
                fix="pass the same data",
            )
        if isinstance(feed, ArrayFeed) and not feed.examples:
            raise DataError(
                f"there are {examples.count} examples, fewer than one batch of {plan.batch_size}",
                fix="use a smaller batch_size, or drop_last=False",
            )
        if isinstance(feed, BatchFeed) and feed.once and feed.steps is None and plan.until - plan.first > 1:
            raise DataError(
                "x is a generator, which gives its batches once, and there are several epochs",
                fix="pass the function that makes it (fit(batches), not fit(batches())), or steps_per_epoch=",
            )
        return replace(plan, examples=examples.count)

    def _begin(self, plan: Plan, callbacks: list[Callback], going_on: bool) -> None:
        self._take_changes()
        if not going_on:
            params, state, optimizer, _, step = self.moment.carry
            key = ops.random.split(ops.random.key(plan.seed), 3)[0]
            self.moment = Moment((params, state, optimizer, key, step), self.moment.epoch)
            self.epoch_start, self.stopped, self._callback_states = self.moment, "", []
        self.plan, self._callbacks, self.pending, self._resumed = plan, callbacks, True, False

    def callback_states(self) -> list[tuple[str, dict[str, Array]]]:
        """The kind of each callback of this run (or of the last one), and what it remembers."""
        if not self._callbacks:
            return self._callback_states
        return [(type(c).__name__, {k: np.asarray(v) for k, v in c.state().items()}) for c in self._callbacks]

    def resumed_with(self, states: list[tuple[str, dict[str, Array]]], stopped: str, rollbacks: int) -> None:
        """Stand where a checkpoint says: used by `resume`."""
        self._callback_states, self.stopped, self.rollbacks = states, stopped, rollbacks
        self.pending = self._resumed = self.plan is not None
        self.sync()

    # --- measuring ----------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = EVALUATION_BATCH,
        sample_weight: Any = None,
        mask: Any = None,
        check: bool = True,
    ) -> dict[str, Any]:
        """The loss and the metrics on data, as in `fit`: {"loss": ..., "accuracy": ...}, over all examples alike."""
        self._take_changes()
        examples = checks.examples(self.objective, (x, y, sample_weight, mask), check=check)
        return self._measure(examples.feed(checks.at_least(1, "batch_size", batch_size), self.processes))

    def _measure(self, feed: Feed) -> dict[str, Any]:
        carry = dict(self.net.params), dict(self.net.state)
        sums, outputs, targets = [], [], []
        for stretch in stretches(feed):
            found, predicted = self.program("evaluate", stretch)(carry, stretch)[1]
            sums.append(found)
            if predicted is not None:
                outputs.append(_rows(predicted))
                targets.append(_rows(self.processes.whole(stretch.data["y"][stretch.rows], stretch.batch)))
        figures: dict[str, Any] = self.objective.results(joined(sums))
        for name, metric in self.objective.whole.items():
            figures[name] = metric(np.concatenate(outputs), np.concatenate(targets))
        return figures

    def predict(self, x: Any, *, batch_size: int = EVALUATION_BATCH, mask: Any = None, check: bool = True) -> Array:
        """The network's outputs for each row of x, as one array."""
        self._take_changes()
        examples = checks.examples(self.objective, (x, None, None, mask), check=check, targets=False)
        carry = dict(self.net.params), dict(self.net.state)
        parts = []
        for stretch in stretches(examples.feed(checks.at_least(1, "batch_size", batch_size), self.processes)):
            outputs = self.program("predict", stretch)(carry, stretch)[1]
            parts.append(_rows(outputs))
        return np.concatenate(parts)

    def program(self, kind: str, stretch: Stretch, optimizer: Any = None) -> Program:
        """The compiled step for batches like those of the stretch; kind is "train", "evaluate" or "predict"."""
        shapes = tuple((r, a.dtype.str, a.shape[1:]) for r, a in stretch.data.items())
        key = kind, optimizer, stretch.batch, shapes
        if key not in self._programs:
            carry: Sequence[Tree] = (dict(self.net.params), dict(self.net.state))
            step: TrainingStep | Callable[..., tuple[Tree, Tree]]
            if kind == "train":
                step = TrainingStep(self.objective, optimizer or self.optimizer, self.on_nan == "skip")
                carry = self.moment.carry
            else:
                step = (evaluation_step if kind == "evaluate" else prediction_step)(self.objective)
            self._programs[key] = compile_step(step, self.executor, carry, stretch)
        return self._programs[key]

    def find_learning_rate(self, x: Any, y: Any = None, **settings: Any) -> RateSearch:
        """Try learning rates from tiny to huge, a step each, and suggest one: see `train.finder.search`."""
        from backlit.train.finder import search

        return search(self, x, y, **settings)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: all that a run needs to go on with the same bits. `bl.load` reads the network from it.

        The file is whole or not there: an older one is replaced in one step. Raises CheckpointError where it cannot be
        written.
        """
        from backlit.train.saving import save_checkpoint

        save_checkpoint(self, path)

    @classmethod
    def resume(cls, path: str | Path, **replacements: Any) -> Trainer:
        """The trainer that a checkpoint was made of. `fit(x, y)` with the same data then does the rest of the run.

        Functions of your own (a loss, a metric, a penalty) and layers that are not known here cannot be read from a
        file: pass them again, as loss=, metrics=, penalty=, net=; executor= may be another one.

        Raises CheckpointError for a file that is no checkpoint, is damaged, or does not fit.
        """
        from backlit.train.saving import resume_checkpoint

        return resume_checkpoint(cls, path, **replacements)


def stretches(feed: Feed) -> Iterator[Stretch]:
    """One pass over a feed, a moderate number of steps at a time."""
    done = 0
    while (stretch := feed.take(0, done, 16)) is not None:
        done += stretch.steps
        yield stretch


def _rows(array: Array) -> Array:
    """(steps, batch, ...) as (steps · batch, ...)."""
    return array.reshape(-1, *array.shape[2:])


def _copy(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.array(array) for name, array in arrays.items()}


def _same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    """Whether two flat dicts hold the same numbers."""
    return a.keys() == b.keys() and all(
        a[k] is b[k] or np.array_equal(a[k], b[k]) or np.array_equal(a[k], b[k], equal_nan=True) for k in a
    )
