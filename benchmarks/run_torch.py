"""PyTorch: eager, or compiled with torch.compile; fused optimisers, one fixed batch, no transfer a step."""

from __future__ import annotations

import sys
import warnings
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.timing import report
from benchmarks.workloads import WORKLOADS, Workload, examples


class Last(nn.Module):
    """The last output of an LSTM, through a dense layer."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(inputs, units, batch_first=True), nn.Linear(units, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Block(nn.Module):
    """Attention and a feed-forward part, each normalised first and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Predicts the next of some tokens."""

    def __init__(self, vocabulary: int, time: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(time, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(blocks)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.blocks(self.tokens(x) + self.places))).transpose(1, 2)


def network(work: Workload) -> nn.Module:
    """The network of a workload."""
    sizes = work.sizes
    if work.kind == "mlp":
        acts = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
        layers: list[nn.Module] = []
        for i, (n, m) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(n, m))
            if i < len(sizes) - 2 or work.activation == "sigmoid":
                layers.append(acts[work.activation]())
        return nn.Sequential(*layers)
    if work.kind == "lenet":
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
    if work.kind == "cnn":
        layers, before = [], 3
        for channels, pool in ((32, False), (64, True), (128, True)):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
            before = channels
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 64, 10))
    return Last(sizes[1], sizes[2]) if work.kind == "lstm" else Transformer(*sizes)


def main(name: str, seconds: float, mode: str = "eager") -> None:
    warnings.filterwarnings("ignore")
    work = WORKLOADS[name]
    model = network(work)
    arrays = examples(work, work.batch)
    x, y = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy() if a.ndim == 4 else a) for a in arrays)
    if work.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    else:
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
    loss_of = F.mse_loss if work.loss == "mse" else F.cross_entropy
    forward = torch.compile(model) if mode == "compiled" else model

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            loss_of(forward(x), y).backward()
            optimizer.step()

    report(lambda: run(1), run, seconds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:])
