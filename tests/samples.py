"""Sample applications of every op, drawn from its record. Other executors are held to the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from backlit.ops.record import OPS

DTYPES = ["float64", "float32", "int64", "int32", "uint32", "uint8", "bool"]


def draw(spec, dtype, random):
    """An array for a `Spec`; `dtype` where the spec names none."""
    dtype = np.dtype(spec.dtype or dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, spec.shape).astype(bool)
    if dtype.kind in "iu":
        low = max(np.ceil(spec.low), np.iinfo(dtype).min)
        high = max(np.floor(spec.high), low)
        return random.integers(int(low), int(high), spec.shape, dtype, endpoint=True)
    return np.asarray(random.uniform(spec.low, spec.high, spec.shape), dtype)


def cases(op, dtype):
    """The op's sample cases for a dtype: none where it does not take that."""
    return op.cases() if np.dtype(dtype).kind in op.kinds else ()


def each_op(*dtypes):
    """(op, dtype) for every op and every one of the dtypes that it takes, as pytest's params.

    An op whose samples all name their own dtypes comes once.
    """
    for op in OPS.values():
        free = any(spec.dtype is None for case in op.cases() for spec in case.inputs)
        for dtype in [d for d in dtypes if cases(op, d)] if free else dtypes[:1]:
            yield pytest.param(op, dtype, id=f"{op.name}-{dtype}" if free else op.name)


def arrays(op, case, dtype, seed=0):
    """Inputs of one application."""
    random = np.random.default_rng([seed, *op.name.encode()])
    return [draw(spec, dtype, random) for spec in case.inputs]
