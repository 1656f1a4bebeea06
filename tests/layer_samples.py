"""Samples of every layer: the layer, the shape of one example, that of its result, and how many parameters it has."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit import nn

UPPER = nn.Activation("tanh", name="upper")


@dataclass(frozen=True)
class Sample:
    layer: nn.Layer
    shape: tuple[int, ...]
    result: tuple[int, ...]
    parameters: int
    integers: bool = False

    @property
    def id(self) -> str:
        return f"{type(self.layer).__name__}{self.shape}"

    def batch(self, size: int = 3, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
        random = np.random.default_rng(seed)
        if self.integers:
            return random.integers(0, 5, (size, *self.shape))
        return random.standard_normal((size, *self.shape)).astype(dtype)


SAMPLES = [
    Sample(nn.Dense(4, "tanh"), (3,), (4,), 16),
    Sample(nn.Dense(4, bias=False, weight_init="he_normal"), (2, 3), (2, 4), 12),
    Sample(nn.Activation("gelu"), (2, 3), (2, 3), 0),
    Sample(nn.PReLU(), (4,), (4,), 4),
    Sample(nn.Conv1d(4, 3, activation="tanh", padding="same"), (6, 2), (6, 4), 28),
    Sample(nn.Conv1d(4, 2, stride=2, dilation=2, groups=2, bias=False), (7, 2), (3, 4), 8),
    Sample(nn.Conv2d(3, (2, 3), stride=(1, 2), padding=1), (4, 5, 2), (5, 3, 3), 39),
    Sample(nn.ConvTranspose2d(2, 3, stride=2, padding="same"), (2, 3, 2), (4, 6, 2), 38),
    Sample(nn.MaxPool(2), (4, 6, 2), (2, 3, 2), 0),
    Sample(nn.AvgPool(3, stride=2, padding="same"), (7, 2), (4, 2), 0),
    Sample(nn.GlobalAvgPool(), (3, 4, 2), (2,), 0),
    Sample(nn.GlobalMaxPool(), (5, 2), (2,), 0),
    Sample(nn.Flatten(), (2, 3), (6,), 0),
    Sample(nn.Reshape((3, -1)), (2, 6), (3, 4), 0),
    Sample(nn.Permute((2, 1)), (2, 3), (3, 2), 0),
    Sample(nn.Embedding(5, 4), (6,), (6, 4), 20, integers=True),
    Sample(nn.PositionEmbedding(6), (4, 3), (4, 3), 18),
    Sample(nn.PositionEncoding(), (4, 5), (4, 5), 0),
    Sample(nn.Masking(), (4, 3), (4, 3), 0),
    Sample(nn.Dropout(0.3), (5,), (5,), 0),
    Sample(nn.BatchNorm(), (3, 2), (3, 2), 4),
    Sample(nn.LayerNorm(affine=False), (3, 4), (3, 4), 0),
    Sample(nn.LayerNorm(), (4,), (4,), 8),
    Sample(nn.RMSNorm(), (3, 4), (3, 4), 4),
    Sample(nn.GroupNorm(groups=2), (3, 2, 4), (3, 2, 4), 8),
    Sample(nn.SimpleRNN(3), (4, 2), (3,), 18),
    Sample(nn.GRU(3, return_sequences=True), (4, 2), (4, 3), 57),
    Sample(nn.LSTM(2, bidirectional=True), (4, 3), (4,), 96),
    Sample(nn.MultiHeadAttention(2, causal=True), (4, 6), (4, 6), 168),
    Sample(nn.MultiHeadAttention(3, size=2), (4, 5), (4, 5), 143),
    Sample(nn.TransformerBlock(2, hidden=5, dropout=0.2), (3, 4), (3, 4), 145),
    Sample(nn.Sequential((nn.Dense(4, "tanh"), nn.BatchNorm(), nn.Dense(2))), (3,), (2,), 34),
    Sample(nn.Residual((nn.Dense(4, "tanh"), UPPER), shortcut=nn.Dense(4)), (3,), (4,), 32),
    Sample(nn.Add([nn.Dense(4), [nn.Dense(4), nn.Activation("tanh")]]), (3,), (4,), 32),
    Sample(nn.Concat([nn.Dense(4), nn.Dense(2)]), (3,), (6,), 24),
]
