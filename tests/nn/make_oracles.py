"""Makes torch_layers.safetensors: what PyTorch's layers, activations and losses give on small inputs, in float64.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy safetensors
    /tmp/torch/bin/python tests/nn/make_oracles.py

For each case the file holds what goes in and what comes out, channels last and weights (inputs, units), as in backlit.

    lstm/x, lstm/params.weight, ...          inputs and parameters
    lstm/y                                   the result
    lstm/v                                   a random cotangent
    lstm/grad.x, lstm/grad.params.weight     the gradients of sum(v y)
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
found: dict[str, np.ndarray] = {}

Tensor = torch.Tensor
Layout = Callable[[Tensor], Tensor]


def same(t: Tensor) -> Tensor:
    return t


def turned(t: Tensor) -> Tensor:
    return t.T


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1)


def kernel(t: Tensor) -> Tensor:
    """(out, in, *window) to (*window, in, out)."""
    return t.movedim(0, -1).movedim(0, -2)


def transposed_kernel(t: Tensor) -> Tensor:
    """(in, out, *window) to (*window, in, out)."""
    return t.movedim(1, -1).movedim(0, -2)


def keep(name: str, value: Tensor) -> None:
    found[name] = np.ascontiguousarray(value.detach().numpy())


def case(
    name: str,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    params: dict[str, tuple[Tensor, Layout]],
    layout: Layout = same,
    result: Layout | None = None,
) -> None:
    """Record f(x) and its gradients. `layout` brings x to backlit's layout, `result` y; a parameter has its own."""
    result = result or layout
    if x.is_floating_point():
        x = x.clone().requires_grad_()
    y = f(x)
    v = torch.randn_like(y)
    (y * v).sum().backward()
    keep(f"{name}/x", layout(x))
    keep(f"{name}/y", result(y))
    keep(f"{name}/v", result(v))
    if x.grad is not None:
        keep(f"{name}/grad.x", layout(x.grad))
    for own, (p, bring) in params.items():
        keep(f"{name}/params.{own}", bring(p))
        keep(f"{name}/grad.params.{own}", bring(p.grad))


def shaken(module: nn.Module) -> nn.Module:
    """Random numbers in place of ones and zeros, so that no parameter goes unnoticed."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    return module


def layers() -> None:
    m = shaken(nn.Linear(4, 3))
    case("dense", m, torch.randn(5, 4), {"weight": (m.weight, turned), "bias": (m.bias, same)})

    convolutions = {
        "conv1d": (nn.Conv1d(2, 4, 3, stride=2), torch.randn(3, 2, 9)),
        "conv1d_same": (nn.Conv1d(2, 4, 3, padding="same"), torch.randn(3, 2, 7)),
        "conv2d": (nn.Conv2d(2, 3, (3, 2)), torch.randn(2, 2, 6, 5)),
        "conv2d_many": (
            nn.Conv2d(4, 6, 3, stride=(2, 1), padding=2, dilation=(1, 2), groups=2),
            torch.randn(2, 4, 7, 6),
        ),
    }
    for name, (m, x) in convolutions.items():
        shaken(m)
        case(name, m, x, {"weight": (m.weight, kernel), "bias": (m.bias, same)}, channels_last)
    m = shaken(nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1))
    params = {"weight": (m.weight, transposed_kernel), "bias": (m.bias, same)}
    case("convtranspose2d", m, torch.randn(2, 3, 4, 3), params, channels_last)

    case("maxpool", nn.MaxPool2d(3, stride=2, padding=1), torch.randn(2, 2, 7, 6), {}, channels_last)
    case("avgpool", nn.AvgPool2d(2), torch.randn(2, 3, 6, 5), {}, channels_last)
    pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    case("avgpool_padded", pool, torch.randn(2, 2, 7, 6), {}, channels_last)
    case("globalavgpool", lambda x: x.mean((2, 3)), torch.randn(2, 3, 4, 5), {}, channels_last, same)

    m = shaken(nn.Embedding(7, 3))
    case("embedding", m, torch.randint(0, 7, (4, 5)), {"weight": (m.weight, same)})
    m = shaken(nn.PReLU(3))
    case("prelu", m, torch.randn(5, 3), {"slope": (m.weight, same)})


def normalizations() -> None:
    def affine(m: nn.Module) -> dict[str, tuple[Tensor, Layout]]:
        return {"scale": (m.weight, same), "shift": (m.bias, same)}

    m = shaken(nn.BatchNorm2d(3, momentum=0.2))
    case("batchnorm", m, 2 + 3 * torch.randn(4, 3, 3, 2), affine(m), channels_last)
    keep("batchnorm/state.mean", m.running_mean)
    keep("batchnorm/state.variance", m.running_var)
    m.zero_grad()
    m.eval()
    case("batchnorm_running", m, torch.randn(2, 3, 3, 2), affine(m), channels_last)
    m = shaken(nn.LayerNorm(6))
    case("layernorm", m, torch.randn(3, 4, 6), affine(m))
    m = shaken(nn.RMSNorm(6, eps=1e-3))
    case("rmsnorm", m, torch.randn(3, 4, 6), {"scale": (m.weight, same)})
    m = shaken(nn.GroupNorm(2, 6))
    case("groupnorm", m, torch.randn(3, 6, 4, 2), affine(m), channels_last)


def recurrent() -> None:
    lengths = torch.tensor([5, 3, 1, 4])
    for kind, make in (("simplernn", nn.RNN), ("gru", nn.GRU), ("lstm", nn.LSTM)):
        for both in (False, True):
            m = shaken(make(3, 2, batch_first=True, bidirectional=both))
            merge_biases(m, kind)
            name = kind + ("_both" if both else "")
            for run, f in runs(m, lengths).items():
                m.zero_grad()
                case(f"{name}_{run}", f, torch.randn(4, 5, 3), {}, same)
                for direction in ("", "_reverse") if both else ("",):
                    keep_weights(f"{name}_{run}", m, kind, direction)


def merge_biases(m: nn.RNNBase, kind: str) -> None:
    """Make one of the two biases 0 where they are added: backlit has one. A GRU's candidate needs both."""
    with torch.no_grad():
        for direction in ("", "_reverse"):
            bias = getattr(m, f"bias_hh_l0{direction}", None)
            if bias is not None:
                bias[: 2 * m.hidden_size if kind == "gru" else None] = 0.0


def runs(m: nn.RNNBase, lengths: Tensor) -> dict[str, Layout]:
    """All results, the last, and all results of padded sequences (0 where there is padding)."""

    def last(x: Tensor) -> Tensor:
        state = m(x)[1]
        h = state[0] if isinstance(state, tuple) else state
        return torch.cat(list(h), -1)

    def padded(x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(m(packed)[0], batch_first=True)[0]

    return {"all": lambda x: m(x)[0], "last": last, "padded": padded}


def keep_weights(name: str, m: nn.RNNBase, kind: str, direction: str) -> None:
    own = "backward." if direction else ""
    names = {"weight": ("weight_ih", turned), "recurrent_weight": ("weight_hh", turned), "bias": ("bias_ih", same)}
    if kind == "gru":
        names["recurrent_bias"] = ("bias_hh", lambda t: t[2 * m.hidden_size :])
    for ours, (theirs, bring) in names.items():
        p = getattr(m, f"{theirs}_l0{direction}")
        keep(f"{name}/params.{own}{ours}", bring(p))
        keep(f"{name}/grad.params.{own}{ours}", bring(p.grad))


def attention_params(m: nn.MultiheadAttention, prefix: str = "") -> dict[str, tuple[Tensor, Layout]]:
    """PyTorch keeps the three projections in one matrix: a part of it each."""
    n = m.embed_dim
    found: dict[str, tuple[Tensor, Layout]] = {}
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(i * n, (i + 1) * n)
        found[f"{prefix}{part}_weight"] = (m.in_proj_weight, lambda t, rows=rows: t[rows].T)
        found[f"{prefix}{part}_bias"] = (m.in_proj_bias, lambda t, rows=rows: t[rows])
    found[f"{prefix}output_weight"] = (m.out_proj.weight, turned)
    found[f"{prefix}output_bias"] = (m.out_proj.bias, same)
    return found


def attention() -> None:
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    for name, kwargs in (("plain", {}), ("causal", {"attn_mask": causal}), ("padded", {"key_padding_mask": padding})):
        m = shaken(nn.MultiheadAttention(6, 2, batch_first=True))
        case(
            f"attention_{name}",
            lambda x, m=m, kwargs=kwargs: m(x, x, x, need_weights=False, **kwargs)[0],
            torch.randn(2, 5, 6),
            attention_params(m),
        )
    for first in (True, False):
        m = shaken(nn.TransformerEncoderLayer(6, 2, 8, 0.0, "gelu", batch_first=True, norm_first=first))
        norms = ("attention.layernorm_1.", "feedforward.layernorm_1.") if first else ("norm_1.", "norm_2.")
        params = attention_params(m.self_attn, "attention.multiheadattention_1.")
        for prefix, norm in zip(norms, (m.norm1, m.norm2), strict=True):
            params |= {f"{prefix}scale": (norm.weight, same), f"{prefix}shift": (norm.bias, same)}
        for i, dense in enumerate((m.linear1, m.linear2), 1):
            params[f"feedforward.dense_{i}.weight"] = (dense.weight, turned)
            params[f"feedforward.dense_{i}.bias"] = (dense.bias, same)
        name = "transformer_norm_first" if first else "transformer_norm_last"
        case(name, lambda x, m=m: m(x, src_mask=causal), torch.randn(2, 5, 6), params)


def activations() -> None:
    functions = {
        "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu,
        "elu": F.elu, "selu": F.selu, "celu": F.celu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish,
        "softplus": F.softplus, "softsign": F.softsign, "hard_tanh": F.hardtanh, "hard_sigmoid": F.hardsigmoid,
        "hard_silu": F.hardswish, "log_sigmoid": F.logsigmoid, "exp": torch.exp,
        "softmax": lambda x: F.softmax(x, -1), "log_softmax": lambda x: F.log_softmax(x, -1), "linear": lambda x: x,
    }  # fmt: skip
    for name, f in functions.items():
        case(f"activation_{name}", f, torch.cat([3 * torch.randn(4, 5), 20 * torch.randn(1, 5)]), {})


def losses() -> None:
    z, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    ignoring = torch.tensor([0, -1, 1, 1, -1, 0])
    rows, weights = torch.softmax(torch.randn(6, 4), -1), torch.tensor([0.5, 1.0, 2.0, 0.3])
    numbers, chances = torch.randn(6, 4), torch.rand(6, 4).round(decimals=2)
    sequence = torch.randn(3, 5, 4)
    cases = {
        "mse": (z, numbers, F.mse_loss),
        "half_mse": (z, numbers, lambda z, y: 0.5 * ((z - y) ** 2).sum(-1).mean()),
        "mae": (z, numbers, F.l1_loss),
        "huber": (z, numbers, lambda z, y: F.huber_loss(z, y, delta=0.7)),
        "bce": (10 * z, chances, F.binary_cross_entropy_with_logits),
        "ce": (10 * z, labels, F.cross_entropy),
        "ce_rows": (z, rows, F.cross_entropy),
        "ce_smooth": (z, labels, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
        "ce_rows_smooth": (z, rows, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
        "ce_weights": (z, labels, lambda z, y: F.cross_entropy(z, y, weight=weights)),
        "ce_ignore": (z, ignoring, lambda z, y: F.cross_entropy(z, y, weight=weights, ignore_index=-1)),
        "ce_sequence": (
            sequence, torch.randint(0, 4, (3, 5)), lambda z, y: F.cross_entropy(z.movedim(-1, 1), y)
        ),
        "kl": (z, rows, lambda z, y: F.kl_div(F.log_softmax(z, -1), y, reduction="batchmean")),
        "hinge": (z[:, :1], (chances[:, :1] > 0.5).double(), lambda z, y: F.relu(1 - (2 * y - 1) * z).mean()),
    }  # fmt: skip
    for name, (x, y, f) in cases.items():
        x = x.clone().requires_grad_()
        loss = f(x, y)
        loss.backward()
        for part, value in (("x", x), ("target", y), ("loss", loss), ("grad.x", x.grad)):
            keep(f"loss_{name}/{part}", value)


for make in (layers, normalizations, recurrent, attention, activations, losses):
    make()
save_file(found, Path(__file__).parent / "torch_layers.safetensors")
print(f"{len(found)} arrays, {sum(a.nbytes for a in found.values()) / 1000:.0f} kB")
