"""Makes torch_oracles.safetensors: what PyTorch's optimisers and schedules do on a small problem, in float64.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 numpy safetensors
    /tmp/torch/bin/python tests/optim/make_oracles.py

The file holds the problem (x, y and the first parameters), for each run the parameters after every step
("adam/weight": steps, inputs, units), and for each schedule the rate of every step ("rate/cosine": steps).
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

STEPS = 100
torch.set_default_dtype(torch.float64)

RUNS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd-decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "momentum-decay": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.05}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "adagrad-start": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-8}),
    "rmsprop-eps": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.99, "eps": 1e-2}),
    "rmsprop-centered": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "centered": True}),
    "rmsprop-momentum": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam-decay": (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.05}),
    "adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "adamax-eps": (torch.optim.Adamax, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-2}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
    "nadam-fast": (torch.optim.NAdam, {"lr": 0.01, "momentum_decay": 0.5}),
}


def _sequence(optimizer):
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=10)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.01)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, decay], [10])


SCHEDULES = {
    "stepdecay": lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5),
    "piecewise": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 25], 0.1),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95),
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=40),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.01),
    # 71 steps with the peak at 0.3 * 70 are our 70 steps: PyTorch counts the first and the last of them.
    "onecycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 71, pct_start=(0.3 * 70 + 1) / 71),
    "warmup": _sequence,
}


def problem():
    """Six examples, three inputs, two units."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(6, 3)),
        "y": rng.normal(size=(6, 2)),
        "weight": rng.normal(size=(3, 2)),
        "bias": rng.normal(size=2),
    }


def run(cls, settings):
    """The parameters after every step: mean squared error of tanh(x weight + bias).

    The batch of step t is the examples t, t + 1 and t + 2 (after the last comes the first again). With all examples in
    every batch the gradients would go to 0, and what divides by their size would amplify rounding.
    """
    x, y, weight, bias = (torch.tensor(a) for a in problem().values())
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = cls([weight, bias], **settings)
    found = {"weight": [], "bias": []}
    for t in range(STEPS):
        batch = torch.arange(t, t + 3) % len(x)
        optimizer.zero_grad()
        ((torch.tanh(x[batch] @ weight + bias) - y[batch]) ** 2).mean().backward()
        optimizer.step()
        found["weight"].append(weight.detach().numpy().copy())
        found["bias"].append(bias.detach().numpy().copy())
    return {name: np.stack(values) for name, values in found.items()}


def rates(schedule):
    """The rate of every step, starting from 0.1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = schedule(optimizer)
    found = []
    for _ in range(70 if schedule is SCHEDULES["onecycle"] else 60 if schedule is _sequence else STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


if __name__ == "__main__":
    tensors = {f"problem/{k}": v for k, v in problem().items()}
    for name, (cls, settings) in RUNS.items():
        tensors |= {f"{name}/{k}": v for k, v in run(cls, settings).items()}
    tensors |= {f"rate/{name}": rates(schedule) for name, schedule in SCHEDULES.items()}
    file = Path(__file__).with_name("torch_oracles.safetensors")
    save_file(tensors, file, metadata={"torch": torch.__version__})
    print(f"{file}: {len(tensors)} arrays, {file.stat().st_size} bytes")
