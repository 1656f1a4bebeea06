"""Windows that slide over a value: convolution and pooling.

Two linear primitives carry the whole family. `windows` reads every window of a value (as new last axes), `fold` adds
windows back into place; each is the gradient of the other. All else is composed:

    convolution              contract(windows(x), weights)        sum over window positions and input channels
      its gradient by x      fold(contract(g, weights))
      its gradient by w      contract(windows(x), g)
    transposed convolution   fold(contract(x, weights))           the gradient of a convolution, run forwards
    pooling                  max or mean over the window axes of windows(x)

An executor that has a direct convolution finds it as these pairs. Values are laid out (batch, *space, channels),
weights (*window, input channels / groups, output channels), as dense weights are (inputs, units).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from backlit.errors import DtypeError, ShapeError
from backlit.ir import Type
from backlit.ops import reduction
from backlit.ops.contraction import contract
from backlit.ops.movement import pad, reshape
from backlit.ops.record import Case, Notation, Op, Spec, Value, composite, told_as
from backlit.tracing import type_of

Sizes = tuple[int, ...]
Padding = Literal["same", "valid"] | int | Sequence[int | tuple[int, int]]


def _counts(shape: Sizes, axes: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    """How many windows fit along each of the axes."""
    found = []
    for a, k, s, d in zip(axes, size, stride, dilation, strict=True):
        reach = (k - 1) * d + 1
        if k < 1 or s < 1 or d < 1:
            raise ShapeError(f"window size {k}, stride {s} and dilation {d} must be at least 1")
        if shape[a] < reach:
            raise ShapeError(
                f"a window that reaches over {reach} does not fit axis {a} of size {shape[a]}",
                fix='use padding="same", a smaller window or less dilation',
            )
        found.append((shape[a] - reach) // s + 1)
    return tuple(found)


def _windows_rule(x: Type, axes: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Type:
    counts = dict(zip(axes, _counts(x.shape, axes, size, stride, dilation), strict=True))
    return x.with_shape((*(counts.get(i, n) for i, n in enumerate(x.shape)), *size))


def _windows_numpy(x: np.ndarray[Any, Any], axes: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Any:
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    picks = [slice(None)] * view.ndim
    for i, a in enumerate(axes):
        picks[a] = slice(None, None, stride[i])
        picks[x.ndim + i] = slice(None, None, dilation[i])
    return view[tuple(picks)]


_PARAMS: list[tuple[Sizes, dict[str, Any]]] = [
    ((5,), {"axes": (0,), "size": (3,), "stride": (1,), "dilation": (1,)}),
    ((2, 6, 3), {"axes": (1,), "size": (2,), "stride": (2,), "dilation": (2,)}),
    ((1, 4, 5, 2), {"axes": (1, 2), "size": (2, 3), "stride": (2, 1), "dilation": (1, 2)}),
    ((0, 3), {"axes": (1,), "size": (3,), "stride": (1,), "dilation": (1,)}),
]

windows = Op(
    "windows",
    "window",
    "Every window of x: `axes` count the windows, new last axes of sizes `size` run through each window.",
    rule=_windows_rule,
    numpy=_windows_numpy,
    vjp=lambda ctx, g: (fold(g, **ctx.params, extent=tuple(ctx.x.shape[a] for a in ctx.params["axes"])),),
    notation=Notation("windows"),
    samples=tuple(Case((Spec(shape),), params) for shape, params in _PARAMS),
)


def _fold_rule(w: Type, axes: Sizes, size: Sizes, stride: Sizes, dilation: Sizes, extent: Sizes) -> Type:
    ndim = w.ndim - len(size)
    sizes = dict(zip(axes, extent, strict=True))
    shape = tuple(sizes.get(i, n) for i, n in enumerate(w.shape[:ndim]))
    expected = _windows_rule(w.with_shape(shape), axes, size, stride, dilation)
    if expected.shape != w.shape:
        raise ShapeError(f"windows of {shape} have the shape {expected.shape}, not {w.shape}")
    return w.with_shape(shape)


def _fold_numpy(
    w: np.ndarray[Any, Any], axes: Sizes, size: Sizes, stride: Sizes, dilation: Sizes, extent: Sizes
) -> Any:
    out = np.zeros(_fold_rule(Type(w.dtype, w.shape), axes, size, stride, dilation, extent).shape, w.dtype)
    for position in np.ndindex(*size):  # one shifted, strided copy of the result for each position in the window
        picks = [slice(None)] * out.ndim
        for a, p, s, d in zip(axes, position, stride, dilation, strict=True):
            picks[a] = slice(p * d, p * d + (w.shape[a] - 1) * s + 1, s)
        out[tuple(picks)] += w[(..., *position)]
    return out


def _fold_vjp(ctx: Any, g: Value) -> tuple[Value]:
    return (windows(g, **{k: v for k, v in ctx.params.items() if k != "extent"}),)


fold: Op = Op(
    "fold",
    "window",
    "Windows added back into place: the elements of a value of size `extent` that each window position falls on.",
    rule=_fold_rule,
    numpy=_fold_numpy,
    vjp=_fold_vjp,
    notation=Notation("fold"),
    samples=tuple(
        Case(
            (Spec(_windows_rule(Type(np.dtype("f4"), shape), **params).shape),),
            params | {"extent": tuple(shape[a] for a in params["axes"])},
        )
        for shape, params in _PARAMS
    ),
    kinds="iuf",
)


# --- convolution ------------------------------------------------------------------------------------------------------


def _each(value: int | Sequence[int], n: int, what: str) -> Sizes:
    """One integer for each of n axes."""
    found = (value,) * n if isinstance(value, int) else tuple(value)
    if len(found) != n or any(isinstance(v, bool) or not isinstance(v, int | np.integer) or v < 1 for v in found):
        raise ShapeError(f"{what}={value!r} is not one positive integer, or {n} of them")
    return tuple(int(v) for v in found)


def paddings(padding: Padding, extent: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> list[tuple[int, int]]:
    """The zeros before and after each axis.

    "same" gives ceil(n / stride) windows, the odd zero at the end; "valid" gives none.
    """
    if padding == "valid":
        return [(0, 0)] * len(extent)
    if padding == "same":
        found = []
        for n, k, s, d in zip(extent, size, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            found.append((total // 2, total - total // 2))
        return found
    rows = [padding] * len(extent) if isinstance(padding, int) else list(padding)
    pairs = [(row, row) if isinstance(row, int) else tuple(row) for row in rows]
    if len(pairs) != len(extent) or any(len(p) != 2 or min(p) < 0 for p in pairs):
        raise ShapeError(
            f"padding={padding!r} does not fit {len(extent)} axes",
            fix='use "same", "valid", a number, or a number or a pair (before, after) for each axis',
        )
    return [(int(a), int(b)) for a, b in pairs]


def _space(x: Value, w: Value, what: str) -> tuple[int, Sizes, Sizes]:
    """The number of spatial axes, their sizes, and the window's."""
    n = type_of(x).ndim - 2
    if n not in (1, 2) or type_of(w).ndim != n + 2:
        raise ShapeError(
            f"{what} takes values (batch, length, channels) or (batch, height, width, channels) "
            "and weights (*window, input channels, output channels)"
        )
    return n, type_of(x).shape[1:-1], type_of(w).shape[:n]


def _padded(x: Value, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Value:
    return x if all(p == (0, 0) for p in pads) else pad(x, [(0, 0), *pads, (0, 0)], value)


@composite
def conv(
    x: Value,
    w: Value,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """Convolution (cross-correlation, as in every library for neural networks) in one or two dimensions.

        y[b, p, q, o] = sum over i, j, c of  x[b, p stride + i dilation, q stride + j dilation, c] w[i, j, c, o]

    x is (batch, *space, channels), w is (*window, channels / groups, outputs), the result (batch, *windows, outputs).
    With groups, channels and outputs are cut into equal groups, each convolved by itself.
    Raises ShapeError where channels, groups, window or padding do not fit.
    """
    with told_as("conv", x, w):
        n, extent, size = _space(x, w, "conv")
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        channels, (inner, outputs) = type_of(x).shape[-1], type_of(w).shape[-2:]
        if groups < 1 or channels != inner * groups or outputs % groups:
            raise ShapeError(
                f"x has {channels} channels, the weights take {inner} in each of {groups} groups and give {outputs}",
                fix="weights are (*window, channels / groups, outputs), and groups divides outputs",
            )
        x = _padded(x, paddings(padding, extent, size, stride, dilation))
        seen = windows(x, axes=tuple(range(1, n + 1)), size=size, stride=stride, dilation=dilation)
        space, window = "pq"[:n], "ij"[:n]
        if groups == 1:
            return contract(seen, w, spec=f"b{space}c{window},{window}co->b{space}o")
        shape = type_of(seen).shape
        seen = reshape(seen, (*shape[: n + 1], groups, inner, *size))
        w = reshape(w, (*size, inner, groups, outputs // groups))
        y = contract(seen, w, spec=f"b{space}gc{window},{window}cgo->b{space}go")
        return reshape(y, (*shape[: n + 1], outputs))


@composite
def conv_transpose(
    x: Value,
    w: Value,
    stride: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
) -> Value:
    """Transposed convolution: each input element adds its window of weights to the result, `stride` apart.

        y[b, p stride + i dilation, q stride + j dilation, o] += x[b, p, q, c] w[i, j, c, o]

    "valid" gives (n - 1) stride + (window - 1) dilation + 1 elements along an axis of n, "same" gives n stride; numbers
    cut the result at its ends. Weights are (*window, channels, outputs), not mirrored.
    """
    with told_as("conv_transpose", x, w):
        n, extent, size = _space(x, w, "conv_transpose")
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        if type_of(x).shape[-1] != type_of(w).shape[-2]:
            raise ShapeError(f"x has {type_of(x).shape[-1]} channels, the weights take {type_of(w).shape[-2]}")
        full = tuple((m - 1) * s + (k - 1) * d + 1 for m, s, k, d in zip(extent, stride, size, dilation, strict=True))
        if padding == "same":
            # what the reach of the window has beyond the stride is cut; where the stride is larger, zeros follow
            cuts = [(max(f - m * s, 0), m * s) for f, m, s in zip(full, extent, stride, strict=True)]
            pairs = [(c // 2, c // 2 + size_) for c, size_ in cuts]
        else:
            rows = paddings(padding, extent, size, stride, dilation)
            pairs = [(a, f - b) for (a, b), f in zip(rows, full, strict=True)]
        if any(b <= a for a, b in pairs):
            raise ShapeError(f"padding={padding!r} cuts everything away")
        total = tuple(max(f, b) for f, (_, b) in zip(full, pairs, strict=True))
        space, window = "pq"[:n], "ij"[:n]
        spread = contract(x, w, spec=f"b{space}c,{window}co->b{space}o{window}")
        y = fold(spread, axes=tuple(range(1, n + 1)), size=size, stride=stride, dilation=dilation, extent=full)
        y = _padded(y, [(0, t - f) for t, f in zip(total, full, strict=True)])
        return y[(slice(None), *(slice(a, b) for a, b in pairs))]


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pooled(what: str, x: Value) -> int:
    """The number of spatial axes of what can be pooled."""
    t = type_of(x)
    with told_as(what, x):
        if t.ndim not in (3, 4):
            raise ShapeError("takes values (batch, length, channels) or (batch, height, width, channels)")
        if t.dtype.kind != "f":
            raise DtypeError("takes floating-point values", fix="convert with ops.astype(x, 'float32')")
    return t.ndim - 2


def _pools(
    what: str, x: Value, size: int | Sequence[int], stride: int | Sequence[int] | None, padding: Padding, value: float
) -> tuple[Value, Sizes]:
    """The windows of each channel, and their axes."""
    t = type_of(x)
    n = _pooled(what, x)
    with told_as(what, x):
        size = _each(size, n, "size")
        step = size if stride is None else _each(stride, n, "stride")
        one = (1,) * n
        x = _padded(x, paddings(padding, t.shape[1:-1], size, step, one), value)
        found = windows(x, axes=tuple(range(1, n + 1)), size=size, stride=step, dilation=one)
    return found, tuple(range(n + 2, 2 * n + 2))


@composite
def max_pool(
    x: Value, size: int | Sequence[int], stride: int | Sequence[int] | None = None, padding: Padding = "valid"
) -> Value:
    """The largest element of each window; windows lie side by side unless a stride is given.

    Padding never wins. Elements that tie share the gradient.
    """
    found, axes = _pools("max_pool", x, size, stride, padding, -math.inf)
    return reduction.max(found, axes)


@composite
def avg_pool(
    x: Value, size: int | Sequence[int], stride: int | Sequence[int] | None = None, padding: Padding = "valid"
) -> Value:
    """The mean of each window; windows lie side by side unless a stride is given. Padding does not count."""
    found, axes = _pools("avg_pool", x, size, stride, padding, 0.0)
    total = reduction.sum(found, axes)
    if padding == "valid":
        return total / float(math.prod(type_of(found).shape[a] for a in axes))
    ones = np.ones((1, *type_of(x).shape[1:-1], 1), type_of(x).dtype)
    inside, _ = _pools("avg_pool", ones, size, stride, padding, 0.0)
    return total / reduction.sum(inside, axes)


def global_max_pool(x: Value) -> Value:
    """The largest element of each channel: (batch, *space, channels) gives (batch, channels)."""
    return reduction.max(x, tuple(range(1, _pooled("global_max_pool", x) + 1)))


def global_avg_pool(x: Value) -> Value:
    """The mean of each channel: (batch, *space, channels) gives (batch, channels)."""
    return reduction.mean(x, tuple(range(1, _pooled("global_avg_pool", x) + 1)))
