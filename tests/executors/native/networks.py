"""Random networks of what people train: images, sequences and rows, with a classifier's loss, gradients and an update.

Their numbers are drawn from a normal distribution, and their layers are smooth or jump at places that nobody meets, so
results can be compared closely. Sizes are odd as often as not, and large enough for every kind of kernel.

A network is a list of triples of numbers, as in `graphs`: which layer, of which kind, with which sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import backlit as bl
from backlit import ops

from .graphs import chance, dtype, shape

IMAGES = [(2, 9, 9, 3), (3, 8, 10, 16), (1, 7, 12, 5), (8, 6, 6, 1), (4, 11, 5, 8), (2, 1, 9, 4), (17, 5, 5, 2)]
SEQUENCES = [(3, 7, 12), (2, 16, 16), (1, 5, 9), (4, 9, 1), (5, 1, 8)]
ROWS = [(17, 33), (32, 20), (1, 40), (5, 1), (130, 9)]
CLASSES = (2, 3, 10, 17)
CHANNELS = (1, 2, 4, 6, 8, 16, 17, 24)
MOST = 20_000  # elements of a value


class Weights:
    """Draws the parameters of a network, or hands them out again."""

    def __init__(self, k: int, like: Any, given: Any = None) -> None:
        self.random, self.like, self.drawn = chance(k, 11), like, []
        self.given = None if given is None else iter(given)

    def __call__(self, *size: int) -> Any:
        if self.given is not None:
            return next(self.given)
        scale = 1 / np.sqrt(max(1, np.prod(size[:-1])))
        self.drawn.append(np.asarray(self.random.normal(0, scale, size), self.like))
        return self.drawn[-1]


ACTIVATIONS = [ops.relu, ops.tanh, ops.gelu, ops.silu, ops.sigmoid, ops.leaky_relu, lambda x: x]


def activated(x, k):
    return ACTIVATIONS[k % len(ACTIVATIONS)](x)


def convolved(x, w, k):
    """Mostly 3 x 3 with stride 1, a bias and an activation; twice in a row as often as not."""
    r = chance(k, 3)
    channels, space = shape(x)[-1], shape(x)[1:-1]
    size = [min(n, 3 if r.random() < 0.7 else int(r.integers(1, 6))) for n in space]
    stride = 1 if r.random() < 0.7 else int(r.integers(2, 4))
    dilation = 2 if r.random() < 0.1 and all((s - 1) * 2 < n for s, n in zip(size, space, strict=True)) else 1
    padding = "same" if r.random() < 0.6 else "valid" if r.random() < 0.7 else 1
    groups = int(r.choice([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0]))
    outputs = groups * max(1, int(r.choice(CHANNELS)) // groups)
    y = ops.conv(x, w(*size, channels // groups, outputs), stride, padding, dilation, groups) + w(outputs)
    return activated(y, k)


def transposed(x, w, k):
    outputs = CHANNELS[k % len(CHANNELS)]
    return ops.conv_transpose(x, w(2, 2, shape(x)[-1], outputs), 1 + k % 2, "valid") + w(outputs)


def pooled(x, w, k):
    size = [min(2 + k % 2, n) for n in shape(x)[1:-1]]
    return (ops.max_pool, ops.avg_pool)[k // 2 % 2](x, size, 1 + k // 4 % 2, ("valid", "same")[k // 8 % 2])


def normalised(x, w, k):
    """Over a batch and its places, with scale and shift."""
    axes = tuple(range(len(shape(x)) - 1))
    centred = x - ops.mean(x, axes, keepdims=True)
    y = centred / ops.sqrt(ops.mean(centred * centred, axes, keepdims=True) + 0.1)
    return activated(y * (1 + w(shape(x)[-1])) + w(shape(x)[-1]), k)


def layer_normed(x, w, k):
    return ops.layer_norm(x, epsilon=0.1) * (1 + w(shape(x)[-1])) + w(shape(x)[-1])


def around(x, w, k):
    """x + f(x) of two layers of the same shape."""
    n = shape(x)[-1]
    if len(shape(x)) != 4:
        return x + activated(x @ w(n, 2 * n) + w(2 * n), k) @ w(2 * n, n)
    size = [min(3, m) for m in shape(x)[1:-1]]
    y = normalised(ops.conv(x, w(*size, n, n), 1, "same"), w, k)
    return activated(x + ops.conv(y, w(*size, n, n), 1, "same"), k + 1)


def softmaxed(x, w, k):
    return (ops.softmax, ops.log_softmax)[k % 2](x, -1 if k % 3 else len(shape(x)) - 1 - k % 2) * (1 + k % 4)


def dense(x, w, k):
    n = (1, 5, 10, 16, 33, 64)[k % 6]
    return activated(x @ w(shape(x)[-1], n) + w(n), k // 6)


def flattened(x, w, k):
    batch = shape(x)[0]
    if k % 2:
        return ops.mean(x, tuple(range(1, len(shape(x)) - 1)))
    return ops.reshape(x, (batch, -1))


def attended(x, w, k):
    """Attention of two heads, causal or not."""
    batch, time, n = shape(x)
    if n % 2:
        return x
    q, key, v = (ops.permute_dims(ops.reshape(x @ w(n, n), (batch, time, 2, n // 2)), (0, 2, 1, 3)) for _ in range(3))
    scores = q @ key.mT / np.sqrt(n // 2).astype(dtype(x))
    if k % 2:
        scores = ops.where(np.tril(np.ones((time, time), np.bool_)), scores, -1e9)
    y = ops.softmax(scores) @ v
    return x + ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (batch, time, n)) @ w(n, n)


def recurrent(x, w, k):
    """A gated cell along time."""
    n, units = shape(x)[-1], (3, 8, 16)[k % 3]
    u, r, b = w(n, 2 * units), w(units, 2 * units), w(2 * units)

    def cell(h, row):
        a, gate = ops.split(row @ u + h @ r + b, 2, -1)
        h = ops.sigmoid(gate) * h + ops.tanh(a)
        return h, h

    start = ops.tanh(x[:, 0] @ w(n, units))
    return ops.permute_dims(ops.scan(cell, start, ops.permute_dims(x, (1, 0, 2)))[1], (1, 0, 2))


def dropped(x, w, k):
    """Dropout by a key that does not change."""
    kept = ops.random.uniform(ops.random.key(k), shape(x), dtype(x)) < 0.8
    return ops.where(kept, x / 0.8, 0.0)


LAYERS: dict[int, list[Callable]] = {
    4: [convolved, convolved, convolved, convolved, convolved, pooled, pooled, normalised, around, transposed,
        layer_normed, softmaxed, dropped],
    3: [attended, attended, dense, dense, around, layer_normed, layer_normed, softmaxed, recurrent, normalised,
        dropped],
    2: [dense, dense, dense, around, layer_normed, normalised, softmaxed, dropped],
}  # fmt: skip


def output(x, w, steps):
    """What a network makes of x, as rows. Images are convolved first."""
    if len(shape(x)) == 4:
        x = convolved(x, w, steps[0][2])
    for a, b, k in steps:
        layers = LAYERS[len(shape(x))]
        y = layers[a % len(layers)](x, w, b + k)
        if np.prod(shape(y)) <= MOST:
            x = y
    while len(shape(x)) > 2:
        x = flattened(x, w, len(steps))
    return x


def training(steps, k):
    """A step of training, and its arguments: an input, the classes of its rows, and the parameters."""
    examples = [*IMAGES * 3, *SEQUENCES, *ROWS]
    size = examples[k % len(examples)]
    like = np.dtype("float64" if k % 3 == 0 else "float32")
    x = np.asarray(chance(k, 12).normal(size=size), like)
    classes = CLASSES[k % len(CLASSES)]
    labels = chance(k, 13).integers(0, classes, size[0])

    def loss(weights, x, labels):
        w = Weights(k, like, weights)
        found = output(x, w, steps)
        logits = found @ w(shape(found)[-1], classes) + w(classes)
        if k % 5 == 0:
            return ops.mean((logits - 1.0) ** 2)
        picked = ops.take_along_axis(ops.log_softmax(logits), labels[:, None], 1)
        return -ops.mean(picked)

    collected = Weights(k, like)
    found = bl.trace(lambda x: output(x, collected, steps), x).outputs[0].type.shape
    collected(found[-1], classes), collected(classes)

    def step(x, labels, *weights):
        value, (*gradients,) = bl.value_and_grad(loss)(weights, x, labels)
        by_input = bl.grad(lambda x: loss(weights, x, labels))(x)
        new = [p - 0.1 * g for p, g in zip(weights, gradients, strict=True)]
        return (value, *new) if k % 2 else (value, by_input, *new)

    return step, [x, labels, *collected.drawn]
