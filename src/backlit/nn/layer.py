"""What a layer is: a frozen dataclass that makes parameters (`init`) and turns one value into the next (`apply`).

A layer holds settings and nothing else. Its parameters live outside, in a flat dict from names to arrays, and so does
what it keeps from one batch to the next (running statistics), so applying a layer is a pure function that is traced,
differentiated and compiled like any other. Names are paths: the layer `dense_1` inside `residual_1` has the parameter
`residual_1.dense_1.weight`, and the quantities that it computes are called after its own variables,
`residual_1.dense_1.z`.

The rule that holds here: no layer states the shape it gives. The type of a layer's result is found by tracing it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import Error, SettingError, ShapeError, StructureError
from backlit.ir import Type
from backlit.pytree import map_leaves
from backlit.settings import Settings, kind_of
from backlit.tracing import Traced, scope, trace_function, type_of

Value = Any
"""A traced value or an array."""

Values = dict[str, Any]
"""Parameters or state: names (paths) -> values."""

_BATCH = 13  # examples in the batch on which layers are traced to find types: a number that no axis is likely to have


class Context:
    """What a layer may ask for while it is applied.

    training   whether this is a step of training: dropout drops and batch norm takes the batch's own statistics
    mask       which positions of a batch of sequences are real and not padding: booleans (batch, time), or None.
               A layer whose result has no time axis any more sets it to None
    path       the layer's name, with those of the layers around it
    """

    def __init__(
        self, state: Mapping[str, Any] | None = None, *, training: bool = False, key: Value = None, mask: Value = None
    ) -> None:
        self.training, self.mask, self.path = training, mask, ""
        self._run = _Run(dict(state or {}), key)

    def inside(self, name: str) -> Context:
        """The context of the layer `name` of the layer that this context belongs to."""
        inner = object.__new__(Context)
        inner.training, inner.mask, inner._run = self.training, self.mask, self._run
        inner.path = f"{self.path}.{name}" if self.path else name
        return inner

    def key(self) -> Value:
        """A random key that nobody else gets. Raises StructureError where there is none to begin with."""
        if self._run.key is None:
            raise StructureError("draws random numbers, and there is no key", fix="pass key=ops.random.key(seed)")
        self._run.draws += 1
        return ops.random.fold_in(self._run.key, self._run.draws - 1)

    def state(self, name: str) -> Value:
        """What the layer keeps under a name that its `init_state` gave."""
        return self._run.state[self._known(name)]

    def set_state(self, name: str, value: Value) -> None:
        """Keep a value of the same shape for the next batch. It is seen only there, not by this `apply`."""
        known = self._known(name)
        old = type_of(self._run.state[known])
        if type_of(value).shape != old.shape:
            raise ShapeError(f"the state {known} has the shape {old.shape}, and the new value {type_of(value).shape}")
        self._run.news[known] = ops.astype(value, old.dtype)

    def new_state(self) -> Values:
        """The state of all layers after this batch."""
        return self._run.state | self._run.news

    def _known(self, name: str) -> str:
        known = f"{self.path}.{name}" if self.path else name
        if known not in self._run.state:
            have = ", ".join(self._run.state) or "no state"
            raise StructureError(f"there is no state {known!r}", fix=f"init_state names what a layer keeps: {have}")
        return known

    def visits(self) -> list[Visit]:
        """Every layer that was applied so far, in order; a layer comes before the layers inside it."""
        return self._run.visits


@dataclass(slots=True, eq=False)
class Visit:
    """One application of a layer: its path, the layer, and the types that went in and came out."""

    path: str
    layer: Layer
    given: Type
    result: Type | None = None


class _Run:
    """What the contexts of one forward pass share."""

    def __init__(self, state: Values, key: Value) -> None:
        self.state, self.key, self.draws = state, key, 0
        self.news: Values = {}
        self.visits: list[Visit] = []


def _name(what: str, value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.isidentifier()):
        raise SettingError(f"{what}={value!r} is no name", fix="use letters, digits and _, such as hidden_1")
    return value


@dataclass(frozen=True)
class Layer(Settings, ABC):
    """Base of all layers: frozen dataclasses of settings. `name` is what the layer is called in its network.

    A subclass writes `apply`, and `init` if it has parameters. It is known by its class's name in lower case.
    """

    name: str | None = field(default=None, kw_only=True, metadata={"check": _name})

    def init(self, key: Value, input_type: Type) -> Values:
        """Fresh parameters: local names -> floating-point arrays. `input_type` is that of one example, without a batch.

        Arrays of any floating-point dtype will do: the network converts them to its own. What depends on the key is
        written in ops, so that the shapes can be found without drawing anything (when a file is loaded).
        """
        return {}

    def init_state(self, input_type: Type) -> Values:
        """What the layer keeps from batch to batch, before the first: local names -> arrays."""
        return {}

    @abstractmethod
    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        """The layer's result for a batch x (batch, ...), written in ops."""

    def build(self, key: Value, input_type: Type) -> Built:
        """Parameters, state and the type of the result. Only layers that hold layers write this themselves."""
        params = dict(self.init(key, input_type))
        state = {k: np.asarray(v) for k, v in self.init_state(input_type).items()}
        for name, value in params.items():
            if type_of(value).dtype.kind != "f":
                raise StructureError(f"the parameter {name} is no array of floating-point numbers")
        return Built(params, state, result_type(self, params, state, input_type))


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A layer made ready for inputs of a type: its parameters, its state, and the type of its result (one example)."""

    params: Values
    state: Values
    result: Type

    def named(self, name: str) -> tuple[Values, Values]:
        """Parameters and state with the layer's name before theirs."""
        return tuple({f"{name}.{k}": v for k, v in d.items()} for d in (self.params, self.state))  # type: ignore[return-value]


def result_type(layer: Layer, params: Values, state: Values, input_type: Type) -> Type:
    """The type of a layer's result for one example, found by tracing it on a batch."""

    floating = input_type.dtype if input_type.dtype.kind == "f" else np.dtype(np.float32)

    def stand_in(value: Any) -> Any:
        """An array of the shape, without numbers of its own, in the dtype that the network will bring it to."""
        t = type_of(value)
        return np.broadcast_to(np.zeros((), floating if t.dtype.kind == "f" else t.dtype), t.shape)

    def result(params: Values, state: Values, x: Value) -> Value:
        return layer.apply(params, x, Context(state))

    batch = np.broadcast_to(np.zeros((), input_type.dtype), (_BATCH, *input_type.shape))
    given = map_leaves(stand_in, params), map_leaves(stand_in, state)
    (found,) = trace_function(result, *given, batch).graph.outputs
    if found.type.shape[:1] != (_BATCH,):
        raise ShapeError(
            f"apply gives the shape {found.type.shape} for a batch of {_BATCH}: the first axis must stay the batch"
        )
    return found.type.with_shape(found.type.shape[1:])


def names_of(layers: Sequence[Layer]) -> list[tuple[str, Layer]]:
    """The layers with their names: the kind and the count among its kind, from 1, unless a layer has a name.

    Raises SettingError where two layers have one name, or one is no layer.
    """
    counts: Counter[str] = Counter()
    found: dict[str, Layer] = {}
    for layer in layers:
        if not isinstance(layer, Layer):
            what = f"the class {layer.__name__}" if isinstance(layer, type) else repr(layer)
            raise SettingError(f"{what} is no layer", fix='use layers, such as nn.Dense(64, "relu")')
        kind = kind_of(type(layer))
        counts[kind] += 1
        name = layer.name or f"{kind}_{counts[kind]}"
        if name in found:
            raise SettingError(f"two layers are called {name!r}", fix="give one of them another name=")
        found[name] = layer
    return list(found.items())


def within(values: Mapping[str, Any], name: str) -> Values:
    """The part of parameters that belongs to the layer `name`, under its local names."""
    return {k[len(name) + 1 :]: v for k, v in values.items() if k.startswith(f"{name}.")}


def build(name: str, layer: Layer, key: Value, input_type: Type) -> Built:
    """`layer.build`, with errors that name the layer and the shape it was given."""
    with _told(layer, name, input_type.shape, outer=f"{name}."):
        return layer.build(key, input_type)


def call(name: str, layer: Layer, params: Values, x: Value, ctx: Context) -> Value:
    """The layer `name` applied to x, in a scope of its own. `params` are those of the layers around it."""
    inner = ctx.inside(name)
    visit = Visit(inner.path, layer, type_of(x))
    ctx.visits().append(visit)
    with scope(name), _told(layer, inner.path, type_of(x).shape[1:]):
        y = layer.apply(within(params, name), x, inner)
    if not isinstance(y, Traced | np.ndarray | np.generic):
        raise StructureError(f"{inner.path} gives a {type(y).__name__}, not one array")
    visit.result = type_of(y)
    ctx.mask = inner.mask
    return y


@contextmanager
def _told(layer: Layer, path: str, shape: tuple[int, ...], outer: str = "") -> Iterator[None]:
    """Errors raised inside are told as errors of the innermost layer; `outer` goes before a path told already."""
    try:
        yield
    except Error as e:
        if e.op.startswith("layer "):
            op, what = f"layer {outer}{e.op.removeprefix('layer ')}", e.what
        else:
            op = f"layer {path} ({type(layer).__name__})"
            what = f"cannot be applied to {shown(shape)}: {f'{e.op}: ' if e.op else ''}{e.what}"
        raise type(e)(what, fix=e.fix, op=op, inputs=e.inputs, site=e.site) from None
    except Exception as e:
        e.add_note(f"in the layer {path} ({type(layer).__name__}), applied to {shown(shape)}")
        raise


def shown(shape: Sequence[int]) -> str:
    """`(batch, 8, 3)`, the shape of a batch of examples of this shape."""
    return f"({', '.join(map(str, ('batch', *shape)))}{',' if not shape else ''})"
