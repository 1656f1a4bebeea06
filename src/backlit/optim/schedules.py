"""Schedules: the learning rate as a function of the number of steps that are done.

A schedule is written in ops, so it is part of the compiled step: the rate changes without Python being entered. Steps
count from 0: the first update of a run uses schedule(0). Those that take `steps` keep their last value ever after.
Write a new one by giving `at(t)`:

    @dataclass(frozen=True)
    class InverseSqrt(Schedule):
        initial: float

        def at(self, t):
            return self.initial / ops.sqrt(t + 1)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import SettingError
from backlit.ops.record import Value, constant_like
from backlit.settings import Settings, checked_number, kind_of, number, numbers, setting, whole
from backlit.tracing import type_of


@dataclass(frozen=True)
class Schedule(Settings, ABC):
    """A learning rate that changes. Call it with a step (a number, an array or a traced value)."""

    def __call__(self, step: Value) -> Value:
        """The rate of the update number `step`, from 0; float32, or of the step's own floating-point dtype."""
        t = step if type_of(step).dtype.kind == "f" else ops.astype(step, "float32")
        with ops.scope(kind_of(type(self)), "composite"):
            return self.at(t)

    @abstractmethod
    def at(self, t: Value) -> Value:
        """The rate at t, a 0-d floating-point value, in the dtype of t."""


def rate(default: Any = MISSING) -> Any:
    """A field that holds a learning rate: a number, at least 0, or a schedule."""

    def check(name: str, value: Any) -> float | Schedule:
        if isinstance(value, Schedule):
            return value
        if callable(value):
            raise SettingError(f"{name} is a function", fix="make it a subclass of optim.Schedule, so it can be saved")
        return checked_number(name, value, at_least=0)

    return setting(check, default)


def value_of(learning_rate: float | Schedule, t: Value) -> Value:
    """The number itself, or the schedule's at t."""
    return learning_rate(t) if isinstance(learning_rate, Schedule) else learning_rate


def _share(t: Value, steps: float) -> Value:
    """How much of `steps` is done: t / steps, at most 1."""
    return ops.minimum(t / steps, 1.0)


def _cosine(start: float, end: float, share: Value) -> Value:
    """From start to end along half a wave of the cosine."""
    return end + (start - end) * (1.0 + ops.cos(math.pi * share)) / 2.0


@dataclass(frozen=True)
class Constant(Schedule):
    """initial."""

    initial: float = number(at_least=0)

    def at(self, t: Value) -> Value:
        return constant_like(t, self.initial)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """initial · factor^floor(t / every). PyTorch's StepLR."""

    initial: float = number(at_least=0)
    every: int = whole(at_least=1)
    factor: float = number(0.1, above=0)

    def at(self, t: Value) -> Value:
        drops = ops.floor(t / self.every)
        return self.initial * self.factor**drops


@dataclass(frozen=True)
class Piecewise(Schedule):
    """rates[i], i the number of boundaries that are at most t. One rate more than boundaries. PyTorch's MultiStepLR."""

    rates: tuple[float, ...] = numbers(at_least=0)
    boundaries: tuple[float, ...] = numbers(above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.rates) != len(self.boundaries) + 1:
            raise SettingError(f"{len(self.boundaries)} boundaries part {len(self.boundaries) + 1} rates")
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise SettingError(f"the boundaries {self.boundaries} do not increase")

    def at(self, t: Value) -> Value:
        found = constant_like(t, self.rates[0])
        for boundary, after in zip(self.boundaries, self.rates[1:], strict=True):
            found = ops.where(ops.less(t, boundary), found, after)
        return found


@dataclass(frozen=True)
class Exponential(Schedule):
    """initial · factor^(t / every). PyTorch's ExponentialLR has every = 1."""

    initial: float = number(at_least=0)
    factor: float = number(above=0)
    every: int = whole(1, at_least=1)

    def at(self, t: Value) -> Value:
        return self.initial * self.factor ** (t / self.every)


@dataclass(frozen=True)
class Linear(Schedule):
    """initial + (final - initial) · min(t / steps, 1)."""

    initial: float = number(at_least=0)
    steps: int = whole(at_least=1)
    final: float = number(0.0, at_least=0)

    def at(self, t: Value) -> Value:
        return self.initial + (self.final - self.initial) * _share(t, self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (initial - final) (1 + cos(π min(t / steps, 1))) / 2. Loshchilov & Hutter 2017, equation 5."""

    initial: float = number(at_least=0)
    steps: int = whole(at_least=1)
    final: float = number(0.0, at_least=0)

    def at(self, t: Value) -> Value:
        return _cosine(self.initial, self.final, _share(t, self.steps))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from peak / div_factor to peak, then down to peak / (div_factor · final_div_factor), each along a cosine.

    Smith & Topin 2018 (super-convergence), in the two-phase cosine form that PyTorch and optax have. The peak stands at
    t = pct_start · steps and the lowest rate at t = steps, as in optax; PyTorch's OneCycleLR has both a step earlier.
    """

    peak: float = number(at_least=0)
    steps: int = whole(at_least=1)
    pct_start: float = number(0.3, above=0, below=1)
    div_factor: float = number(25.0, above=0)
    final_div_factor: float = number(1e4, above=0)

    def at(self, t: Value) -> Value:
        start, top = self.peak / self.div_factor, self.pct_start * self.steps
        rising = _cosine(start, self.peak, _share(t, top))
        falling = _cosine(self.peak, start / self.final_div_factor, _share(t - top, self.steps - top))
        return ops.where(ops.less(t, top), rising, falling)


def _schedule(name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule):
        raise SettingError(f"{name} is a schedule, not {value!r}", fix="use optim.Constant for a rate that stays")
    return value


@dataclass(frozen=True)
class Warmup(Schedule):
    """start + (schedule(0) - start) t / steps until t = steps, then schedule(t - steps). Goyal et al. 2017, 2.2.

    With start = 0 the very first update has the rate 0, as in optax and in Hugging Face's schedules.
    """

    schedule: Schedule = setting(_schedule)
    steps: int = whole(at_least=1)
    start: float = number(0.0, at_least=0)

    def at(self, t: Value) -> Value:
        after = self.schedule(ops.maximum(t - self.steps, 0.0))
        first = self.schedule(np.zeros((), type_of(t).dtype))
        rising = self.start + (first - self.start) * _share(t, self.steps)
        return ops.where(ops.less(t, self.steps), rising, after)
