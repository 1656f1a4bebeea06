"""JAX with optax: the step under `jit`, or many steps under one `lax.scan`; one fixed batch."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.timing import report
from benchmarks.workloads import WORKLOADS, Workload, examples

RNG = np.random.default_rng(0)


def weight(*shape: int):
    return jnp.array((RNG.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[:-1])))).astype("f4"))


def convolved(x, w, padding):
    return lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pooled(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def normalised(x, scale, shift, axes):
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + shift


def mlp(work: Workload):
    params = [(weight(n, m), jnp.zeros(m)) for n, m in zip(work.sizes, work.sizes[1:], strict=False)]
    act = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}[work.activation]

    def forward(p, x):
        for i, (w, b) in enumerate(p):
            x = x @ w + b
            if i < len(p) - 1 or work.activation == "sigmoid":
                x = act(x)
        return x

    return params, forward


def lenet(_work: Workload):
    params = [weight(5, 5, 1, 6), jnp.zeros(6), weight(5, 5, 6, 16), jnp.zeros(16)]
    for n, m in ((400, 120), (120, 84), (84, 10)):
        params += [weight(n, m), jnp.zeros(m)]

    def forward(p, x):
        x = pooled(jax.nn.relu(convolved(x, p[0], "SAME") + p[1]))
        x = pooled(jax.nn.relu(convolved(x, p[2], "VALID") + p[3])).reshape(x.shape[0], -1)
        x = jax.nn.relu(x @ p[4] + p[5])
        return jax.nn.relu(x @ p[6] + p[7]) @ p[8] + p[9]

    return params, forward


def cnn(_work: Workload):
    params = []
    for n, m in ((3, 32), (32, 64), (64, 128)):
        params += [weight(3, 3, n, m), jnp.ones(m), jnp.zeros(m)]
    params += [weight(8192, 10), jnp.zeros(10)]

    def forward(p, x):
        for i in range(3):
            w, scale, shift = p[3 * i : 3 * i + 3]
            x = jax.nn.relu(normalised(convolved(x, w, "SAME"), scale, shift, (0, 1, 2)))
            x = pooled(x) if i else x
        return x.reshape(x.shape[0], -1) @ p[9] + p[10]

    return params, forward


def lstm(work: Workload):
    _, inputs, units = work.sizes
    params = [
        weight(inputs, 4 * units),
        weight(units, 4 * units),
        jnp.zeros(4 * units),
        weight(units, 10),
        jnp.zeros(10),
    ]

    def forward(p, x):
        def cell(carry, xt):
            h, c = carry
            i, f, g, o = jnp.split(xt + h @ p[1], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[0], units))
        (h, _), _ = lax.scan(cell, (zeros, zeros), (x @ p[0] + p[2]).transpose(1, 0, 2))
        return h @ p[3] + p[4]

    return params, forward


def transformer(work: Workload):
    vocabulary, time, width, heads, blocks = work.sizes

    def norm():
        return jnp.ones(width), jnp.zeros(width)

    def block():
        return {
            "n1": norm(), "n2": norm(), "qkv": weight(width, 3 * width), "proj": weight(width, width),
            "up": weight(width, 4 * width), "down": weight(4 * width, width),
        }  # fmt: skip

    params = {
        "tokens": weight(vocabulary, width), "places": weight(time, width), "norm": norm(),
        "out": weight(width, vocabulary), "blocks": [block() for _ in range(blocks)],
    }  # fmt: skip
    mask = jnp.tril(jnp.ones((time, time), bool))

    def forward(p, x):
        h, batch = p["tokens"][x] + p["places"], x.shape[0]
        for q in p["blocks"]:
            z = (normalised(h, *q["n1"], -1) @ q["qkv"]).reshape(batch, time, 3, heads, width // heads)
            query, key, value = z[:, :, 0], z[:, :, 1], z[:, :, 2]
            scores = jnp.einsum("bthd,bshd->bhts", query, key) / np.sqrt(width // heads)
            scores = jax.nn.softmax(jnp.where(mask, scores, -1e9))
            h = h + jnp.einsum("bhts,bshd->bthd", scores, value).reshape(batch, time, width) @ q["proj"]
            h = h + jax.nn.gelu(normalised(h, *q["n2"], -1) @ q["up"]) @ q["down"]
        return normalised(h, *p["norm"], -1) @ p["out"]

    return params, forward


def main(name: str, seconds: float, mode: str = "jit") -> None:
    work = WORKLOADS[name]
    params, forward = {"mlp": mlp, "lenet": lenet, "cnn": cnn, "lstm": lstm, "transformer": transformer}[work.kind](
        work
    )
    x, y = (jnp.asarray(a) for a in examples(work, work.batch))
    optimizer = optax.sgd(0.1) if work.optimizer == "sgd" else optax.adam(1e-3)

    def loss_of(p):
        found = forward(p, x)
        if work.loss == "mse":
            return ((found - y) ** 2).mean()
        return optax.softmax_cross_entropy_with_integer_labels(found, y).mean()

    def step(carry, _=None):
        p, memory = carry
        loss, gradients = jax.value_and_grad(loss_of)(p)
        updates, memory = optimizer.update(gradients, memory, p)
        return (optax.apply_updates(p, updates), memory), loss

    held = [(params, optimizer.init(params))]
    if mode == "jit":
        compiled = jax.jit(step, donate_argnums=0)

        def run(count: int) -> None:
            for _ in range(count):
                held[0], _ = compiled(held[0])
            jax.block_until_ready(held[0])
    else:
        loops = {}

        def run(count: int) -> None:
            length = 1 << (count.bit_length() - 1)  # few lengths, since each is compiled
            if length not in loops:
                loops[length] = jax.jit(lambda c: lax.scan(step, c, None, length=length))
                jax.block_until_ready(loops[length](held[0]))
            for _ in range(-(-count // length)):
                held[0], _ = loops[length](held[0])
            jax.block_until_ready(held[0])

    report(lambda: run(1), run, seconds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
