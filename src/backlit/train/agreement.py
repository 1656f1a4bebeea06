"""What the processes of one run agree on, so that all do the same thing at the same time.

The rule: what a process decides by its own clock, keyboard or rounding is decided by all together, and what they were
given is compared before they begin. Everything else is a function of the seed, the data and the settings, and equal by
itself. A process alone agrees with itself, at no cost.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backlit.errors import DistributedError
from backlit.executors.api import Processes
from backlit.pytree import flatten

Array = np.ndarray[Any, np.dtype[Any]]


def steps_and_stop(processes: Processes, most: int, stop: bool) -> tuple[int, bool]:
    """How many steps to take next, as the first process says, and whether anybody wants to stop."""
    found = processes.collected(np.array([most, stop]))
    return int(found[0, 0]), bool(found[:, 1].any())


def everywhere(processes: Processes, ok: bool) -> bool:
    """Whether it is so in every process."""
    return bool(processes.collected(np.array(ok)).all())


def figures(processes: Processes, own: Mapping[str, float]) -> dict[str, float]:
    """The figures as the first process has them: sums may be rounded in other ways elsewhere."""
    if processes.count == 1:
        return dict(own)
    found = processes.collected(np.array(list(own.values()), np.float64))[0]
    return dict(zip(own, map(float, found), strict=True))


def refuse_different(processes: Processes, given: Mapping[str, Any]) -> None:
    """Raise DistributedError, in every process, where one was given something else than the first.

    given   by name, nested containers of arrays, or settings that can be printed
    """
    if processes.count == 1:
        return
    found = processes.collected(np.array([digest(value) for value in given.values()], np.int64))
    for column, name in enumerate(given):
        if other := np.flatnonzero(found[:, column] != found[0, column]).tolist():
            raise DistributedError(
                f"process {other[0]} has another {name} than process 0",
                fix="give all processes the same settings, and let them see the same files",
            )


def digest(value: Any) -> int:
    """A number that tells values apart."""
    if not isinstance(value, Mapping | Sequence) or isinstance(value, str):
        return zlib.crc32(repr(value).encode())
    leaves, paths, _ = flatten(value)
    found = zlib.crc32(repr(paths).encode())
    for leaf in leaves:
        array = np.asarray(leaf)
        found = zlib.crc32(repr((array.dtype, array.shape)).encode(), found)
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return found
