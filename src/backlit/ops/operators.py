"""The operators of a traced value, each one an op; and what happens when a traced value meets NumPy.

Set on `Traced` from here because an operator is an op and ops are made of traced values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from backlit.errors import ControlFlowError, MissingMethodError
from backlit.ops import contraction, elementwise, indexing, movement
from backlit.ops.record import OPS
from backlit.tracing import Traced

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "truediv": elementwise.divide,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder,
    "pow": elementwise.pow,
    "matmul": contraction.matmul,
    "and": elementwise.bitwise_and,
    "or": elementwise.bitwise_or,
    "xor": elementwise.bitwise_xor,
    "lshift": elementwise.bitwise_left_shift,
    "rshift": elementwise.bitwise_right_shift,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": elementwise.equal,
    "ne": elementwise.not_equal,
    "lt": elementwise.less,
    "le": elementwise.less_equal,
    "gt": elementwise.greater,
    "ge": elementwise.greater_equal,
}
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": elementwise.negative,
    "abs": elementwise.abs,
    "invert": elementwise.bitwise_invert,
}


def _forward(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: f(self, other)


def _reflected(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: f(other, self)


def _unary(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: f(self)


def _array_ufunc(self: Traced, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """NumPy's own functions on traced values (`np.tanh(x)`, `array + x`): the op of that meaning, if there is one."""
    found: Callable[..., Any] | None = next((op for op in OPS.values() if op.numpy is ufunc), None)
    if ufunc is np.matmul:
        found = contraction.matmul
    if found is None or method != "__call__" or kwargs:
        raise ControlFlowError(
            f"np.{ufunc.__name__} was given {self.describe()}: it has no numbers before the graph runs",
            fix=_instead(ufunc.__name__),
        )
    return found(*inputs)


def _array_function(self: Traced, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    raise ControlFlowError(
        f"np.{function.__name__} was given {self.describe()}: it has no numbers before the graph runs",
        fix=_instead(function.__name__),
    )


def _instead(name: str) -> str:
    from backlit import ops

    return f"use ops.{name}" if hasattr(ops, name) else f"there is no ops.{name}: write it in functions of backlit.ops"


def _missing(self: Traced, name: str) -> NoReturn:
    """What is no attribute of a traced value: perhaps a method of NumPy's arrays."""
    if name.startswith("_"):
        raise AttributeError(name)
    fix = _instead(name)
    raise MissingMethodError(f"{self.describe()} has no .{name}", fix=fix + "(x, ...)" * fix.startswith("use"))


def install() -> None:
    """Give `Traced` its operators. Called once, when `backlit.ops` is imported."""
    methods: dict[str, Any] = {}
    for name, f in BINARY.items():
        methods[f"__{name}__"] = _forward(f)
        methods[f"__r{name}__"] = _reflected(f)
    for name, f in COMPARISONS.items():
        methods[f"__{name}__"] = _forward(f)
    for name, g in UNARY.items():
        methods[f"__{name}__"] = _unary(g)
    methods["__pos__"] = lambda self: self
    methods["__getattr__"] = _missing
    methods["__getitem__"] = indexing.get_item
    methods["__array_ufunc__"] = _array_ufunc
    methods["__array_function__"] = _array_function
    methods["T"] = property(movement.transpose)
    methods["mT"] = property(movement.matrix_transpose)
    for name, method in methods.items():
        setattr(Traced, name, method)
