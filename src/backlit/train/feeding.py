"""Feeding: which rows make which minibatch, and where they are read from.

A feed gives an epoch's minibatches in stretches: several steps of one batch size, as the arrays and the row numbers
that an executor's `compile_loop` takes. The rules that hold here:

- The order of an epoch is a function of (key, epoch), so training goes on from any position with the same bits.
- The last batch may be short. It is never padded: it gets a step of its own size, so the gradient is that of the mean
  over its own examples, and statistics over the batch see only real examples. That costs one further compilation.
- Arrays in memory are handed over whole, once, as views that cannot be written to: an executor may keep its own copy of
  them for as long as the feed lives, and the next feed has arrays that were changed meanwhile read anew.
- Memory-mapped arrays are read some megabytes at a time, and are shuffled window by window: blocks of neighbouring rows
  in random order, then the rows of many blocks among each other.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlit.errors import DataError
from backlit.executors.api import Processes
from backlit.ops import random
from backlit.train.arrays import CHUNK_BYTES, Array, is_memory_mapped

ROLES = ("x", "y", "sample_weight", "mask")
"""What a batch may consist of, in this order."""

RESIDENT_BYTES = 2**30
"""Arrays that need converting are converted whole up to this size, and a piece at a time above it."""

BLOCK_BYTES = 2**18
WINDOW_BLOCKS = 256


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some steps: `data[role][rows[t]]` is the minibatch of step t, of `batch` examples.

    `rows` is (steps, batch). Of several processes each has only the columns of its part, and the data for them.
    """

    data: Mapping[str, Array]
    rows: Array
    batch: int = 0  # as many as `rows` has columns, unless another number is given

    def __post_init__(self) -> None:
        if not self.batch:
            object.__setattr__(self, "batch", self.rows.shape[1])

    @property
    def steps(self) -> int:
        return len(self.rows)


@dataclass
class Feed(ABC):
    """Where minibatches come from. `processes` are those that train together, each on its part of a minibatch."""

    processes: Processes = field(default=Processes(), kw_only=True)

    @property
    @abstractmethod
    def steps(self) -> int | None:
        """Steps in an epoch, None where it is not known before the end."""

    @abstractmethod
    def take(self, epoch: int, batch: int, most: int) -> Stretch | None:
        """At most `most` steps of epoch `epoch`, from its step `batch` on; None at the end of the epoch."""


@dataclass
class ArrayFeed(Feed):
    """Minibatches of arrays in memory or in files.

    `data` has arrays of one length; `dtypes` says what the executor shall get. `key` shuffles; None keeps the order.
    """

    data: Mapping[str, Array]
    batch_size: int
    dtypes: Mapping[str, np.dtype[Any]]
    key: Array | None = None
    drop_last: bool = False
    subset: Array | None = None  # row numbers to use, None for all
    resident: bool = field(init=False)
    _order: tuple[int, Order] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        mapped = any(is_memory_mapped(a) for a in self.data.values())
        changed = [(r, a) for r, a in self.data.items() if a.dtype != self.dtypes[r] or not a.flags.c_contiguous]
        cost = sum(a.size * self.dtypes[r].itemsize for r, a in changed)
        self.resident = not mapped and cost <= RESIDENT_BYTES
        if self.resident:
            whole = dict(self.data) | {r: np.ascontiguousarray(a, self.dtypes[r]) for r, a in changed}
            self.data = {r: _fixed(a) for r, a in whole.items()}

    @property
    def examples(self) -> int:
        """Rows that an epoch goes through."""
        n = len(next(iter(self.data.values()))) if self.subset is None else len(self.subset)
        return n - n % self.batch_size if self.drop_last else n

    @property
    def steps(self) -> int:
        return math.ceil(self.examples / self.batch_size)

    def take(self, epoch: int, batch: int, most: int) -> Stretch | None:
        start, n = batch * self.batch_size, self.examples
        if start >= n:
            return None
        most = max(1, min(most, self._steps_a_read()))
        full = min(most, (n - start) // self.batch_size)
        steps, size = (full, self.batch_size) if full else (1, n - start)
        rows = self._rows(epoch, start, start + steps * size).reshape(steps, size)
        rows = rows[:, self.processes.part(size)]
        if self.resident:
            return Stretch(self.data, rows, size)
        read = {role: np.ascontiguousarray(a[rows.reshape(-1)], self.dtypes[role]) for role, a in self.data.items()}
        return Stretch(read, np.arange(rows.size).reshape(rows.shape), size)

    def _steps_a_read(self) -> int:
        if self.resident:
            return self.steps
        return max(1, CHUNK_BYTES // max(1, self._row_bytes() * self.batch_size))

    def _row_bytes(self) -> int:
        return sum(max(1, a[:1].nbytes) for a in self.data.values())

    def _rows(self, epoch: int, start: int, stop: int) -> Array:
        if self.key is None:
            places = np.arange(start, stop)
        else:
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, self._shuffled(random.fold_in(self.key, epoch))
            places = self._order[1].places(start, stop)
        return places if self.subset is None else self.subset[places]

    def _shuffled(self, key: Array) -> Order:
        n = len(next(iter(self.data.values()))) if self.subset is None else len(self.subset)
        return Order(key, n, 0 if self.resident else max(1, BLOCK_BYTES // self._row_bytes()))


def _fixed(array: Array) -> Array:
    """A view of its own that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass
class Order:
    """The numbers 0 .. n - 1 in random order.

    With a `block` above 0 it is made window by window and needs memory for one window only: the circle of numbers is
    cut into blocks of neighbours at a random place, WINDOW_BLOCKS blocks chosen at random make a window, and a window's
    numbers are permuted among each other.
    """

    key: Array
    n: int
    block: int = 0
    _window: tuple[int, Array] | None = field(init=False, default=None)
    _blocks: Array = field(init=False)
    _key: Array = field(init=False)
    _offset: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.block = self.block or self.n  # one block: one window, a permutation of everything
        order_key, offset_key, self._key = random.split(self.key, 3)
        whole = self.n // self.block
        self._blocks = random.permutation(order_key, whole)
        if self.n % self.block:
            self._blocks = np.append(self._blocks, whole)  # the short block comes last; the offset says what is in it
        if len(self._blocks) > 1:
            high, low = (int(b) for b in random.bits(offset_key, (2,)))
            self._offset = (high << 32 | low) % self.n

    def places(self, start: int, stop: int) -> Array:
        """The elements at positions start .. stop - 1 of the order."""
        size = self.block * WINDOW_BLOCKS
        parts = []
        while start < stop:
            number, at = divmod(start, size)
            end = min(size, at + stop - start)
            parts.append(self._numbers(number)[at:end])
            start += end - at
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _numbers(self, window: int) -> Array:
        if self._window is None or self._window[0] != window:
            blocks = self._blocks[window * WINDOW_BLOCKS : (window + 1) * WINDOW_BLOCKS]
            numbers = (blocks[:, None] * self.block + np.arange(self.block)).reshape(-1)
            numbers = numbers[numbers < self.n]
            order = random.permutation(random.fold_in(self._key, window), len(numbers))
            self._window = window, (numbers[order] + self._offset) % self.n
        return self._window[1]


@dataclass
class BatchFeed(Feed):
    """Minibatches that come ready-made, as tuples (x, y[, sample_weight[, mask]]), from an iterable or a function.

    A list, a data loader, or a function that gives an iterator is gone through once an epoch; a function of one
    argument is given the number of the epoch, from 0. A generator or another iterator gives each batch once:
    `steps_per_epoch` cuts it into epochs. `convert` checks a batch and gives its arrays by role.
    """

    source: Iterable[Any] | Callable[..., Iterable[Any]]
    convert: Callable[[Any, int], Mapping[str, Array]]
    steps_per_epoch: int | None = None
    _iterator: Iterator[Any] | None = field(init=False, default=None)
    _next: tuple[int, int] = field(init=False, default=(0, 0))  # epoch and step of the batch that comes next
    _started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if not callable(self.source) and not hasattr(self.source, "__iter__"):
            raise DataError(
                f"x is a {type(self.source).__name__}, and there is no y",
                fix="pass x and y, or an iterable of batches (x, y)",
            )

    @property
    def once(self) -> bool:
        """Whether the batches can be gone through only once."""
        return not callable(self.source) and isinstance(self.source, Iterator)

    @property
    def steps(self) -> int | None:
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return len(self.source) if isinstance(self.source, Sized) else None

    def take(self, epoch: int, batch: int, most: int) -> Stretch | None:
        if self.steps_per_epoch is not None and batch >= self.steps_per_epoch:
            return None
        self._go_to(epoch, batch)
        assert self._iterator is not None
        try:
            found = next(self._iterator)
        except StopIteration:
            if self.once and epoch > 0 and batch == 0:
                raise DataError(
                    f"the iterator of batches is used up after {epoch} epochs",
                    fix="pass a function that makes a new one: fit(lambda: batches(...)), or fewer epochs",
                ) from None
            if batch == 0:
                raise DataError("there are no batches: the iterable of batches is empty") from None
            if self.steps_per_epoch is not None and not self.once and batch < self.steps_per_epoch:
                raise DataError(
                    f"the batches end after {batch} of {self.steps_per_epoch} steps of epoch {epoch + 1}",
                    fix=f"use steps_per_epoch={batch}",
                ) from None
            return None
        self._next = epoch, batch + 1
        data = self.convert(found, batch)
        size = len(data["x"])
        return Stretch(data, np.arange(size)[None, self.processes.part(size)], size)

    def _go_to(self, epoch: int, batch: int) -> None:
        """Bring the iterator to where step `batch` of `epoch` comes next, going past batches where it must."""
        if self._iterator is not None and self._next == (epoch, batch):
            return
        if self.once:
            if self._iterator is None:
                self._iterator = iter(self.source)  # type: ignore[arg-type]
            per_epoch = self.steps_per_epoch
            known = self._next if self._started else (0, 0)
            if self._started and batch == 0 and epoch == known[0] + 1:
                skip = 0  # the next epoch goes on where this one ended
            elif per_epoch is not None:
                skip = (epoch - known[0]) * per_epoch + batch - known[1]
            else:
                skip = batch - known[1] if epoch == known[0] else -1
        else:
            self._iterator = iter(self._fresh(epoch))
            skip = batch
        if skip < 0:
            raise DataError(
                "batches of a generator cannot be gone back to", fix="pass a function that makes the generator"
            )
        for _ in range(skip):
            if next(self._iterator, self) is self:
                raise DataError(f"the batches end before step {batch} of epoch {epoch + 1}, where training goes on")
        self._started, self._next = True, (epoch, batch)

    def _fresh(self, epoch: int) -> Iterable[Any]:
        if not callable(self.source):
            return self.source
        try:
            takes = len(inspect.signature(self.source).parameters)
        except ValueError:
            takes = 0
        return self.source(epoch) if takes == 1 else self.source()


def split_rows(n: int, fraction: float, key: Array, labels: Array | None = None) -> tuple[Array, Array]:
    """Row numbers for training and for validation: `fraction` of n rows, chosen at random, each part in order.

    With `labels` the choice is stratified: each class gives its share, at least one row where it has two.
    """
    groups = [np.arange(n)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    chosen: list[Array] = []
    for number, rows in enumerate(groups):
        count = round(len(rows) * fraction)
        if len(rows) > 1:
            count = min(max(count, 1), len(rows) - 1)
        chosen.append(rows[random.permutation(random.fold_in(key, number), len(rows))[:count]])
    held = np.sort(np.concatenate(chosen))
    return np.delete(np.arange(n), held), held
