"""Random programs of 5 to 40 ops, for hypothesis. Each is an ordinary function of float64 arrays, written in ops.

Every op keeps its values in a range where it is smooth and well conditioned (squashing inputs first where its domain is
bounded), so that gradients of long programs can be compared closely.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from backlit import ops


def squash(x):
    """To (-0.9, 0.9)."""
    return 0.9 * ops.tanh(x)


def positive(x):
    """To (0.5, 1.5)."""
    return 1.0 + 0.5 * ops.tanh(x)


# Each takes a value (and perhaps a second one) and a number, and gives a value.
UNARY = {
    "tanh": lambda x, n: ops.tanh(x),
    "sigmoid": lambda x, n: ops.sigmoid(x),
    "sin": lambda x, n: ops.sin(x),
    "cos": lambda x, n: ops.cos(x),
    "exp": lambda x, n: ops.exp(squash(x)),
    "expm1": lambda x, n: ops.expm1(squash(x)),
    "log": lambda x, n: ops.log(positive(x)),
    "log1p": lambda x, n: ops.log1p(squash(x)),
    "sqrt": lambda x, n: ops.sqrt(positive(x)),
    "rsqrt": lambda x, n: ops.rsqrt(positive(x)),
    "pow": lambda x, n: positive(x) ** (n % 7 / 2 - 1.5),
    "square": lambda x, n: squash(x) ** 2,
    "erf": lambda x, n: ops.erf(x),
    "erfinv": lambda x, n: ops.erfinv(squash(x)),
    "softplus": lambda x, n: ops.softplus(x),
    "relu": lambda x, n: ops.relu(x),
    "gelu": lambda x, n: ops.gelu(x, approximate=bool(n % 2)),
    "silu": lambda x, n: ops.silu(x),
    "elu": lambda x, n: ops.elu(x),
    "leaky_relu": lambda x, n: ops.leaky_relu(x),
    "abs": lambda x, n: ops.abs(x),
    "negative": lambda x, n: -x,
    "scaled": lambda x, n: x * (n % 5 - 2.5),
    "shifted": lambda x, n: (n % 5) - x,
    "clip": lambda x, n: ops.clip(x, -0.7, 0.8),
    "softmax": lambda x, n: ops.softmax(x) if x.ndim else x,
    "log_softmax": lambda x, n: ops.log_softmax(x, n % x.ndim) if x.ndim else x,
    "layer_norm": lambda x, n: ops.layer_norm(x, epsilon=0.1) if x.ndim else x,
    "sum": lambda x, n: ops.sum(x, n % x.ndim, keepdims=n % 3 == 0) if x.ndim else x,
    "mean": lambda x, n: ops.mean(x, n % x.ndim) if x.ndim else x,
    "max": lambda x, n: ops.max(x, n % x.ndim, keepdims=n % 3 == 0) if x.ndim else x,
    "min": lambda x, n: ops.min(x, n % x.ndim) if x.ndim else x,
    "prod": lambda x, n: ops.prod(positive(x), n % x.ndim) if x.ndim else x,
    "logsumexp": lambda x, n: ops.logsumexp(x, n % x.ndim, keepdims=True) if x.ndim else x,
    "var": lambda x, n: ops.var(x, n % x.ndim, keepdims=True) if x.ndim else x,
    "cumulative_sum": lambda x, n: squash(ops.cumulative_sum(x, n % x.ndim)) if x.ndim else x,
    "sort": lambda x, n: ops.sort(x, n % x.ndim) if x.ndim else x,
    "transpose": lambda x, n: ops.transpose(x),
    "reshape": lambda x, n: ops.reshape(x, (-1,)),
    "flip": lambda x, n: ops.flip(x, n % x.ndim) if x.ndim else x,
    "roll": lambda x, n: ops.roll(x, n, n % x.ndim) if x.ndim else x,
    "half": lambda x, n: x[..., : (x.shape[-1] + 1) // 2] if x.ndim else x,
    "step": lambda x, n: x[:: 1 + n % 2] if x.ndim else x,
    "row": lambda x, n: x[n % x.shape[0]] if x.ndim else x,
    "gathered": lambda x, n: x[np.array([n % x.shape[0], 0, n % x.shape[0]])] if x.ndim else x,
    "padded": lambda x, n: ops.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, n % 2)], 0.3) if x.ndim else x,
    "expanded": lambda x, n: x[..., None] if x.ndim < 3 else x,
    "windows": lambda x, n: ops.sum(
        ops.windows(x, axes=(0,), size=(1 + n % min(3, x.shape[0]),), stride=(1,), dilation=(1,)), -1
    ) if x.ndim else x,
    "looped": lambda x, n: ops.scan(lambda c, v: (ops.tanh(c + v), c * v), x[0], x)[1] if x.ndim else x,
    "detour": lambda x, n: x * ops.stop_gradient(ops.sin(x)),
    "cast": lambda x, n: x * ops.astype(x > 0.0, "float64"),
}  # fmt: skip

BINARY = {
    "add": lambda x, y, n: x + y,
    "subtract": lambda x, y, n: x - y,
    "multiply": lambda x, y, n: squash(x) * y,
    "divide": lambda x, y, n: x / positive(y),
    "pow": lambda x, y, n: positive(x) ** squash(y),
    "maximum": lambda x, y, n: ops.maximum(x, y),
    "minimum": lambda x, y, n: ops.minimum(x, y),
    "where": lambda x, y, n: ops.where(x > y, ops.sin(x), y),
    "remainder": lambda x, y, n: ops.remainder(squash(x), 2.0 + positive(y)),
}


def matmul(x, y):
    """x @ y^T where the last axes fit, else the outer product of sums."""
    x, y = (v if v.ndim else ops.reshape(v, (1,)) for v in (x, y))
    leading = np.ones(x.shape[:-2]), np.ones(y.shape[:-2])
    if x.shape[-1] == y.shape[-1] and broadcasts(*leading):
        return squash(x) @ (y.mT if y.ndim > 1 else y)
    return ops.outer(ops.sum(x, tuple(range(1, x.ndim))), ops.tanh(ops.sum(y, tuple(range(1, y.ndim)))))


def broadcasts(x, y):
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(x.shape), reversed(y.shape), strict=False))


@st.composite
def programs(draw):
    """(function, arrays): some input arrays, and a function of them that gives a number."""
    shapes = st.sampled_from([(), (1,), (3,), (2, 3), (3, 3), (3, 1), (2, 3, 2)])
    inputs = draw(st.lists(shapes, min_size=1, max_size=3))
    number = st.integers(0, 40)
    names = st.one_of(st.sampled_from(sorted(UNARY)), st.sampled_from(sorted(BINARY)), st.just("matmul"))
    steps = draw(st.lists(st.tuples(names, number, number, number), min_size=5, max_size=40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = [random.uniform(-2, 2, shape) for shape in inputs]

    def program(*xs):
        values = list(xs)
        for name, a, b, n in steps:
            # recent values are taken more often, so that programs are deep as well as wide
            x, y = (values[-1 - k % min(len(values), 4 if k % 3 else len(values))] for k in (a, b))
            if name == "matmul":
                new = matmul(x, y)
            elif name in BINARY and (name not in UNARY or n % 2):
                new = BINARY[name](x, y, n) if broadcasts(x, y) else x
            else:
                new = UNARY[name](x, n)
            if 0 < new.size <= 200 and new.ndim <= 4:
                values.append(new)
        return sum((ops.sum(v) for v in values[-3:]), start=ops.mean(values[len(values) // 2]))

    return program, arrays
