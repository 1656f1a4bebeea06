"""Printing numbers so that every printed line is true.

A line `a = symbols = numbers = value` is true when the printed numbers, put into the formula, give the printed value
at its own last digit. Rounding each operand by itself does not achieve that. So each line starts at the digits asked
for, and prints its operands with as many more as it takes (a difference of nearly equal numbers takes many). Where
even the exact operands do not give the value, because the run was in a short dtype whose own rounding is larger, the
value is printed with fewer digits; and where nothing of it would be left, the rounding is a term of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from backlit.errors import LegalityError
from backlit.explanation.expressions import evaluate, own_value, substituted
from backlit.explanation.steps import Apply, Expression, Number, Operand, Rest, parts

_PLAIN = 9  # numbers below 10 to this power are written without an exponent
_UNITS = 64  # of rounding that a line may differ by
MOST = 17  # digits that tell every float64 from its neighbours


def show(value: Any, digits: int) -> str:
    """A number with this many significant digits, trailing zeros left out: `0.0225`, `1.2e-5`, `-3`, `inf`.

    An array as nested lists: `[[0.1, 0.2], [0.3, 0.4]]`.
    """
    if isinstance(value, np.ndarray):
        return show(value.item(), digits) if not value.ndim else f"[{', '.join(show(row, digits) for row in value)}]"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int):
        return str(int(value))
    if not math.isfinite(value) or value == 0:
        return "0" if value == 0 else str(value)
    text = f"{value:.{_significant(value, digits)}g}"
    mantissa, _, exponent = text.partition("e")
    if exponent and -5 < int(exponent) < _PLAIN:  # 1e+06 is 1000000
        return f"{Decimal(text):f}"
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _significant(value: float, digits: int) -> int:
    """The digits that a number is printed with: down to the units at least, unless it is very large."""
    power = math.floor(math.log10(abs(value)))
    return min(max(digits, power + 1), MOST) if power < _PLAIN else digits


def gives(found: Any, text: str, digits: int) -> bool:
    """Whether a number is printed as `text` at these digits, and not by a hair's breadth."""
    if isinstance(found, np.ndarray) and found.ndim:
        return all(gives(v, t, digits) for v, t in zip(found.ravel(), listed(text).ravel(), strict=True))
    value = float(found)
    if not math.isfinite(value) or value == 0:
        return show(value, digits) == text
    if show(value, digits) != text:
        return False
    half = 0.5 * 10.0 ** (math.floor(math.log10(abs(value))) + 1 - _significant(value, digits))
    return abs(value - float(text)) <= half * (1 - 1e-6)


def roughness(dtypes: Iterable[np.dtype[Any]]) -> float:
    """How far the rounding of a run in these dtypes may take a value: many units of the shortest of them.

    Generous to long sums, and far below anything that a wrong formula would be out by.
    """
    floats = [np.finfo(d) for d in dtypes if d.kind == "f"]
    return _UNITS * max((float(f.eps) for f in floats), default=float(np.finfo(np.float64).eps))


def fitted(e: Expression, value: Any, digits: int, rough: float = 1e-11) -> tuple[Expression, str]:
    """The expression with the text of each number chosen, and the text of the value, so that the line is true.

    `rough` is how far rounding may have taken the value, of the largest number in the formula (see `roughness`).
    Raises LegalityError beyond that.
    """
    exact = evaluate(e, own_value)
    _refuse_untrue(e, value, exact, rough)
    for shown in (*range(digits, min(digits + 3, MOST)), *range(digits - 1, 0, -1)):
        text = show(value, shown)
        if not gives(exact, text, shown):
            continue
        for more in range(max(digits, shown), MOST + 1):
            printed = printed_at(e, more)
            if gives(evaluate(printed, _printed_value), text, shown):
                return printed, text
    rounding = Rest(0, value - exact, "rounding")
    if (isinstance(e, Apply) and e.rest is not None and e.rest.what == "rounding") or not np.all(
        np.isfinite(rounding.value)
    ):
        return printed_at(e, MOST), show(value, digits)
    return fitted(Apply("sum", (e,), rounding), value, digits, rough)


def printed_at(e: Expression, digits: int) -> Expression:
    """The expression with every number printed at these digits."""

    def printed(leaf: Operand | Number | Rest) -> Operand | Number | Rest:
        return replace(leaf, text=show(leaf.value, digits))

    return substituted(e, printed)


def _printed_value(e: Expression | Rest) -> Any:
    assert not isinstance(e, Apply)
    if isinstance(e.value, bool):
        return e.value
    if isinstance(e.value, np.ndarray):
        return listed(e.text).astype(e.value.dtype if e.value.dtype.kind != "f" else np.float64)
    return int(e.text) if isinstance(e.value, int) else float(e.text)


def listed(text: str) -> np.ndarray[Any, np.dtype[Any]]:
    """The texts of the numbers of a printed array, in its shape."""
    return np.array(json.loads(re.sub(r"[^\s,\[\]]+", r'"\g<0>"', text)))


def _refuse_untrue(e: Expression, value: Any, exact: Any, rough: float) -> None:
    """Raise LegalityError where the formula does not give the number of the run: a bug, and not to be printed over."""
    if not (np.all(np.isfinite(value)) and np.all(np.isfinite(exact))):
        return
    sizes = [np.max(np.abs(np.asarray(evaluate(p, own_value), np.float64)), initial=0.0) for p in parts(e)]
    if np.max(np.abs(np.subtract(value, exact, dtype=np.float64)), initial=0.0) > rough * max(1e-30, *sizes):
        raise LegalityError(
            f"a derivation says {exact} where the run gave {value}",
            fix="this is a bug in backlit's explainer: please report it with the function",
        )
