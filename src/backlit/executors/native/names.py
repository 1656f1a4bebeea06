"""LLVM's names of NumPy's dtypes, of vectors of them, and of numbers."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np

POINTER = "ptr"
BOOL, I32, I64, F32, F64 = (np.dtype(d) for d in ("bool", "int32", "int64", "float32", "float64"))
_FLOATS = {"float16": "half", "float32": "float", "float64": "double"}


@cache
def element(dtype: Any) -> str:
    """LLVM's name of a dtype in a register."""
    if isinstance(dtype, str):
        return dtype
    if dtype == BOOL:
        return "i1"
    return _FLOATS.get(dtype.name) or f"i{8 * dtype.itemsize}"


@cache
def word(text: str) -> str:
    """The text as LLVM's language writes a name."""
    found = "".join(c if c.isalnum() or c in "._" else "_" for c in text) or "v"
    return f"v{found}" if found[0].isdigit() else found


@cache
def stored(dtype: np.dtype[Any]) -> str:
    """LLVM's name of a dtype in memory: a boolean takes a byte there."""
    return "i8" if dtype == BOOL else element(dtype)


@cache
def vector(name: str, lanes: int) -> str:
    """LLVM's name of so many of a type."""
    return name if lanes == 1 else f"<{lanes} x {name}>"


@cache
def typed(dtype: Any, lanes: int) -> str:
    """LLVM's name of so many numbers of a dtype in a register."""
    return vector(element(dtype), lanes)


def literal(number: Any, dtype: np.dtype[Any]) -> str:
    """A number as LLVM writes it."""
    kind = dtype.kind
    if kind == "f":
        return _float(float(number).hex(), dtype)
    if kind == "b":
        return "true" if number else "false"
    bits = 8 * dtype.itemsize
    wrapped = int(number) % (1 << bits)
    return str(wrapped - (1 << bits) if wrapped >= 1 << (bits - 1) else wrapped)


@cache
def _float(number: str, dtype: np.dtype[Any]) -> str:
    """A number, as `float.hex` writes it, rounded to the dtype."""
    with np.errstate(over="ignore"):
        rounded = dtype.type(float.fromhex(number))
    if dtype.itemsize == 2:
        return "0xH" + struct.pack(">e", rounded).hex().upper()
    return "0x" + struct.pack(">d", float(rounded)).hex().upper()


def overload(dtype: Any, lanes: int) -> str:
    """How LLVM names a type in the name of an intrinsic."""
    name = {"half": "f16", "float": "f32", "double": "f64"}.get(element(dtype), element(dtype))
    return name if lanes == 1 else f"v{lanes}{name}"
