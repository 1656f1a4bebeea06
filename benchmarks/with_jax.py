"""The workloads in JAX with optax: a jitted step whose state is donated, or a whole epoch under `lax.scan`.

Batches are drawn beforehand and lie on the device; nothing comes back to the host before the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks.givens import Givens
from benchmarks.workloads import ConvNet, LeNet5, Lstm, Mlp, Net, Transformer, Workload

Tree = Any
ACTIVATIONS: dict[str | None, Callable[[Any], Any]] = {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, None: lambda x: x,
}  # fmt: skip


def dense(p: Tree, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(p: Tree, name: str, x: jax.Array, padding: str) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return (
        lax.conv_general_dilated(x, p[f"{name}.weight"], (1, 1), padding, dimension_numbers=layout) + p[f"{name}.bias"]
    )


def max_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def layer_norm(p: Tree, name: str, x: jax.Array) -> jax.Array:
    x_hat = jax.nn.standardize(x, epsilon=1e-5)
    return p[f"{name}.scale"] * x_hat + p[f"{name}.shift"]


def batch_norm(p: Tree, name: str, x: jax.Array, state: Tree) -> tuple[jax.Array, Tree]:
    """The batch's own statistics; the running ones are kept in the state."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    kept = {
        f"{name}.mean": 0.9 * state[f"{name}.mean"] + 0.1 * mean,
        f"{name}.variance": 0.9 * state[f"{name}.variance"] + 0.1 * variance * count / (count - 1),
    }
    return (x - mean) * lax.rsqrt(variance + 1e-5) * p[f"{name}.scale"] + p[f"{name}.shift"], state | kept


def mlp(net: Mlp, p: Tree, state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    last = len(net.sizes) - 1
    for i in range(1, last + 1):
        x = ACTIVATIONS[net.hidden if i < last else net.output](dense(p, f"dense_{i}", x))
    return x, state


def lenet5(net: LeNet5, p: Tree, state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    x = max_pool(jax.nn.relu(conv(p, "conv2d_1", x, "SAME")))
    x = max_pool(jax.nn.relu(conv(p, "conv2d_2", x, "VALID")))
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(dense(p, "dense_1", x))
    x = jax.nn.relu(dense(p, "dense_2", x))
    return dense(p, "dense_3", x), state


def conv_net(net: ConvNet, p: Tree, state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    for i in (1, 2, 3):
        x, state = batch_norm(p, f"batchnorm_{i}", conv(p, f"conv2d_{i}", x, "SAME"), state)
        x = jax.nn.relu(x)
        if i > 1:
            x = max_pool(x)
    return dense(p, "dense_1", x.reshape(len(x), -1)), state


def lstm(net: Lstm, p: Tree, state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    def cell(carry: Tree, z_x: jax.Array) -> tuple[Tree, None]:
        h, c = carry
        i, f, g, o = jnp.split(z_x + h @ p["lstm_1.recurrent_weight"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    start = jnp.zeros((len(x), net.units))
    (h, _), _ = lax.scan(cell, (start, start), dense(p, "lstm_1", x).swapaxes(0, 1))
    return dense(p, "dense_1", h), state


def transformer(net: Transformer, p: Tree, state: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    h = p["embedding_1.weight"][x] + p["positionembedding_1.weight"]
    batch, time, width = h.shape
    for i in range(1, net.blocks + 1):
        a, b = f"transformerblock_{i}.attention", f"transformerblock_{i}.feedforward"
        heads = f"{a}.multiheadattention_1"
        normed = layer_norm(p, f"{a}.layernorm_1", h)
        parts = [normed @ p[f"{heads}.{part}_weight"] + p[f"{heads}.{part}_bias"] for part in ("query", "key", "value")]
        q, k, v = (part.reshape(batch, time, net.heads, -1) for part in parts)
        seen = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(batch, time, width)
        h = h + seen @ p[f"{heads}.output_weight"] + p[f"{heads}.output_bias"]
        up = jax.nn.gelu(dense(p, f"{b}.dense_1", layer_norm(p, f"{b}.layernorm_1", h)), approximate=False)
        h = h + dense(p, f"{b}.dense_2", up)
    return dense(p, "dense_1", layer_norm(p, "layernorm_1", h)), state


FORWARD: dict[type[Net], Callable[..., tuple[jax.Array, Tree]]] = {
    Mlp: mlp, LeNet5: lenet5, ConvNet: conv_net, Lstm: lstm, Transformer: transformer,
}  # fmt: skip


def prepare(workload: Workload, givens: Givens, *, scan: bool = False) -> Callable[[], Sequence[Any]]:
    """A function that trains for an epoch and gives the losses of its steps."""
    net, forward = workload.net, FORWARD[type(workload.net)]
    rule = {"sgd": optax.sgd, "adam": optax.adam}[workload.optimizer](workload.learning_rate)
    params = {name: jnp.asarray(value) for name, value in givens.weights.items()}
    state: dict[str, jax.Array] = {}
    for name, value in params.items():
        if name.startswith("batchnorm") and name.endswith(".scale"):
            norm = name.removesuffix(".scale")
            state |= {f"{norm}.mean": jnp.zeros_like(value), f"{norm}.variance": jnp.ones_like(value)}
    carry = params, state, rule.init(params)

    def loss_of(params: Tree, state: Tree, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Tree]:
        predicted, state = forward(net, params, state, x)
        if workload.loss == "mse":
            return jnp.mean((predicted - y) ** 2), state
        return optax.softmax_cross_entropy_with_integer_labels(predicted, y).mean(), state

    def step(carry: Tree, batch: tuple[jax.Array, jax.Array]) -> tuple[Tree, jax.Array]:
        params, state, memory = carry
        (loss, state), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, state, *batch)
        updates, memory = rule.update(gradients, memory, params)
        return (optax.apply_updates(params, updates), state, memory), loss

    batches = [(jnp.asarray(x), jnp.asarray(y)) for x, y in givens.batches()]
    if scan:
        whole = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
        batches.clear()
        epoch = jax.jit(lambda carry, whole: lax.scan(step, carry, whole), donate_argnums=0)
    else:
        jitted = jax.jit(step, donate_argnums=0)

    def train() -> Sequence[Any]:
        nonlocal carry
        if scan:
            carry, losses = epoch(carry, whole)
        else:
            losses = []
            for batch in batches:
                carry, loss = jitted(carry, batch)
                losses.append(loss)
        jax.block_until_ready(carry)
        return losses

    return train
