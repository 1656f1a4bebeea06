"""A loop that several processes run together: each reads its rows of a minibatch, and they agree by collectives.

The rule: the program is that of one process, on arrays that are cut over the devices of all. Rows are gathered by each
process where it has them, in its memory or its files, and go to its devices only; a minibatch that does not part evenly
is read whole by every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from backlit.errors import SettingError
from backlit.executors.api import Array, Processes
from backlit.executors.xla.cluster import together
from backlit.executors.xla.loop import ROOM, Loop, refuse_rows
from backlit.executors.xla.residence import placed

STEPS = 64
"""Steps that a program has room for, at most."""


class MeshProcesses(Processes):
    """Those whose devices make up a mesh. Raises SettingError where the mesh leaves some of the cluster out."""

    def __init__(self, mesh: Mesh, cut: Callable[[int], NamedSharding]) -> None:
        there = {d.process_index for d in mesh.devices.flat}
        if there != set(range(jax.process_count())):
            raise SettingError(
                f"the devices are those of {len(there)} processes of {jax.process_count()}",
                fix="use devices of one process, or of all",
            )
        self.id, self.count, self.cut = jax.process_index(), jax.process_count(), cut

    def part(self, batch: int) -> slice:
        places = self.cut(batch).addressable_devices_indices_map((batch,))
        bounds = [index[0].indices(batch) for index in places.values() if index is not None]
        return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))

    def whole(self, part: Array, batch: int) -> Array:
        if part.shape[1] == batch:
            return part
        parts = self.collected(part)
        return np.concatenate(list(parts), axis=1)

    def collected(self, value: Array) -> Array:
        def gather() -> Array:
            with jax.enable_x64():
                return np.asarray(multihost_utils.process_allgather(value[None], tiled=True))

        return together(gather)


class PartLoop(Loop):
    """`compile_loop` of one step in several processes. The data on the devices is (steps, batch, ...)."""

    def __call__(
        self, state: Sequence[Array], data: Sequence[Array], row_index: Array, *, donate: bool = False
    ) -> tuple[list[Array], list[Array]]:
        refuse_rows(data, row_index)
        return together(lambda: super(PartLoop, self).__call__(state, data, row_index))

    def fed(self, data: Sequence[Array], row_index: Array, span: int) -> tuple[list[Any], Any]:
        found = []
        for array, node in zip(data, self.step.inputs[self.carry :], strict=True):
            local = np.zeros((span, row_index.shape[1], *array.shape[1:]), array.dtype)
            local[: len(row_index)] = array[row_index]
            split = self.split(node.type.shape[0])
            sharding = NamedSharding(split.mesh, PartitionSpec(None, *split.spec))  # type: ignore[no-untyped-call]
            make: Any = jax.make_array_from_process_local_data
            found.append(make(sharding, local, (span, *node.type.shape)))
        return found, placed(np.zeros((span, 0), np.int64), self.whole)  # the rows are read already

    def minibatch(self, data: Any, rows: Any, t: Any) -> Any:
        return data[t]

    def span(self, batch: int) -> int:
        rows = sum(n.type.size * n.type.dtype.itemsize for n in self.step.inputs[self.carry :])
        most = max(1, ROOM // max(1, rows // self.whole.mesh.size))
        return min(STEPS, super().span(batch), 1 << most.bit_length() - 1)
