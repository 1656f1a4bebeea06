"""What is trained: eleven workloads, from a network of nine numbers to a transformer, as plain data.

A step is forward pass, loss, gradients and update on one minibatch. An epoch is `steps` of them, on data small enough
that drawing a batch is no matter of disk or main memory; it is what a runner is asked for at a time.

`goal` is how many times faster than the best other library backlit means to be.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mlp:
    """Dense layers of these sizes; `hidden` and `output` are activations."""

    sizes: tuple[int, ...]
    hidden: str = "relu"
    output: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.sizes[:1]

    @property
    def classes(self) -> int:
        return self.sizes[-1]


@dataclass(frozen=True)
class LeNet5:
    """LeCun et al. 1998 with ReLU and max pooling: two convolutions 5x5 (6 and 16 filters), dense 120, 84, classes."""

    input_shape: tuple[int, ...] = (28, 28, 1)
    classes: int = 10


@dataclass(frozen=True)
class ConvNet:
    """Convolutions 3x3, each with batch norm and ReLU: 32, 64, pool, 128, pool, dense."""

    input_shape: tuple[int, ...] = (32, 32, 3)
    classes: int = 10


@dataclass(frozen=True)
class Lstm:
    """One LSTM layer; its last state goes through a dense one."""

    input_shape: tuple[int, ...] = (28, 28)  # (time, features)
    units: int = 64
    classes: int = 10


@dataclass(frozen=True)
class Transformer:
    """A decoder that predicts the next token at each position: causal attention, norms first, GELU, learned places."""

    input_shape: tuple[int, ...] = (64,)  # (time,)
    classes: int = 65  # tokens
    width: int = 128
    heads: int = 4
    blocks: int = 4


Net = Mlp | LeNet5 | ConvNet | Lstm | Transformer


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network and how it is trained."""

    name: str
    net: Net
    batch: int
    steps: int
    loss: str = "crossentropy"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    goal: float

    @property
    def title(self) -> str:
        return f"{self.name} b{self.batch} {'SGD' if self.optimizer == 'sgd' else 'Adam'}"


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            name="seed 2-2-1", net=Mlp((2, 2, 1), "sigmoid", "sigmoid"), batch=1, steps=2000,
            loss="mse", optimizer="sgd", learning_rate=0.1, goal=0.9,
        ),
        Workload(name="xor 2-8-1", net=Mlp((2, 8, 1), "tanh"), batch=4, steps=2000, loss="mse", goal=8),
        Workload(name="iris 4-16-3", net=Mlp((4, 16, 3)), batch=16, steps=1000, goal=5),
        Workload(name="digits 64-100-10", net=Mlp((64, 100, 10)), batch=200, steps=50, goal=2),
        Workload(name="mnist 784-128-10", net=Mlp((784, 128, 10)), batch=64, steps=50, goal=2.2),
        Workload(name="mnist 784-512-512-10", net=Mlp((784, 512, 512, 10)), batch=128, steps=25, goal=1.3),
        Workload(name="wide 1024-2048-2048-10", net=Mlp((1024, 2048, 2048, 10)), batch=256, steps=8, goal=1.15),
        Workload(name="LeNet-5 28x28", net=LeNet5(), batch=128, steps=16, goal=5),
        Workload(  # with steps of 1e-3 its loss rises, and rounding grows until no two libraries agree
            name="CNN with batch norm 32x32x3", net=ConvNet(), batch=64, steps=4, learning_rate=1e-4, goal=1.4
        ),
        Workload(name="LSTM 28->64, T 28", net=Lstm(), batch=64, steps=16, goal=2.4),
        Workload(name="char transformer 4x128, T 64", net=Transformer(), batch=16, steps=8, goal=1.5),
    )
}  # fmt: skip
