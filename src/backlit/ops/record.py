"""What an op is: one record. The registry of all of them, and the family constructors that most are made with.

An op's record says what the op means: the type of its results, its NumPy semantics (the oracle that every executor is
held to), its gradient as a formula in ops, how it is written, and inputs to test it on. How fast it runs is the
executors' business; nothing about that is here.

Applied to arrays an op computes at once; applied to at least one traced value it adds a node to the graph. Python
numbers take the dtype of the arrays beside them (the array API standard's rule), so `2 * x` does not change x's dtype.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from backlit.errors import DtypeError, Error, ShapeError, StructureError
from backlit.ir import Node, Type, dtype_name
from backlit.pytree import as_array
from backlit.tracing import Traced, emit, is_traced, lift, scope, type_of

Value: TypeAlias = Any
"""A traced value, an array or a Python number: what ops take and give."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Context(Protocol):
    """What a gradient rule may look at: the values of the forward node, as traced values."""

    @property
    def node(self) -> Node:
        """The forward node."""

    @property
    def inputs(self) -> tuple[Value, ...]:
        """All inputs."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The params of the application."""

    @property
    def x(self) -> Value:
        """The first input."""

    @property
    def y(self) -> Value:
        """The result."""

    @property
    def results(self) -> tuple[Value, ...]:
        """All results, of an op that has several."""

    def constant(self, index: int) -> float | None:
        """The number that an input is, if it is a 0-d constant of the graph."""

    def reverse(self, outputs: Sequence[Node], cotangents: Sequence[Value], wrt: Sequence[Node]) -> list[Value]:
        """Gradients of a nested graph, for ops that have one (`scan`)."""


Vjp: TypeAlias = Callable[[Context, Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Notation:
    """How an application is written: a glyph and where it stands. Data only; renderers read it.

    `form` is "infix" (a + b), "prefix" (-a), "function" (tanh(a)), "around" (|a|) or "call" (name and all params).
    A higher `precedence` binds tighter.
    """

    glyph: str
    form: str = "call"
    precedence: int = 100
    latex: str = ""


def infix(glyph: str, precedence: int, latex: str = "") -> Notation:
    """`a + b`."""
    return Notation(glyph, "infix", precedence, latex or glyph)


def prefix(glyph: str, precedence: int = 30, latex: str = "") -> Notation:
    """`-a`."""
    return Notation(glyph, "prefix", precedence, latex or glyph)


def function(glyph: str, latex: str = "") -> Notation:
    """`tanh(a)`."""
    return Notation(glyph, "function", 100, latex or rf"\operatorname{{{glyph}}}")


@dataclass(frozen=True, slots=True)
class Spec:
    """A sample input: a shape, a range of values, and a dtype where it is not the one that is tested."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Sample inputs and params of one application."""

    inputs: tuple[Spec, ...]
    params: Mapping[str, Any] = field(default_factory=dict)


Samples: TypeAlias = tuple[Case, ...]

# The kinds of dtype that an op may take, as NumPy's letters: bool, signed, unsigned, real floating.
FLOATS, NUMBERS, INTEGERS, BOOLS, UNSIGNED, ANY = "f", "iuf", "iu", "b", "u", "biuf"
_KIND_NAMES = {
    FLOATS: "floating-point values",
    NUMBERS: "numbers",
    INTEGERS: "integers",
    BOOLS: "booleans",
    BOOLS + INTEGERS: "booleans and integers",
    UNSIGNED: "unsigned integers",
    ANY: "any values",
}

OPS: dict[str, Op] = {}
"""Every op by its name."""


@dataclass(frozen=True, eq=False)
class Op:
    """An operation. Call it with values and keyword params.

    rule      types of the inputs, and params -> type of the result (or a tuple of types)
    numpy     arrays, and params -> array (or a tuple of arrays): the meaning
    vjp       (context, g) -> for each input its share of the gradient, or None for zero; None where the op has no
              gradient (its results are integers or booleans)
    scalar    (s, *numbers) -> number: the same meaning for single numbers, for elementwise ops; for reductions
              (s, a, b) -> number, how two are combined. `s` has the functions of `ops.scalars.Scalars`
    promotes  inputs are brought to a common dtype before the op sees them
    """

    name: str
    family: str
    doc: str
    rule: Callable[..., Type | tuple[Type, ...]]
    numpy: Callable[..., Any]
    vjp: Vjp | None
    notation: Notation
    samples: Samples | Callable[[], Samples]
    scalar: Callable[..., Any] | None = None
    promotes: bool = False
    kinds: str = ANY
    signature: str = "x"
    at_least: int = field(init=False)
    at_most: float = field(init=False)

    def __post_init__(self) -> None:
        if self.name in OPS:
            raise ValueError(f"there is an op {self.name!r} already")
        OPS[self.name] = self
        parameters = [
            inspect.Parameter(
                p.lstrip("*"), inspect.Parameter.VAR_POSITIONAL if p[0] == "*" else inspect.Parameter.POSITIONAL_ONLY
            )
            for p in filter(None, self.signature.split(", "))
        ]
        several = self.signature.startswith("*") or ", *" in self.signature
        object.__setattr__(self, "at_least", len(parameters) - several)
        object.__setattr__(self, "at_most", math.inf if several else len(parameters))
        object.__setattr__(self, "__doc__", self.doc)
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__signature__", inspect.Signature(parameters))

    def __call__(self, *values: Value, **params: Any) -> Value:
        return apply(self, *values, **params)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def cases(self) -> Samples:
        """The sample inputs."""
        return self.samples() if callable(self.samples) else self.samples

    def types(self, inputs: Sequence[Type], params: Mapping[str, Any]) -> tuple[Type, ...]:
        """The types of the results. Errors name the op and the types it was given."""
        try:
            if not self.at_least <= len(inputs) <= self.at_most:
                raise StructureError(f"takes ({self.signature}), not {len(inputs)} values")
            for t in inputs:
                if t.dtype.kind not in self.kinds:
                    raise DtypeError(
                        f"takes {_KIND_NAMES[self.kinds]}, not {dtype_name(t.dtype)}",
                        fix="convert with ops.astype(x, dtype)",
                    )
            found = self.rule(*inputs, **params)
        except Error as e:
            raise e.within(self.name, inputs) from None
        return found if isinstance(found, tuple) else (found,)

    def evaluate(self, arrays: Sequence[Array], params: Mapping[str, Any]) -> tuple[Array, ...]:
        """The NumPy semantics; floating-point exceptions are silent and give inf and nan."""
        with np.errstate(all="ignore"):
            found = self.numpy(*arrays, **params)
        return tuple(np.asarray(a) for a in found) if isinstance(found, tuple) else (np.asarray(found),)


def apply(op: Op, *values: Value, **params: Any) -> Value:
    """Apply an op to values: a node if one of them is traced, else the result at once."""
    if op.promotes:
        values = promote(op.name, *values)
    types = [type_of(v) for v in values]
    results = op.types(types, params)
    if is_traced(*values):
        return wrap(emit(op.name, values, results, params))
    with told_as(op.name, *values):
        arrays = op.evaluate([as_array(v) for v in values], params)
    return arrays[0] if len(arrays) == 1 else arrays


def apply_like(op: Op, like: Value, **params: Any) -> Value:
    """Apply an op that has no inputs: traced when `like` is."""
    return wrap(emit(op.name, (), op.types((), params), params)) if is_traced(like) else op(**params)


def wrap(node: Node) -> Value:
    """A node's result as a traced value; a tuple of them where it has several."""
    if len(node.types) == 1:
        return Traced(node)
    return tuple(Traced(emit("item", (Results(node),), (t,), {"index": i})) for i, t in enumerate(node.types))


class Results(Traced):
    """All results of a node that has several; only `item` takes it."""

    __slots__ = ()


_PYTHON_NUMBERS = (int, float)  # bool is an int


def is_number(value: Value) -> bool:
    """A Python number: it has a value but no dtype of its own."""
    return isinstance(value, _PYTHON_NUMBERS) and not isinstance(value, np.generic)


def number_as(value: float, dtype: np.dtype[Any]) -> Array:
    """A Python number in the dtype of the arrays beside it. Raises DtypeError where that would change its kind."""
    kind = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "f"
    if (
        (kind == "f" and dtype.kind in "iub")
        or (kind == "i" and dtype.kind == "b")
        or (kind == "b" and dtype.kind != "b")
    ):
        raise DtypeError(
            f"the Python number {value!r} does not mix with {dtype_name(dtype)} values",
            fix="convert the array first: ops.astype(x, 'float32')",
        )
    if kind == "i" and dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        raise DtypeError(f"{value} does not fit in {dtype_name(dtype)}", fix="use a wider integer dtype")
    return np.asarray(value, dtype)


def common_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """The array API standard's promotion: within floats, within integers, never between kinds."""
    kinds = {"i" if d.kind == "u" else d.kind for d in dtypes}
    found = np.result_type(*dtypes)
    if len(kinds) > 1 or (found.kind == "f" and "f" not in kinds):
        raise DtypeError(
            f"{' and '.join(dict.fromkeys(map(dtype_name, dtypes)))} do not mix",
            fix="convert one of them first: ops.astype(x, dtype)",
        )
    return found


def promote(op: str, *values: Value) -> tuple[Value, ...]:
    """The values in their common dtype; Python numbers adapt to the arrays beside them."""
    strong = [type_of(v).dtype for v in values if not is_number(v)]
    alike = bool(strong) and strong.count(strong[0]) == len(strong)
    if alike and len(strong) == len(values):
        return values
    try:
        if not strong:
            strong = [as_array(v).dtype for v in values]
            if len({d.kind for d in strong}) > 1 and all(d.kind != "b" for d in strong):
                strong = [np.dtype(np.float32)]
        dtype = strong[0] if alike else common_dtype(strong)
        return tuple(
            [
                number_as(v, dtype) if is_number(v) else v if type_of(v).dtype == dtype else OPS["cast"](v, dtype=dtype)
                for v in values
            ]
        )
    except Error as e:
        raise e.within(op, [repr(v) if is_number(v) else type_of(v) for v in values]) from None


_F = TypeVar("_F", bound=Callable[..., Any])


def composite(f: _F) -> _F:
    """A function of ops that a reader knows by its own name: its nodes stand in a scope of that name."""

    @wraps(f)
    def inner(*args: Any, **kwargs: Any) -> Any:
        with scope(f.__name__, "composite"):
            try:
                return f(*args, **kwargs)
            except Error as e:
                raise e.within(f.__name__) from None

    return inner  # type: ignore[return-value]


class told_as:
    """Errors raised inside are told as errors of `op` applied to these values."""

    __slots__ = ("op", "values")

    def __init__(self, op: str, *values: Value) -> None:
        self.op, self.values = op, values

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Error):
            raise error.within(self.op, [repr(v) if is_number(v) else type_of(v) for v in self.values]) from None


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape: aligned at the right, sizes equal or 1."""
    if shapes and shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"the shapes {' and '.join(map(str, shapes))} do not broadcast",
            fix="sizes must be equal or 1, aligned at the last axis; ops.expand_dims and x[:, None] add axes of size 1",
        ) from None


@lru_cache(4096)
def _common_type(types: tuple[Type, ...]) -> Type:
    """The type that values of one dtype have when they are broadcast against each other."""
    if len({t.dtype for t in types}) > 1:
        raise DtypeError(f"the inputs have the dtypes {', '.join(dtype_name(t.dtype) for t in types)}")
    return types[0].with_shape(broadcast_shapes(*(t.shape for t in types)))


def normal_axis(axis: int, ndim: int) -> int:
    """The axis counted from 0."""
    if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
        raise DtypeError(f"an axis is an integer, not {axis!r}")
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {axis} is out of range", fix=f"the value has {ndim} axes")
    return int(axis) % ndim


def normal_axes(axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes counted from 0, sorted, each once; None means all."""
    if axes is None:
        return tuple(range(ndim))
    found = [normal_axis(a, ndim) for a in (axes if isinstance(axes, Sequence) else (axes,))]
    if len(set(found)) != len(found):
        raise ShapeError(f"the axes {axes} name an axis twice")
    return tuple(sorted(found))


def refuse_axes(x: Type, axis: tuple[int, ...]) -> None:
    """Raise ShapeError unless these are axes of x, counted from 0, in order and each once, as primitives want them."""
    if list(axis) != sorted(set(axis)) or any(not 0 <= a < x.ndim for a in axis):
        raise ShapeError(f"{axis} are no axes of {x}")


# ---------------------------------------------------------------------------------------------------------------------
# Family constructors


def _elementwise_cases(arity: int, first: tuple[float, float], others: tuple[float, float]) -> Samples:
    shapes: list[tuple[tuple[int, ...], ...]] = [((),) * arity, ((3,),) * arity, ((2, 3),) * arity, ((0, 2),) * arity]
    if arity == 2:
        shapes += [((2, 3), (3,)), ((2, 1), (1, 3)), ((), (1, 2))]
    ranges = [first] + [others] * (arity - 1)
    return tuple(Case(tuple(Spec(s, *r) for s, r in zip(row, ranges, strict=True))) for row in shapes)


def elementwise(
    name: str,
    numpy: Callable[..., Any],
    scalar: Callable[..., Any],
    vjp: Vjp | None,
    notation: Notation,
    doc: str,
    *,
    samples: tuple[float, float] = (-2.0, 2.0),
    second: tuple[float, float] | None = None,
    cases: Samples | None = None,
    kinds: str = FLOATS,
    result: Any = None,
    arity: int | None = None,
) -> Op:
    """An op that acts on each element alone; several inputs broadcast against each other and share one dtype.

    `samples` is the range of the first input, `second` of the others (or `cases` says it all); `result` the dtype of
    the result where it is not that of the inputs; `kinds` the kinds of dtype that the op takes.
    """
    names = list(inspect.signature(scalar).parameters)[1:]
    arity = len(names) if arity is None else arity
    settings = set(names[arity:])

    def rule(*types: Type, **params: Any) -> Type:
        if params.keys() != settings:
            raise TypeError(f"{name} takes the params ({', '.join(settings)}), not ({', '.join(params)})")
        found = _common_type(types)
        return found if result is None else found.with_dtype(result)

    return Op(
        name,
        "elementwise",
        doc,
        rule,
        numpy,
        vjp,
        notation,
        _elementwise_cases(arity, samples, second or samples) if cases is None else cases,
        scalar=scalar,
        promotes=arity > 1,
        kinds=kinds,
        signature="x" if arity == 1 else ", ".join(f"x{i + 1}" for i in range(arity)),
    )


def reduction(
    name: str,
    numpy: Callable[..., Any],
    scalar: Callable[..., Any],
    vjp: Vjp | None,
    notation: Notation,
    doc: str,
    *,
    kinds: str = NUMBERS,
    result: Callable[[np.dtype[Any]], Any] = lambda dtype: dtype,
    of_empty: bool = True,
) -> Op:
    """An op that combines the elements along some axes (params `axis`, a sorted tuple, and `keepdims`)."""

    def rule(x: Type, axis: tuple[int, ...], keepdims: bool) -> Type:
        refuse_axes(x, axis)
        if not of_empty and any(x.shape[a] == 0 for a in axis):
            raise ShapeError("nothing to reduce: an axis has size 0")
        return Type(np.dtype(result(x.dtype)), reduced_shape(x.shape, axis, keepdims))

    cases = [
        Case((Spec((3,)),), {"axis": (0,), "keepdims": False}),
        Case((Spec((2, 3)),), {"axis": (1,), "keepdims": True}),
        Case((Spec((2, 3, 2)),), {"axis": (0, 2), "keepdims": False}),
        Case((Spec((2, 1)),), {"axis": (0, 1), "keepdims": False}),
        Case((Spec(()),), {"axis": (), "keepdims": False}),
        Case((Spec((2, 0)),), {"axis": (0,), "keepdims": False}),
    ]
    if of_empty:
        cases.append(Case((Spec((2, 0)),), {"axis": (1,), "keepdims": False}))
    return Op(name, "reduction", doc, rule, numpy, vjp, notation, tuple(cases), scalar=scalar, kinds=kinds)


def reduced_shape(shape: tuple[int, ...], axis: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape that is left when these axes are reduced."""
    if keepdims:
        return tuple(1 if i in axis else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axis)


def constant_like(x: Value, number: float, shape: tuple[int, ...] | None = None) -> Value:
    """A value of x's dtype and shape (or the given shape) that is `number` everywhere; traced when x is."""
    t = type_of(x)
    shape = t.shape if shape is None else shape
    if not is_traced(x):
        return np.full(shape, number, t.dtype)
    scalar = lift(np.asarray(number, t.dtype))
    return OPS["broadcast_to"](scalar, shape=shape) if shape else scalar
