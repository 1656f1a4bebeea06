"""The example of CONTRIBUTING.md is an op: it passes what every op must pass."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax_oracle import assert_same
from samples import arrays
from scalars import evaluate

import backlit as bl
from backlit import ops
from backlit.executors import get
from backlit.ir import Type
from backlit.ops.record import OPS

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture
def op():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    yield names["logaddexp"]
    del OPS["logaddexp"]


def test_the_new_op_is_an_op(op):
    for case in op.cases():
        inputs = arrays(op, case, "float64")
        (result,) = op.evaluate(inputs, case.params)
        assert op.types([Type(x.dtype, x.shape) for x in inputs], case.params) == (Type(result.dtype, result.shape),)
        bl.check_grads(lambda a, b: ops.sum(op(a, b) ** 2), *inputs, order=2)
        assert_same(op, jnp.logaddexp, *inputs, order=2)
    x = np.array([0.0, -0.0, 1.0, -2.5, 1e-300, 745.0, 1e308, np.inf, -np.inf, np.nan])
    a, b = (v.ravel() for v in np.meshgrid(x, x))
    (wanted,) = op.evaluate([a, b], {})
    np.testing.assert_allclose(evaluate(op.scalar, a, b), wanted, rtol=1e-15, atol=1e-15)


def test_every_executor_runs_it(op):
    graph = bl.trace(lambda a, b: op(a, b), np.ones(3), np.ones(3))
    for name in ("reference", "native"):
        (found,) = get(name).compile(graph)(np.ones(3), np.zeros(3))
        np.testing.assert_allclose(found, np.logaddexp(1.0, 0.0))
