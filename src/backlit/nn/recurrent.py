"""Recurrent layers: the same small step for every element of a sequence, carrying a state h along.

Each is a `scan`. What a step needs of its input is one matrix product, so it is taken for all elements at once before
the loop; only what depends on the state is left inside.

The gates of a layer stand side by side in its weights: weight (inputs, gates · units), recurrent_weight
(units, gates · units), bias (gates · units), in the order that the layer states. Each gate is drawn by itself.

At padded positions (see `Context.mask`) the state stays what it was and the result is 0, so a padded sequence gives
what it would give without its padding. A bidirectional layer runs a second set of weights, `backward`, from the last
element to the first, and joins both results.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from backlit import ops
from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.nn import activations, initializers
from backlit.nn.activations import activation
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values, within
from backlit.nn.masks import over
from backlit.settings import flag, number, whole
from backlit.tracing import scope

State = dict[str, Value]
"""What a step hands to the next, by name: h, and c of an LSTM."""


@dataclass(frozen=True)
class _Recurrent(Layer):
    """What all recurrent layers share."""

    units: int = whole(at_least=1)
    return_sequences: bool = flag(False)
    bidirectional: bool = flag(False)
    weight_init: Any = initializer("glorot_uniform")
    recurrent_init: Any = initializer("orthogonal")
    bias_init: Any = initializer("zeros")

    gates: ClassVar[int] = 1
    carried: ClassVar[tuple[str, ...]] = ("h",)

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.ndim != 2:
            raise ShapeError(
                "takes sequences (batch, time, features)", fix="give the layer before return_sequences=True"
            )
        keys = ops.random.split(key)
        params = self.weights(keys[0], input_type.shape[-1])
        if self.bidirectional:
            params |= {f"backward.{k}": v for k, v in self.weights(keys[1], input_type.shape[-1]).items()}
        return params

    def weights(self, key: Value, inputs: int) -> Values:
        """The parameters of one direction."""
        keys = ops.random.split(key, 2 * self.gates + 1)
        into, from_state, n = keys[: self.gates], keys[self.gates : -1], self.gates * self.units
        return {
            "weight": _by_gate(self.weight_init, into, inputs, self.units),
            "recurrent_weight": _by_gate(self.recurrent_init, from_state, self.units, self.units),
            "bias": initializers.get(self.bias_init)(keys[-1], (n,)),
        }

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        y = self._run(params, x, ctx.mask, reverse=False)
        if self.bidirectional:
            with scope("backward"):
                back = self._run(within(params, "backward"), x, ctx.mask, reverse=True)
            y = ops.concat([y, back], axis=-1)
        if not self.return_sequences:
            ctx.mask = None
        return y

    def _run(self, params: Values, x: Value, mask: Value, reverse: bool) -> Value:
        """One direction: all h (batch, time, units), or the last one (batch, units)."""
        W, b = params["weight"], params["bias"]
        z_x = x @ W + b
        inputs = {"z_x": ops.moveaxis(z_x, 1, 0)}
        if mask is not None:
            inputs["real"] = ops.moveaxis(over(mask, x), 1, 0)
        step = self.step(params)

        def element(state: State, given: Values) -> tuple[State, Value]:
            news = step(state, given["z_x"])
            result = news["h"]
            if mask is not None:
                result = ops.where(given["real"], result, 0.0)
                news = {name: ops.where(given["real"], new, state[name]) for name, new in news.items()}
            return news, result if self.return_sequences else None

        start = np.zeros((x.shape[0], self.units), z_x.dtype)
        state, h = ops.scan(element, dict.fromkeys(self.carried, start), inputs, reverse=reverse)
        return ops.moveaxis(h, 0, 1) if self.return_sequences else state["h"]

    @abstractmethod
    def step(self, params: Values) -> Callable[[State, Value], State]:
        """The function of a state and x_t W + b that gives the next state."""


def _by_gate(init: Any, keys: Value, rows: int, columns: int) -> Value:
    """Weights of several gates side by side, each drawn by itself; values that are given are those of all gates."""
    rule = initializers.get(init)
    if isinstance(rule, initializers.Given):
        return rule(keys[0], (rows, len(keys) * columns))
    return ops.concat([rule(key, (rows, columns)) for key in keys], axis=1)


@dataclass(frozen=True)
class SimpleRNN(_Recurrent):
    """h_t = f(x_t W + h_{t-1} U + b), h_0 = 0 (Elman 1990).

    x (batch, time, features) gives the last h (batch, units), or all of them (batch, time, units) with
    `return_sequences`; twice as many units if `bidirectional`.
    Parameters: weight W (features, units), recurrent_weight U (units, units), bias b (units,).
    """

    activation: str | Callable[[Value], Value] = activation("tanh")

    def step(self, params: Values) -> Callable[[State, Value], State]:
        U, f = params["recurrent_weight"], activations.get(self.activation)

        def step(state: State, z_x: Value) -> State:
            z = z_x + state["h"] @ U
            h = f(z)
            return {"h": h}

        return step


@dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent unit; gates in the order reset r, update z, candidate n.

        r = sigmoid(x_t W_r + h_{t-1} U_r + b_r)
        z = sigmoid(x_t W_z + h_{t-1} U_z + b_z)
        n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + c))
        h_t = (1 - z) n + z h_{t-1}

    Cho et al. 2014, with the reset after the product, as in cuDNN, PyTorch and Keras; PyTorch's two biases of r and of
    z are one here. Shapes as for SimpleRNN.
    Parameters: weight W (features, 3 units), recurrent_weight U (units, 3 units), bias b (3 units,), recurrent_bias c
    (units,).
    """

    gates = 3

    def weights(self, key: Value, inputs: int) -> Values:
        return super().weights(key, inputs) | {"recurrent_bias": np.zeros(self.units)}

    def step(self, params: Values) -> Callable[[State, Value], State]:
        U, c, k = params["recurrent_weight"], params["recurrent_bias"], self.units

        def step(state: State, z_x: Value) -> State:
            z_h = state["h"] @ U
            r = ops.sigmoid(z_x[:, :k] + z_h[:, :k])
            z = ops.sigmoid(z_x[:, k : 2 * k] + z_h[:, k : 2 * k])
            n = ops.tanh(z_x[:, 2 * k :] + r * (z_h[:, 2 * k :] + c))
            h = (1.0 - z) * n + z * state["h"]
            return {"h": h}

        return step


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memory; gates in the order input i, forget f, candidate g, output o.

        i = sigmoid(x_t W_i + h_{t-1} U_i + b_i)      f = sigmoid(x_t W_f + h_{t-1} U_f + b_f)
        g = tanh(x_t W_g + h_{t-1} U_g + b_g)         o = sigmoid(x_t W_o + h_{t-1} U_o + b_o)
        c_t = f c_{t-1} + i g,   h_t = o tanh(c_t),   h_0 = c_0 = 0

    Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; order and equations are those of PyTorch
    and Keras, PyTorch's two biases being one here. `forget_bias` is added to the first b_f, so that at first the cell
    remembers (Jozefowicz et al. 2015). Shapes as for SimpleRNN.
    Parameters: weight W (features, 4 units), recurrent_weight U (units, 4 units), bias b (4 units,).
    """

    forget_bias: float = number(1.0)
    gates, carried = 4, ("h", "c")

    def weights(self, key: Value, inputs: int) -> Values:
        params = super().weights(key, inputs)
        forget = np.repeat([0.0, self.forget_bias, 0.0, 0.0], self.units)
        return params | {"bias": params["bias"] + forget}

    def step(self, params: Values) -> Callable[[State, Value], State]:
        U, k = params["recurrent_weight"], self.units

        def step(state: State, z_x: Value) -> State:
            z = z_x + state["h"] @ U
            i = ops.sigmoid(z[:, :k])
            f = ops.sigmoid(z[:, k : 2 * k])
            g = ops.tanh(z[:, 2 * k : 3 * k])
            o = ops.sigmoid(z[:, 3 * k :])
            c = f * state["c"] + i * g
            h = o * ops.tanh(c)
            return {"h": h, "c": c}

        return step
