"""Padding never changes what comes out for real positions: for every layer that takes sequences."""

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.errors import DtypeError, ShapeError

LENGTHS = np.array([6, 4, 1])
MASK = np.arange(6) < LENGTHS[:, None]

# Layers whose results for a padded batch are those for each sequence by itself, without padding.
EXACT = [
    nn.Dense(4, "tanh"),
    nn.LayerNorm(),
    nn.RMSNorm(),
    nn.GroupNorm(groups=2),
    nn.Conv1d(4, 3, padding="same"),
    nn.SimpleRNN(3, return_sequences=True),
    nn.GRU(3),
    nn.LSTM(3, return_sequences=True, bidirectional=True),
    nn.LSTM(3, bidirectional=True),
    nn.MultiHeadAttention(2),
    nn.MultiHeadAttention(2, causal=True),
    nn.TransformerBlock(2, hidden=3),
    nn.PositionEmbedding(6),
    nn.PositionEncoding(),
    nn.GlobalAvgPool(),
    nn.GlobalMaxPool(),
    nn.MaxPool(2, padding="same"),
    nn.AvgPool(2, padding="same"),
    nn.Residual([nn.Conv1d(4, 3, padding="same"), nn.Dense(4)]),
    nn.Concat([nn.Dense(2), nn.LSTM(3, return_sequences=True)]),
    nn.Sequential([nn.Conv1d(4, 5, padding="same"), nn.MaxPool(2, padding="same"), nn.GRU(3)]),
]


def network(layer: nn.Layer, length: int = 6) -> nn.Network:
    return nn.Network([layer], (length, 4), seed=3, dtype="float64")


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 6, 4))


@pytest.mark.parametrize("layer", EXACT, ids=lambda v: type(v).__name__)
def test_a_padded_sequence_gives_what_it_gives_alone(layer):
    net, x = network(layer), noise()
    y = net(x, mask=MASK)
    for i, n in enumerate(LENGTHS):
        alone = net(x[i : i + 1, :n])[0]
        found = y[i] if y.ndim == 2 else y[i, : len(alone)]
        np.testing.assert_allclose(found, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [*EXACT, nn.Flatten(), nn.Reshape((24,)), nn.BatchNorm(), nn.Permute((2, 1))])
def test_what_stands_at_padded_positions_is_of_no_matter(layer):
    net, x = network(layer), noise()
    garbage = np.where(MASK[..., None], x, 1e6 * noise(1))

    def run(x):
        y, state = net.forward(net.params, net.state, x, training=True, key=ops.random.key(0), mask=MASK)
        return y, state

    (first, state), (second, other) = run(x), run(garbage)
    if first.ndim == 3 and first.shape[1] == 6:  # what is given for padding is of no matter either
        first, second = first[MASK], second[MASK]
    elif first.ndim == 3 and not isinstance(layer, nn.Permute):
        first, second = first[MASK[:, ::2]], second[MASK[:, ::2]]
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)
    for name in state:
        np.testing.assert_allclose(state[name], other[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "layer", [nn.LSTM(3, bidirectional=True), nn.GlobalMaxPool(), nn.TransformerBlock(2, hidden=3)]
)
def test_no_gradient_reaches_padded_positions(layer):
    net = nn.Network([layer, nn.GlobalAvgPool()] if isinstance(layer, nn.TransformerBlock) else [layer], (6, 4))
    x = noise().astype(np.float32)

    def loss(x):
        y = net.forward(net.params, net.state, x, mask=MASK)[0]
        return ops.sum(y * y)

    gradient = bl.grad(loss)(x)
    assert not gradient[~MASK].any()
    assert gradient[MASK].any()


def test_an_embedding_makes_the_mask_and_layers_hand_it_on():
    layers = [nn.Embedding(9, 4, padding=0), nn.Dropout(0.1), nn.TransformerBlock(2), nn.LSTM(3), nn.Dense(2)]
    net = nn.Network(layers, (6,), dtype="float64")
    tokens = np.array([[3, 1, 4, 1, 5, 2], [2, 7, 0, 0, 0, 0]])
    y = net(tokens)
    np.testing.assert_allclose(y[1], net(tokens[1:, :2])[0], rtol=1e-10)
    net.params["embedding_1.weight"] = np.concatenate([np.full((1, 4), 1e3), net.params["embedding_1.weight"][1:]])
    np.testing.assert_allclose(net(tokens), y, rtol=1e-10)


def test_masking_finds_padding_by_its_value():
    net = nn.Network([nn.Masking(-1.0), nn.GRU(3)], (6, 4), dtype="float64")
    x = np.where(MASK[..., None], noise(), -1.0)
    np.testing.assert_allclose(net(x)[1], net(x[1:2, :4])[0], rtol=1e-10)


def test_padding_in_front_works_as_well():
    net, x = network(nn.LSTM(3)), noise()
    np.testing.assert_allclose(net(x[1:2], mask=MASK[2:, ::-1] | MASK[1:2, ::-1])[0], net(x[1:2, 2:])[0], rtol=1e-10)


def test_a_sequence_of_nothing_but_padding_gives_zeros():
    x, nothing = noise(), np.zeros((3, 6), bool)
    for layer in (nn.LSTM(3), nn.GlobalAvgPool(), nn.GlobalMaxPool(), nn.MaxPool(2), nn.AvgPool(2)):
        y = network(layer)(x, mask=nothing)
        assert not y.any()
    assert np.isfinite(network(nn.TransformerBlock(2))(x, mask=nothing)).all()


def test_what_cannot_be_done_with_a_mask_is_refused():
    with pytest.raises(ShapeError, match=r"layer conv1d_1.*padding mask fits no more"):
        network(nn.Conv1d(2, 3))(noise(), mask=MASK)
    with pytest.raises(ShapeError, match=r"layer conv2d_1.*takes images"):
        nn.Network([nn.Conv2d(2, 3)], (6, 4, 2))(np.ones((3, 6, 4, 2)), mask=MASK)
    with pytest.raises(ShapeError, match=r"layer gru_1.*mask has the shape \(3, 6\), which does not fit"):
        network(nn.GRU(2), 5)(noise()[:, :5], mask=MASK)
    with pytest.raises(DtypeError, match="a padding mask is booleans"):
        network(nn.GRU(2))(noise(), mask=MASK.astype(float))
