"""backlit: the step in a compiled loop that gathers shuffled rows inside."""

from __future__ import annotations

import sys

import numpy as np

import backlit as bl
from backlit import nn, ops, optim
from backlit.executors import get
from backlit.pytree import flatten
from backlit.tracing import trace_function
from benchmarks.timing import report
from benchmarks.workloads import WORKLOADS, Workload, examples


def network(work: Workload) -> bl.Network:
    """The network of a workload."""
    sizes = work.sizes
    if work.kind == "mlp":
        last = "sigmoid" if work.activation == "sigmoid" else None
        hidden = [nn.Dense(n, work.activation) for n in sizes[1:-1]]
        return bl.Network([*hidden, nn.Dense(sizes[-1], last)], input_shape=sizes[:1], seed=0)
    if work.kind == "lenet":
        layers = [
            nn.Conv2d(6, 5, padding="same", activation="relu"), nn.MaxPool(2), nn.Conv2d(16, 5, activation="relu"),
            nn.MaxPool(2), nn.Flatten(), nn.Dense(120, "relu"), nn.Dense(84, "relu"), nn.Dense(10),
        ]  # fmt: skip
        return bl.Network(layers, input_shape=sizes, seed=0)
    if work.kind == "cnn":
        layers = []
        for channels, pool in ((32, False), (64, True), (128, True)):
            layers += [nn.Conv2d(channels, 3, padding="same"), nn.BatchNorm(), nn.Activation("relu")]
            layers += [nn.MaxPool(2)] if pool else []
        return bl.Network([*layers, nn.Flatten(), nn.Dense(10)], input_shape=sizes, seed=0)
    if work.kind == "lstm":
        return bl.Network([nn.LSTM(sizes[2]), nn.Dense(10)], input_shape=sizes[:2], seed=0)
    vocabulary, time, width, heads, blocks = sizes
    body = [nn.TransformerBlock(heads=heads, causal=True) for _ in range(blocks)]
    ends = [nn.LayerNorm(), nn.Dense(vocabulary)]
    return bl.Network(
        [nn.Embedding(vocabulary, width), nn.PositionEmbedding(time), *body, *ends], input_shape=(time,), seed=0
    )


def main(name: str, seconds: float, executor: str = "native") -> None:
    work = WORKLOADS[name]
    net = network(work)
    optimizer = optim.SGD(0.1) if work.optimizer == "sgd" else optim.Adam(0.001)
    x, y = examples(work, max(1000, 4 * work.batch))

    def loss_of(params, state, x, y):
        found, state = net.forward(params, state, x, training=True)
        if work.loss == "mse":
            return ops.mean((found - y) ** 2.0), state
        chances = ops.log_softmax(found)
        return -ops.mean(ops.take_along_axis(chances, ops.expand_dims(y, y.ndim), -1)), state

    def step(params, state, memory, x, y):
        (loss, state), gradients = bl.value_and_grad(loss_of, has_aux=True)(params, state, x, y)
        params, memory = optimizer.update(gradients, memory, params)
        return params, state, memory, loss

    params, state = dict(net.params), dict(net.state)
    carry = (params, state, optimizer.init(params))
    leaves = flatten(carry)[0]
    made = {}
    rng = np.random.default_rng(1)

    def first() -> None:
        graph = trace_function(step, *carry, x[: work.batch], y[: work.batch]).graph
        made["loop"] = get(executor).compile_loop(graph, len(leaves), 2)
        run(1)

    def run(count: int) -> None:
        rows = rng.integers(0, len(x), (count, work.batch))
        made["loop"](leaves, [x, y], rows)

    report(first, run, seconds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
