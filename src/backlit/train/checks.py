"""Checks: data is looked at before training starts, and what cannot be learned from is refused.

A message names the argument, the column, the row and the remedy. The rule: everything of known length is checked whole,
some megabytes at a time, before the first step; batches of an iterator are checked as they come. `examples` gives the
checked data, ready to be fed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from backlit.errors import DataError, Error
from backlit.executors.api import Processes
from backlit.ir import Type, dtype_name
from backlit.train.arrays import Array, Given, chunks, read
from backlit.train.feeding import ROLES, ArrayFeed, BatchFeed, Feed, split_rows
from backlit.train.step import Objective

_OF_NUMBERS = ("mse", "half_mse", "mae", "huber", "binary_crossentropy")
"""Losses whose targets have the shape of the prediction and are numbers to it."""


def at_least(least: int, name: str, value: Any) -> int:
    """A whole number of at least `least`, or Error."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise Error(f"{name} is {value!r}", fix=f"give a whole number of at least {least}")
    return int(value)


def is_share(validation: Any) -> bool:
    """Whether `validation` is a share of the rows; Error for a number that is none."""
    if isinstance(validation, bool) or not isinstance(validation, int | float | np.number):
        return False
    if not 0 < validation < 1:
        raise Error(f"validation is {validation}", fix="give a share between 0 and 1, such as 0.2, or data (x, y)")
    return True


def parts(data: Any) -> tuple[Any, Any, Any, Any]:
    """(x, y, sample_weight, mask) of what was given as validation data; y is None for an iterable of batches."""
    if isinstance(data, tuple):
        if not 2 <= len(data) <= 4:
            raise DataError(
                f"validation is a tuple of {len(data)}",
                fix="give (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask)",
            )
        return (*data, None, None)[:4]
    return data, None, None, None


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Checked data: arrays by role and the dtypes the executor shall get; or a source of batches.

    `labels` are the classes of the examples where these are whole numbers, for a stratified hold-out.
    """

    data: Mapping[str, Array]
    dtypes: Mapping[str, np.dtype[Any]]
    labels: Array | None = None
    rows: Array | None = None
    source: Any = None
    convert: Callable[[Any, int], Mapping[str, Array]] | None = None

    @property
    def count(self) -> int:
        """How many examples there are; 0 where it is not known."""
        if self.convert is not None:
            return 0
        return len(self.data["x"]) if self.rows is None else len(self.rows)

    def divided(self, share: float, key: Array) -> tuple[Examples, Examples]:
        """The examples for training, and a share of them held out."""
        if self.convert is not None:
            raise DataError(
                f"a share of {share} cannot be held out from an iterator",
                fix="pass validation=(x, y), or other batches",
            )
        if self.count < 2:
            raise DataError("there is one example: nothing can be held out", fix="pass validation=(x, y)")
        kept, held = split_rows(self.count, share, key, self.labels)
        return replace(self, rows=kept), replace(self, rows=held)

    def feed(
        self,
        batch_size: int,
        processes: Processes,
        key: Array | None = None,
        drop_last: bool = False,
        steps_per_epoch: int | None = None,
    ) -> Feed:
        """The minibatches, as these processes take them."""
        if self.convert is not None:
            return BatchFeed(self.source, self.convert, steps_per_epoch, processes=processes)
        if steps_per_epoch is not None:
            raise Error("steps_per_epoch is for iterators of batches", fix="leave it out: arrays have an end")
        return ArrayFeed(self.data, batch_size, self.dtypes, key, drop_last, self.rows, processes=processes)


def examples(
    objective: Objective, given: Sequence[Any], prefix: str = "", *, check: bool = True, targets: bool = True
) -> Examples:
    """The data (x, y, sample_weight, mask), checked against what the network takes and the loss needs.

    With y None, x is an iterable of batches; `targets=False` is for prediction, where there is no y. `check=False`
    looks at shapes and dtypes only. Raises DataError.
    """
    x, y, sample_weight, mask = given
    if y is None and targets:
        if isinstance(x, np.ndarray) or hasattr(x, "__array__") or hasattr(x, "columns"):
            raise DataError(f"there are no targets for {prefix}x", fix="pass them as y")
        if sample_weight is not None or mask is not None:
            raise DataError(
                f"{prefix}x gives batches: sample weights and masks come in them", fix="(x, y, sample_weight, mask)"
            )

        def convert(batch: Any, number: int) -> Mapping[str, Array]:
            if not isinstance(batch, tuple | list) or not 2 <= len(batch) <= 4:
                raise DataError(
                    f"{prefix}batch {number} is a {type(batch).__name__}"
                    + (f" of {len(batch)}" if hasattr(batch, "__len__") else ""),
                    fix="a batch is a tuple (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask)",
                )
            found = examples(objective, (*batch, None, None)[:4], f"{prefix}batch {number}, ", check=check)
            return {r: np.ascontiguousarray(a, found.dtypes[r]) for r, a in found.data.items()}

        return Examples({}, {}, source=x, convert=convert)
    named = [read(v, f"{prefix}{role}") for role, v in zip(ROLES, given, strict=True) if v is not None]
    columns = {g.name.removeprefix(prefix): g for g in named}
    lengths = {len(g) for g in named}
    if len(lengths) > 1:
        said = ", ".join(f"{g.name} has {len(g)}" for g in named)
        raise DataError(f"the numbers of rows differ: {said}", fix="every example needs one row in each")
    if lengths == {0}:
        raise DataError(f"{prefix}x is empty: there are no examples", fix="check how the data was read or filtered")
    checker = _Checker(objective, check)
    columns["x"] = checker.features(columns["x"])
    labels = None
    if "y" in columns:
        columns["y"], labels = checker.targets(columns["y"], one_class=not prefix)
    if "sample_weight" in columns:
        checker.weights(columns["sample_weight"])
    if "mask" in columns:
        checker.mask(columns["mask"])
    dtypes = {role: checker.dtype(role, g.array) for role, g in columns.items()}
    if check:
        for role, g in columns.items():
            _refuse_non_finite(g, dtypes[role])
    return Examples({r: columns[r].array for r in ROLES if r in columns}, dtypes, labels)


@dataclass(slots=True)
class _Checker:
    """What one network and one loss take."""

    objective: Objective
    deep: bool  # look at the numbers too

    @property
    def loss(self) -> str:
        """The short name of the loss, "" or "custom" where it is the user's own."""
        return self.objective.loss.label

    def dtype(self, role: str, array: Array) -> np.dtype[Any]:
        """The dtype in which the executor gets the array."""
        net = self.objective.net
        match role:
            case "x":
                return net.input_type.dtype
            case "mask":
                return np.dtype(np.bool_)
            case "y" if array.dtype.kind in "iu" and self.loss not in _OF_NUMBERS:
                return np.dtype(np.int64)
        return net.output_type.dtype

    # --- x ------------------------------------------------------------------------------------------------------------

    def features(self, given: Given) -> Given:
        """x, whose rows have the shape of the network's input."""
        wanted: Type = self.objective.net.input_type
        have = given.array.shape[1:]
        if have != wanted.shape:
            self._refuse_shape(given, wanted)
        if wanted.dtype.kind in "iu":
            if given.array.dtype.kind == "f":
                _each_chunk(given, lambda a: a != np.floor(a), "is {}, and the network takes whole numbers")
            tokens = getattr(next(iter(self.objective.net.layers.values()), None), "tokens", None)
            if self.deep and tokens is not None:
                _each_chunk(
                    given,
                    lambda a: (a < 0) | (a >= tokens),
                    f"is {{}}, and the embedding knows the tokens 0 to {tokens - 1}",
                    "number the tokens from 0, or give the embedding more tokens",
                )
        return given

    def _refuse_shape(self, given: Given, wanted: Type) -> NoReturn:
        name, array, have = given.name, given.array, given.array.shape[1:]
        fix = f"give rows of the shape {wanted.shape}"
        if given.columns:
            listed = ", ".join(given.columns[:8]) + (", ..." if len(given.columns) > 8 else "")
            raise DataError(
                f"{name} has {len(given.columns)} columns ({listed}), and the network takes {_shape(wanted.shape)}",
                fix="choose the columns to learn from, or make the network with input_shape=" + str(have),
            )
        if array.shape == wanted.shape:
            fix = f"this looks like one example without the axis of examples: {name}[None]"
        elif math.prod(have) == math.prod(wanted.shape):
            fix = f"{name}.reshape({', '.join(map(str, (-1, *wanted.shape)))}) has that shape"
        raise DataError(f"{name} has rows of the shape {have}, and the network takes {wanted.shape}", fix=fix)

    # --- y ------------------------------------------------------------------------------------------------------------

    def targets(self, given: Given, one_class: bool) -> tuple[Given, Array | None]:
        """y as the loss takes it, and the classes of the examples where it holds such."""
        output: tuple[int, ...] = self.objective.net.output_type.shape
        if given.columns and given.array.shape[1:] == (1,):  # a table of one column
            given = Given(given.name, given.array[:, 0])
        have = given.array.shape[1:]
        of_classes = self.loss == "crossentropy" or (self.loss == "hinge" and output != (1,))
        if of_classes and have != output and have in (output[:-1], (*output[:-1], 1)):
            return self._labels(given, output[-1], one_class)
        if of_classes and have != output:
            raise DataError(
                f"{given.name} has rows of the shape {have}, and the network gives {output}",
                fix=f"give the number of the class, rows of the shape {output[:-1]}, or one-hot rows {output}",
            )
        if not of_classes and self.loss not in (*_OF_NUMBERS, "kl"):
            return given, None  # a loss of the user's own knows best
        if have == () and output == (1,):
            given = replace(given, array=given.array[:, None])
        elif have != output and (*have, 1) != output:
            raise DataError(
                f"{given.name} has rows of the shape {have}, and the network gives {output}",
                fix=f"let the last layer give {_shape(have) if have else '1 number'}, or {given.name} have such rows",
            )
        if self.loss in ("crossentropy", "kl", "binary_crossentropy") and self.deep:
            self._probabilities(given)
        if self.loss in ("binary_crossentropy", "hinge") and have in ((), (1,)):
            self._refuse_one_class(given, one_class)
            return given, given.array.reshape(-1) if given.array.dtype.kind in "biu" else None
        return given, None

    def _labels(self, given: Given, classes: int, one_class: bool) -> tuple[Given, Array | None]:
        """Numbers of classes, 0 to classes - 1; or the one that the loss ignores."""
        if given.array.dtype.kind == "f":
            if self.deep:
                _refuse_non_finite(given, given.array.dtype)
            _each_chunk(
                given, lambda a: a != np.floor(a), "is {}: a class is a whole number", "is the loss the right one?"
            )
        if given.array.dtype.kind not in "iu":
            given = replace(given, array=given.array.astype(np.int64))
        ignored = getattr(self.objective.loss, "ignore", None)
        if self.deep:
            _each_chunk(
                given,
                lambda a: ((a < 0) | (a >= classes)) & (True if ignored is None else a != ignored),
                f"is the class {{}}, and the network tells {classes} classes apart: 0 to {classes - 1}",
                "number the classes from 0: classes, y = numpy.unique(y, return_inverse=True); "
                "the last layer needs a unit for each",
            )
        self._refuse_one_class(given, one_class)
        return given, given.array.reshape(-1) if given.array.size == len(given) else None

    def _probabilities(self, given: Given) -> None:
        """Numbers from 0 to 1; of rows of classes, that sum up to 1."""
        _refuse_non_finite(given, given.array.dtype)
        binary = self.loss == "binary_crossentropy"
        _each_chunk(
            given,
            lambda a: (a < 0) | (a > 1),
            f"is {{}}, and {self.loss} takes targets from 0 to 1",
            'for several classes use "crossentropy" with their numbers; to predict numbers use "mse"',
        )
        if not binary:
            _each_chunk(
                given,
                lambda a: abs(a.sum(-1) - 1) > 1e-3,
                "is a row of probabilities that do not sum up to 1 (and starts with {})",
                'divide it by its sum; for several labels at once use "binary_crossentropy"',
            )

    def _refuse_one_class(self, given: Given, wanted: bool) -> None:
        """A classifier of one class learns nothing. One row may be a step by hand, so it passes."""
        if not wanted or not self.deep or len(given) < 2:
            return
        first = given.array.reshape(-1)[0]
        if all(bool((given.array[part] == first).all()) for part in chunks(given.array)):
            raise DataError(
                f"{given.name} holds one class only: every target is {first}",
                fix="there is nothing to tell apart: check how the rows were chosen, or sorted and cut",
            )

    # --- the others ---------------------------------------------------------------------------------------------------

    def weights(self, given: Given) -> None:
        """Sample weights: one number of at least 0 for each example, not all 0."""
        if given.array.ndim != 1:
            raise DataError(f"{given.name} has the shape {given.array.shape}", fix="give one weight for each example")
        if self.loss == "custom":
            raise DataError("a function as a loss takes no sample weights", fix="make it a subclass of nn.losses.Loss")
        if self.deep:
            _each_chunk(given, lambda a: a < 0, "is {}: a weight is at least 0", "leave rows out with weight 0")
            if not np.any(given.array):
                raise DataError(f"{given.name} is 0 everywhere: no example counts", fix="give some weight")

    def mask(self, given: Given) -> None:
        """A padding mask: (examples, time), true or false."""
        time = self.objective.net.input_type.shape[:1]
        if given.array.shape[1:] != time:
            raise DataError(
                f"{given.name} has rows of the shape {given.array.shape[1:]}, and the sequences {time}",
                fix="give true or false for each example and position",
            )
        if given.array.dtype.kind != "b":
            _each_chunk(given, lambda a: (a != 0) & (a != 1), "is {}: a mask holds true (real) and false (padding)")


def _each_chunk(
    given: Given, wrong: Callable[[Array], Array], what: str, fix: str = "correct it, or leave the row out"
) -> None:
    """DataError at the first element that is wrong; `{}` in `what` stands for its value."""
    for part in chunks(given.array):
        found = wrong(given.array[part])
        if found.any():
            index = np.argwhere(found)[0]
            index[0] += part.start
            value = given.array[tuple(index)].flat[0].item()
            raise DataError(f"{given.place(index.tolist())} {what.format(value)}", fix=fix)


def _refuse_non_finite(given: Given, dtype: np.dtype[Any]) -> None:
    """DataError at the first element that is nan, infinite, or too large for the dtype of the network."""
    if given.array.dtype.kind != "f":
        return
    for part in chunks(given.array):
        with np.errstate(over="ignore"):
            good = (
                np.isfinite(given.array[part].astype(dtype, copy=False))
                if dtype.kind == "f"
                else np.isfinite(given.array[part])
            )
        if good.all():
            continue
        index = np.argwhere(~good)[0]
        index[0] += part.start
        value = given.array[tuple(index)]
        place = given.place(index.tolist())
        bad = int((~good).sum())
        more = (
            f", and {bad - 1} more {'like it' if bad == 2 else 'are'} in rows {part.start} to {part.stop - 1}"
            if bad > 1
            else ""
        )
        if np.isfinite(value):
            raise DataError(f"{place} is {value:g}, too large for {dtype_name(dtype)}{more}", fix="scale it down")
        kind = "missing (nan)" if np.isnan(value) else "infinite"
        raise DataError(
            f"{place} is {kind}{more}",
            fix="fill missing values (with the column's median, say), or leave those rows out",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}" if len(shape) == 1 else str(shape)
