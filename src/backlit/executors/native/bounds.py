"""Code that checks indices: none outside of its axis is followed, and the first one is reported."""

from __future__ import annotations

import numpy as np

from backlit.executors.native.arithmetic import SCALARS
from backlit.executors.native.builder import Function
from backlit.executors.native.names import BOOL, I64
from backlit.executors.native.value import Value


def checked(f: Function, index: Value, size: int, mask: Value | None = None) -> tuple[Value, Value]:
    """The place that an index means (0 where it is out of range), and whether it is out of range."""
    if index.dtype.kind == "u":
        wrong = SCALARS.cast(index, np.dtype(np.uint64)) >= size
        place = SCALARS.cast(index, I64)
    else:
        place = SCALARS.cast(index, I64)
        place = (place < 0).select(place + size, place)
        wrong = place.bitcast(np.dtype(np.uint64)) >= size
    if mask is not None and wrong.lanes > 1:
        wrong = wrong & mask
    return wrong.select(0, place), wrong


def report(f: Function, status: Value, code: Value, index: Value, wrong: Value) -> None:
    """Where `wrong`: write the number of the check and the index into the status words, for the error message."""
    found = wrong
    if wrong.lanes > 1:
        bits = f.op(f"bitcast {wrong} to i{wrong.lanes}", f"i{wrong.lanes}")
        found = f.op(f"icmp ne {bits}, 0", BOOL)

    def write() -> None:
        value = SCALARS.cast(index, I64).splat(wrong.lanes)
        if wrong.lanes > 1:
            first = f.call("cttz", bits.dtype, 1, [bits, f.const(False, BOOL)])
            value = f.op(f"extractelement {value}, {first}", I64)
        f.store(value, status.at(1, I64))
        f.store(code + 1, status)

    f.when(found, write, "out_of_range")
