"""A run: the epochs of one `fit`, step by step, and what is done between steps.

The rule that holds here: between two stretches of steps everything that training depends on is in one `Moment`, which
is replaced as a whole. An interruption, an error or a checkpoint therefore always finds the state at a step's boundary,
and how the steps were cut into stretches leaves no trace in the numbers.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from backlit.errors import DivergenceError
from backlit.pytree import leaves, map_leaves
from backlit.train import agreement
from backlit.train.callbacks import Callback, Epoch
from backlit.train.divergence import all_finite, find_origin
from backlit.train.feeding import Feed, Stretch
from backlit.train.progress import Progress

if TYPE_CHECKING:
    from backlit.train.trainer import Trainer

Array = np.ndarray[Any, np.dtype[Any]]
Tree = Any

STRETCH_SECONDS = 0.2
"""How long the executor runs before progress is shown, unless a single step takes longer."""

ROLLBACKS = 10
"""How often in a row `on_nan="rollback"` tries an epoch again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do. Kept in checkpoints: a resumed run does the rest of it.

    `until` is the epoch at which it ends, counted over the life of the trainer; `examples` is 0 where it is not known.
    """

    first: int
    until: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    steps_per_epoch: int | None
    holdout: float
    examples: int

    def config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Where training stands: the carried values, epochs done, steps done of the next one, and what these gave.

    `sums` holds, for each stretch since the epoch began, the watched sums, one row a step.
    """

    carry: tuple[Tree, ...]
    epoch: int = 0
    batch: int = 0
    sums: tuple[Tree, ...] = ()

    @property
    def step(self) -> int:
        """Steps since the training began."""
        return int(self.carry[4])


def joined(sums: Sequence[Tree]) -> Tree:
    """The watched sums of several stretches as one, one row a step."""
    return map_leaves(lambda *parts: np.concatenate(parts), *sums)


class Run:
    """The machinery of one `fit`: feeds steps to the trainer's programs until the plan is done or somebody stops it."""

    def __init__(
        self,
        trainer: Trainer,
        feed: Feed,
        callbacks: Sequence[Callback],
        validate: Callable[[], dict[str, float]] | None,
        display: Progress,
    ) -> None:
        self.trainer, self.feed, self.validate, self.display = trainer, feed, validate, display
        self.callbacks = sorted(callbacks, key=lambda c: c.last)
        self.paces: deque[float] = deque(maxlen=5)  # seconds that a step took in the last calls
        self.size = 1  # steps a call
        self.began = time.perf_counter()
        self.interrupt = _Interrupt()

    def go(self) -> None:
        """Train until the plan is done."""
        trainer = self.trainer
        with self.display, self.interrupt.deferred():
            while trainer.moment.batch or not trainer.finished:  # an epoch that was begun is ended
                most, stop = agreement.steps_and_stop(trainer.processes, self._most(), self.interrupt.pressed)
                if stop:
                    self._stop()
                stretch = self.feed.take(trainer.moment.epoch, trainer.moment.batch, most)
                if stretch is None:
                    self._end_epoch()
                else:
                    try:
                        self._advance(stretch)
                    except KeyboardInterrupt:
                        self._stop()
            if trainer.stopped:
                self.display.finish(trainer.stopped)
            if self.interrupt.pressed:
                raise KeyboardInterrupt

    def _stop(self) -> NoReturn:
        self.display.finish(f"interrupted after step {self.trainer.step}: fit(x, y) goes on from there")
        raise KeyboardInterrupt

    def _most(self) -> int:
        """How many steps to take in one call: for about STRETCH_SECONDS, and to no callback's step but the last.

        What is left of an epoch is taken whole where it fits; else it is a power of two, changed seldom: an executor
        may compile anew for another number of steps. The fastest of the last calls counts, as others may have compiled.
        """
        step = self.trainer.moment.step
        fitting = max(1, int(STRETCH_SECONDS / min(self.paces))) if self.paces else 1
        if not self.size / 2 <= fitting < self.size * 4:
            self.size = 2 ** (fitting.bit_length() - 1)
        steps, most = self.feed.steps, self.size
        if steps is not None and steps - self.trainer.moment.batch <= fitting:
            most = max(1, steps - self.trainer.moment.batch)
        return min([most] + [c.every_steps - step % c.every_steps for c in self.callbacks if c.every_steps])

    def _advance(self, stretch: Stretch) -> None:
        trainer, before = self.trainer, self.trainer.moment
        program = trainer.program("train", stretch)  # compiled outside the measured time
        start = time.perf_counter()
        self.interrupt.at_once = trainer.processes.count == 1  # others would wait for the rest of the stretch
        carry, sums = program(before.carry, stretch)
        self.interrupt.at_once = False
        seconds = (time.perf_counter() - start) / stretch.steps
        self.paces.append(seconds)
        if trainer.on_nan != "skip" and not self._sound(carry, sums):
            self._diverged(stretch)
            return
        after = Moment(carry, before.epoch, before.batch + stretch.steps, (*before.sums, sums))
        if len(after.sums) > 64:  # few parts, so that adding one stays cheap
            after = replace(after, sums=(joined(after.sums),))
        trainer.moment = after
        self.display.advance(after.batch, stretch.steps, lambda: self._figures(after.sums))
        for callback in self.callbacks:
            if callback.every_steps and after.step % callback.every_steps == 0:
                callback.on_steps(trainer)

    def _figures(self, sums: Sequence[Tree]) -> dict[str, float]:
        found = self.trainer.objective.results(joined(sums))
        return found | {"learning_rate": self.trainer.learning_rate}

    def _end_epoch(self) -> None:
        trainer, moment = self.trainer, self.trainer.moment
        figures = trainer.objective.results(joined(moment.sums))
        if trainer.on_nan == "skip":
            share = figures.pop("skipped")
            if share == 1.0:
                raise DivergenceError(
                    f"every step of epoch {moment.epoch + 1} was skipped: the loss or an update was not finite",
                    fix='lower the learning rate, or use on_nan="raise" to see where it arises',
                )
            figures["skipped"] = round(share * moment.batch)
        trainer.sync()
        if self.validate is not None:
            figures |= {f"val_{name}": value for name, value in self.validate().items()}
        figures = agreement.figures(trainer.processes, figures)
        now = time.perf_counter()
        columns = {"epoch": moment.epoch + 1, "step": moment.step} | figures
        columns |= {"learning_rate": trainer.learning_rate, "seconds": now - self.began}
        self.began = now
        record = Epoch(moment.epoch + 1, moment.step, columns)
        trainer.moment = Moment(moment.carry, moment.epoch + 1)
        trainer.epoch_start, trainer.rollbacks = trainer.moment, 0
        trainer.history.append(record)
        for callback in self.callbacks:
            callback.on_epoch(trainer, record)
        assert trainer.plan is not None
        self.display.epoch(record.number - trainer.plan.first, columns)

    # --- values that are not finite -----------------------------------------------------------------------------------

    def _sound(self, carry: Tree, sums: Tree) -> bool:
        found = all_finite(leaves(sums)) and all_finite(leaves(carry))
        return agreement.everywhere(self.trainer.processes, found)

    def _diverged(self, stretch: Stretch) -> None:
        """Take the steps of the stretch again one by one, up to the one that went wrong; then raise or roll back."""
        trainer = self.trainer
        program = trainer.program("train", stretch)
        for t in range(stretch.steps):
            one = replace(stretch, rows=stretch.rows[t : t + 1])
            before = trainer.moment
            carry, sums = program(before.carry, one)
            if not self._sound(carry, sums):
                break
            trainer.moment = Moment(carry, before.epoch, before.batch + 1, (*before.sums, sums))
        moment = trainer.moment
        parts = [one.data[role][one.rows] for role in ("x", "y", "sample_weight", "mask") if role in one.data]
        batch = [trainer.processes.whole(part, one.batch)[0] for part in parts]
        origin = find_origin(program.graph, [*leaves(moment.carry), *batch])
        where = f"step {moment.step + 1} (epoch {moment.epoch + 1})"
        if trainer.on_nan == "rollback" and trainer.rollbacks < ROLLBACKS:
            trainer.rollbacks += 1
            trainer.moment = trainer.epoch_start
            trainer.scale_learning_rate(0.5)
            trainer.epoch_start = trainer.moment
            note = f"not finite at {where}: back to the start of the epoch, at half the learning rate"
            self.display.epoch(moment.epoch - (trainer.plan.first if trainer.plan else 0), {}, note)
            return
        if origin is None:
            raise DivergenceError(
                f"training stopped at {where}: the executor {trainer.executor.name!r} gave a value that is not finite, "
                "the reference executor did not",
                fix='use executor="reference", and report this',
            )
        after = f", after {trainer.rollbacks} rollbacks" if trainer.rollbacks else ""
        raise DivergenceError(
            f"training stopped at {where}{after}: {origin.describe()}", fix=origin.advice(), site=origin.node.site
        )


class _Interrupt:
    """Ctrl-C during a run: a first one is only `pressed`, except where it may be raised `at_once`, as is a second."""

    def __init__(self) -> None:
        self.pressed = self.at_once = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, this is what is done about Ctrl-C, if nobody else has said what to do."""
        usual = threading.current_thread() is threading.main_thread()
        if not usual or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        try:
            signal.signal(signal.SIGINT, self._handle)
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.pressed = self.pressed, True
        if again or self.at_once:
            raise KeyboardInterrupt
