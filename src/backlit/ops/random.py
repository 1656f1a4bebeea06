"""Random numbers that are functions: the same key gives the same numbers, on every executor.

A counter-based generator has no state: `threefry2x32` scrambles a counter under a key (J. Salmon et al., Parallel
random numbers: as easy as 1, 2, 3, SC 2011, section 4.2; 20 rounds). A key is two uint32. `split` and `fold_in` make
new keys; use each key once. Bits, keys and float32 `uniform` are those of JAX's partitionable Threefry: element i of a
draw is the counter i, so a part of a draw can be made without the rest.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.errors import DtypeError, SettingError, ShapeError
from backlit.ops.elementwise import astype, less, maximum
from backlit.ops.indexing import gather, take
from backlit.ops.movement import iota, reshape, sizes_of, stack
from backlit.ops.record import (
    UNSIGNED,
    Array,
    Case,
    Notation,
    Spec,
    Value,
    composite,
    elementwise,
    normal_axis,
    told_as,
)
from backlit.ops.reduction import argsort
from backlit.ops.special import erfinv
from backlit.pytree import as_array
from backlit.tracing import is_traced, type_of

_ROTATIONS = tuple(tuple((r, 32 - r) for r in four) for four in ((13, 15, 26, 6), (17, 29, 16, 24)))
_ARRAYS = tuple(tuple(tuple(np.array(r, np.uint32) for r in pair) for pair in four) for four in _ROTATIONS)
_PARITY = 0x1BD11BDA
_FEW = 4  # counters that are scrambled one by one faster than in an array


def _threefry(
    k0: Any, k1: Any, x0: Any, x1: Any, mask: int | None = None, rotations: Any = _ROTATIONS
) -> tuple[Any, Any]:
    """Both words of the scrambled counter, in 32-bit arithmetic that wraps around; under a mask in any other."""

    def cut(x: Any) -> Any:
        return x if mask is None else x & mask

    keys = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = cut(x0 + keys[0]), cut(x1 + keys[1])
    for block in range(5):
        for left, right in rotations[block % 2]:
            x0 = cut(x0 + x1)
            x1 = cut((x1 << left) | (x1 >> right))
            x1 = x1 ^ x0
        x0 = cut(x0 + keys[(block + 1) % 3])
        x1 = cut(x1 + keys[(block + 2) % 3] + (block + 1))
    return x0, x1


def _at_once(key: Array, low: Array) -> tuple[Array, Array]:
    """Both words of the counters (0, low), of any shape."""
    if low.size <= _FEW:
        k0, k1 = key.tolist()
        pairs = [_threefry(k0, k1, 0, x, 0xFFFFFFFF) for x in low.reshape(-1).tolist()]
        first, second = np.array(pairs, np.uint32).reshape(-1, 2).T
    else:
        first, second = _threefry(key[:1], key[1:], np.zeros(1, np.uint32), low.reshape(-1), None, _ARRAYS)
    return first.reshape(low.shape), second.reshape(low.shape)


_U32 = Spec((3,), 0, 2**32 - 1, "uint32")
threefry2x32 = elementwise(
    "threefry2x32",
    numpy=lambda k0, k1, x0, x1, word: _threefry(k0, k1, x0, x1)[word],
    scalar=lambda s, k0, k1, x0, x1, word: _threefry(k0, k1, x0, x1)[word],
    vjp=None,
    notation=Notation("threefry"),
    doc="Word 0 or 1 of the counter (x0, x1) scrambled under the key (k0, k1), all uint32.",
    cases=tuple(Case((Spec((), 0, 9, "uint32"), Spec((), 0, 9, "uint32"), _U32, _U32), {"word": w}) for w in (0, 1)),
    kinds=UNSIGNED,
    arity=4,
)


def _places(words: Array) -> Array:
    """As a stable argsort: each word is sorted with its place below it, which NumPy does in vectors."""
    pairs = words.astype(np.uint64) << np.uint64(32) | np.arange(len(words), dtype=np.uint64)
    pairs.sort()
    return pairs.astype(np.uint32)


def key(seed: int) -> Any:
    """The key of a seed: its high and low 32 bits, as a uint32 array of shape (2,)."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise DtypeError(f"a seed is an integer, not {seed!r}", op="key") from None
    return np.array([number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF], np.uint32)


def _words(key: Value, low: Value) -> tuple[Value, Value]:
    """Both words of the counters (0, low)."""
    t = type_of(key)
    if t.shape != (2,) or t.dtype != np.uint32:
        with told_as("random", key):
            raise DtypeError("a key is a uint32 array of shape (2,)", fix="make one with ops.random.key(seed)")
    if not is_traced(key, low):
        return _at_once(as_array(key), as_array(low))
    k0, k1 = gather(key, np.int64(0)), gather(key, np.int64(1))
    high = np.uint32(0)
    return threefry2x32(k0, k1, high, low, word=0), threefry2x32(k0, k1, high, low, word=1)


def _joined(words: tuple[Value, Value], axis: int) -> Value:
    """Both words as one value."""
    return stack(words, axis=axis) if is_traced(*words) else np.stack(words, axis)


def _draw(key: Value, shape: Sequence[int] | int) -> tuple[Value, Value]:
    """Two words of random bits for each element."""
    sizes = sizes_of(shape)
    n = math.prod(sizes)
    if any(m < 0 for m in sizes):
        raise ShapeError(f"there is no draw of the shape {sizes}")
    if n > 2**32:
        raise ShapeError(f"a draw has at most 2^32 elements, not {n}", fix="split the key and draw in parts")
    if not is_traced(key):
        return _words(key, np.arange(n, dtype=np.uint32).reshape(sizes))
    return _words(key, reshape(iota(n, key, np.uint32), sizes))


@composite
def split(key: Value, count: int = 2) -> Value:
    """`count` new keys, as an array of shape (count, 2). Do not use the old key again."""
    return _joined(_draw(key, (count,)), 1)


@composite
def fold_in(key: Value, number: Value) -> Value:
    """The new key that belongs to a number (an integer from 0 to 2^32 - 1, such as a step counter; may be traced)."""
    number = astype(number, np.uint32) if is_traced(number) else as_array(number).astype(np.uint32)
    return _joined(_words(key, number), 0)


@composite
def bits(key: Value, shape: Sequence[int] | int = ()) -> Value:
    """Uniformly distributed uint32 numbers."""
    first, second = _draw(key, shape)
    return first ^ second


@composite
def uniform(
    key: Value, shape: Sequence[int] | int = (), dtype: Any = np.float32, low: float = 0.0, high: float = 1.0
) -> Value:
    """Numbers in [low, high), all multiples of 2^-23 (float32) or 2^-52 (float64) of its length equally likely.

    In [0, 1) the numbers are the same on every executor, elsewhere the same up to rounding.
    """
    if not low <= high:
        raise SettingError(f"low={low} is above high={high}", op="uniform")
    dtype = np.dtype(dtype)
    first, second = _draw(key, shape)
    if dtype == np.float32:
        unit = astype((first ^ second) >> 9, dtype) * 2.0**-23
    elif dtype == np.float64:
        unit = astype(first, dtype) * 2.0**-32 + astype(second >> 12, dtype) * 2.0**-52
    else:
        raise DtypeError(f"{dtype.name} is not drawn", op="uniform", fix="use float32 or float64")
    if (low, high) == (0.0, 1.0):
        return unit
    low, high = dtype.type(low), dtype.type(high)
    return maximum(unit * (high - low) + low, low)


@composite
def normal(key: Value, shape: Sequence[int] | int = (), dtype: Any = np.float32) -> Value:
    """Normally distributed numbers of mean 0 and variance 1: sqrt(2) erfinv(u), u uniform in (-1, 1)."""
    dtype = np.dtype(dtype)
    least = float(np.nextafter(dtype.type(-1), dtype.type(0)))
    return erfinv(uniform(key, shape, dtype, least, 1.0)) * math.sqrt(2)


@composite
def bernoulli(key: Value, p: Value = 0.5, shape: Sequence[int] | int | None = None) -> Value:
    """Booleans that are true with probability p; p broadcasts to `shape`, which is p's own by default."""
    dtype = type_of(p).dtype
    return less(uniform(key, type_of(p).shape if shape is None else shape, dtype), p)


@composite
def permutation(key: Value, x: Value, axis: int = 0) -> Value:
    """x with the sub-arrays along `axis` in random order; for an integer n, the numbers 0 .. n - 1 in random order."""
    whole = isinstance(x, int)
    with told_as("permutation", key, x):
        n = x if whole else type_of(x).shape[normal_axis(axis, type_of(x).ndim)]
    order = iota(n, key)
    # sorting by random 32-bit numbers, often enough that ties do no harm
    for _ in range(math.ceil(3 * math.log(max(1, n)) / math.log(2**32 - 1))):
        keys = split(key)
        key, sub = keys[0], keys[1]
        drawn = bits(sub, (n,))
        order = gather(order, argsort(drawn)) if is_traced(key) else order[_places(drawn)]
    return order if whole else take(x, order, axis)
