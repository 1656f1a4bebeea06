"""On paper: how data parallel training would scale over nodes of eight GPUs. Nothing here was run on a GPU.

A step computes, then averages the gradients of all n = g m GPUs, of m nodes of g. First each node sums over its own
links, then nodes sum among each other, each GPU 1 / g of the gradients, then each node tells all of it to its GPUs:

    compute         F / R                                        F operations a GPU, R sustained operations a second
    within a node   2 (g - 1) / g · S / B + 2 (g - 1) a          S bytes of gradients, B bytes a second, a seconds a hop
    among nodes     2 (m - 1) / m · (S / g) / B' + 2 (m - 1) a'

Both are the ring all-reduce (Patarasuk & Yuan 2009). A share of the communication may hide behind the backward pass,
which is two thirds of the compute; the model gives both ends, nothing hidden and as much as fits.

    weak scaling      the same batch on every GPU: efficiency is compute / step
    strong scaling    one batch cut over all GPUs: efficiency is compute / step, with F / n
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs. Operations a second that a GPU sustains; bytes a second one way and seconds a hop, for each GPU,
    within a node (`inner`) and to other nodes (`outer`)."""

    name: str
    rate: float
    node: int
    inner: float
    outer: float
    inner_hop: float
    outer_hop: float


H100 = Cluster(
    name="NVIDIA H100 SXM, 8 a node",
    rate=4e14,  # 400 TFLOP/s of 989 (bfloat16): what Llama Team 2024, table 4, reports for 16,384 of them
    node=8,
    inner=4.5e11,  # NVLink 4: 900 GB/s, both ways together (H100 datasheet)
    outer=5e10,  # 400 Gbit/s a GPU (Llama Team 2024, section 3.3.1)
    inner_hop=2e-6,  # assumed
    outer_hop=5e-6,  # assumed
)


@dataclass(frozen=True)
class Training:
    """What is trained: parameters, operations for one example, and examples a step (on each GPU; or in all)."""

    name: str
    short: str
    parameters: float
    operations: float
    batch: int
    total: int
    gradient_bytes: int = 4  # float32, as the executor sums them

    @classmethod
    def of_tokens(cls, name: str, short: str, parameters: float, length: int, batch: int, total: int) -> Training:
        """A transformer: six operations a parameter and token (Kaplan et al. 2020); an example is a sequence."""
        return cls(name, short, parameters, 6 * parameters * length, batch, total)


MODELS = (
    Training.of_tokens("transformer, 124 million parameters, 1,024 tokens", "124M", 124e6, 1024, batch=16, total=1024),
    Training.of_tokens("transformer, 1.3 billion parameters, 2,048 tokens", "1.3B", 1.3e9, 2048, batch=8, total=1024),
    Training("dense 1024-2048-2048-10", "dense", 6.3e6, 6 * 6.3e6, batch=4096, total=65536),
)
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)


def ring(count: int, size: float, bandwidth: float, hop: float) -> float:
    """Seconds of a ring all-reduce of `size` bytes over `count` members."""
    return 2 * (count - 1) / count * size / bandwidth + 2 * (count - 1) * hop


def all_reduce(cluster: Cluster, gpus: int, size: float) -> float:
    """Seconds to sum `size` bytes over all GPUs, within nodes and then among them."""
    inner = min(gpus, cluster.node)
    nodes = -(-gpus // cluster.node)
    return ring(inner, size, cluster.inner, cluster.inner_hop) + ring(
        nodes, size / inner, cluster.outer, cluster.outer_hop
    )


@dataclass(frozen=True)
class Step:
    """Seconds of compute and of communication, and the efficiency with nothing hidden and with as much as fits."""

    gpus: int
    batch: float
    compute: float
    communication: float

    @property
    def plain(self) -> float:
        return self.compute / (self.compute + self.communication)

    @property
    def hidden(self) -> float:
        exposed = max(0.0, self.communication - 2 / 3 * self.compute)
        return self.compute / (self.compute + exposed)


def weak(training: Training, cluster: Cluster, gpus: int) -> Step:
    """A step in which every GPU has `batch` examples."""
    return _step(training, cluster, gpus, training.batch)


def strong(training: Training, cluster: Cluster, gpus: int) -> Step:
    """A step in which all GPUs share `total` examples. A GPU with few computes less well than this says."""
    return _step(training, cluster, gpus, training.total / gpus)


def _step(training: Training, cluster: Cluster, gpus: int, batch: float) -> Step:
    size = training.parameters * training.gradient_bytes
    return Step(gpus, batch, training.operations * batch / cluster.rate, all_reduce(cluster, gpus, size))
