"""The workloads in backlit: an epoch is one call of the native executor, drawing of the shuffled rows included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import backlit as bl
from backlit import nn, optim
from backlit.nn.summary import multiply_adds
from backlit.passes import simplify
from backlit.train.feeding import Stretch
from benchmarks.givens import Givens
from benchmarks.workloads import ConvNet, LeNet5, Lstm, Mlp, Net, Transformer, Workload


def layers(net: Net) -> list[nn.Layer]:
    match net:
        case Mlp(sizes=sizes, hidden=hidden, output=output):
            *inner, last = sizes[1:]
            return [*(nn.Dense(n, hidden) for n in inner), nn.Dense(last, output)]
        case LeNet5():
            return [
                nn.Conv2d(6, 5, padding="same", activation="relu"), nn.MaxPool(2),
                nn.Conv2d(16, 5, activation="relu"), nn.MaxPool(2), nn.Flatten(),
                nn.Dense(120, "relu"), nn.Dense(84, "relu"), nn.Dense(net.classes),
            ]  # fmt: skip
        case ConvNet():
            block = [[nn.Conv2d(n, 3, padding="same"), nn.BatchNorm(), nn.Activation("relu")] for n in (32, 64, 128)]
            pooled = [*block[0], *block[1], nn.MaxPool(2), *block[2], nn.MaxPool(2)]
            return [*pooled, nn.Flatten(), nn.Dense(net.classes)]
        case Lstm():
            return [nn.LSTM(net.units), nn.Dense(net.classes)]
        case Transformer():
            return [
                nn.Embedding(net.classes, net.width), nn.PositionEmbedding(net.input_shape[0]),
                *[nn.TransformerBlock(net.heads, causal=True) for _ in range(net.blocks)],
                nn.LayerNorm(), nn.Dense(net.classes),
            ]  # fmt: skip


def network(workload: Workload) -> bl.Network:
    return bl.Network(layers(workload.net), input_shape=workload.net.input_shape, seed=0)


def prepare(workload: Workload, givens: Givens) -> Callable[[], Sequence[Any]]:
    """A function that trains for an epoch and gives the losses of its steps."""
    net = network(workload)
    net.params = givens.weights
    rule = {"sgd": optim.SGD, "adam": optim.Adam}[workload.optimizer](workload.learning_rate)
    trainer = bl.Trainer(net, workload.loss, rule, executor="native")
    epoch = Stretch({"x": givens.x, "y": givens.y}, givens.rows)
    carry = trainer.moment.carry

    def train() -> Sequence[Any]:
        nonlocal carry
        carry, sums = trainer.program("train", epoch)(carry, epoch, donate=True)
        total, weight = sums["loss"]
        return total / weight

    return train


def operations(workload: Workload, givens: Givens) -> int:
    """The floating-point operations of a step's products, forward and backward, counted in its graph once that is
    simplified: 2 for each multiply-add. What is elementwise does not count."""
    trainer = bl.Trainer(network(workload), workload.loss, workload.optimizer)
    step = trainer.program("train", Stretch({"x": givens.x, "y": givens.y}, givens.rows))
    return 2 * sum(multiply_adds(simplify(step.graph)).values())
