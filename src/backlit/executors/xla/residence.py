"""What is on the devices already, so that it need not be copied there again.

The rule: only a read-only array is remembered, for as long as it lives. By the contract of `compile_loop` such an array
never changes, and NumPy refuses to write to it; an array that somebody may write to is copied at every call, so that
whoever changes it in place gets what it holds now.
"""

from __future__ import annotations

import weakref
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from backlit.executors.api import Array


def placed(array: Array, sharding: NamedSharding) -> Any:
    """The array on the devices of the sharding, some of which may be another process's."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.array(array[index]))


class Residents:
    """The copies on devices of arrays in memory. A copy goes when its array does."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Array], Any]] = {}

    def keep(self, array: Array, copy: Any) -> None:
        """Remember where the copy of a read-only array is."""
        number, known = id(array), self._known
        known[number] = weakref.ref(array, lambda _: known.pop(number, None)), copy

    def find(self, array: Array, sharding: NamedSharding) -> Any:
        """The copy of the array under this sharding; None where there is none, or the array may have changed."""
        found = None if array.flags.writeable else self._known.get(id(array))
        if found is None or found[0]() is not array or found[1].sharding != sharding:
            return None
        return found[1]

    def shared(self, array: Array, sharding: NamedSharding) -> Any:
        """The array on the devices, only to be read."""
        copy = self.find(array, sharding)
        if copy is None:
            if array.flags.writeable:
                return jax.device_put(array, sharding)
            on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"  # which works on the array itself where it can
            copy = jax.device_put(array.copy() if on_cpu else array, sharding)
            self.keep(array, copy)
        return copy

    def given_away(self, array: Array, sharding: NamedSharding) -> Any:
        """The array on the devices, for a program that will overwrite it."""
        copy = self.find(array, sharding)
        if copy is None:
            return placed(array, sharding)
        del self._known[id(array)]
        return copy

    def fetched(self, copy: Any) -> Array:
        """A read-only array of what is on the devices, which stays there."""
        reachable = copy.is_fully_addressable or copy.is_fully_replicated
        array = np.array(copy if reachable else multihost_utils.process_allgather(copy, tiled=True))
        array.flags.writeable = False
        self.keep(array, copy)
        return array
