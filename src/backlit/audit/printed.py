"""Printed numbers: what a number claims is what its digits say, no more and no less.

`0.7375` claims four decimals: it stands for every value from 0.73745 to 0.73755, and, for an author who cuts instead of
rounding, for every value from 0.7375 to 0.7376.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from backlit.audit.syntax import Array, Expr, Number

Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
_NOISE = 1e-11  # what float64 arithmetic itself may be off by, relative


@dataclass(frozen=True, slots=True)
class Printed:
    """A number, or an array of numbers, as printed: its value and the unit of its last digit (10^-4 for 0.7375)."""

    value: Values
    unit: Values

    @property
    def few_digits(self) -> bool:
        """Whether a number has a single significant digit, too few to tell much."""
        return bool(np.any(np.abs(self.value) < 9.5 * self.unit))

    def hides(self, value: Values) -> bool:
        """Whether a value has more digits than these: what is exactly 2 cannot be meant by 3."""
        with np.errstate(all="ignore"):
            return bool(np.any(np.abs(value / self.unit - np.round(value / self.unit)) > 1e-9))

    @property
    def hand_rounding(self) -> Values:
        """What rounding numbers that are not on the paper adds: half a unit, where there are five digits or more."""
        return np.where(np.abs(self.value) >= 9999.5 * self.unit, self.unit / 2, 0.0)

    def stands_for(self, value: Any, spread: Any = 0.0) -> bool:
        """Whether these digits are right for `value`, known up to `spread`: rounded, or cut off."""
        value = np.asarray(value, np.float64)
        return value.shape == self.value.shape and bool(self.stand_for(value[None], spread)[0])

    def stand_for(self, values: Values, spread: Any = 0.0) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The same for many values of the number's shape, along a first axis."""
        with np.errstate(all="ignore"):
            slack = np.asarray(spread, np.float64) + _NOISE * np.maximum(np.abs(values), self.unit)
            off = np.abs(self.value - values)
            rounded = off <= self.unit / 2 + slack
            same_side = (np.sign(values) == np.sign(self.value)) | (self.value == 0)
            cut = same_side & (np.abs(self.value) <= np.abs(values) + slack) & (off < self.unit + slack)
        return np.all(((rounded | cut) & np.isfinite(values)).reshape(len(values), -1), axis=1)


def unit_of(text: str) -> float:
    """The unit of the last digit: 1e-4 for 0.7375, 1 for 3, 10 for 1.2e2."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals))


def printed(expr: Expr) -> Printed:
    """The printed number, or array of printed numbers, of an expression that is one."""
    match expr:
        case Number(text=text):
            return Printed(np.asarray(float(text)), np.asarray(unit_of(text)))
        case Array(items=items):
            parts = [printed(i) for i in items]
            return Printed(np.array([p.value for p in parts]), np.array([p.unit for p in parts]))
        case _:
            raise TypeError(f"{expr} is no printed number")
