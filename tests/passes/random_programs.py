"""Random programs for the passes: what hypothesis draws is a list of triples of numbers, which says how to go on from a
pool of values. Any list is a program, so examples shrink to short ones.
"""

import numpy as np
from hypothesis import strategies as st

from backlit import ops
from backlit.tracing import lift, type_of

SHAPES = [(3,), (2, 3), (2, 1), (1, 3), ()]
STEPS = st.lists(st.tuples(*[st.integers(0, 10**4)] * 3), min_size=8, max_size=25)

NUMBERS = (1.0, -1.0, 0.0, -0.0, 2.0, 0.5, float("inf"))


def _reshaped(x, k):
    size, shape = type_of(x).size, type_of(x).shape
    choices = [(size,), (1, *shape), (*shape, 1), shape, tuple(n for n in shape if n != 1)]
    return ops.reshape(x, choices[k % len(choices)])


def _permuted(x, k):
    n = type_of(x).ndim
    return ops.permute_dims(x, np.random.default_rng(k).permutation(n).tolist())


def _broadcast(x, k):
    shape = type_of(x).shape
    wider = tuple(3 if n == 1 and k % 3 else n for n in shape)
    return ops.broadcast_to(x, (2, *wider) if k % 2 and len(shape) < 3 else wider)


def _sliced(x, k):
    return x[tuple(slice(k % 2, None, 1 + k // 2 % 2) if n > 1 else slice(None) for n in type_of(x).shape)]


def _padded(x, k):
    return ops.pad(x, [((k + i) % 2, k // 2 % 2) for i in range(type_of(x).ndim)])


def _flipped(x, k):
    axes = [a for a in range(type_of(x).ndim) if k >> a & 1]
    return ops.flip(x, tuple(axes))


def _reduced(f):
    def reduced(x, k):
        axes = tuple(a for a in range(type_of(x).ndim) if k >> a & 1)
        return f(x, axes, keepdims=bool(k >> 4 & 1))

    return reduced


def _converted(x, k):
    dtype = type_of(x).dtype
    there = ops.astype(x > 0.5, "int32") if k % 3 == 0 else ops.astype(x, "float64")
    return ops.astype(there, dtype)


def _gathered(x, k):
    n = type_of(x).shape[0] if type_of(x).ndim else 0
    return ops.take(x, np.array([k % n, (k + 1) % n]), 0) if n else x


def _constant(x, k):
    like = type_of(x)
    values = np.random.default_rng(k).normal(size=like.shape) if k % 2 else np.full(like.shape, NUMBERS[k // 2 % 7])
    return lift(np.asarray(values, like.dtype))


def _number(f):
    """f of the value and a Python number, the number on either side."""
    return lambda x, k: f(x, NUMBERS[k // 2 % 7]) if k % 2 else f(NUMBERS[k // 2 % 7], x)


MOVEMENT = [_reshaped, _permuted, _broadcast, _sliced, _padded, _flipped]

# Ops of which every rewrite keeps every bit.
EXACT_UNARY = [
    *MOVEMENT,
    *MOVEMENT,
    _converted,
    _gathered,
    _reduced(ops.max),
    _reduced(ops.min),
    *(_number(f) for f in (ops.add, ops.subtract, ops.multiply, ops.divide)),
    *(lambda x, k, f=f: f(x) for f in (ops.negative, ops.abs, ops.floor, ops.relu, ops.sign, ops.stop_gradient)),
    lambda x, k: ops.negative(-x),
    lambda x, k: x ** (1.0 if k % 2 else 0.0),
    lambda x, k: ops.where(x > NUMBERS[k % 7], x, -x),
    lambda x, k: ops.where(~(x > 0.0), x, ops.where(x > 0.0, x, 1.0)),
]
EXACT_BINARY = [
    *(lambda x, y, k, f=f: f(x, y) for f in (ops.add, ops.subtract, ops.multiply, ops.divide, ops.maximum)),
    lambda x, y, k: ops.where(x > y, x, y),
    lambda x, y, k: ops.where(x == x, x, y),
    lambda x, y, k: x - (-y),
    lambda x, y, k: (-x) * (-y) + (-x),
    lambda x, y, k: ops.concat([x, y], 0) if type_of(x).shape == type_of(y).shape and type_of(x).ndim else x,
]

# Ops that do not magnify a rounding error, and keep values of ordinary size so.
SMOOTH_UNARY = [
    *MOVEMENT,
    _gathered,
    _reduced(ops.mean),
    lambda x, k: 0.1 * _reduced(ops.sum)(x, k),
    lambda x, k: ops.softmax(x) if type_of(x).ndim else x,
    lambda x, k: ops.logsumexp(x),
    *(lambda x, k, f=f: f(x) for f in (ops.tanh, ops.sin, ops.sigmoid, ops.softplus, ops.negative)),
    lambda x, k: ops.tanh(x) ** (1.0, 2.0, 3.0, 0.0)[k % 4],
    lambda x, k: (1.0 + ops.sigmoid(x)) ** (-1.0 if k % 2 else 0.5),
    lambda x, k: ops.log(1.0 + ops.exp(ops.tanh(x))),
    lambda x, k: ops.log(ops.sigmoid(x)),
    lambda x, k: ops.exp(ops.tanh(x)) - 1.0,
    lambda x, k: ops.cumulative_sum(x, 0) * 0.3 if type_of(x).ndim else x,
    lambda x, k: _looped(x, k),
]
SMOOTH_BINARY = [
    lambda x, y, k: 0.5 * (x + y),
    lambda x, y, k: x - y,
    lambda x, y, k: ops.tanh(x) * ops.tanh(y),
    lambda x, y, k: x / (1.5 + ops.sin(y)),
    lambda x, y, k: _product(x, y, k),
    lambda x, y, k: _looped(x, k, y),
]


def _product(x, y, k):
    """A contraction, of operands that may be transposed first."""
    if type_of(x).ndim != 2 or type_of(y).ndim != 2:
        return x
    y = y.T if type_of(x).shape[1] != type_of(y).shape[0] else y
    if type_of(x).shape[1] != type_of(y).shape[0]:
        return x
    return ops.tanh((x @ y).T if k % 2 else x @ y)


def _looped(x, k, y=None):
    """A scan along x whose step uses y, or a part of x, from outside."""
    if not type_of(x).ndim:
        return x
    outside = ops.sum(x if y is None else y) * 0.1

    def step(carry, element):
        state, still = carry
        new = ops.tanh(state * ops.cos(outside) + element + still)
        return (new, still), (new if k % 2 else element, ops.exp(ops.tanh(outside)))

    zero = ops.broadcast_to(ops.reshape(outside * 0.0, (1,) * (type_of(x).ndim - 1)), type_of(x).shape[1:])
    (last, _), (states, same) = ops.scan(step, (zero, zero + 0.5), x, reverse=bool(k >> 3 & 1))
    return (states, states + last, ops.sum(same) + last)[k // 2 % 3]


def program(steps, unary, binary):
    """The function of arrays (one of each of SHAPES, of one dtype) that the steps spell out; gives the last values."""

    def run(*inputs):
        pool = list(inputs)
        for a, b, k in steps:
            x = pool[-1 - b % min(len(pool), 6)]
            choice = a % (len(unary) + len(binary))
            if choice < len(unary):
                value = unary[choice](x, k)
            else:
                y = _constant(x, k) if k % 5 == 0 else pool[k % len(pool)]
                if not _fit(x, y):
                    continue
                value = binary[choice - len(unary)](x, y, k // 5)
            if type_of(value).size <= 200 and type_of(value).dtype == type_of(inputs[0]).dtype:
                pool.append(value)
        return tuple(pool[-3:])

    return run


def _fit(x, y):
    try:
        np.broadcast_shapes(type_of(x).shape, type_of(y).shape)
    except ValueError:
        return False
    return True


def inputs(seed, dtype, special=False):
    """Arrays of all SHAPES; with `special`, of numbers that break careless rewrites."""
    random = np.random.default_rng(seed)
    arrays = [np.asarray(random.normal(size=s), dtype) for s in SHAPES]
    if special:
        tiny = np.finfo(dtype).smallest_subnormal
        numbers = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -2.5, tiny, np.finfo(dtype).max], dtype)
        arrays = [random.choice(numbers, size=s).astype(dtype) for s in SHAPES]
    return arrays
