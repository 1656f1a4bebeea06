"""Attention: every position of a sequence looks at the others and takes a mean of what it finds, by relevance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backlit import ops
from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.nn import initializers
from backlit.nn.activations import activation
from backlit.nn.combinators import Block, Residual, Sequential
from backlit.nn.dense import Dense
from backlit.nn.dropout import Dropout
from backlit.nn.initializers import initializer
from backlit.nn.layer import Context, Layer, Value, Values
from backlit.nn.normalization import LayerNorm
from backlit.settings import flag, number, whole

_PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """Self-attention with several heads (Vaswani et al. 2017, section 3.2.2).

        Q, K, V = x W_q + b_q, x W_k + b_k, x W_v + b_v, each cut into heads of size d
        head_i = softmax(Q_i K_i^T / sqrt(d)) V_i,   y = concat(head_1, ...) W_o + b_o

    x (batch, time, features) keeps its shape. d is `size`, features / heads by default. With `causal` a position sees
    itself and those before it. Padded positions are not seen.
    Parameters: query_weight, key_weight, value_weight (features, heads · d) with biases (heads · d,), output_weight
    (heads · d, features) with output_bias (features,).
    """

    heads: int = whole(at_least=1)
    size: int | None = whole(None, at_least=1)
    causal: bool = flag(False)
    weight_init: Any = initializer("glorot_uniform")
    bias_init: Any = initializer("zeros")

    def init(self, key: Value, input_type: Type) -> Values:
        if input_type.ndim != 2:
            raise ShapeError("takes sequences (batch, time, features)")
        features = input_type.shape[-1]
        if self.size is None and features % self.heads:
            raise ShapeError(f"{features} features cannot be cut into {self.heads} equal heads", fix="give size=")
        inner = self.heads * (self.size or features // self.heads)
        shapes = {f"{part}_weight": (features, inner) for part in _PARTS} | {"output_weight": (inner, features)}
        biases = {f"{part}_bias": (inner,) for part in _PARTS} | {"output_bias": (features,)}
        keys = iter(ops.random.split(key, 8))
        weights = {k: initializers.get(self.weight_init)(next(keys), shape) for k, shape in shapes.items()}
        return weights | {k: initializers.get(self.bias_init)(next(keys), shape) for k, shape in biases.items()}

    def apply(self, params: Values, x: Value, ctx: Context) -> Value:
        batch, time, _ = x.shape

        def cut(x: Value) -> Value:
            """(batch, time, heads · d) to (batch, heads, time, d)."""
            return ops.permute_dims(ops.reshape(x, (batch, time, self.heads, -1)), (0, 2, 1, 3))

        Q = x @ params["query_weight"] + params["query_bias"]
        K = x @ params["key_weight"] + params["key_bias"]
        V = x @ params["value_weight"] + params["value_bias"]
        seen = None if ctx.mask is None else ctx.mask[:, None, None, :]
        heads = ops.attention(cut(Q), cut(K), cut(V), seen, self.causal)
        joined = ops.reshape(ops.permute_dims(heads, (0, 2, 1, 3)), (batch, time, -1))
        y = joined @ params["output_weight"] + params["output_bias"]
        return y


@dataclass(frozen=True)
class TransformerBlock(Block):
    """Attention, then two dense layers at each position, each with a residual connection and a layer norm.

        y = x + attention(norm(x)),   result = y + dense(dense(norm(y)))    norm_first (Xiong et al. 2020)
        y = norm(x + attention(x)),   result = norm(y + dense(dense(y)))    else (Vaswani et al. 2017, section 3.1)

    x (batch, time, features) keeps its shape. `hidden` units stand between the dense layers, 4 times the features by
    default. Dropout acts on what the residual connections add.
    Layers inside: attention, feedforward, and norm_1 and norm_2 if the norm does not come first.
    """

    heads: int = whole(at_least=1)
    hidden: int | None = whole(None, at_least=1)
    activation: str | Callable[[Value], Value] = activation("gelu")
    causal: bool = flag(False)
    dropout: float = number(0.0, at_least=0, below=1)
    norm_first: bool = flag(True)
    epsilon: float = number(1e-5, above=0)

    def body(self, input_type: Type) -> Layer:
        if input_type.ndim != 2:
            raise ShapeError("takes sequences (batch, time, features)")
        features = input_type.shape[-1]
        norm = (LayerNorm(epsilon=self.epsilon),) if self.norm_first else ()
        noise = (Dropout(self.dropout),) if self.dropout else ()
        hidden = Dense(self.hidden or 4 * features, self.activation)
        attention = Residual((*norm, MultiHeadAttention(self.heads, causal=self.causal), *noise), name="attention")
        feedforward = Residual((*norm, hidden, Dense(features), *noise), name="feedforward")
        if self.norm_first:
            return Sequential((attention, feedforward))
        first, second = (LayerNorm(epsilon=self.epsilon, name=f"norm_{i}") for i in (1, 2))
        return Sequential((attention, first, feedforward, second))
