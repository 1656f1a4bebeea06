"""Layers made of layers: one after another, side by side, or around.

Their parameters are those of the layers inside, with the name of the inner layer before theirs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backlit import ops
from backlit.errors import SettingError, ShapeError
from backlit.ir import Type
from backlit.nn.layer import (
    Built,
    Context,
    Layer,
    Value,
    Values,
    build,
    call,
    names_of,
    result_type,
    shown,
)
from backlit.settings import checked_whole, setting


def _layers(name: str, value: Any) -> tuple[Layer, ...]:
    found = (value,) if isinstance(value, Layer) else tuple(value) if isinstance(value, list | tuple) else None
    if found is None:
        raise SettingError(f"{name} is a list of layers, not {value!r}")
    names_of(found)
    return found


def _branches(name: str, value: Any) -> tuple[Layer, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise SettingError(f"{name} is a list of layers, at least one, not {value!r}")
    return _layers(name, [Sequential(tuple(v)) if isinstance(v, list | tuple) else v for v in value])


def _one(name: str, value: Any) -> Layer | None:
    if value is not None and not isinstance(value, Layer):
        raise SettingError(f"{name} is a layer, not {value!r}")
    return value


def _key(key: Value, i: int) -> Value:
    return ops.random.fold_in(key, i)


def _build_chain(layers: Sequence[tuple[str, Layer]], key: Value, input_type: Type) -> Built:
    """The layers made ready one after the other, each for the result of the one before."""
    params: Values = {}
    state: Values = {}
    for i, (name, layer) in enumerate(layers):
        built = build(name, layer, _key(key, i), input_type)
        for whole, part in zip((params, state), built.named(name), strict=True):
            whole |= part
        input_type = built.result
    return Built(params, state, input_type)


class _Holder(Layer):
    """A layer that gets parameters and state from the layers inside, in `build`."""

    def init(self, key: Value, input_type: Type) -> Values:
        return self.build(key, input_type).params

    def init_state(self, input_type: Type) -> Values:
        return self.build(ops.random.key(0), input_type).state

    @abstractmethod
    def build(self, key: Value, input_type: Type) -> Built: ...


@dataclass(frozen=True)
class Sequential(_Holder):
    """Layers one after another. An empty one gives x itself."""

    layers: tuple[Layer, ...] = setting(_layers, ())

    def build(self, key: Value, input_type: Type) -> Built:
        return _build_chain(names_of(self.layers), key, input_type)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        for name, layer in names_of(self.layers):
            x = call(name, layer, params, x, ctx)
        return x


@dataclass(frozen=True)
class Residual(_Holder):
    """y = x + f(x), f being the layers one after another (He et al. 2016, equation 1).

    Where f changes the shape, `shortcut` is a layer that does the same to x: y = shortcut(x) + f(x) (equation 2). It is
    called `shortcut`. Raises ShapeError where the two shapes differ.
    """

    layers: tuple[Layer, ...] = setting(_layers)
    shortcut: Layer | None = setting(_one, None)

    def build(self, key: Value, input_type: Type) -> Built:
        built = _build_chain(names_of(self.layers), key, input_type)
        params, state = built.params, built.state
        if self.shortcut is not None:
            beside = build("shortcut", self.shortcut, _key(key, len(self.layers)), input_type)
            params, state = ({**a, **b} for a, b in zip((params, state), beside.named("shortcut"), strict=True))
        return Built(params, state, result_type(self, params, state, input_type))

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        mask, fx = ctx.mask, x
        for name, layer in names_of(self.layers):
            fx = call(name, layer, params, fx, ctx)
        if self.shortcut is not None:
            ctx.mask, after = mask, ctx.mask
            x = call("shortcut", self.shortcut, params, x, ctx)
            ctx.mask = after
        if x.shape != fx.shape:
            raise ShapeError(
                f"the layers inside give {shown(fx.shape[1:])}, which is added to {shown(x.shape[1:])}",
                fix="give a shortcut= that changes x to the same shape, such as nn.Dense(units) or a 1x1 nn.Conv2d",
            )
        y = x + fx
        return y


@dataclass(frozen=True)
class Parallel(_Holder):
    """Branches side by side on the same x, put together by `join`. A branch is a layer, or a list of layers.

    A subclass says how: see `Add` and `Concat`.
    """

    branches: tuple[Layer, ...] = setting(_branches)

    @abstractmethod
    def join(self, values: list[Value]) -> Value:
        """The results of the branches as one value."""

    def build(self, key: Value, input_type: Type) -> Built:
        params: Values = {}
        state: Values = {}
        for i, (name, layer) in enumerate(names_of(self.branches)):
            built = build(name, layer, _key(key, i), input_type)
            for whole, part in zip((params, state), built.named(name), strict=True):
                whole |= part
        return Built(params, state, result_type(self, params, state, input_type))

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        mask, after, values = ctx.mask, [], []
        for name, layer in names_of(self.branches):
            ctx.mask = mask
            values.append(call(name, layer, params, x, ctx))
            after.append(ctx.mask)
        ctx.mask = after[0] if all(m is after[0] for m in after) else None
        return self.join(values)


@dataclass(frozen=True)
class Add(Parallel):
    """The sum of the branches' results, which have one shape."""

    def join(self, values: list[Value]) -> Value:
        shapes = {v.shape[1:] for v in values}
        if len(shapes) > 1:
            raise ShapeError(f"the branches give {' and '.join(shown(v.shape[1:]) for v in values)}")
        y = values[0]
        for value in values[1:]:
            y = y + value
        return y


def _axis(name: str, value: Any) -> int:
    found = checked_whole(name, value, at_least=-16)
    if found == 0:
        raise SettingError(f"{name} is 0, which is the batch", fix="count from 1, or from the last, -1")
    return found


@dataclass(frozen=True)
class Concat(Parallel):
    """The branches' results one after another along `axis`, the last one (features) by default; axis 0 is the batch."""

    axis: int = setting(_axis, -1)

    def join(self, values: list[Value]) -> Value:
        y = ops.concat(values, self.axis)
        return y


class Block(_Holder):
    """Base of layers that are made of other layers and have settings of their own: a subclass writes `body`."""

    @abstractmethod
    def body(self, input_type: Type) -> Layer:
        """The layer that this one stands for, when it is given inputs of this type (one example)."""

    def build(self, key: Value, input_type: Type) -> Built:
        return self.body(input_type).build(key, input_type)

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        return self.body(Type(x.dtype, x.shape[1:])).apply(params, x, ctx)
