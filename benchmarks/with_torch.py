"""The workloads in PyTorch: fused optimisers, gradients set to None, batches already drawn, no value read in a step.

Eager, or with the forward pass and the loss under torch.compile. Images lie as (batch, channels, height, width), or in
the same shape with channels last in memory: which is faster depends on the network, so both are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.givens import Array, Givens
from benchmarks.machine import cores
from benchmarks.workloads import ConvNet, LeNet5, Lstm, Mlp, Net, Transformer, Workload

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, None: nn.Identity}


class Given:
    """Modules that start from given weights, which are in backlit's layout."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights

    def __call__(self, name: str) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.weights[name]))

    def linear(self, name: str, image: tuple[int, ...] = ()) -> nn.Linear:
        """`image` is the (height, width, channels) that was flattened into the inputs, channels first here."""
        weight = self(f"{name}.weight")
        if image:
            weight = weight.reshape(*image, -1).permute(2, 0, 1, 3).reshape(weight.shape)
        return filled(nn.Linear(*weight.shape), weight=weight.T, bias=self(f"{name}.bias"))

    def conv(self, name: str, padding: int = 0) -> nn.Conv2d:
        weight = self(f"{name}.weight").permute(3, 2, 0, 1)
        filters, channels, size, _ = weight.shape
        module = nn.Conv2d(channels, filters, size, padding=padding)
        return filled(module, weight=weight, bias=self(f"{name}.bias"))

    def norm(self, name: str, kind: type[nn.Module]) -> Any:
        scale = self(f"{name}.scale")
        return filled(kind(len(scale)), weight=scale, bias=self(f"{name}.shift"))


def filled(module: Any, **values: Tensor) -> Any:
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(value)
    return module


class LastState(nn.Module):
    """An LSTM whose last state goes through a linear layer. Its second bias, which backlit lacks, stays 0."""

    def __init__(self, given: Given, net: Lstm) -> None:
        super().__init__()
        self.lstm = filled(
            nn.LSTM(net.input_shape[1], net.units, batch_first=True),
            weight_ih_l0=given("lstm_1.weight").T,
            weight_hh_l0=given("lstm_1.recurrent_weight").T,
            bias_ih_l0=given("lstm_1.bias"),
            bias_hh_l0=torch.zeros(4 * net.units),
        )
        self.lstm.bias_hh_l0.requires_grad_(False)
        self.out = given.linear("dense_1")

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.out(h[-1])


class Block(nn.Module):
    """Causal attention and two dense layers, norms first."""

    def __init__(self, given: Given, name: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        attention = f"{name}.attention.multiheadattention_1"
        self.norm_1 = given.norm(f"{name}.attention.layernorm_1", nn.LayerNorm)
        weight = torch.cat([given(f"{attention}.{part}_weight") for part in ("query", "key", "value")], 1)
        bias = torch.cat([given(f"{attention}.{part}_bias") for part in ("query", "key", "value")])
        self.qkv = filled(nn.Linear(*weight.shape), weight=weight.T, bias=bias)
        weight = given(f"{attention}.output_weight")
        self.out = filled(nn.Linear(*weight.shape), weight=weight.T, bias=given(f"{attention}.output_bias"))
        self.norm_2 = given.norm(f"{name}.feedforward.layernorm_1", nn.LayerNorm)
        self.up = given.linear(f"{name}.feedforward.dense_1")
        self.down = given.linear(f"{name}.feedforward.dense_2")

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Decoder(nn.Module):
    def __init__(self, given: Given, net: Transformer) -> None:
        super().__init__()
        self.tokens = nn.Embedding.from_pretrained(given("embedding_1.weight"), freeze=False)
        self.positions = nn.Parameter(given("positionembedding_1.weight"))
        self.blocks = nn.Sequential(
            *[Block(given, f"transformerblock_{i + 1}", net.heads) for i in range(net.blocks)],
        )
        self.norm = given.norm("layernorm_1", nn.LayerNorm)
        self.out = given.linear("dense_1")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.blocks(self.tokens(x) + self.positions)))


def model(net: Net, given: Given) -> nn.Module:
    match net:
        case Mlp(sizes=sizes, hidden=hidden, output=output):
            last = len(sizes) - 1
            pairs = [
                (given.linear(f"dense_{i}"), ACTIVATIONS[hidden if i < last else output]()) for i in range(1, last + 1)
            ]
            return nn.Sequential(*[m for pair in pairs for m in pair if not isinstance(m, nn.Identity)])
        case LeNet5():
            return nn.Sequential(
                given.conv("conv2d_1", padding=2), nn.ReLU(), nn.MaxPool2d(2),
                given.conv("conv2d_2"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                given.linear("dense_1", image=(5, 5, 16)), nn.ReLU(), given.linear("dense_2"), nn.ReLU(),
                given.linear("dense_3"),
            )  # fmt: skip
        case ConvNet():
            block = [
                [given.conv(f"conv2d_{i}", padding=1), given.norm(f"batchnorm_{i}", nn.BatchNorm2d), nn.ReLU()]
                for i in (1, 2, 3)
            ]
            pooled = [*block[0], *block[1], nn.MaxPool2d(2), *block[2], nn.MaxPool2d(2)]
            return nn.Sequential(*pooled, nn.Flatten(), given.linear("dense_1", image=(8, 8, 128)))
        case Lstm():
            return LastState(given, net)
        case Transformer():
            return Decoder(given, net)


def prepare(
    workload: Workload, givens: Givens, *, compiled: bool = False, channels_last: bool = False
) -> Callable[[], Sequence[Any]]:
    """A function that trains for an epoch and gives the losses of its steps."""
    torch.set_num_threads(cores())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net: Any = model(workload.net, Given(givens.weights))
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in givens.batches()]
    if is_image(workload):
        net = net.to(memory_format=layout)
        batches = [(x.permute(0, 3, 1, 2).contiguous(memory_format=layout), y) for x, y in batches]
    trained = [p for p in net.parameters() if p.requires_grad]
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[workload.optimizer]
    optimizer = rule(trained, lr=workload.learning_rate, fused=True)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        if workload.loss == "mse":
            return F.mse_loss(net(x), y)
        logits = net(x)
        return F.cross_entropy(logits.flatten(0, -2), y.flatten())

    if compiled:
        loss_of = torch.compile(loss_of)

    def train() -> Sequence[Any]:
        losses = []
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return train


def is_image(workload: Workload) -> bool:
    return isinstance(workload.net, LeNet5 | ConvNet)
