"""The table of a network: multiply-adds against formulas worked out by hand, and text that fits."""

import numpy as np
import pytest

from backlit import nn


def costs(layers, shape, dtype="float32"):
    return {row.path: row.multiply_adds for row in nn.Network(layers, shape, dtype=dtype).summary().rows}


COUNTS = [
    (nn.Dense(4), (3,), 12),
    (nn.Dense(4), (5, 3), 60),
    (nn.Conv1d(4, 3), (10, 2), 8 * 3 * 2 * 4),
    (nn.Conv2d(6, 3, padding="same", stride=2), (8, 8, 4), 16 * 9 * 4 * 6),
    (nn.Conv2d(6, 3, padding="same", groups=2), (8, 8, 4), 64 * 9 * 2 * 6),
    (nn.ConvTranspose2d(5, 3, stride=2), (4, 4, 2), 16 * 9 * 2 * 5),
    (nn.LSTM(5), (7, 3), 7 * 4 * (3 * 5 + 5 * 5)),
    (nn.GRU(5, bidirectional=True), (7, 3), 2 * 7 * 3 * (3 * 5 + 5 * 5)),
    (nn.MultiHeadAttention(2), (6, 8), 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8),
    (nn.BatchNorm(), (8,), 0),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), COUNTS, ids=lambda v: type(v).__name__)
def test_multiply_adds_are_those_of_the_textbook(layer, shape, expected):
    assert list(costs([layer], shape).values()) == [expected]


def test_layers_inside_count_for_the_layer_around_them():
    found = costs([nn.Dense(4), nn.Residual([nn.Dense(8), nn.Dense(4)])], (3,))
    assert found == {"dense_1": 12, "residual_1": 64, "residual_1.dense_1": 32, "residual_1.dense_2": 32}
    summary = nn.Network([nn.Dense(4), nn.Residual([nn.Dense(8), nn.Dense(4)])], (3,)).summary()
    assert summary.multiply_adds == 76
    assert summary.parameters == 16 + 40 + 36
    assert [row.parameters for row in summary.rows] == [16, 76, 40, 36]


NET = [
    nn.Conv2d(32, 3, activation="relu", padding="same"),
    nn.BatchNorm(),
    nn.Residual([nn.Conv2d(32, 3, padding="same"), nn.Activation("relu"), nn.Conv2d(32, 3, padding="same")]),
    nn.MaxPool(2),
    nn.Flatten(),
    nn.Dense(100, name="classes"),
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_and_holds_every_number(width):
    text = nn.Network(NET, (28, 28, 1)).summary().text(width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "classes (Dense)" in line)
    assert "627,300" in row
    assert "627,200" in row
    assert " 100 " in row
    inner = next(line for line in lines if line.strip().startswith("conv2d_2") or "    conv2d_2" in line)
    assert "28 × 28 × 32" in inner
    assert "total" in text
    assert f"{32 * 10 + 64 + 2 * (9 * 32 + 1) * 32 + 627_300:,}" in text


def test_the_summary_prints_without_being_asked():
    net = nn.Network([nn.Dense(4)], (3,))
    assert "dense_1" in str(net.summary())
    assert repr(net.summary()) == str(net.summary())
    assert "16 parameters" in repr(net)


def test_a_network_of_tokens_is_summed_up_as_well():
    summary = nn.Network([nn.Embedding(50, 8, padding=0), nn.TransformerBlock(2), nn.GlobalAvgPool()], (6,)).summary()
    assert [row.shape for row in summary.rows][:2] == [(6, 8), (6, 8)]
    assert summary.rows[-1].shape == (8,)
    assert summary.bytes == 4 * summary.parameters
    assert np.dtype(np.float32).itemsize == 4
