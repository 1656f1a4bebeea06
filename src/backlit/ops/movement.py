"""Ops that move elements and compute nothing: the same numbers in other places.

All are linear, and each is undone by another of the family: the gradient of a slice is a padding, of a padding a slice,
of a broadcast a sum, of a concatenation slices. That closes the family under differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from backlit.errors import ShapeError
from backlit.ir import Type
from backlit.ops.record import (
    Case,
    Notation,
    Op,
    Spec,
    Value,
    apply_like,
    composite,
    function,
    normal_axes,
    normal_axis,
    promote,
    refuse_axes,
    told_as,
)
from backlit.tracing import type_of

Shape = tuple[int, ...]


def _cases(*rows: tuple[Shape, dict[str, Any]]) -> tuple[Case, ...]:
    return tuple(Case((Spec(shape),), params) for shape, params in rows)


def _size(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise ShapeError(f"a size is an integer, not {n!r}")
    return int(n)


def sizes_of(shape: int | Sequence[int]) -> Shape:
    """A shape as a tuple of integers; one number stands for one axis."""
    return tuple(_size(n) for n in (shape if isinstance(shape, Sequence) else (shape,)))


def _iota_rule(size: int, dtype: np.dtype[Any]) -> Type:
    if size < 0:
        raise ShapeError(f"there are no {size} numbers")
    return Type(dtype, (size,))


_iota = Op(
    "iota",
    "movement",
    "The numbers 0, 1, 2, ..., size - 1.",
    rule=_iota_rule,
    numpy=lambda size, dtype: np.arange(size, dtype=dtype),
    vjp=lambda ctx, g: (),
    notation=Notation("iota"),
    samples=tuple(
        Case((), {"size": n, "dtype": np.dtype(d)}) for n, d in [(4, "int64"), (0, "uint32"), (1, "float32")]
    ),
    signature="",
)


def iota(size: int, like: Value, dtype: Any = np.int64) -> Value:
    """The numbers 0, 1, 2, ..., size - 1; traced when `like` is, so that a graph holds the rule and not the numbers."""
    return apply_like(_iota, like, size=size, dtype=np.dtype(dtype))


# --- reshape ----------------------------------------------------------------------------------------------------------


def _reshape_rule(x: Type, shape: Shape) -> Type:
    if math.prod(shape) != x.size or any(n < 0 for n in shape):
        raise ShapeError(f"{x.size} elements do not make the shape {shape}")
    return x.with_shape(shape)


_reshape = Op(
    "reshape",
    "movement",
    "The same elements, in the same (row-major) order, in another shape.",
    rule=_reshape_rule,
    numpy=lambda x, shape: np.reshape(x, shape),
    vjp=lambda ctx, g: (reshape(g, ctx.x.shape),),
    notation=Notation("reshape"),
    samples=_cases(
        ((6,), {"shape": (2, 3)}), ((2, 3), {"shape": (3, 1, 2)}), ((), {"shape": (1,)}), ((0, 2), {"shape": (0,)})
    ),
)


def reshape(x: Value, shape: int | Sequence[int]) -> Value:
    """The same elements in row-major order in another shape; one size may be -1 and is worked out."""
    t = type_of(x)
    with told_as("reshape", x):
        sizes = list(sizes_of(shape))
        if sizes.count(-1) == 1:
            known = -math.prod(sizes)
            if known == 0 or t.size % known:
                raise ShapeError(f"{t.size} elements do not make the shape {tuple(sizes)}")
            sizes[sizes.index(-1)] = t.size // known
    return _reshape(x, shape=tuple(sizes))


def shaped(x: Value, shape: Shape) -> Value:
    """x in this shape: x itself where it has that. For gradient rules, which should show no idle steps."""
    return x if type_of(x).shape == shape else reshape(x, shape)


def flatten(x: Value, start: int = 0) -> Value:
    """The axes from `start` on as one axis."""
    shape = type_of(x).shape
    return reshape(x, (*shape[:start], math.prod(shape[start:])))


def expand_dims(x: Value, axis: int | Sequence[int] = 0) -> Value:
    """New axes of size 1, at these places of the result."""
    t = type_of(x)
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    with told_as("expand_dims", x):
        places = normal_axes(tuple(axes), t.ndim + len(axes))
    rest = iter(t.shape)
    return reshape(x, tuple(1 if i in places else next(rest) for i in range(t.ndim + len(axes))))


def squeeze(x: Value, axis: int | Sequence[int]) -> Value:
    """Without these axes, which must have size 1."""
    t = type_of(x)
    with told_as("squeeze", x):
        axes = normal_axes(axis, t.ndim)
        for a in axes:
            if t.shape[a] != 1:
                raise ShapeError(f"axis {a} has size {t.shape[a]}, not 1")
    return reshape(x, tuple(n for i, n in enumerate(t.shape) if i not in axes))


# --- permute ----------------------------------------------------------------------------------------------------------


def _permute_rule(x: Type, axes: Shape) -> Type:
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"the axes {axes} are no permutation of the {x.ndim} axes")
    return x.with_shape(x.shape[a] for a in axes)


_permute_dims = Op(
    "permute_dims",
    "movement",
    "The axes in another order.",
    rule=_permute_rule,
    numpy=lambda x, axes: np.transpose(x, axes),
    vjp=lambda ctx, g: (permute_dims(g, tuple(int(a) for a in np.argsort(ctx.params["axes"]))),),
    notation=function("transpose"),
    samples=_cases(
        ((2, 3), {"axes": (1, 0)}), ((2, 3, 1), {"axes": (2, 0, 1)}), ((), {"axes": ()}), ((0, 2), {"axes": (1, 0)})
    ),
)


def permute_dims(x: Value, axes: Sequence[int]) -> Value:
    """The axes in the order `axes`: axis i of the result is axis axes[i] of x."""
    t = type_of(x)
    with told_as("permute_dims", x):
        order = tuple(normal_axis(a, t.ndim) for a in axes)
    return _permute_dims(x, axes=order)


def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """The axes in the order `axes`, by default reversed."""
    return permute_dims(x, tuple(reversed(range(type_of(x).ndim))) if axes is None else axes)


def matrix_transpose(x: Value) -> Value:
    """The last two axes exchanged."""
    n = type_of(x).ndim
    with told_as("matrix_transpose", x):
        if n < 2:
            raise ShapeError("a matrix has at least two axes")
    return permute_dims(x, (*range(n - 2), n - 1, n - 2))


def moveaxis(x: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    """Some axes moved to other places; the rest keep their order."""
    t = type_of(x)
    pairs = [tuple(a) if isinstance(a, tuple | list) else (a,) for a in (source, destination)]
    with told_as("moveaxis", x):
        start, end = ([normal_axis(a, t.ndim) for a in axes] for axes in pairs)
        if len(set(start)) != len(start) or len(set(end)) != len(end) or len(start) != len(end):
            raise ShapeError(f"{source} and {destination} do not pair distinct axes")
    moved = dict(zip(end, start, strict=True))
    rest = iter([a for a in range(t.ndim) if a not in start])
    return permute_dims(x, tuple(moved[i] if i in moved else next(rest) for i in range(t.ndim)))


# --- broadcast --------------------------------------------------------------------------------------------------------


def _broadcast_rule(x: Type, shape: Shape) -> Type:
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"the shape {x.shape} does not broadcast to {shape}", fix="only axes of size 1 can be stretched"
        )
    return x.with_shape(shape)


_broadcast_to = Op(
    "broadcast_to",
    "movement",
    "The elements repeated along new axes on the left and along axes of size 1.",
    rule=_broadcast_rule,
    numpy=lambda x, shape: np.broadcast_to(x, shape),
    vjp=lambda ctx, g: (sum_to(g, ctx.x.shape),),
    notation=Notation("broadcast"),
    samples=_cases(
        ((), {"shape": (2,)}),
        ((3,), {"shape": (2, 3)}),
        ((2, 1), {"shape": (2, 3)}),
        ((1,), {"shape": (0,)}),
        ((0,), {"shape": (2, 0)}),
    ),
)


def broadcast_to(x: Value, shape: int | Sequence[int]) -> Value:
    """The elements repeated along new axes on the left and along axes of size 1."""
    with told_as("broadcast_to", x):
        sizes = sizes_of(shape)
    return _broadcast_to(x, shape=sizes)


def sum_to(g: Value, shape: Shape) -> Value:
    """The reverse of broadcasting: summed over every axis along which `shape` was stretched to g's shape."""
    from backlit.ops.reduction import sum  # a reduction's own gradient is a broadcast: the families need each other

    have = type_of(g).shape
    if have == shape:
        return g
    lead = len(have) - len(shape)
    stretched = [lead + i for i, n in enumerate(shape) if n == 1 and have[lead + i] != 1]
    return shaped(sum(g, (*range(lead), *stretched)), shape)


# --- slice, pad, flip -------------------------------------------------------------------------------------------------


def _slice_rule(x: Type, start: Shape, stop: Shape, step: Shape) -> Type:
    if not len(start) == len(stop) == len(step) == x.ndim or any(k < 1 for k in step):
        raise ShapeError("start, stop and step have one entry an axis, and steps are positive")
    if any(not 0 <= a <= b <= n for a, b, n in zip(start, stop, x.shape, strict=True)):
        raise ShapeError(f"the range from {start} to {stop} leaves the shape {x.shape}")
    return x.with_shape(-(-(b - a) // k) for a, b, k in zip(start, stop, step, strict=True))


def _slice_vjp(ctx: Any, g: Value) -> tuple[Value]:
    """Zeros around and between."""
    start, step = ctx.params["start"], ctx.params["step"]
    high = []
    for n, m, a, k in zip(ctx.x.shape, g.shape, start, step, strict=True):
        high.append(n - a - (0 if m == 0 else (m - 1) * k + 1))
    return (_pad(g, low=start, high=tuple(high), between=tuple(k - 1 for k in step), value=0.0),)


_slice = Op(
    "slice",
    "movement",
    "Every step-th element from start up to stop, along each axis.",
    rule=_slice_rule,
    numpy=lambda x, start, stop, step: x[tuple(map(slice, start, stop, step))],
    vjp=_slice_vjp,
    notation=Notation("slice"),
    samples=_cases(
        ((5,), {"start": (1,), "stop": (4,), "step": (1,)}),
        ((6,), {"start": (1,), "stop": (6,), "step": (2,)}),
        ((3, 5), {"start": (0, 1), "stop": (3, 5), "step": (2, 3)}),
        ((3,), {"start": (2,), "stop": (2,), "step": (1,)}),
        ((0,), {"start": (0,), "stop": (0,), "step": (2,)}),
        ((), {"start": (), "stop": (), "step": ()}),
    ),
)


def slice_axis(x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """x[start:stop:step] along one axis."""
    shape = type_of(x).shape
    axis = normal_axis(axis, len(shape))
    return _slice(
        x,
        start=tuple(start if i == axis else 0 for i in range(len(shape))),
        stop=tuple(stop if i == axis else n for i, n in enumerate(shape)),
        step=tuple(step if i == axis else 1 for i in range(len(shape))),
    )


def _pad_rule(x: Type, low: Shape, high: Shape, between: Shape, value: float) -> Type:
    if not len(low) == len(high) == len(between) == x.ndim:
        raise ShapeError(f"the padding has {len(low)} entries for {x.ndim} axes")
    if any(n < 0 for n in (*low, *high, *between)):
        raise ShapeError("padding cannot be negative", fix="slice to make a value smaller")
    return x.with_shape(
        a + b + (0 if n == 0 else (n - 1) * (k + 1) + 1) for n, a, b, k in zip(x.shape, low, high, between, strict=True)
    )


def _pad_numpy(x: np.ndarray[Any, Any], low: Shape, high: Shape, between: Shape, value: float) -> Any:
    shape = _pad_rule(Type(x.dtype, x.shape), low, high, between, value).shape
    out = np.full(shape, value, x.dtype)
    out[tuple(slice(a, s - b, k + 1) for a, s, b, k in zip(low, shape, high, between, strict=True))] = x
    return out


def _pad_vjp(ctx: Any, g: Value) -> tuple[Value]:
    low, high, between = (ctx.params[k] for k in ("low", "high", "between"))
    stop = tuple(n - b for n, b in zip(g.shape, high, strict=True))
    return (_slice(g, start=low, stop=stop, step=tuple(k + 1 for k in between)),)


_pad = Op(
    "pad",
    "movement",
    "`value` around the elements, and between them.",
    rule=_pad_rule,
    numpy=_pad_numpy,
    vjp=_pad_vjp,
    notation=Notation("pad"),
    samples=_cases(
        ((3,), {"low": (1,), "high": (2,), "between": (0,), "value": 0.0}),
        ((2, 3), {"low": (0, 1), "high": (1, 0), "between": (1, 2), "value": 1.0}),
        ((0,), {"low": (1,), "high": (1,), "between": (3,), "value": 0.0}),
        ((), {"low": (), "high": (), "between": (), "value": 0.0}),
    ),
)


def pad(x: Value, widths: int | Sequence[Any], value: float = 0.0) -> Value:
    """`value` around x. `widths` is one number for all sides, or for each axis a number or a pair (before, after)."""
    t = type_of(x)
    with told_as("pad", x):
        rows = [widths] * t.ndim if isinstance(widths, int) else list(widths)
        pairs = [(w, w) if isinstance(w, int) else tuple(w) for w in rows]
        if len(pairs) != t.ndim or any(len(p) != 2 for p in pairs):
            raise ShapeError(
                f"the padding {widths!r} does not fit {t.ndim} axes", fix="give a pair (before, after) an axis"
            )
    low, high = tuple(_size(a) for a, _ in pairs), tuple(_size(b) for _, b in pairs)
    return _pad(x, low=low, high=high, between=(0,) * t.ndim, value=value)


def _flip_rule(x: Type, axis: Shape) -> Type:
    refuse_axes(x, axis)
    return x


_flip = Op(
    "flip",
    "movement",
    "The elements along some axes in reverse order.",
    rule=_flip_rule,
    numpy=lambda x, axis: np.flip(x, axis),
    vjp=lambda ctx, g: (flip(g, ctx.params["axis"]),),
    notation=Notation("flip"),
    samples=_cases(((3,), {"axis": (0,)}), ((2, 3), {"axis": (0, 1)}), ((0,), {"axis": (0,)}), ((), {"axis": ()})),
)


def flip(x: Value, axis: int | tuple[int, ...] | None = None) -> Value:
    """The elements along `axis` (all by default) in reverse order."""
    with told_as("flip", x):
        axes = normal_axes(axis, type_of(x).ndim)
    return _flip(x, axis=axes)


# --- joining and splitting --------------------------------------------------------------------------------------------


def _concat_rule(*types: Type, axis: int) -> Type:
    first = types[0]
    rest = [(*t.shape[:axis], *t.shape[axis + 1 :]) for t in types]
    if any(t.ndim != first.ndim for t in types) or len(set(rest)) > 1 or not 0 <= axis < first.ndim:
        raise ShapeError(f"the shapes differ in more than axis {axis}")
    return first.with_shape((*first.shape[:axis], sum(t.shape[axis] for t in types), *first.shape[axis + 1 :]))


def _concat_vjp(ctx: Any, g: Value) -> tuple[Value, ...]:
    axis, parts, start = ctx.params["axis"], [], 0
    for x in ctx.inputs:
        parts.append(slice_axis(g, axis, start, start + x.shape[axis]))
        start += x.shape[axis]
    return tuple(parts)


_concat = Op(
    "concat",
    "movement",
    "The values one after the other along an axis.",
    rule=_concat_rule,
    numpy=lambda *xs, axis: np.concatenate(xs, axis),
    vjp=_concat_vjp,
    notation=Notation("concat"),
    samples=tuple(
        Case(tuple(Spec(s) for s in shapes), {"axis": axis})
        for shapes, axis in [(((2,), (3,)), 0), (((2, 1), (2, 2), (2, 0)), 1), (((1,),), 0)]
    ),
    promotes=True,
    signature="*xs",
)


def concat(xs: Sequence[Value], axis: int = 0) -> Value:
    """The values one after the other along an existing axis; the other sizes are equal."""
    with told_as("concat", *xs):
        if not xs:
            raise ShapeError("nothing to join")
        axis = normal_axis(axis, type_of(xs[0]).ndim)
    return _concat(*xs, axis=axis)


def stack(xs: Sequence[Value], axis: int = 0) -> Value:
    """Values of one shape side by side along a new axis."""
    with told_as("stack", *xs):
        if len({type_of(x).shape for x in xs}) != 1:
            raise ShapeError("the values differ in shape" if xs else "nothing to join")
    return concat([expand_dims(x, axis) for x in promote("stack", *xs)], axis)


def split(x: Value, parts: int | Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    """x cut along `axis` into `parts` equal pieces, or into pieces of the given sizes."""
    t = type_of(x)
    with told_as("split", x):
        axis = normal_axis(axis, t.ndim)
        n = t.shape[axis]
        if isinstance(parts, int):
            if parts < 1 or n % parts:
                raise ShapeError(f"{n} elements do not split into {parts} equal parts", fix="give the sizes as a list")
            sizes = [n // parts] * parts
        else:
            sizes = [_size(p) for p in parts]
            if sum(sizes) != n or any(s < 0 for s in sizes):
                raise ShapeError(f"the sizes {sizes} do not add up to {n}")
    ends = np.cumsum(sizes).tolist()
    return tuple(slice_axis(x, axis, end - size, end) for end, size in zip(ends, sizes, strict=True))


@composite
def roll(x: Value, shift: int, axis: int) -> Value:
    """The elements moved by `shift` places along an axis; those that leave at one end come in at the other."""
    t = type_of(x)
    axis = normal_axis(axis, t.ndim)
    n = t.shape[axis]
    k = shift % n if n else 0
    return concat([slice_axis(x, axis, n - k, n), slice_axis(x, axis, 0, n - k)], axis) if k else x


def tile(x: Value, repeats: Sequence[int]) -> Value:
    """x repeated as a whole, repeats[i] times along axis i."""
    t = type_of(x)
    with told_as("tile", x):
        if len(repeats) != t.ndim:
            raise ShapeError(f"{len(repeats)} repeats for {t.ndim} axes")
    wide = expand_dims(x, tuple(range(0, 2 * t.ndim, 2)))
    pairs = list(zip(repeats, t.shape, strict=True))
    wide = broadcast_to(wide, [n for pair in pairs for n in pair])
    return reshape(wide, tuple(r * n for r, n in pairs))
