"""Layers, activations and losses against PyTorch's numbers (make_oracles.py), results and gradients, in float64."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import backlit as bl
from backlit import nn, ops
from backlit.ir import Type
from backlit.nn.activations import ACTIVATIONS
from backlit.nn.layer import Context

LENGTHS = np.array([5, 3, 1, 4])


@cache
def arrays() -> dict[str, np.ndarray]:
    return load_file(Path(__file__).parent / "torch_layers.safetensors")


def part(name: str) -> dict[str, np.ndarray]:
    """The arrays of one case."""
    return {k.removeprefix(f"{name}/"): v for k, v in arrays().items() if k.startswith(f"{name}/")}


def params_of(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix("params."): v for k, v in case.items() if k.startswith("params.")}


def same(found: Any, expected: np.ndarray, what: str) -> None:
    rtol = 1e-7 if "hard_sigmoid: gradient" in what else 1e-9  # torch's gradient has 1/6 in single precision
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-11, err_msg=what)


def check(name: str, layer: nn.Layer, state: dict | None = None, training: bool = False, mask: Any = None) -> Context:
    """The layer gives the case's result and gradients, and takes parameters of its names and shapes."""
    case = part(name)
    params, x = params_of(case), case["x"]
    own = layer.init(ops.random.key(0), Type(x.dtype, x.shape[1:]))
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in params.items()}
    ctx = Context(state, training=training, mask=mask)

    def result(params: Any, x: Any) -> Any:
        inner = ctx if not training else Context(state, training=True, mask=mask)
        return layer.apply(params, x, inner)

    floating = x.dtype.kind == "f"
    y, back = bl.vjp(result, params, x) if floating else bl.vjp(lambda params: result(params, x), params)
    same(y, case["y"], f"{name}: result")
    gradients = back(case["v"])
    for own_name, gradient in gradients[0].items():
        same(gradient, case[f"grad.params.{own_name}"], f"{name}: gradient of {own_name}")
    if floating:
        same(gradients[1], case["grad.x"], f"{name}: gradient of x")
    return ctx


LAYERS = {
    "dense": nn.Dense(3),
    "conv1d": nn.Conv1d(4, 3, stride=2),
    "conv1d_same": nn.Conv1d(4, 3, padding="same"),
    "conv2d": nn.Conv2d(3, (3, 2)),
    "conv2d_many": nn.Conv2d(6, 3, stride=(2, 1), padding=2, dilation=(1, 2), groups=2),
    "convtranspose2d": nn.ConvTranspose2d(2, 3, stride=2, padding=1),
    "maxpool": nn.MaxPool(3, stride=2, padding=1),
    "avgpool": nn.AvgPool(2),
    "avgpool_padded": nn.AvgPool(3, stride=2, padding=1),
    "globalavgpool": nn.GlobalAvgPool(),
    "embedding": nn.Embedding(7, 3),
    "prelu": nn.PReLU(),
    "layernorm": nn.LayerNorm(),
    "rmsnorm": nn.RMSNorm(epsilon=1e-3),
    "groupnorm": nn.GroupNorm(groups=2),
    "attention_plain": nn.MultiHeadAttention(2),
    "attention_causal": nn.MultiHeadAttention(2, causal=True),
    "transformer_norm_first": nn.TransformerBlock(2, hidden=8, causal=True),
    "transformer_norm_last": nn.TransformerBlock(2, hidden=8, causal=True, norm_first=False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_torchs_numbers(name):
    check(name, LAYERS[name])


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["simplernn", "gru", "lstm"])
@pytest.mark.parametrize("run", ["all", "last", "padded"])
def test_recurrent_layers_give_torchs_numbers(kind, both, run):
    make = {"simplernn": nn.SimpleRNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind]
    layer = make(2, return_sequences=run != "last", bidirectional=both)
    mask = np.arange(5) < LENGTHS[:, None] if run == "padded" else None
    check(f"{kind}{'_both' * both}_{run}", layer, mask=mask)


def test_attention_gives_torchs_numbers_where_padding_is_left_out():
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    check("attention_padded", nn.MultiHeadAttention(2), mask=mask)


def test_batch_norm_gives_torchs_numbers_and_running_statistics():
    case, layer = part("batchnorm"), nn.BatchNorm(momentum=0.8)  # torch counts the new part, we the old
    start = layer.init_state(Type(np.dtype(np.float64), (3, 2, 3)))
    check("batchnorm", layer, start, training=True)
    ctx = Context(start, training=True)
    layer.apply(params_of(case), case["x"], ctx)
    for name in ("mean", "variance"):
        same(ctx.new_state()[name], case[f"state.{name}"], name)
    check("batchnorm_running", layer, {n: case[f"state.{n}"] for n in ("mean", "variance")})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_give_torchs_numbers(name):
    check(f"activation_{name}", nn.Activation(name))


WEIGHTS = (0.5, 1.0, 2.0, 0.3)
LOSSES = {
    "mse": nn.losses.get("mse"),
    "half_mse": nn.losses.get("half_mse"),
    "mae": nn.losses.get("mae"),
    "huber": nn.losses.Huber(delta=0.7),
    "bce": nn.losses.get("binary_crossentropy"),
    "ce": nn.losses.get("crossentropy"),
    "ce_rows": nn.losses.get("crossentropy"),
    "ce_smooth": nn.losses.CrossEntropy(label_smoothing=0.1),
    "ce_rows_smooth": nn.losses.CrossEntropy(label_smoothing=0.1),
    "ce_weights": nn.losses.CrossEntropy(class_weight=WEIGHTS),
    "ce_ignore": nn.losses.CrossEntropy(class_weight=WEIGHTS, ignore=-1),
    "ce_sequence": nn.losses.get("crossentropy"),
    "kl": nn.losses.get("kl"),
    "hinge": nn.losses.get("hinge"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_torchs_numbers(name):
    case = part(f"loss_{name}")
    loss, gradient = bl.value_and_grad(LOSSES[name])(case["x"], case["target"])
    same(loss, case["loss"], f"{name}: loss")
    same(gradient, case["grad.x"], f"{name}: gradient")
    same(LOSSES[name](case["x"], case["target"]), case["loss"], f"{name}: computed at once")


def test_every_case_of_the_file_is_used():
    used = {*LAYERS, "attention_padded", "batchnorm", "batchnorm_running"}
    used |= {f"activation_{name}" for name in ACTIVATIONS} | {f"loss_{name}" for name in LOSSES}
    used |= {
        f"{k}{b}_{r}" for k in ("simplernn", "gru", "lstm") for b in ("", "_both") for r in ("all", "last", "padded")
    }
    assert {k.split("/")[0] for k in arrays()} == used
