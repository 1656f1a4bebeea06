"""Clipping: gradients made smaller before the update, so that one steep batch does not throw the parameters far away.

Each function takes a tree of gradients and gives one of the same structure. Clipping the global norm keeps the
gradient's direction; clipping each array's norm keeps it within that array; clipping values does not keep it.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from backlit import ops
from backlit.ops.record import Value
from backlit.pytree import flatten, map_leaves
from backlit.tracing import type_of


def clip_by_value(gradients: Any, limit: float) -> Any:
    """Each element, but at least -limit and at most limit."""
    return map_leaves(lambda g: ops.clip(g, -limit, limit), gradients)


def clip_by_norm(gradients: Any, limit: float) -> Any:
    """g · min(1, limit / ‖g‖) for each array g by itself."""

    def clip(g: Value) -> Value:
        norm = ops.sqrt(ops.sum(g * g))
        shrinkage = ops.minimum(1.0, ops.divide(limit, norm))  # a norm of 0 gives infinity, and so 1
        clipped = g * shrinkage
        return clipped

    return map_leaves(clip, gradients)


def clip_by_global_norm(gradients: Any, limit: float) -> Any:
    """g · min(1, limit / ‖all g together‖): Pascanu et al. 2013, algorithm 1.

    PyTorch adds 1e-6 to the norm; optax does not, nor does this.
    """
    shrinkage = ops.minimum(1.0, ops.divide(limit, global_norm(gradients)))

    def clip(g: Value) -> Value:
        clipped = g * ops.astype(shrinkage, type_of(g).dtype)
        return clipped

    return map_leaves(clip, gradients)


def global_norm(tree: Any) -> Value:
    """The square root of the sum of the squares of all elements of all arrays, in their widest dtype."""
    leaves, _, _ = flatten(tree)
    dtype = widest(leaves)
    squares = [ops.astype(ops.sum(g * g), dtype) for g in leaves]
    norm = ops.sqrt(reduce(ops.add, squares) if squares else np.zeros((), dtype))
    return norm


def widest(leaves: list[Value]) -> np.dtype[Any]:
    """The widest of the leaves' floating-point dtypes, float32 at the least."""
    return np.result_type(np.float32, *(type_of(leaf).dtype for leaf in leaves))
