"""Random programs made of what the rules of the native executor depend on, with numbers that both executors must get
exactly.

The rules of who may write where, who is stored and who is computed again look at joins, paddings, views of views,
products with several readers, loops, and who else reads a value. So that is what these programs consist of. Their
numbers are small integers, in floating point too, and every step that could make them large is clipped: sums come out
the same in any order, ties are ties for both executors, so even what jumps (sorting, comparing, picking the largest)
can be compared bit for bit.

A program is a list of triples of numbers, which say how to go on from a pool of values; any list is a program, so
hypothesis shrinks examples to short ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from backlit import ops
from backlit.ops.record import OPS
from backlit.tracing import lift, type_of

STEPS = st.lists(st.tuples(*[st.integers(0, 10**4)] * 3), min_size=2, max_size=14)
SIZES = [(1, 2, 3), (2, 3, 4), (3, 3, 5), (4, 8, 2), (1, 17, 6), (7, 16, 33), (5, 40, 19), (0, 3, 2)]
LONG = [(200, 256, 3), (70, 65, 48), (1100, 9, 17), (4, 130, 129)]  # sums in parts, tiles and panels
MOST = 60_000  # elements of a value of a program
USED: Counter[str] = Counter()  # how often each step was part of a program


def shape(x):
    return type_of(x).shape


def dtype(x):
    return type_of(x).dtype


def small(x):
    """Within -3..3, so that whatever is made of it is a small integer too."""
    return ops.clip(x, 0 if dtype(x).kind == "u" else -3, 3) if dtype(x) != np.bool_ else x


def positive(x):
    """max(x, 0), as ReLU where it can be."""
    return ops.relu(x) if dtype(x).kind == "f" else ops.maximum(x, 0)


def chance(*key):
    return np.random.default_rng([int(k) for k in key])


def constant(like, wanted, k):
    """Numbers that differ from place to place."""
    numbers = chance(k, 5).integers(0 if like.kind == "u" else -2, 3, wanted)
    return lift(np.asarray(numbers > 0 if like == np.bool_ else numbers, like))


def axis_of(x, k):
    return k % len(shape(x))


# --- what makes one value of one --------------------------------------------------------------------------------------


def reshaped(x, k):
    n, s = type_of(x).size, shape(x)
    choices = [(n,), (1, *s), (*s, 1), tuple(m for m in s if m != 1), s[::-1], (*s[:-2], math.prod(s[-2:]))]
    choices += [(*s[:-1], s[-1] // d, d) for d in (2, 3, 4) if s and s[-1] and s[-1] % d == 0]
    return ops.reshape(x, choices[k % len(choices)])


def permuted(x, k):
    return ops.permute_dims(x, chance(k).permutation(len(shape(x))).tolist())


def swapped(x, k):
    return x.mT if len(shape(x)) > 1 else x


def broadcast(x, k):
    wider = tuple(3 if n == 1 and k % 3 else n for n in shape(x))
    return ops.broadcast_to(x, (2, *wider) if k % 2 and len(wider) < 3 else wider)


def sliced(x, k):
    r, index = chance(k), []
    for n in shape(x):
        a, b = sorted(r.integers(0, n + 1, 2).tolist())
        step = int(r.choice([1, 1, 2, -1]))
        index.append(slice(None) if n < 2 or a == b or r.random() < 0.4 else slice(a, b) if step > 0 else slice(None))
        if step != 1 and n > 1 and index[-1] == slice(None):
            index[-1] = slice(None, None, 2)
    return x[tuple(index)]


def flipped(x, k):
    return ops.flip(x, tuple(a for a in range(len(shape(x))) if k >> a & 1))


def rolled(x, k):
    return ops.roll(x, k % 5, axis_of(x, k))


def padded(x, k):
    r, n = chance(k), len(shape(x))
    low, high = r.integers(0, 3, n).tolist(), r.integers(0, 3, n).tolist()
    between = r.integers(0, 3, n).tolist() if k % 3 == 0 else [0] * n
    value = (0.0, 1.0, 2.0)[k % 5 % 3]
    return OPS["pad"](x, low=tuple(low), high=tuple(high), between=tuple(between), value=value)


def windowed(x, k):
    axis, r = axis_of(x, k), chance(k)
    size = int(r.integers(1, min(3, shape(x)[axis]) + 1)) if shape(x)[axis] else 0
    if not size:
        return x
    d = int(r.integers(1, 3)) if (size - 1) * 2 + 1 <= shape(x)[axis] else 1
    seen = ops.windows(x, axes=(axis,), size=(size,), stride=(int(r.integers(1, 4)),), dilation=(d,))
    return seen if k % 2 else small(ops.sum(seen, -1))


def reduced(f):
    def made(x, k):
        axes = tuple(a for a in range(len(shape(x))) if k >> a & 1) or (axis_of(x, k),)
        if f is not ops.sum and 0 in shape(x):
            return x
        return small(f(x, axes, keepdims=bool(k >> 5 & 1)))

    made.__name__ = f"{f.__name__} over axes"
    return made


def searched(x, k):
    if 0 in shape(x):
        return x
    found = (ops.argmax, ops.argmin)[k % 2](x, axis_of(x, k // 2), keepdims=bool(k >> 5 & 1))
    return small(ops.astype(found, dtype(x)))


def sorted_(x, k):
    return ops.sort(x, axis_of(x, k)) if k % 3 else small(ops.astype(ops.argsort(x, axis_of(x, k)), dtype(x)))


def running(x, k):
    return small(ops.cumulative_sum(x, axis_of(x, k)))


def joined_with_itself(x, k):
    axis = axis_of(x, k)
    parts = [[x, x], [x, ops.flip(x, axis)], [small(x + 1), x, small(x + 1)], [positive(x), ops.abs(x)]][k // 3 % 4]
    return ops.concat(parts, axis)


def parts_joined(x, k):
    """Cut, each part worked on, joined in another order; or as a sum of padded parts."""
    axis = axis_of(x, k)
    n = shape(x)[axis]
    if n < 2:
        return x
    at = 1 + k % (n - 1)
    a, b = ops.split(x, [at, n - at], axis)
    a, b = small(a * 2), ops.abs(b)
    if k % 3 == 0:
        sides = [[(0, 0)] * len(shape(x)) for _ in range(2)]
        sides[0][axis], sides[1][axis] = (0, n - at), (at, 0)
        return small(ops.pad(a, sides[0]) + ops.pad(b, sides[1]))
    return ops.concat([b, a] if k % 3 == 1 else [a, b], axis)


def paddings_joined(x, k):
    axis = axis_of(x, k)
    wide = [(0, 0)] * len(shape(x))
    wide[axis] = (k % 2, 1)
    y = small(x + 1)
    return ops.concat([ops.pad(y, wide), x, ops.pad(ops.pad(positive(x), wide), wide)], axis)


def converted(x, k):
    to = ("int32", "int64", "float64", "float32", "uint8", "bool")[k % 6]
    there = ops.astype(ops.abs(x) if to == "uint8" else x, to)
    return ops.astype(there, dtype(x)) if k % 4 else there


def gathered(x, k):
    n = shape(x)[axis_of(x, k)]
    if not n:
        return x
    index = chance(k).integers(-n, n, [(3,), (2, 2), (1,), (n,)][k % 4])
    return ops.take(x, index, axis_of(x, k))


def gathered_by_values(x, k):
    """Rows named by numbers that the program itself computes."""
    n = shape(x)[0]
    if not n or type_of(x).size > 3000:
        return x
    index = ops.remainder(ops.astype(ops.sum(x, tuple(range(1, len(shape(x))))), "int64"), n)
    if k % 2:
        return x[index - (n if k % 3 else 0)]
    return small(ops.scatter_add(x, index, small(x * 2)))


def picked(x, k):
    n = shape(x)[-1]
    if not n or 0 in shape(x):
        return x
    index = np.asarray(chance(k).integers(-n, n, (*shape(x)[:-1], 1 + k % 2)))
    return ops.take_along_axis(x, index, -1)


def scattered(x, k):
    n = shape(x)[0]
    if not n:
        return x
    index = chance(k).integers(-n, n, 1 + k % 4)
    return small(ops.scatter_add(x, index, constant(dtype(x), (len(index), *shape(x)[1:]), k)))


def convolved(x, k):
    """Convolution and pooling of all kinds over the last axes."""
    r, s = chance(k), shape(x)
    if 0 in s or type_of(x).size > 6000 or len(s) > 4 or dtype(x).kind != "f":
        return x
    image = ops.reshape(x, (1, *s, 1)) if len(s) < 3 else ops.reshape(x, (s[0], *s[1:-1], s[-1]))
    space = shape(image)[1:-1]
    size = [int(r.integers(1, min(n, 3) + 1)) for n in space]
    stride = [int(r.integers(1, 4)) for _ in space]
    padding = ["valid", "same", int(r.integers(0, 3))][k % 3]
    if k % 5 == 0:
        return small(ops.max_pool(image, size, stride, "same" if k % 2 else "valid"))
    dilation = [int(r.integers(1, 3)) if (m - 1) * 2 < n else 1 for n, m in zip(space, size, strict=True)]
    channels = shape(image)[-1]
    groups = 2 if channels % 2 == 0 and k % 4 == 1 else 1
    if k % 7 == 0 and padding != 2:
        weights = constant(dtype(x), (*size, channels, 3), k)
        return small(ops.conv_transpose(image, weights, stride, "valid" if k % 2 else "same", dilation))
    weights = constant(dtype(x), (*size, channels // groups, 2 * groups), k)
    return small(ops.conv(image, weights, stride, padding, dilation, groups))


def multiplied_by_weights(x, k):
    columns = (1, 3, 8, 20)[k % 4]
    return small(x @ constant(dtype(x), (shape(x)[-1], columns), k))


def product_and_friends(x, k):
    """A product with a bias, whose slices are worked on and joined, as a recurrent cell's gates."""
    h = x @ constant(dtype(x), (shape(x)[-1], 6), k) + constant(dtype(x), (6,), k)
    a, b, c = ops.split(h, 3, -1)
    found = [small(a), positive(b) * 0 + 1, small(c - a)]
    return ops.concat(found if k % 2 else [found[2], found[0]], -1)


def own_product(x, k):
    y = x if len(shape(x)) > 1 else ops.reshape(x, (1, -1))
    return small(small(y) @ small(y).mT)


def random_bits(x, k):
    """Counter-based random numbers, from a key that the values decide."""
    key = ops.astype(ops.reshape(ops.sum(ops.abs(x)), (1,)), "uint32")
    drawn = ops.random.bits(ops.concat([key, key + 1], 0), shape(x))
    return ops.where(ops.astype(ops.remainder(drawn, 2), "bool"), x, small(x + 1))


def integer_arithmetic(x, k):
    n = ops.astype(x, "int32")
    found = [n % 3, n // 2, n << 1, n >> 1, n ^ 3, n & 5, ~n, n | 1][k % 8]
    return small(ops.astype(found, dtype(x)))


def _elementwise(*fs: Callable):
    def made(x, k):
        return small(fs[k % len(fs)](x))

    made.__name__ = "elementwise"
    return made


elementwise = _elementwise(
    lambda x: x * 2, lambda x: x + 1, lambda x: 1 - x, positive, ops.abs, lambda x: x * x, ops.sign, ops.negative,
    lambda x: ops.where(x > 0, x, 2 * x), lambda x: ops.where(x == 0, 1, x), ops.stop_gradient,
    lambda x: ops.floor(x) if dtype(x).kind == "f" else x,
    lambda x: x - ops.max(x, tuple(range(len(shape(x)))), keepdims=True) if type_of(x).size else x,
    lambda x: (x - ops.sum(x, keepdims=True)) * x,
)  # fmt: skip

ONE = [
    elementwise, elementwise, elementwise, reshaped, permuted, swapped, broadcast, sliced, flipped, rolled, padded,
    padded, windowed, reduced(ops.sum), reduced(ops.sum), reduced(ops.max), reduced(ops.min), searched, sorted_,
    running, joined_with_itself, parts_joined, paddings_joined, converted, gathered, gathered_by_values, picked,
    scattered, convolved, convolved, multiplied_by_weights, multiplied_by_weights, product_and_friends, own_product,
    random_bits, integer_arithmetic,
]  # fmt: skip


# --- what makes one value of two --------------------------------------------------------------------------------------


def combined(x, y, k):
    y = ops.astype(y, dtype(x))
    try:
        np.broadcast_shapes(shape(x), shape(y))
    except ValueError:
        return x
    return small([ops.add, ops.multiply, ops.subtract, ops.maximum, ops.minimum, _chosen][k % 6](x, y))


def _chosen(x, y):
    return ops.where(x > y, x, y * 2)


def joined(x, y, k):
    """Two values joined along some axis, the second cut or padded to fit."""
    y = ops.astype(y, dtype(x))
    if len(shape(x)) != len(shape(y)):
        return x
    axis = axis_of(x, k)
    for a, (n, m) in enumerate(zip(shape(x), shape(y), strict=True)):
        if a != axis and m > n:
            y = y[(*[slice(None)] * a, slice(0, n))]
        elif a != axis and m < n:
            sides = [(0, 0)] * len(shape(y))
            sides[a] = (k % 2 * (n - m), (1 - k % 2) * (n - m))
            y = ops.pad(y, sides, k % 3)
    return ops.concat([[x, y], [y, x], [x, y, x], [small(x * 2), positive(y)]][k // 2 % 4], axis)


def contracted(x, y, k):
    """A product of two values over some axis that they share, the letters of the result in any order."""
    y = ops.astype(y, dtype(x))
    left, right = "abcde"[: len(shape(x))], list("fghij"[: len(shape(y))])
    equal = [(i, j) for i, n in enumerate(shape(x)) for j, m in enumerate(shape(y)) if n == m]
    r = chance(k)
    for i, j in r.permutation(equal).tolist()[: 1 + k % 2] if equal else []:
        if left[i] not in right and right[j] not in left:
            right[j] = left[i]
    shared = [c for c in right if c in left]
    batch = set(shared[1:]) if k % 3 == 0 else set()
    letters = [c for c in dict.fromkeys([*left, *right]) if c not in shared or c in batch]
    result = "".join(r.permutation(letters).tolist()) if k % 4 == 0 else "".join(letters)
    size = dict(zip([*left, *right], [*shape(x), *shape(y)], strict=True))
    if math.prod(size[c] for c in result) > MOST or math.prod(size.values()) > 40 * MOST:
        return x
    return small(ops.einsum(f"{left},{''.join(right)}->{result}", x, y))


def scanned(x, y, k):
    """A loop along x of a program of its own, which reads y, its state and a row of x."""
    if not shape(x)[0] or type_of(x).size > 4000 or type_of(y).size > 4000:
        return x
    inner = [tuple(row) for row in chance(k, 7).integers(0, 10**4, (1 + k % 4, 3)).tolist()]
    second = small(ops.astype(ops.sum(x, 0), dtype(x)) + 1)

    def body(carry, row):
        h, c = carry
        pool = run([h, row, c, y], inner, depth=1)
        new = next((v for v in reversed(pool) if type_of(v) == type_of(h)), h)
        other = next((v for v in pool[2:] if type_of(v) == type_of(h) and v is not new), h)
        state = [(small(new + row), c), (h, small(other + new)), (c, new), (small(new + c), small(h - row))][k % 4]
        return state, (pool[-1], pool[-1 - k % len(pool)], h)[: 1 + k % 3]

    (h, c), ys = ops.scan(body, (x[0], second), x, reverse=bool(k >> 4 & 1))
    found = [h, c, *ys]
    return small(found[k // 3 % len(found)])


TWO = [combined, combined, joined, joined, contracted, contracted, scanned]


def run(values, steps, depth=0):
    """The pool of values after all steps."""
    pool = list(values)
    for a, b, k in steps:
        x = pool[-1 - b % min(len(pool), 7)]
        number = a % (len(ONE) + len(TWO))
        if not shape(x) and 3 < number < len(ONE):
            continue  # a number has no axes to go along
        if number < len(ONE):
            if dtype(x) == np.bool_:
                x = ops.astype(x, "float32")
            if dtype(x).kind == "u":
                x = ops.astype(x, "int32")
            step = ONE[number]
            value = step(x, k)
        else:
            step = TWO[number - len(ONE)]
            y = pool[k % len(pool)]
            if not shape(x) or not shape(y) or dtype(x).kind in "bu" or (step is scanned and depth):
                continue
            value = step(x, y, k // 7)
        if dtype(value) == np.int64 and dtype(x) != np.int64 and step is not converted:
            value = ops.astype(value, dtype(x))
        if value is not x and type_of(value).size <= MOST and len(shape(value)) <= 5:
            USED[step.__name__] += 1
            pool.append(value)
    return pool


def chosen(pool, k):
    """Some of the pool as results: the last ones, one in the middle, one twice, an input, a view."""
    found = [*pool[-1 - k % 3 :], pool[k % len(pool)]]
    if k % 4 == 0:
        found += [pool[-1], pool[0]]
    if k % 5 == 0:
        found.append(ops.permute_dims(pool[-1], tuple(reversed(range(len(shape(pool[-1])))))))
    return tuple(found)


def arrays(k, long=False):
    """Arguments: two matrices that can be multiplied, a vector, a stack, and integers."""
    a, b, c = (LONG if long else SIZES)[k % len(LONG if long else SIZES)]
    like = np.dtype("float32" if k % 3 else "float64")
    r = chance(k, 1)
    shapes = [(a, b), (b, c), (b,), (a, c)] if long else [(a, b), (b, c), (b,), (2, a, c), (a, b)]
    found = [np.asarray(r.integers(-2, 3, s), like) for s in shapes]
    return [*found, r.integers(-2, 3, (a, b)).astype(np.int32)]


def forward(steps, k):
    """A function of `arrays(k)` that gives some values."""
    return lambda *xs: chosen(run(xs, steps), k)


def loss(steps, k):
    """A function of `arrays(k)` that gives one number, whose gradient reads what was computed on the way."""

    def made(*xs):
        pool = [v for v in run(xs, steps) if dtype(v).kind == "f"]
        weighted = [ops.sum(ops.astype(v, "float64") * constant(np.dtype(np.float64), shape(v), k)) for v in pool[-3:]]
        total = sum(weighted[1:], start=weighted[0])
        return sum((ops.sum(ops.astype(x, "float64")) for x in xs if dtype(x).kind == "f"), start=total)

    return made


def step_of_a_loop(steps, k):
    """A step of training: the two first arguments are the state, the others come row by row."""

    def made(v, w, *rows):
        pool = run([*rows, v, w], steps)
        new = []
        for old in (v, w):
            same = [p for p in pool if type_of(p) == type_of(old) and p is not old]
            new.append(small(same[k % len(same)] + old) if same and k % 3 else same[-1] if same else small(old * 2))
        if k % 4 == 0 and type_of(v) == type_of(w):
            new = [w, small(new[0] + w)]
        return (*new, *chosen(pool, k)[-2:])

    return made
