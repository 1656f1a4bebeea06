"""How numbers fill vectors, and the lines of the caches.

The columns of a product run along vectors and seldom fill the last one, which may be half a one: that takes half of the
time. Where one or two are left over, even that is much, and they may be summed apart.

A vector is `lanes` numbers wide: as many as the target's, or, where all targets are to have the same layout or choice,
as many as lie `in_line`.
"""

from __future__ import annotations

LINE = 64
"""Bytes of a line of the caches, and of the widest vector."""

_FEW = 2  # columns that take less time apart than half a vector does


def in_line(itemsize: int) -> int:
    """How many numbers of this many bytes lie in a line."""
    return LINE // itemsize


def narrowed(lanes: int, n: int) -> int:
    """The lanes of the narrowest vector that holds n numbers, or so many."""
    while lanes > 1 and lanes // 2 >= n:
        lanes //= 2
    return lanes


def rounded_up(n: int, unit: int) -> int:
    """The next multiple of a unit: numbers in whole vectors, or bytes in whole lines."""
    return -(-n // unit) * unit


def filled(n: int, lanes: int) -> float:
    """How many vectors n numbers fill; the last one may be half a one."""
    return -(-2 * n // lanes) / 2


def left_over(columns: int, lanes: int) -> int:
    """How many columns whole vectors leave over, if they are so few that they may take less time apart."""
    rest = columns % lanes
    return rest if rest <= _FEW and rest < columns else 0
