"""The executor "xla" on networks: every layer in both precisions, random numbers, and training on eight devices."""

import numpy as np
import pytest
from graphs_at_once import agree
from layer_samples import SAMPLES

import backlit as bl
from backlit import nn, ops, optim
from backlit.executors import get
from backlit.executors.xla import XLA
from backlit.ir import Type
from backlit.nn.layer import Context, build
from backlit.pytree import flatten
from backlit.tracing import trace_function
from backlit.train import Trainer
from backlit.train.feeding import Stretch

KEY = ops.random.key(7)


def layers(dtype):
    """Every layer in training, with its gradients and its state, as graphs."""
    for sample in SAMPLES:
        kind = np.dtype(np.int64 if sample.integers else dtype)
        made = build("sample", sample.layer, KEY, Type(kind, sample.shape))
        params, state = ({k: np.asarray(v, dtype) for k, v in d.items()} for d in (made.params, made.state))
        w = np.random.default_rng(2).standard_normal((3, *sample.result)).astype(dtype)

        def loss(params, x, sample=sample, state=state, w=w):
            ctx = Context(state, training=True, key=KEY)
            y = sample.layer.apply(params, x, ctx)
            return ops.sum(w * y), (y, ctx.new_state())

        f = bl.value_and_grad(loss, argnums=0 if sample.integers else (0, 1), has_aux=True)
        given = params, sample.batch(dtype=dtype)
        yield sample.id, trace_function(f, *given).graph, flatten(given)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_and_its_gradients_agree_with_the_reference(dtype):
    agree("xla", layers(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_numbers_are_the_same(dtype):
    def draw(key):
        keys = ops.random.split(key, 5)
        return (
            keys,
            ops.random.bits(keys[0], (3, 5)),
            ops.random.bernoulli(keys[1], 0.3, (50,)),
            ops.random.uniform(keys[2], (7, 3), dtype=dtype),
            ops.random.permutation(keys[3], 20),
            ops.random.normal(keys[4], (40,), dtype=dtype),
        )

    *exact, normal = bl.compile(draw, "xla")(ops.random.key(11))
    *wanted, near = bl.compile(draw, "reference")(ops.random.key(11))
    for a, b in zip(exact, wanted, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    np.testing.assert_allclose(normal, near, rtol={"float32": 1e-5, "float64": 1e-12}[dtype])


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(256, 12)).astype("f4")
Y = RANDOM.integers(0, 4, 256)
ROWS = np.stack([RANDOM.permutation(256)[:64] for _ in range(50)])


def fifty_losses(executor):
    """The program, and the loss of each step, of a network with dropout and batch norm."""
    layers = [
        nn.Dense(16, bias=False),
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.Dropout(0.3),
        nn.Dense(8, "tanh"),
        nn.Dense(4),
    ]
    trainer = Trainer(bl.Network(layers, (12,), seed=0), "crossentropy", optim.Adam(0.01), executor=executor)
    stretch = Stretch({"x": X, "y": Y}, ROWS)
    program = trainer.program("train", stretch)
    (params, state, *_), sums = program(trainer.moment.carry, stretch)
    return program, sums["loss"][0] / sums["loss"][1], params | state


@pytest.mark.parametrize("shard", [None, {"*.weight": 1, "*.bias": 0, "*.scale": 0}, {"dense_1.weight": 1}])
def test_eight_devices_have_the_losses_of_one(shard):
    one, eight = fifty_losses(XLA()), fifty_losses(XLA(devices=8, shard=shard))
    np.testing.assert_allclose(eight[1], one[1], rtol=1e-5)
    for name, value in one[2].items():
        np.testing.assert_allclose(eight[2][name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(one[1], fifty_losses(get("reference"))[1], rtol=1e-5)
    assert one[1][-1] < one[1][0]


def test_optimiser_state_is_cut_like_its_parameter():
    program, *_ = fifty_losses(XLA(devices=8, shard={"dense_1.weight": 1}))
    names = [n.name for n in program.graph.inputs]
    cut = [n for n, place in zip(names, program.run.places, strict=False) if not place.is_fully_replicated]
    assert len(cut) == 3
    assert all(n.endswith("dense_1.weight") for n in cut)
