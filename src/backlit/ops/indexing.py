"""Reading and adding at computed places: `gather` and `scatter_add`, each the gradient of the other.

Both primitives index the leading axes of x by one integer array an axis, as NumPy does: `x[i, j]`. Everything else
(`x[...]`, take, take_along_axis, one_hot, triangles) is composed of them, of movement and of comparisons. Indices may
be negative (counted from the end); an index out of range raises IndexingError, on every executor.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from backlit.errors import ControlFlowError, DtypeError, IndexingError, ShapeError
from backlit.ir import Type
from backlit.ops import elementwise as ew
from backlit.ops.movement import (
    broadcast_to,
    expand_dims,
    flip,
    iota,
    moveaxis,
    permute_dims,
    reshape,
    slice_axis,
)
from backlit.ops.record import (
    Case,
    Notation,
    Op,
    Spec,
    Value,
    broadcast_shapes,
    composite,
    constant_like,
    is_number,
    normal_axis,
    number_as,
    told_as,
)
from backlit.tracing import Traced, type_of


def _index_shape(x: Type, indices: tuple[Type, ...]) -> tuple[int, ...]:
    if len(indices) > x.ndim:
        raise IndexingError(f"{len(indices)} indices for {x.ndim} axes")
    for i in indices:
        if i.dtype.kind not in "iu":
            raise IndexingError(
                f"an index has dtype {i.dtype.name}",
                fix="index with integers; for a boolean mask use ops.where, since a graph's shapes are fixed",
            )
    return broadcast_shapes(*(i.shape for i in indices))


def out_of_range(index: int, axis: int, size: int) -> IndexingError:
    """The error that every executor raises for an index beyond the ends of an axis."""
    return IndexingError(
        f"index {index} is out of range: axis {axis} has size {size}",
        fix=f"indices run from {-size} to {size - 1}" if size else "the axis is empty",
    )


def _in_range(shape: tuple[int, ...], indices: tuple[np.ndarray[Any, Any], ...]) -> None:
    for axis, (n, index) in enumerate(zip(shape, indices, strict=False)):
        bad = (index < -n) | (index >= n) if index.dtype.kind == "i" else index >= n
        if np.any(bad):
            raise out_of_range(index[bad].flat[0], axis, n)


def _gather_numpy(x: np.ndarray[Any, Any], *indices: np.ndarray[Any, Any]) -> Any:
    _in_range(x.shape, indices)
    return x[indices]


# the shape of x, and for each index its shape and the size of the axis that it counts
_GATHERED: list[tuple[tuple[int, ...], list[tuple[tuple[int, ...], int]]]] = [
    ((4,), [((3,), 4)]),
    ((4, 2), [((2, 3), 4)]),
    ((3, 2, 2), [((2, 1), 3), ((3,), 2)]),
    ((3,), [((), 3)]),
    ((3,), [((0,), 3)]),
]

gather = Op(
    "gather",
    "indexing",
    "x[i, j, ...]: the elements (or sub-arrays) of the leading axes at these indices, which broadcast.",
    rule=lambda x, *indices: x.with_shape((*_index_shape(x, indices), *x.shape[len(indices) :])),
    numpy=_gather_numpy,
    vjp=lambda ctx, g: (
        _scatter_add(constant_like(ctx.x, 0.0), g, *ctx.inputs[1:]),
        *(None for _ in ctx.inputs[1:]),
    ),
    notation=Notation("gather"),
    samples=tuple(Case((Spec(x), *(Spec(i, -n, n - 1, "int64") for i, n in indices))) for x, indices in _GATHERED),
    signature="x, *indices",
)


def _scatter_rule(x: Type, updates: Type, *indices: Type) -> Type:
    wanted = (*_index_shape(x, indices), *x.shape[len(indices) :])
    if updates.shape != wanted:
        raise ShapeError(f"the updates have the shape {updates.shape}, not {wanted}")
    if updates.dtype != x.dtype:
        raise DtypeError("x and the updates differ in dtype", fix="convert the updates with ops.astype")
    return x


def _scatter_numpy(x: np.ndarray[Any, Any], updates: np.ndarray[Any, Any], *indices: np.ndarray[Any, Any]) -> Any:
    _in_range(x.shape, indices)
    out = x.copy()
    np.add.at(out, indices, updates)
    return out


# the shapes of x and of the updates, and the indices as above
_SCATTERED: list[tuple[tuple[int, ...], tuple[int, ...], list[tuple[tuple[int, ...], int]]]] = [
    ((4,), (6,), [((6,), 4)]),
    ((4, 2), (3, 2), [((3,), 4)]),
    ((3, 2), (4,), [((4,), 3), ((4,), 2)]),
    ((3,), (0,), [((0,), 3)]),
    ((1,), (), [((), 1)]),
]

_scatter_add: Op = Op(
    "scatter_add",
    "indexing",
    "x with the updates added at these indices of its leading axes; what meets in one place adds up.",
    rule=_scatter_rule,
    numpy=_scatter_numpy,
    vjp=lambda ctx, g: (g, gather(g, *ctx.inputs[2:]), *(None for _ in ctx.inputs[2:])),
    notation=Notation("scatter_add"),
    samples=tuple(
        Case((Spec(x), Spec(u), *(Spec(i, 0, n - 1, "int64") for i, n in indices))) for x, u, indices in _SCATTERED
    ),
    kinds="iuf",
    signature="x, updates, *indices",
)


def scatter_add(x: Value, indices: Value | tuple[Value, ...], updates: Value) -> Value:
    """x with `updates` added at `indices` of its first axis (or, for a tuple of indices, of its leading axes).

    Where indices repeat, the updates add up. The updates broadcast to the shape of `x[indices]`.
    """
    places = indices if isinstance(indices, tuple) else (indices,)
    with told_as("scatter_add", x, updates, *places):
        shape = (*_index_shape(type_of(x), tuple(map(type_of, places))), *type_of(x).shape[len(places) :])
        if is_number(updates):
            updates = number_as(updates, type_of(x).dtype)
        return _scatter_add(x, broadcast_to(updates, shape), *places)


def take(x: Value, indices: Value, axis: int) -> Value:
    """The sub-arrays of `axis` at these indices (any shape): axis `axis` gives way to the axes of the indices."""
    with told_as("take", x, indices):
        axis = normal_axis(axis, type_of(x).ndim)
        found = gather(moveaxis(x, axis, 0), indices)
        k = type_of(indices).ndim
        return moveaxis(found, tuple(range(k)), tuple(range(axis, axis + k)))


def take_along_axis(x: Value, indices: Value, axis: int = -1) -> Value:
    """For each position the element of `axis` that the index there names; other sizes broadcast against x's."""
    t, i = type_of(x), type_of(indices)
    with told_as("take_along_axis", x, indices):
        axis = normal_axis(axis, t.ndim)
        if i.ndim != t.ndim:
            raise ShapeError("the indices must have as many axes as x")
        shape = broadcast_shapes(*((*s[:axis], 1, *s[axis + 1 :]) for s in (t.shape, i.shape)))
        x = broadcast_to(x, (*shape[:axis], t.shape[axis], *shape[axis + 1 :]))
    places = [
        indices if a == axis else reshape(iota(n, x), tuple(n if b == a else 1 for b in range(t.ndim)))
        for a, n in enumerate(shape)
    ]
    return gather(x, *places)


@composite
def sort(x: Value, axis: int = -1) -> Value:
    """The elements along `axis`, smallest first; the gradient goes where each element came from."""
    from backlit.ops.reduction import argsort

    return take_along_axis(x, argsort(x, axis), axis)


@composite
def one_hot(labels: Value, classes: int, dtype: Any = np.float32) -> Value:
    """A new last axis of size `classes` that is 1 at the label and 0 elsewhere; all 0 for a label out of range."""
    if type_of(labels).dtype.kind not in "iu":
        with told_as("one_hot", labels):
            raise DtypeError("labels are integers", fix="convert with ops.astype(labels, 'int64')")
    kinds = iota(classes, labels, type_of(labels).dtype)
    return ew.astype(ew.equal(expand_dims(labels, type_of(labels).ndim), kinds), dtype)


def _triangle(name: str, x: Value, keep: Any) -> Value:
    shape = type_of(x).shape
    with told_as(name, x):
        if len(shape) < 2:
            raise ShapeError("a matrix has at least two axes")
    rows, columns = expand_dims(iota(shape[-2], x), 1), iota(shape[-1], x)
    return ew.where(keep(rows, columns), x, constant_like(x, 0, ()))


@composite
def tril(x: Value, k: int = 0) -> Value:
    """The matrices with 0 above the k-th diagonal (k > 0 lies above the main one)."""
    return _triangle("tril", x, lambda rows, columns: columns <= rows + k)


@composite
def triu(x: Value, k: int = 0) -> Value:
    """The matrices with 0 below the k-th diagonal (k > 0 lies above the main one)."""
    return _triangle("triu", x, lambda rows, columns: columns >= rows + k)


# --- x[...] -----------------------------------------------------------------------------------------------------------


def _whole_index(index: Any, ndim: int) -> list[Any]:
    """The parts of an index with the ellipsis written out, so that every axis has a part.

    An ellipsis that stands for no axis remains, since it parts the arrays on its two sides.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    used = len([p for p in parts if p is not None and p is not Ellipsis])
    spots = [i for i, p in enumerate(parts) if p is Ellipsis]
    if len(spots) > 1:
        raise IndexingError("an index has at most one '...'")
    if used > ndim:
        raise IndexingError(f"{used} indices for {ndim} axes")
    fill: list[Any] = [slice(None)] * (ndim - used)
    if not spots:
        return parts + fill
    return parts[: spots[0]] + (fill or [Ellipsis]) + parts[spots[0] + 1 :]


def _one_slice(x: Value, axis: int, part: slice) -> Value:
    n = type_of(x).shape[axis]
    if isinstance(part.start, Traced) or isinstance(part.stop, Traced) or isinstance(part.step, Traced):
        raise ControlFlowError(
            "a slice has a traced bound: shapes are fixed when a graph is made",
            fix="use ops.take(x, start + np.arange(length), axis)",
        )
    start, stop, step = part.indices(n)
    if step > 0:
        return (
            slice_axis(x, axis, min(start, n), max(min(start, n), stop), step)
            if (start, stop, step) != (0, n, 1)
            else x
        )
    count = len(range(start, stop, step))  # from the other end: flip, then step forwards
    flipped = flip(x, axis)
    first = n - 1 - start if count else 0
    return slice_axis(flipped, axis, first, first + (count - 1) * -step + 1 if count else first, -step)


def get_item(x: Value, index: Any) -> Value:
    """x[index] with NumPy's meaning: integers, slices, `...`, None and integer arrays. Boolean masks are refused."""
    with told_as("x[...]", x):
        parts = _whole_index(index, type_of(x).ndim)
        gathers = any(isinstance(p, Traced | np.ndarray | list) for p in parts)
        arrays: dict[int, Any] = {}  # axis of x -> the index array there
        layout: list[
            str
        ] = []  # what each part gives: a "new" axis, a "kept" one, its share of the "array" axes, a "gap"
        kept: list[int] = []
        axis = 0
        for part in parts:
            if part is None or part is Ellipsis:
                layout.append("new" if part is None else "gap")
                continue
            if isinstance(part, slice):
                x = _one_slice(x, axis, part)
                layout.append("kept")
                kept.append(axis)
            elif gathers:  # beside an array an integer counts as an array, as in NumPy
                arrays[axis] = _index_array(part, type_of(x).shape[axis], axis)
                layout.append("array")
            else:
                i = _integer(part, type_of(x).shape[axis], axis)
                x = slice_axis(x, axis, i, i + 1)
            axis += 1
        if not gathers:
            sizes = iter([type_of(x).shape[a] for a in kept])
            shape = tuple(1 if part == "new" else next(sizes) for part in layout if part != "gap")
            return x if shape == type_of(x).shape else reshape(x, shape)
        found = gather(permute_dims(x, (*arrays, *kept)), *arrays.values())
        depth = type_of(found).ndim - len(kept)  # axes that the index arrays broadcast to
        first, last = layout.index("array"), len(layout) - layout[::-1].index("array")
        if set(layout[first:last]) != {"array"}:
            first = 0  # arrays that are apart put their axes in front
        before, after = ([p for p in part if p in ("new", "kept")] for part in (layout[:first], layout[first:]))
        lead = before.count("kept")
        found = moveaxis(found, tuple(range(depth)), tuple(range(lead, lead + depth)))
        sizes = iter(type_of(found).shape)
        result = [*before, *["array"] * depth, *after]
        shape = tuple(1 if part == "new" else next(sizes) for part in result)
        return found if shape == type_of(found).shape else reshape(found, shape)


def _index_array(part: Any, size: int, axis: int) -> Any:
    if isinstance(part, Traced):
        return part
    if not isinstance(part, np.ndarray | list):
        return np.asarray(_integer(part, size, axis))
    array = np.asarray(part)
    return array.astype(np.int64) if array.size == 0 and array.dtype.kind == "f" else array  # x[[]]


def _integer(part: Any, size: int, axis: int) -> int:
    try:
        if isinstance(part, bool | np.bool_):
            raise TypeError
        i = operator.index(part)
    except TypeError:
        raise IndexingError(
            f"an index is {part!r}", fix="use integers, slices, '...', None and integer arrays"
        ) from None
    if not -size <= i < size:
        raise out_of_range(i, axis, size)
    return i % size
