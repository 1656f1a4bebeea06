"""Every layer, its gradients and its state in training, compiled to machine code: the reference is the oracle."""

import numpy as np
import pytest
from layer_samples import SAMPLES

import backlit as bl
from backlit import ops
from backlit.ir import Type
from backlit.nn.layer import Context, build
from backlit.pytree import flatten

KEY = ops.random.key(7)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)
def test_layers_give_the_same_compiled(sample):
    dtype = np.dtype(np.int64 if sample.integers else np.float32)
    made = build("sample", sample.layer, KEY, Type(dtype, sample.shape))
    params, state = ({k: np.asarray(v, np.float32) for k, v in d.items()} for d in (made.params, made.state))
    x = sample.batch(dtype=np.float32)
    w = np.random.default_rng(2).standard_normal((3, *sample.result)).astype(np.float32)

    def loss(params, x):
        ctx = Context(state, training=True, key=KEY)
        y = sample.layer.apply(params, x, ctx)
        return ops.sum(w * y), (y, ctx.new_state())

    f = bl.value_and_grad(loss, argnums=0 if sample.integers else (0, 1), has_aux=True)
    expected, found = (flatten(bl.compile(f, name)(params, x)) for name in ("reference", "native"))
    assert found[2] == expected[2]
    for value, wanted, path in zip(found[0], expected[0], expected[1], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-5, err_msg=path)
