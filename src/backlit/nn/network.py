"""A network: layers bound to parameters and state of their own.

`Network` owns names, initialisation and the checks of what the user sets by hand. What it computes is `forward`, a pure
function of parameters, state and input, which is what a trainer traces and what `net(x)` runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from backlit import ops
from backlit.compilation import Compiled, compile
from backlit.errors import DtypeError, Error, SettingError, ShapeError, StructureError
from backlit.ir import Type
from backlit.nn.combinators import Parallel, Residual, Sequential
from backlit.nn.embedding import Embedding
from backlit.nn.layer import Context, Layer, Value, Values, names_of, shown
from backlit.nn.summary import Summary, summarise
from backlit.settings import revived
from backlit.tracing import Traced, is_traced, type_of

Array = np.ndarray[Any, np.dtype[Any]]


class Parameters(dict[str, Any]):
    """A dict of arrays whose names, shapes and dtypes are fixed: assignment checks them and converts."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise StructureError(f"there is no parameter {name!r}", fix=f"there are {', '.join(self) or 'none'}")
        old = type_of(self[name])
        if isinstance(value, Traced):
            found = value.type
        else:
            value = _numbers(name, value, old)
            found = type_of(value)
        if found.shape != old.shape:
            turned = old.ndim == 2 and found.shape == old.shape[::-1]
            raise ShapeError(
                f"{name} has the shape {old.shape}, and the value {found.shape}",
                fix="weights are (inputs, units): give the transpose" if turned else "",
            )
        super().__setitem__(name, value)

    def update(self, *others: Any, **more: Any) -> None:
        """Set several parameters, or none if one of them does not fit."""
        news = dict(*others, **more)
        tried = Parameters(self)
        for name, value in news.items():
            tried[name] = value
        super().update(tried)

    def __ior__(self, others: Any) -> Parameters:  # type: ignore[override,misc]  # narrower than dict's
        self.update(others)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The parameter; there are no others to set."""
        if name not in self:
            self[name] = default
        return self[name]

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise StructureError("a network's parameters cannot be taken out", fix="copy them first: dict(net.params)")

    __delitem__ = pop = popitem = clear = _fixed


def _numbers(name: str, value: Any, wanted: Type) -> Array:
    """A fresh array of the wanted dtype. Raises StructureError for what is no array of numbers."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise StructureError(f"{name} takes an array {wanted}", fix="give nested lists of numbers, or an array")
    return np.array(array, wanted.dtype)


class Network:
    """Layers, one after another, with parameters.

    layers        a list of layers (or one), see `backlit.nn`
    input_shape   the shape of one example: (64,), (28, 28, 1), (time, features)
    seed          of the first parameters: the same seed gives the same network
    dtype         of the parameters, "float32" or "float64"
    input_dtype   of the inputs; by default "int64" where the first layer is an Embedding, else `dtype`

    Raises SettingError, ShapeError or DtypeError, naming the layer, where a layer cannot take what it is given.
    """

    def __init__(
        self,
        layers: Layer | Sequence[Layer],
        input_shape: Sequence[int] | int,
        seed: int = 0,
        dtype: Any = "float32",
        input_dtype: Any = None,
    ) -> None:
        self.layer = Sequential(layers)  # type: ignore[arg-type]  # a list or one layer: its field makes a tuple
        self.seed, self.dtype = seed, _dtype(dtype, "dtype", "f")
        if input_dtype is None:
            input_dtype = np.int64 if _takes_tokens(self.layer) else self.dtype
        self.input_type = Type(_dtype(input_dtype, "input_dtype", "iuf"), _shape(input_shape))
        built = self.layer.build(ops.random.key(seed), self.input_type)
        self.output_type = built.result if built.result.dtype.kind != "f" else built.result.with_dtype(self.dtype)
        self._params = Parameters({k: np.array(v, self.dtype) for k, v in built.params.items()})
        self._state = Parameters({k: self._kept(v) for k, v in built.state.items()})
        self._inference: Compiled | None = None

    def _kept(self, value: Any) -> Array:
        array = np.asarray(value)
        return np.array(array, self.dtype if array.dtype.kind == "f" else array.dtype)

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers by name."""
        return dict(names_of(self.layer.layers))

    @property
    def params(self) -> Parameters:
        """The parameters: `net.params["dense_1.weight"]`. Set one, or several with `net.params = {...}`."""
        return self._params

    @params.setter
    def params(self, values: Mapping[str, Any]) -> None:
        self._params.update(values)

    @property
    def state(self) -> Parameters:
        """What layers keep from batch to batch, such as running means, by name."""
        return self._state

    @state.setter
    def state(self, values: Mapping[str, Any]) -> None:
        self._state.update(values)

    def forward(
        self,
        params: Values,
        state: Values,
        x: Value,
        *,
        training: bool = False,
        key: Value = None,
        mask: Value = None,
    ) -> tuple[Value, Values]:
        """The result for a batch x (batch, *input_shape), and the state after it. Pure: it can be traced.

        `training` makes dropout drop and batch norm take the batch's statistics; `key` is where random numbers come
        from; `mask` says which positions of sequences are real (booleans (batch, time)).
        """
        for given, own, what in ((params, self._params, "parameters"), (state, self._state, "state")):
            if set(given) != set(own):
                wrong = [f"lack {n!r}" for n in own if n not in given] + [f"have {n!r}" for n in given if n not in own]
                raise StructureError(f"the {what} {wrong[0]}", fix=f"the network has {', '.join(own) or 'none'}")
        ctx = Context(state, training=training, key=key, mask=_mask(mask))
        self._check_input(x)
        try:
            y = self.layer.apply(dict(params), x, ctx)
        except Error as e:
            if type_of(x).shape[1:] == self.input_type.shape:
                raise
            hint = f"the network was made for inputs {shown(self.input_type.shape)}, and x is {type_of(x).shape}"
            raise type(e)(e.what, fix=hint, op=e.op, inputs=e.inputs, site=e.site) from None
        return y, ctx.new_state()

    def __call__(self, x: Value, mask: Value = None) -> Value:
        """The result for a batch x (batch, *input_shape) outside training: (batch, *output shape).

        Compiled once for each shape. Numbers are converted to the network's input dtype.
        """
        if is_traced(x):
            return self.forward(self._params, self._state, x, mask=mask)[0]
        if self._inference is None:
            self._inference = compile(_Inference(self))
        return self._inference(dict(self._params), dict(self._state), self._converted(x), _mask(mask))

    def summary(self) -> Summary:
        """A table of the layers: name, kind, shape of the result, parameters, multiply-adds for one example.

        Prints as text, and as a table with rich.
        """
        return summarise(self)

    def config(self) -> dict[str, Any]:
        """The network without its numbers, as plain data that JSON can hold.

        Raises SettingError for what no file can name, such as a function that is not registered.
        """
        return {
            "layers": [layer.config() for layer in self.layer.layers],
            "input_shape": list(self.input_type.shape),
            "seed": self.seed,
            "dtype": self.dtype.name,
            "input_dtype": self.input_type.dtype.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Network:
        """The network of a `config()`, freshly initialised. Makes registered layers only and runs no code of the file.

        Raises SettingError for what no `config()` gives, and what the layers raise.
        """
        known = ("layers", "input_shape", "seed", "dtype", "input_dtype")
        if not isinstance(config, Mapping) or set(config) != set(known):
            raise SettingError(f"a network's config has the entries {', '.join(known)}")
        if not isinstance(config["layers"], Iterable) or isinstance(config["layers"], str | Mapping):
            raise SettingError("a network's config has a list of layers")
        layers = [revived(layer, Layer) for layer in config["layers"]]
        return cls(layers, config["input_shape"], config["seed"], config["dtype"], config["input_dtype"])

    def __repr__(self) -> str:
        count = sum(v.size for v in self._params.values())
        before, after = shown(self.input_type.shape), shown(self.output_type.shape)
        return f"<Network {before} to {after}: {', '.join(self.layers) or 'no layers'}; {count:,} parameters>"

    def _check_input(self, x: Value) -> None:
        t = type_of(x)
        wanted = self.input_type
        if t.ndim != wanted.ndim + 1:
            one = t.shape == wanted.shape
            raise ShapeError(
                f"the network takes {shown(wanted.shape)}, and x has the shape {t.shape}",
                fix="for a single example give it a batch axis: x[None]" if one else "",
            )
        if (t.dtype.kind == "f") != (wanted.dtype.kind == "f") or t.dtype.kind not in "iuf":
            raise DtypeError(f"the network takes {wanted.dtype.name} inputs, and x is {t.dtype.name}")

    def _converted(self, x: Value) -> Array:
        array = np.asarray(x)
        kinds = "biuf" if self.input_type.dtype.kind == "f" else "iu"
        if array.dtype.kind not in kinds:
            raise DtypeError(f"the network takes {self.input_type.dtype.name} inputs, and x is {array.dtype.name}")
        return array.astype(self.input_type.dtype, copy=False)


class _Inference:
    """The forward pass outside training, as a function that can be compiled."""

    __name__ = "inference"

    def __init__(self, net: Network) -> None:
        self.net = net

    def __call__(self, params: Values, state: Values, x: Value, mask: Value) -> Value:
        return self.net.forward(params, state, x, mask=mask)[0]


def _takes_tokens(layer: Layer) -> bool:
    """Whether the first layer is an Embedding."""
    match layer:
        case Embedding():
            return True
        case Sequential(layers=(first, *_)) | Residual(layers=(first, *_)) | Parallel(branches=(first, *_)):
            return _takes_tokens(first)
    return False


def _mask(mask: Value) -> Value:
    if mask is None:
        return None
    if not isinstance(mask, Traced):
        mask = np.asarray(mask)
    t = type_of(mask)
    if t.dtype != np.bool_ or t.ndim != 2:
        raise DtypeError(f"a padding mask is booleans (batch, time), true where real, and this is {t}")
    return mask


def _dtype(value: Any, name: str, kinds: str) -> np.dtype[Any]:
    try:
        found = np.dtype(value)
    except TypeError:
        found = None
    if found is None or found.kind not in kinds or (found.kind == "f" and found.itemsize not in (4, 8)):
        raise SettingError(f"{name}={value!r} is none that a network takes", fix='use "float32" or "float64"')
    return found


def _shape(value: Any) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, list | tuple) else (value,)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise SettingError(
            f"input_shape={value!r} is no shape of one example", fix="such as (64,) or (28, 28, 1), without the batch"
        )
    return tuple(int(n) for n in sizes)
