"""Every optimiser and schedule, step by step, against PyTorch (stored by make_oracles.py) and optax (run here)."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import backlit as bl
from backlit import ops, optim

STORED = load_file(Path(__file__).with_name("torch_oracles.safetensors"))
X, Y, WEIGHT, BIAS = (STORED[f"problem/{name}"] for name in ("x", "y", "weight", "bias"))
STEPS = 100
BATCHES = (np.arange(STEPS)[:, None] + np.arange(3)) % len(X)  # as in make_oracles.py

# The settings stand in make_oracles.py.
TORCH = {
    "sgd": optim.SGD(0.1),
    "sgd-decay": optim.SGD(0.1, weight_decay=0.05),
    "momentum": optim.Momentum(0.05),
    "momentum-decay": optim.Momentum(0.05, momentum=0.8, weight_decay=0.05),
    "nesterov": optim.Nesterov(0.05),
    "adagrad": optim.Adagrad(0.1),
    "adagrad-start": optim.Adagrad(0.1, initial_accumulator=0.1, epsilon=1e-3),
    "rmsprop": optim.RMSProp(0.01),
    "rmsprop-eps": optim.RMSProp(0.01, rho=0.99, epsilon=1e-2),
    "rmsprop-centered": optim.RMSProp(0.01, epsilon=1e-3, centered=True),
    "rmsprop-momentum": optim.RMSProp(0.01, epsilon=1e-3, momentum=0.9),
    "adam": optim.Adam(0.01),
    "adam-decay": optim.Adam(0.01, beta1=0.8, beta2=0.99, epsilon=1e-3, weight_decay=0.05),
    "adamw": optim.AdamW(0.01, weight_decay=0.05),
    "adamax": optim.Adamax(0.01),
    "adamax-eps": optim.Adamax(0.01, beta1=0.8, beta2=0.9, epsilon=1e-2),
    "nadam": optim.NAdam(0.01),
    "nadam-fast": optim.NAdam(0.01, momentum_decay=0.5),
}

_COSINE = optim.Warmup(optim.Cosine(0.1, 60, 0.01), 10)
_OPTAX_COSINE = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 70, 0.01)  # in float32 if it is given an integer
OPTAX = {
    "sgd": (optim.SGD(0.1), optax.sgd(0.1)),
    "momentum": (optim.Momentum(0.05), optax.sgd(0.05, momentum=0.9)),
    "nesterov": (optim.Nesterov(0.05), optax.sgd(0.05, momentum=0.9, nesterov=True)),
    "adagrad": (
        optim.Adagrad(0.1, initial_accumulator=0.1, epsilon=0.0),
        optax.adagrad(0.1, initial_accumulator_value=0.1, eps=0.0),
    ),
    "rmsprop": (optim.RMSProp(0.01), optax.rmsprop(0.01, decay=0.9, eps=1e-8, eps_in_sqrt=False)),
    "rmsprop-both": (
        optim.RMSProp(0.01, epsilon=1e-3, centered=True, momentum=0.5),
        optax.rmsprop(0.01, decay=0.9, eps=1e-3, eps_in_sqrt=False, centered=True, momentum=0.5),
    ),
    "adam": (optim.Adam(0.01), optax.adam(0.01)),
    "adamw": (optim.AdamW(0.01, weight_decay=0.05), optax.adamw(0.01, weight_decay=0.05)),
    "adamax": (optim.Adamax(0.01), optax.adamax(0.01)),
    "nadam": (optim.NAdam(0.01, momentum_decay=None), optax.nadam(0.01)),
    "lion": (optim.Lion(0.01, weight_decay=0.05), optax.lion(0.01, weight_decay=0.05)),
    "schedule": (optim.Momentum(_COSINE), optax.sgd(lambda t: _OPTAX_COSINE(t * 1.0), 0.9)),
    "clipped": (optim.SGD(0.1, clip_global_norm=0.3), optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1))),
    "decay-of-weights": (
        optim.AdamW(0.01, weight_decay=0.5, groups={"bias": {"weight_decay": 0.0}}),
        optax.adamw(0.01, weight_decay=0.5, mask={"weight": True, "bias": False}),
    ),
    "two-rates": (
        optim.Adam(0.01, groups={"b*": {"learning_rate": 0.1, "beta1": 0.5}}),
        optax.partition(
            {"all": optax.adam(0.01), "b": optax.adam(0.1, b1=0.5)},
            {"weight": "all", "bias": "b"},
        ),
    ),
}


def loss(p, x, y):
    return ops.mean((ops.tanh(x @ p["weight"] + p["bias"]) - y) ** 2)


def trajectory(optimizer, dtype):
    """The parameters after every step; a step is one graph."""

    def step(params, state, x, y):
        return optimizer.update(bl.grad(loss)(params, x, y), state, params)

    step = bl.compile(step, "reference")
    x, y = X.astype(dtype), Y.astype(dtype)
    params = {"weight": WEIGHT.astype(dtype), "bias": BIAS.astype(dtype)}
    state = optimizer.init(params)
    found = []
    for batch in BATCHES:
        params, state = step(params, state, x[batch], y[batch])
        found.append(params)
    assert len(step.graphs) == 1, "the types of the state do not change from step to step"
    assert state["step"] == STEPS
    return {name: np.stack([p[name] for p in found]) for name in params}


@pytest.fixture(scope="module")
def optax_trajectories():
    """All runs in one program: compiling takes longer than running."""
    optimizers = {name: theirs for name, (_, theirs) in OPTAX.items()}

    def loss(p, x, y):
        return jnp.mean((jnp.tanh(x @ p["weight"] + p["bias"]) - y) ** 2)

    def one_step(optimizer, params, state, batch):
        gradients = jax.grad(loss)(params, jnp.asarray(X)[batch], jnp.asarray(Y)[batch])
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def run(params):
        def step(carry, batch):
            carry = {name: one_step(o, *carry[name], batch) for name, o in optimizers.items()}
            return carry, {name: params for name, (params, _) in carry.items()}

        start = {name: (params, o.init(params)) for name, o in optimizers.items()}
        return jax.lax.scan(step, start, BATCHES)[1]

    with jax.enable_x64():
        return jax.tree.map(np.asarray, run({"weight": jnp.asarray(WEIGHT), "bias": jnp.asarray(BIAS)}))


def assert_same(found, wanted, tolerance):
    for name in ("weight", "bias"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TORCH)
def test_steps_of_pytorch(name):
    wanted = {k: STORED[f"{name}/{k}"] for k in ("weight", "bias")}
    assert np.abs(wanted["weight"][-1] - WEIGHT).max() > 0.1, "a run that goes nowhere proves nothing"
    found = trajectory(TORCH[name], np.float64)
    assert found["weight"].dtype == np.float64
    assert_same(found, wanted, 1e-12)


@pytest.mark.parametrize("name", [n for n in TORCH if "-" not in n])
def test_steps_of_pytorch_in_float32(name):
    found = trajectory(TORCH[name], np.float32)
    assert found["weight"].dtype == np.float32
    assert_same(found, {k: STORED[f"{name}/{k}"] for k in ("weight", "bias")}, 1e-5)


@pytest.mark.parametrize("name", OPTAX)
def test_steps_of_optax(name, optax_trajectories):
    ours, _ = OPTAX[name]
    assert_same(trajectory(ours, np.float64), optax_trajectories[name], 1e-12)


def test_every_optimiser_has_an_oracle():
    proven = {type(o) for o in TORCH.values()} | {type(o) for o, _ in OPTAX.values()}
    assert proven >= {
        optim.SGD, optim.Momentum, optim.Nesterov, optim.RMSProp, optim.Adagrad,
        optim.Adam, optim.AdamW, optim.Adamax, optim.NAdam, optim.Lion,
    }  # fmt: skip


TORCH_SCHEDULES = {
    "stepdecay": optim.StepDecay(0.1, 7, 0.5),
    "piecewise": optim.Piecewise([0.1, 0.01, 0.001], [10, 25]),
    "exponential": optim.Exponential(0.1, 0.95),
    "linear": optim.Linear(0.1, 40, 0.025),
    "cosine": optim.Cosine(0.1, 100, 0.01),
    "onecycle": optim.OneCycle(0.1, 70),
    "warmup": optim.Warmup(optim.Cosine(0.1, 50, 0.01), 10, start=0.02),
}
OPTAX_SCHEDULES = {
    "constant": (optim.Constant(0.1), optax.constant_schedule(0.1)),
    "stepdecay": (optim.StepDecay(0.1, 7, 0.5), optax.exponential_decay(0.1, 7, 0.5, staircase=True)),
    "piecewise": (
        optim.Piecewise([0.1, 0.02, 0.03], [10, 25]),
        optax.piecewise_constant_schedule(0.1, {10: 0.2, 25: 1.5}),
    ),
    "exponential": (optim.Exponential(0.1, 0.5, every=30), optax.exponential_decay(0.1, 30, 0.5)),
    "linear": (optim.Linear(0.1, 40, 0.025), optax.linear_schedule(0.1, 0.025, 40)),
    "cosine": (optim.Cosine(0.1, 40, 0.025), optax.cosine_decay_schedule(0.1, 40, 0.25)),
    "onecycle": (optim.OneCycle(0.1, 70), optax.cosine_onecycle_schedule(70, 0.1)),
    "warmup": (_COSINE, _OPTAX_COSINE),
}


@pytest.mark.parametrize("name", TORCH_SCHEDULES)
def test_rates_of_pytorch(name):
    wanted = STORED[f"rate/{name}"]
    found = [TORCH_SCHEDULES[name](np.float64(t)) for t in range(len(wanted))]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", OPTAX_SCHEDULES)
def test_rates_of_optax(name):
    ours, theirs = OPTAX_SCHEDULES[name]
    with jax.enable_x64():
        wanted = np.broadcast_to(jax.jit(jax.vmap(theirs))(jnp.arange(110.0)), 110)
    found = [ours(np.float64(t)) for t in range(110)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-18)


def test_every_schedule_has_an_oracle():
    proven = {type(s) for s in TORCH_SCHEDULES.values()} | {type(s) for s, _ in OPTAX_SCHEDULES.values()}
    assert proven == {
        optim.Constant, optim.StepDecay, optim.Piecewise, optim.Exponential, optim.Linear, optim.Cosine,
        optim.OneCycle, optim.Warmup,
    }  # fmt: skip


CLIPS = {
    "value": (optim.clip_by_value, optax.clip),
    "global norm": (optim.clip_by_global_norm, optax.clip_by_global_norm),
}


def clipped_by_optax(clip, gradients):
    return jax.jit(lambda g: clip.update(g, optax.EmptyState())[0])(gradients)


@pytest.mark.parametrize("limit", [0.1, 2.0, 1e3])
@pytest.mark.parametrize("name", CLIPS)
def test_clipping_of_optax(name, limit):
    gradients = {"a": X, "b": [Y * 3, np.zeros(4)]}
    ours, theirs = CLIPS[name]
    with jax.enable_x64():
        wanted = jax.tree.leaves(clipped_by_optax(theirs(limit), gradients))
    found = jax.tree.leaves(ours(gradients, limit))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_clip_by_norm_is_the_global_norm_of_each_array():
    gradients = {"a": X, "b": Y * 3, "c": np.zeros(4)}
    found = optim.clip_by_norm(gradients, 2.0)
    for name, g in gradients.items():
        with jax.enable_x64():
            wanted = clipped_by_optax(optax.clip_by_global_norm(2.0), g)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-12)
