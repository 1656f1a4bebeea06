"""Optimisers: pure functions from (gradients, state, parameters) to (new parameters, new state), written in ops.

`init` makes the state, `update` takes one step; neither changes its arguments, so a step can be traced, compiled and
run in a loop without Python. `Descent` holds what all rules share (clipping, weight decay, groups, learning rate); a
rule itself (Adam, ...) says what one parameter does with its gradient, in five lines that read like the paper's.

The state is a dict:

    step    uint32   updates done so far
    scale   0-d      multiplies the learning rate; 1 until somebody (reduce on plateau) changes it
    m, ...  what the rule remembers, for each trained parameter by its name

An update, in order: clip_value and clip_norm for each parameter's gradient, clip_global_norm for all together, weight
decay, the rule. Norms and 0-d values are taken in the widest dtype of the parameters.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from backlit import ops
from backlit.errors import DtypeError, SettingError, ShapeError, StructureError
from backlit.ir import Type
from backlit.ops.record import Array, Value
from backlit.optim.clipping import clip_by_global_norm, clip_by_norm, clip_by_value, widest
from backlit.optim.schedules import Schedule, rate, value_of
from backlit.pytree import flatten, unflatten
from backlit.settings import Settings, kinds, make, number, refuse_unknown, revived, setting
from backlit.tracing import type_of

Params: TypeAlias = Any
"""A tree of floating-point arrays: a dict of them, or anything nested."""

State: TypeAlias = dict[str, Any]


class Optimizer(Settings, ABC):
    """What a training step asks of an optimiser: a rule (Descent), or a wrapper around one."""

    @abstractmethod
    def init(self, params: Params) -> State:
        """The state before the first step.

        Raises DtypeError for a parameter that is not floating-point, SettingError for a group without parameters.
        """

    @abstractmethod
    def update(self, gradients: Params, state: State, params: Params) -> tuple[Params, State]:
        """The parameters and the state after one step. Gradients of frozen parameters may be left out.

        Raises StructureError or ShapeError where gradients or state do not fit the parameters.
        """

    @abstractmethod
    def rate(self, state: State) -> Value:
        """The learning rate of the next update, 0-d."""

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether the parameter of this name is changed at all."""

    @abstractmethod
    def with_learning_rate(self, learning_rate: float | Schedule) -> Optimizer:
        """The same optimiser with another learning rate or schedule."""

    def scaled(self, state: State, loss: Value) -> Value:
        """What the gradients given to `update` are to be of: the loss, or a multiple of it (LossScale)."""
        return loss

    def averaged(self, state: State, params: Params) -> Params:
        """The parameters to evaluate and to keep: an average over the steps if there is one (EMA), else the latest."""
        return params


def get(optimizer: str | Optimizer, **settings: Any) -> Optimizer:
    """The optimiser of a name ("adam"), with these settings; an optimiser is given back, with these settings changed.

    Raises SettingError for an unknown name or setting, or a value out of range.
    """
    if isinstance(optimizer, Optimizer):
        refuse_unknown(type(optimizer), settings)
        return replace(optimizer, **settings) if settings else optimizer  # type: ignore[type-var]
    if not isinstance(optimizer, str):
        raise SettingError(f"an optimiser is a name or an optim.Optimizer, not {optimizer!r}")
    found: Optimizer = make(optimizer, Descent, settings)
    return found


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """The optimiser that `config()` described. Makes nothing but registered kinds, from checked settings.

    Raises SettingError for anything else.
    """
    found = revived(config)
    if not isinstance(found, Optimizer):
        raise SettingError("this describes no optimiser", fix=f'give it a "kind": {", ".join(kinds(Optimizer))}')
    return found


def named_leaves(tree: Params, what: str) -> dict[str, Value]:
    """The leaves of a tree by their paths."""
    leaves, paths, _ = flatten(tree)
    if len(set(paths)) != len(paths):
        raise StructureError(f"two of the {what} have the same name")
    return dict(zip(paths, leaves, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# What all rules share


def _groups(name: str, value: Any) -> dict[str, dict[str, Any]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise SettingError(f"{name} is a dict of dicts", fix='such as {"*.bias": {"weight_decay": 0.0}}')
    return {str(pattern): dict(overrides) for pattern, overrides in value.items()}


def _matches(pattern: str, name: str) -> bool:
    """Whether the name is of the pattern: * stands for any text, ? for any one character."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name) is not None


@dataclass(frozen=True)
class Descent(Optimizer):
    """An optimiser that moves each parameter by a rule of that parameter's own gradient.

    learning_rate     a number or a schedule
    weight_decay      λ. Added to the gradient as λθ, the gradient of an L2 penalty; by rules that are `decoupled`
                      (AdamW, Lion) taken from the parameter as αλθ instead
    clip_value        limit of each element of the gradient
    clip_norm         limit of the norm of each parameter's gradient
    clip_global_norm  limit of the norm of all gradients together
    groups            settings for some parameters, by patterns of their names: {"*.bias": {"weight_decay": 0.0}}. *
                      stands for any text, ? for one character. Where several match, the later counts. {"frozen": True}
                      leaves a parameter as it is.

    A rule of your own is a subclass with `slots` (what it remembers for one parameter) and `step` (what it does).
    """

    learning_rate: float | Schedule = rate(0.01)
    _: KW_ONLY
    weight_decay: float = number(0.0, at_least=0)
    clip_value: float | None = number(None, above=0)
    clip_norm: float | None = number(None, above=0)
    clip_global_norm: float | None = number(None, above=0)
    groups: Mapping[str, Mapping[str, Any]] = setting(_groups, None, hash=False)

    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern, overrides in self.groups.items():
            if not overrides.keys().isdisjoint({"groups", "clip_global_norm"}):
                raise SettingError(f"the group {pattern!r} sets what holds for all parameters together")
            if not isinstance(overrides.get("frozen", False), bool):
                raise SettingError(f"the group {pattern!r} sets frozen to {overrides['frozen']!r}: it is True or False")
            own = {k: v for k, v in overrides.items() if k != "frozen"}
            refuse_unknown(type(self), own)
            replace(self, groups={}, **own)  # refuses values out of range

    def slots(self, theta: Type) -> dict[str, Array]:
        """What the rule remembers for a parameter of this type, before the first step."""
        return {}

    @abstractmethod
    def step(
        self, g: Value, theta: Value, alpha: Value, t: Value, *args: Any, **slots: Any
    ) -> tuple[Value, dict[str, Value]]:
        """The parameter after one step, and what is remembered.

        g, theta    the gradient and the parameter, of one shape and dtype
        alpha       the learning rate, 0-d
        t           the number of this step, counted from 1, 0-d, of the dtype of theta
        slots       what was remembered, by the names that `slots` gives
        """

    def settings_of(self, name: str) -> dict[str, Any]:
        """What the groups set for the parameter of this name."""
        found: dict[str, Any] = {}
        for pattern, overrides in self.groups.items():
            if _matches(pattern, name):
                found |= overrides
        return found

    def trains(self, name: str) -> bool:
        return not self.settings_of(name).get("frozen", False)

    def _rule_of(self, name: str) -> Descent:
        """The optimiser with the settings of the parameter of this name."""
        own = {k: v for k, v in self.settings_of(name).items() if k != "frozen"}
        return replace(self, groups={}, **own)

    def with_learning_rate(self, learning_rate: float | Schedule) -> Descent:
        return replace(self, learning_rate=learning_rate)

    def rate(self, state: State) -> Value:
        done = ops.astype(state["step"], type_of(state["scale"]).dtype)
        return state["scale"] * value_of(self.learning_rate, done)

    def init(self, params: Params) -> State:
        leaves = named_leaves(params, "parameters")
        for pattern in self.groups:
            if not any(_matches(pattern, name) for name in leaves):
                raise SettingError(f"the group {pattern!r} has no parameters", fix=f"there are {', '.join(leaves)}")
        for name, theta in leaves.items():
            if type_of(theta).dtype.kind != "f":
                raise DtypeError(f"the parameter {name!r} is {type_of(theta)}", fix="parameters are floating-point")
        state: State = {"step": np.zeros((), np.uint32), "scale": np.ones((), widest(list(leaves.values())))}
        for name, theta in leaves.items():
            if self.trains(name):
                for slot, value in self._rule_of(name).slots(_inner(type_of(theta))).items():
                    state.setdefault(slot, {})[name] = value
        return state

    @np.errstate(all="ignore")  # as in ops: overflow gives inf, quietly
    def update(self, gradients: Params, state: State, params: Params) -> tuple[Params, State]:
        thetas, structure = named_leaves(params, "parameters"), flatten(params)[2]
        trained = {name: self._rule_of(name) for name in thetas if self.trains(name)}
        gs = self._clipped(_fitting(gradients, thetas, trained), trained)
        step = state["step"] + 1
        t = ops.astype(step, type_of(state["scale"]).dtype)
        alphas = {rule: ops.named(rule.rate(state), "alpha") for rule in dict.fromkeys(trained.values())}
        new = dict(thetas)
        new_state = {k: dict(v) if isinstance(v, Mapping) else v for k, v in state.items()} | {"step": step}
        for name, rule in trained.items():
            type = _inner(type_of(thetas[name]))
            with ops.scope(name or "theta"):
                theta, g = ops.astype(thetas[name], type.dtype), gs[name]
                alpha = ops.astype(alphas[rule], type.dtype)
                if rule.weight_decay and rule.decoupled:
                    theta = theta - alpha * rule.weight_decay * theta
                elif rule.weight_decay:
                    g = g + rule.weight_decay * theta
                slots = {slot: _slot(state, slot, name) for slot in rule.slots(type)}
                theta, slots = rule.step(g, theta, alpha, ops.astype(t, type.dtype), **slots)
                new[name] = ops.astype(theta, type_of(thetas[name]).dtype)
            for slot, value in slots.items():
                new_state[slot][name] = value
        return unflatten(structure, list(new.values())), new_state

    def _clipped(self, gs: dict[str, Value], rules: Mapping[str, Descent]) -> dict[str, Value]:
        for name, rule in rules.items():
            with ops.scope(name or "theta"):
                if rule.clip_value is not None:
                    gs[name] = clip_by_value(gs[name], rule.clip_value)
                if rule.clip_norm is not None:
                    gs[name] = clip_by_norm(gs[name], rule.clip_norm)
        return gs if self.clip_global_norm is None else clip_by_global_norm(gs, self.clip_global_norm)


def _inner(type: Type) -> Type:
    """The type in which a parameter is updated: half precision would lose the small numbers that rules remember."""
    return type.with_dtype(np.result_type(type.dtype, np.float32))


def _fitting(gradients: Params, thetas: Mapping[str, Value], trained: Mapping[str, Descent]) -> dict[str, Value]:
    """The gradient of each trained parameter, in the dtype of the update."""
    found = named_leaves(gradients, "gradients")
    for name in found:
        if name not in thetas:
            raise StructureError(f"there is a gradient but no parameter {name!r}")
    for name in trained:
        if name not in found:
            raise StructureError(f"there is no gradient of the parameter {name!r}")
        if type_of(found[name]).shape != type_of(thetas[name]).shape:
            raise ShapeError(f"the gradient of {name!r} is {type_of(found[name])}, not {type_of(thetas[name])}")
    return {name: ops.astype(found[name], _inner(type_of(thetas[name])).dtype) for name in trained}


def _slot(state: State, slot: str, name: str) -> Value:
    if name not in state.get(slot, {}):
        raise StructureError(
            f"the state has no {slot!r} of the parameter {name!r}",
            fix="it was made by another optimiser or for other parameters: make one with optimizer.init(params)",
        )
    return state[slot][name]
