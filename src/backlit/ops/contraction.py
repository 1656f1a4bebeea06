"""Products that sum over shared axes: one primitive, `contract`, and matmul, tensordot and einsum on top of it.

`contract(a, b, spec="ij,jk->ik")` is a product of two values in Einstein's notation: each letter is an axis, an axis
that the result lacks is summed over. In the primitive's spec no operand repeats a letter and every letter occurs in at
least two of the three places, which makes its gradient a contraction again, by moving letters:

    y = contract(a, b, "ij,jk->ik"):   da = contract(g, b, "ik,jk->ij"),   db = contract(a, g, "ij,ik->jk")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from backlit.errors import DtypeError, ShapeError
from backlit.ir import Type
from backlit.ops.elementwise import multiply
from backlit.ops.indexing import gather
from backlit.ops.movement import iota, permute_dims, reshape
from backlit.ops.record import (
    NUMBERS,
    Case,
    Op,
    Spec,
    Value,
    infix,
    normal_axis,
    promote,
    told_as,
)
from backlit.ops.reduction import sum
from backlit.tracing import type_of

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parts_of(spec: str) -> tuple[str, str, str]:
    """The letters of a, of b and of the result."""
    operands, result = spec.split("->")
    a, b = operands.split(",")
    return a, b, result


@lru_cache(1024)
def _rule(a: Type, b: Type, spec: str) -> Type:
    left, right, result = parts_of(spec)
    if len(left) != a.ndim or len(right) != b.ndim:
        raise ShapeError(f"{spec!r} is for {len(left)} and {len(right)} axes, not {a.ndim} and {b.ndim}")
    if a.dtype != b.dtype:
        raise DtypeError("the two values differ in dtype")
    for letter in {*left, *right, *result}:
        if (letter in left) + (letter in right) + (letter in result) < 2:
            raise ShapeError(f"axis {letter!r} of {spec!r} stands in one place only")
    if any(len(set(letters)) != len(letters) for letters in (left, right, result)):
        raise ShapeError(f"{spec!r} repeats an axis within a term")
    sizes: dict[str, int] = {}
    for letters, shape in ((left, a.shape), (right, b.shape)):
        for letter, n in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ShapeError(f"axis {letter!r} of {spec!r} has size {sizes[letter]} and {n}")
    return a.with_shape(sizes[letter] for letter in result)


def _contract_numpy(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], spec: str) -> Any:
    """As one matrix product: axes in batch order, then those of a alone, the summed ones, those of b alone."""
    left, right, result = parts_of(spec)
    batch = [c for c in left if c in right and c in result]
    rows = [c for c in left if c not in right]
    inner = [c for c in left if c in right and c not in result]
    columns = [c for c in right if c not in left]
    size = dict(zip(left + right, a.shape + b.shape, strict=True))
    x = np.transpose(a, [left.index(c) for c in batch + rows + inner])
    y = np.transpose(b, [right.index(c) for c in batch + inner + columns])
    n, m, k, p = (math.prod(size[c] for c in group) for group in (batch, rows, inner, columns))
    found = np.matmul(x.reshape(n, m, k), y.reshape(n, k, p))
    found = found.reshape([size[c] for c in batch + rows + columns])
    return np.transpose(found, [(batch + rows + columns).index(c) for c in result])


def _vjp(ctx: Any, g: Value) -> tuple[Value, Value]:
    left, right, result = parts_of(ctx.params["spec"])
    a, b = ctx.inputs
    return (
        contract(g, b, spec=f"{result},{right}->{left}"),
        contract(a, g, spec=f"{left},{result}->{right}"),
    )


contract = Op(
    "contract",
    "contraction",
    "The product of a and b in Einstein's notation: axes that the result lacks are summed over.",
    rule=_rule,
    numpy=_contract_numpy,
    vjp=_vjp,
    notation=infix("@", 20, r"\,"),
    samples=tuple(
        Case((Spec(a), Spec(b)), {"spec": spec})
        for spec, a, b in [
            ("ij,jk->ik", (2, 3), (3, 4)),
            ("ij,kj->ik", (2, 3), (4, 3)),
            ("i,i->", (3,), (3,)),
            ("i,j->ij", (2,), (3,)),
            ("bij,bjk->bik", (2, 2, 3), (2, 3, 1)),
            ("abij,jab->bai", (2, 1, 3, 2), (2, 2, 1)),
            ("ij,jk->ik", (2, 0), (0, 3)),
            (",->", (), ()),
        ]
    ),
    promotes=True,
    kinds=NUMBERS,
    signature="a, b",
)


def matmul(a: Value, b: Value) -> Value:
    """The matrix product a @ b: shapes (..., n, k) and (..., k, m) give (..., n, m); leading axes broadcast.

    A 1-d operand is a row on the left, a column on the right, and its axis is dropped from the result.
    Raises ShapeError where the inner sizes differ.
    """
    with told_as("matmul", a, b):
        s, t = type_of(a).shape, type_of(b).shape
        if not s or not t:
            raise ShapeError("a matrix product needs at least one axis on each side", fix="multiply by a number with *")
        if s[-1] != t[max(len(t) - 2, 0)]:
            raise ShapeError(
                f"the inner sizes {s[-1]} and {t[max(len(t) - 2, 0)]} differ",
                fix="the last axis of the left must equal the first (or last but one) of the right; x.mT swaps the two",
            )
        lead = np.broadcast_shapes(s[:-2], t[:-2]) if _broadcasts(s[:-2], t[:-2]) else None
        if lead is None:
            raise ShapeError(f"the leading axes {s[:-2]} and {t[:-2]} do not broadcast")
        batch = LETTERS[: len(lead)]
        i, j, k = "xyz"
        left = (i if len(s) > 1 else "") + j
        right = j + (k if len(t) > 1 else "")
        out = (i if len(s) > 1 else "") + (k if len(t) > 1 else "")
        a_batch, b_batch = batch[len(lead) - len(s[:-2]) :], batch[len(lead) - len(t[:-2]) :]
        return einsum(f"{a_batch}{left},{b_batch}{right}->{batch}{out}", a, b, _stretch=True)


def _broadcasts(s: tuple[int, ...], t: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(s), reversed(t), strict=False))


def tensordot(a: Value, b: Value, axes: int | Sequence[Sequence[int]] = 2) -> Value:
    """The sum of products over pairs of axes: the last `axes` of a with the first of b, or two lists of axes."""
    s, t = type_of(a).shape, type_of(b).shape
    with told_as("tensordot", a, b):
        if isinstance(axes, int):
            if axes > min(len(s), len(t)):
                raise ShapeError(f"there are no {axes} axes to sum over")
            pairs = [(len(s) - axes + i, i) for i in range(axes)]
        else:
            if len(axes) != 2 or len(axes[0]) != len(axes[1]):
                raise ShapeError("axes are a number or two lists of equal length")
            pairs = [(normal_axis(p, len(s)), normal_axis(q, len(t))) for p, q in zip(*axes, strict=True)]
        left = LETTERS[: len(s)]
        right = list(LETTERS[len(s) : len(s) + len(t)])
        for p, q in pairs:
            right[q] = left[p]
        kept = [c for c in left if c not in right] + [c for c in right if c not in left]
        return einsum(f"{left},{''.join(right)}->{''.join(kept)}", a, b)


def einsum(spec: str, *operands: Value, _stretch: bool = False) -> Value:
    """Einstein's summation in NumPy's notation, for any number of operands: `"bij,bjk->bik"`, `"ii->i"`, `"...i"`.

    Operands are multiplied two at a time in an order chosen by opt_einsum. Raises ShapeError for a spec that does not
    fit the operands.
    """
    with told_as("einsum", *operands):
        if not operands:
            raise ShapeError("nothing to multiply")
        operands = promote("einsum", *operands)
        letters, result = _parse(spec, tuple(type_of(x).shape for x in operands))
        values = [_without_repeats(term, x) for term, x in zip(letters, operands, strict=True)]
        sizes: dict[str, int] = {}
        for term, x in values:
            for c, n in zip(term, type_of(x).shape, strict=True):
                known = sizes.get(c, 1)
                if known != n and 1 not in (known, n):
                    raise ShapeError(f"axis {c!r} of {spec!r} has size {known} and {n}")
                if known != n and not _stretch and c in sizes and "..." not in spec:
                    raise ShapeError(f"axis {c!r} of {spec!r} has size {known} and {n}")
                sizes[c] = n if known == 1 else known
        order = [(0,)] if len(values) == 1 else _order(values, result)
        for chosen in order:
            picked = [values.pop(i) for i in sorted(chosen, reverse=True)][::-1]
            needed = set(result).union(*(term for term, _ in values))
            values.append(_pairwise(picked, needed, sizes))
        ((term, x),) = values
        return _arranged(term, x, result, sizes)


@lru_cache(1024)
def _parse(spec: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[str, ...], str]:
    """The letters of each operand, of one of these shapes, and of the result; `...` written out."""
    from opt_einsum.parser import parse_einsum_input  # here, since importing it takes its time

    text = spec.replace(" ", "")
    try:
        inputs, result, _ = parse_einsum_input((text, *shapes), shapes=True)
    except ValueError as e:
        raise ShapeError(f"{spec!r}: {e}") from None
    terms = tuple(inputs.split(","))
    for term, shape in zip(terms, shapes, strict=True):
        if len(term) != len(shape):
            raise ShapeError(f"{spec!r} gives {len(term)} axes to a value that has {len(shape)}")
    if len(set(result)) != len(result) or not set(result) <= set(inputs):
        raise ShapeError(f"{spec!r}: each axis of the result is named once, and stands in an operand")
    return terms, result


def _order(values: Sequence[tuple[str, Value]], result: str) -> list[tuple[int, ...]]:
    if len(values) == 2:
        return [(0, 1)]
    from opt_einsum import contract_path

    shapes = [type_of(x).shape for _, x in values]
    spec = f"{','.join(term for term, _ in values)}->{result}"
    path, _ = contract_path(spec, *shapes, shapes=True)
    return [tuple(step) for step in path]


def _without_repeats(term: str, x: Value) -> tuple[str, Value]:
    """The diagonal of axes that share a letter."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            n = type_of(x).shape[i]
            if type_of(x).shape[j] != n:
                raise ShapeError(f"the repeated axis {c!r} has size {n} and {type_of(x).shape[j]}")
            rest = [a for a in range(len(term)) if a not in (i, j)]
            x = gather(permute_dims(x, (i, j, *rest)), iota(n, x), iota(n, x))
            term = c + "".join(term[a] for a in rest)
    return term, x


def _pairwise(picked: Sequence[tuple[str, Value]], needed: set[str], sizes: dict[str, int]) -> tuple[str, Value]:
    """One value out of one or two, keeping the needed letters."""
    reduced = []
    for i, (term, x) in enumerate(picked):
        wanted = needed.union(*(t for j, (t, _) in enumerate(picked) if j != i))
        shape = type_of(x).shape
        # an axis of size 1 takes no part: in a product it is stretched, in a sum it is all there is
        single = [a for a, c in enumerate(term) if shape[a] == 1 and (sizes[c] != 1 or c not in wanted)]
        if single:
            x = reshape(x, tuple(n for a, n in enumerate(shape) if a not in single))
            term = "".join(c for a, c in enumerate(term) if a not in single)
        gone = tuple(a for a, c in enumerate(term) if c not in wanted)
        if gone:
            x = sum(x, gone)
            term = "".join(c for a, c in enumerate(term) if a not in gone)
        reduced.append((term, x))
    if len(reduced) == 1:
        return reduced[0]
    (left, a), (right, b) = reduced
    kept = [c for c in dict.fromkeys(left + right) if c in needed]
    return "".join(kept), contract(a, b, spec=f"{left},{right}->{''.join(kept)}")


def _arranged(term: str, x: Value, result: str, sizes: dict[str, int]) -> Value:
    """The axes in the order of the result."""
    missing = [c for c in result if c not in term]
    if missing:  # every operand had size 1 there
        x = reshape(x, (*type_of(x).shape, *(1 for _ in missing)))
        term += "".join(missing)
    order = tuple(term.index(c) for c in result)
    return x if order == tuple(range(len(order))) else permute_dims(x, order)


def vecdot(a: Value, b: Value, axis: int = -1) -> Value:
    """The sum of the products along one axis."""
    with told_as("vecdot", a, b):
        return sum(multiply(a, b), normal_axis(axis, max(type_of(a).ndim, type_of(b).ndim)))


def outer(a: Value, b: Value) -> Value:
    """All products of two vectors: shapes (n,) and (m,) give (n, m)."""
    with told_as("outer", a, b):
        return contract(a, b, spec="i,j->ij")
