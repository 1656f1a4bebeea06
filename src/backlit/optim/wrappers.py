"""Wrappers: optimisers made of another one. They add to its state, so "step" and "scale" stay where they were."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import SettingError
from backlit.ops.record import Array, Value
from backlit.optim.optimizer import Optimizer, Params, State, named_leaves
from backlit.optim.schedules import Schedule
from backlit.pytree import flatten, map_leaves, unflatten
from backlit.settings import flag, number, setting, whole
from backlit.tracing import type_of


def _optimizer(name: str, value: Any) -> Optimizer:
    if not isinstance(value, Optimizer):
        raise SettingError(f"{name} is an optimiser, not {value!r}", fix='optim.get("adam") makes one from a name')
    return value


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """An optimiser around `optimizer`. Each kind can be used once."""

    optimizer: Optimizer = setting(_optimizer)

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.optimizer
        if isinstance(inner, LossScale):
            raise SettingError("a loss scale stands around everything", fix="LossScale(...(...))")
        while isinstance(inner, Wrapper):
            if type(inner) is type(self):
                raise SettingError(f"{type(self).__name__} stands around {type(self).__name__}")
            inner = inner.optimizer

    def rate(self, state: State) -> Value:
        return self.optimizer.rate(state)

    def trains(self, name: str) -> bool:
        return self.optimizer.trains(name)

    def with_learning_rate(self, learning_rate: float | Schedule) -> Wrapper:
        return replace(self, optimizer=self.optimizer.with_learning_rate(learning_rate))

    def averaged(self, state: State, params: Params) -> Params:
        return self.optimizer.averaged(state, params)

    def _trained(self, params: Params) -> dict[str, Value]:
        return {name: theta for name, theta in named_leaves(params, "parameters").items() if self.trains(name)}


@dataclass(frozen=True)
class EMA(Wrapper):
    """Keeps an exponential moving average of the weights, to evaluate with: Polyak & Juditsky 1992 average all alike.

        a ← d a + (1 - d) θ          after each step
        â = a / (1 - dᵗ)             with `bias_correction`: a starts at 0, and â is the weighted mean of θ₁ ... θₜ

    Without it a starts at the initial weights, which then stay a part dᵗ of the average. Training goes on from θ
    itself; `averaged(state, params)` gives the average (the parameters themselves before the first step).
    """

    decay: float = number(0.999, at_least=0, below=1)
    bias_correction: bool = flag(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.optimizer, Accumulate):
            raise SettingError("an average is of updates, not of micro-batches", fix="Accumulate(EMA(...), steps=...)")

    def init(self, params: Params) -> State:
        def start(theta: Value) -> Array:
            return np.zeros_like(theta) if self.bias_correction else np.array(theta)

        average = {name: start(theta) for name, theta in self._trained(params).items()}
        return self.optimizer.init(params) | {"average": average}

    def update(self, gradients: Params, state: State, params: Params) -> tuple[Params, State]:
        params, state = self.optimizer.update(gradients, state, params)
        average = {}
        for name, theta in self._trained(params).items():
            with ops.scope(name or "theta"):
                a = self.decay * state["average"][name] + (1 - self.decay) * theta
                average[name] = a
        return params, state | {"average": average}

    def averaged(self, state: State, params: Params) -> Params:
        leaves = named_leaves(params, "parameters")
        for name, a in state["average"].items():
            if self.bias_correction:
                t = ops.astype(ops.maximum(state["step"], 1), type_of(a).dtype)
                a_hat = a / (1 - self.decay**t)
                leaves[name] = ops.where(ops.greater(state["step"], 0), a_hat, leaves[name])
            else:
                leaves[name] = a
        return unflatten(flatten(params)[2], list(leaves.values()))


@dataclass(frozen=True)
class Accumulate(Wrapper):
    """One step of `optimizer` with the mean gradient of every `steps` micro-batches: for batches too large for memory.

    With micro-batches of one size and a loss that is a mean over examples this is the step of the one large batch (not
    so for a network that looks at its whole batch, as batch normalisation does). "step" counts updates; in between the
    parameters stay as they are.
    """

    steps: int = whole(at_least=1)

    def init(self, params: Params) -> State:
        total = {name: np.zeros_like(theta) for name, theta in self._trained(params).items()}
        return self.optimizer.init(params) | {"micro_step": np.zeros((), np.uint32), "gradient_sum": total}

    def update(self, gradients: Params, state: State, params: Params) -> tuple[Params, State]:
        gs = named_leaves(gradients, "gradients")
        total = {name: before + gs[name] for name, before in state["gradient_sum"].items()}
        micro_step = state["micro_step"] + 1
        full = ops.equal(micro_step, self.steps)
        mean = {name: g / self.steps for name, g in total.items()}

        def choose(new: Value, old: Value) -> Value:
            return ops.where(full, new, old)

        old = {k: v for k, v in state.items() if k not in ("micro_step", "gradient_sum")}
        new_params, new = self.optimizer.update(mean, old, params)
        return map_leaves(choose, new_params, params), map_leaves(choose, new, old) | {
            "micro_step": ops.where(full, 0, micro_step),
            "gradient_sum": {name: ops.where(full, 0.0, g) for name, g in total.items()},
        }


@dataclass(frozen=True)
class LossScale(Wrapper):
    """Keeps gradients from vanishing where products are computed in float16: Micikevicius et al. 2018, section 3.2.

        g = (1/s) ∇(s L)      s is a power of two, so that nothing is rounded

    A step whose gradient is not finite changes nothing and halves s. After `growth` steps in a row with finite ones s
    doubles. At s = 1 no step is left out any more: a gradient that is not finite then is the network's own.

    The gradients given to `update` are those of `scaled(state, loss)`. It is part of what is remembered, so a run goes
    on with it on any executor; `bl.Trainer` puts it around the optimiser where the executor computes in float16.
    """

    initial: float = number(2.0**15, at_least=1)
    growth: int = whole(2000, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.frexp(self.initial)[0] != 0.5:
            raise SettingError(f"initial is {self.initial!r}", fix="use a power of two: 2.0**15")

    def init(self, params: Params) -> State:
        state = self.optimizer.init(params)
        scale = np.asarray(self.initial, type_of(state["scale"]).dtype)
        return state | {"loss_scale": scale, "good_steps": np.zeros((), np.uint32)}

    def scaled(self, state: State, loss: Value) -> Value:
        with ops.scope("loss_scale"):
            return loss * ops.astype(state["loss_scale"], type_of(loss).dtype)

    @np.errstate(all="ignore")  # as in ops: overflow gives inf, quietly
    def update(self, gradients: Params, state: State, params: Params) -> tuple[Params, State]:
        s = state["loss_scale"]
        gs = {name: g / ops.astype(s, type_of(g).dtype) for name, g in named_leaves(gradients, "gradients").items()}
        finite: Value = np.True_
        for name, g in gs.items():
            if self.trains(name):
                finite = ops.logical_and(finite, ops.all(ops.isfinite(g)))
        counts = ops.logical_or(finite, ops.less_equal(s, 1))

        def choose(new: Value, old: Value) -> Value:
            return ops.where(counts, new, old)

        old = {k: v for k, v in state.items() if k not in ("loss_scale", "good_steps")}
        unscaled = unflatten(flatten(gradients)[2], list(gs.values()))
        new_params, new = self.optimizer.update(unscaled, old, params)
        good = ops.where(finite, state["good_steps"] + 1, 0)
        grown = ops.equal(good, self.growth)
        next_scale = ops.where(finite, ops.where(grown, 2 * s, s), ops.maximum(s / 2, 1))
        return map_leaves(choose, new_params, params), map_leaves(choose, new, old) | {
            "loss_scale": next_scale,
            "good_steps": ops.where(grown, 0, good),
        }


def with_loss_scale(optimizer: Optimizer) -> Optimizer:
    """The optimiser with a loss scale around it, where there is none yet."""
    return optimizer if isinstance(optimizer, LossScale) else LossScale(optimizer)
