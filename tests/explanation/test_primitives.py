"""Every op that has a gradient can be explained: run off the registry, on the samples that each op's record brings."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.explanation import explain
from backlit.ops.record import OPS

from .reading import agrees, check_lines


def _sampled(case, seed):
    rng = np.random.default_rng(seed)
    arrays = []
    for spec in case.inputs:
        dtype = np.dtype(spec.dtype or "float64")
        values = rng.uniform(spec.low, spec.high, spec.shape)
        if dtype.kind in "iu":
            values = rng.integers(int(spec.low), int(spec.high) + 1, spec.shape)
        arrays.append(np.asarray(values > 0 if dtype.kind == "b" else values).astype(dtype))
    return arrays


def _cases():
    for name, op in OPS.items():
        if op.vjp is None:
            continue
        for i, case in enumerate(op.cases()):
            floats = [
                k for k, s in enumerate(case.inputs) if np.dtype(s.dtype or "f8").kind == "f" and 0 not in s.shape
            ]
            if floats:
                yield pytest.param(name, i, floats, id=f"{name}-{i}")


@pytest.mark.parametrize(("name", "i", "floats"), list(_cases()))
def test_an_element_of_each_input_of_each_op_is_explained(name, i, floats):
    op, case = OPS[name], OPS[name].cases()[i]
    arrays = _sampled(case, i)

    def loss(arrays):
        results = op(*arrays, **case.params)
        total = np.float64(0.0)
        for k, y in enumerate(results if isinstance(results, tuple) else (results,)):
            if y.dtype.kind == "f" and y.size:
                weights = np.linspace(0.5, 1.5 + k, y.size).reshape(y.shape)
                total = total + ops.sum(ops.astype(y, "float64") * weights)
        return total

    if loss(arrays).dtype.kind != "f" or not isinstance(bl.trace(loss, arrays).outputs[0].op, str):
        pytest.skip("gives no floating-point number")
    for k in floats:
        element = tuple(n // 2 for n in arrays[k].shape)
        where = f"[{', '.join(map(str, element))}]" if element else ""
        try:
            gradient = bl.grad(loss)(arrays)[k][element]
        except bl.errors.GradientError:
            continue  # an op without a derivative, and none is claimed
        d = explain(loss, arrays, wrt=f"arrays[{k}]{where}")
        check_lines(d)
        assert d.value == pytest.approx(gradient, rel=1e-12, abs=1e-300, nan_ok=True)
        final = next(s for s in d.steps if s.kind == "gradient")
        assert agrees(float(gradient), final.text)
