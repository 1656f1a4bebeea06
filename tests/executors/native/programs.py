"""Programs that the tests of the native executor compile: networks of every kind, small and of odd sizes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import backlit as bl
from backlit import ops
from backlit.pytree import flatten


def leaves(args):
    """The arrays of a function's arguments, as a graph takes them."""
    return [np.asarray(a) for a in flatten((args, {}))[0]]


def layers(normal, *sizes):
    return [(normal(a, b) / np.sqrt(a).astype(normal.dtype), normal(b)) for a, b in pairwise(sizes)]


def mlp(params, x, y):
    h = x
    for w, b in params[:-1]:
        h = ops.relu(h @ w + b)
    w, b = params[-1]
    found = ops.log_softmax(h @ w + b)
    return -ops.mean(ops.take_along_axis(found, ops.expand_dims(y, 1), 1))


def adam(params, moments, t, x, y):
    """One step of Adam: the loss, and the new state."""
    loss, gradients = bl.value_and_grad(mlp)(params, x, y)
    t = t + 1
    new_params, new_moments = [], []
    for layer, layer_moments, layer_gradients in zip(params, moments, gradients, strict=True):
        rows = []
        for p, (m, v), g in zip(layer, layer_moments, layer_gradients, strict=True):
            step = ops.astype(t, p.dtype)
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            p = p - 0.01 * (m / (1.0 - 0.9**step)) / (ops.sqrt(v / (1.0 - 0.999**step)) + 1e-8)
            rows.append((p, (m, v)))
        new_params.append(tuple(r[0] for r in rows))
        new_moments.append(tuple(r[1] for r in rows))
    return new_params, new_moments, t, loss


def start(params):
    """Moments of zeros."""
    return [tuple((np.zeros_like(a), np.zeros_like(a)) for a in layer) for layer in params]


def convolution(w, v, x):
    h = ops.max_pool(ops.relu(ops.conv(x, w, padding="same")), 2)
    h = ops.avg_pool(ops.tanh(ops.conv(h, v, stride=2)), 2, padding="same")
    return ops.sum(h * h)


def strided(w, x):
    """Strides, dilation, groups and windows that overlap."""
    y = ops.conv(x, w, stride=2, padding=2, dilation=2, groups=2)
    return ops.sum(ops.tanh(y)) + ops.sum(ops.max_pool(x, 3, stride=2) ** 2.0)


def lstm(wx, wh, b, x):
    zeros = np.zeros((x.shape[1], wh.shape[0]), x.dtype)

    def cell(carry, x):
        h, c = carry
        i, f, g, o = ops.split(x @ wx + h @ wh + b, 4, 1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return (h, c), h

    (h, _), all_h = ops.scan(cell, (zeros, zeros), x)
    return ops.sum(h * h) + ops.mean(all_h)


def attention(x, w, out):
    batch, time, width = x.shape
    q, k, v = (
        ops.permute_dims(ops.reshape(part, (batch, time, 2, width // 2)), (0, 2, 1, 3))
        for part in ops.split(ops.layer_norm(x) @ w, 3, 2)
    )
    y = ops.attention(q, k, v, causal=True)
    y = x + ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (batch, time, width)) @ out
    return ops.mean(ops.gelu(y) + ops.gelu(y, approximate=True))


def batch_norm(x, scale, shift):
    centred = x - ops.mean(x, 0, keepdims=True)
    y = centred / ops.sqrt(ops.var(x, 0, keepdims=True) + 1e-5) * scale + shift
    return ops.sum(ops.tanh(y))


def embedding(table, indices):
    return ops.sum(ops.tanh(table[indices]) ** 2.0)


def movement(x):
    y = ops.reshape(ops.permute_dims(x, (1, 0, 2)), (4, -1))
    z = ops.flip(y, 1)[:, ::2]
    rolled = ops.concat([z[:, 1:], z[:, :1]], 1)
    return ops.sum(ops.cumulative_sum(z, 1) * rolled) + ops.max(x) + ops.sum(ops.sort(x, 0)[0])


def dropout(key, x):
    first, second = ops.random.split(key)
    keep = ops.random.bernoulli(first, 0.7, x.shape)
    return ops.where(keep, x * ops.random.normal(second, x.shape, x.dtype), 0.0), ops.random.permutation(key, 17)


def results(x):
    """Results that are inputs, constants, views, and each other."""
    return x, x, x.T, ops.reshape(x.T, (x.size,)), x + 1.0, np.ones(2, x.dtype), x[0], ops.sum(x, ())


class Normal:
    """Normally distributed arrays of one dtype."""

    def __init__(self, dtype, seed=0):
        self.dtype, self.rng = np.dtype(dtype), np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def integers(self, high, *shape, low=0):
        return self.rng.integers(low, high, shape)


def cases(dtype):
    """name -> (function, arguments, whether it is one number to be differentiated)."""
    n = Normal(dtype)
    small, wide = layers(n, 10, 7, 3), layers(n, 33, 40, 17, 10)
    return {
        "mlp": (mlp, (small, n(5, 10), n.integers(3, 5)), True),
        "odd_mlp": (mlp, (wide, n(37, 33), n.integers(10, 37)), True),
        "adam": (adam, (wide, start(wide), np.int32(0), n(37, 33), n.integers(10, 37)), False),
        "convolution": (convolution, (n(3, 3, 2, 5), n(3, 2, 5, 4), n(2, 8, 9, 2)), True),
        "strided": (strided, (n(2, 3, 2, 6), n(2, 7, 6, 4)), True),
        "lstm": (lstm, (n(3, 20), n(5, 20), n(20), n(6, 4, 3)), True),
        "attention": (attention, (n(2, 5, 8), n(8, 24), n(8, 8)), True),
        "embedding": (embedding, (n(7, 3), n.integers(7, 4, 2, low=-7)), True),
        "batch_norm": (batch_norm, (n(6, 5), n(5), n(5)), True),
        "movement": (movement, (n(2, 4, 6),), True),
        "dropout": (dropout, (ops.random.key(3), n(9, 5)), False),
        "product": (lambda x: ops.prod(x, 1), (n(3, 5),), False),
        "softmax": (lambda x, w: ops.sum(ops.softmax(x @ w)[:, 3]), (n(19, 64), n(64, 100)), True),
        "results": (results, (n(2, 3),), False),
    }
