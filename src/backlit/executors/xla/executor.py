"""The executor "xla": graphs run by JAX, which compiles them for CPU, GPU or TPU and over many devices.

Nothing distributed is written by hand. With several devices the arrays of a program carry shardings (which axis is
cut over which axis of the mesh) and XLA's partitioner puts in the collectives, so a program means the same on one
device and on a thousand: the statistics of a batch norm are those of the whole batch, a mean loss is the mean over
all devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from backlit.errors import SettingError
from backlit.executors.api import Array, Executor, Processes, Run, check_arguments, check_step
from backlit.executors.xla.loop import Loop, refuse_unsound
from backlit.executors.xla.lowering import SPECIAL, TABLE, Lowering, indexing
from backlit.executors.xla.processes import MeshProcesses, PartLoop
from backlit.executors.xla.residence import Residents
from backlit.ir import Graph, Node
from backlit.ops.record import OPS
from backlit.passes import simplify

BATCH = "batch"
"""The axis of the mesh over which batches are cut."""


@dataclass(frozen=True, eq=False)
class XLA(Executor):
    """Runs graphs through JAX.

    devices   how many devices to use (all of the default kind for None), or a list of JAX devices. Of several processes
              (`backlit.distributed`), how many of each: a program then runs in all of them at once
    shard     patterns of parameter names -> the axis that is cut over the devices, for models that one device cannot
              hold: {"*.weight": 1}. Optimiser state follows its parameter. Others are copied to every device.
    compute   "bfloat16" or "float16": products of float32 are computed from operands rounded to this dtype and summed
              in float32; all else, the parameters among it, stays float32. Training in float16 has a loss scale
              (optim.LossScale)
    """

    devices: int | Sequence[Any] | None = 1
    shard: Mapping[str, int] | None = None
    compute: str | None = None
    name = "xla"

    def __post_init__(self) -> None:
        if self.compute not in (None, "bfloat16", "float16"):
            raise SettingError(f"compute={self.compute!r}", fix='use "bfloat16", "float16" or None')
        if isinstance(self.devices, int) and not 1 <= self.devices <= jax.local_device_count():
            raise SettingError(
                f"devices={self.devices}: there are {jax.local_device_count()} of kind {jax.default_backend()}",
                fix="use fewer, or None for all",
            )

    @property
    def needs_loss_scale(self) -> bool:
        return self.compute == "float16"

    def supports(self, op: str) -> bool:
        return op in TABLE or op in SPECIAL or (op in OPS and OPS[op].scalar is not None)

    @cached_property
    def mesh(self) -> Mesh:
        """The devices in a row, those of each process together."""
        if self.devices is None or isinstance(self.devices, int):
            chosen = [d for i in range(jax.process_count()) for d in jax.local_devices(i)[: self.devices]]
        else:
            chosen = sorted(self.devices, key=lambda d: d.process_index)
        return Mesh(np.array(chosen), (BATCH,))

    @cached_property
    def processes(self) -> Processes:
        """The processes whose devices are used."""
        if not self.mesh.is_multi_process:
            return Processes()
        return MeshProcesses(self.mesh, self._cut)

    def sharding(self, *axes: str | None) -> NamedSharding:
        """The sharding that cuts the axes so named; none: a copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]

    def placed(self, node: Node) -> NamedSharding:
        """Where a carried value lives: cut by the first pattern of `shard` that its name fits, else on every device."""
        name, shape = node.name or "", node.type.shape
        for pattern, axis in (self.shard or {}).items():
            fits = fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
            if fits and axis < len(shape) and shape[axis] % self.mesh.size == 0:
                return self.sharding(*(BATCH if i == axis else None for i in range(len(shape))))
        return self.sharding()

    def compile(self, graph: Graph, donate: Sequence[int] = ()) -> Run:
        self.refuse_unsupported(graph)
        program = simplify(graph)
        checks = list(indexing(program))

        def whole(*arrays: Any) -> tuple[list[Any], list[Any]]:
            lowering = Lowering(self.compute)
            results = lowering.run(program, arrays)
            return results, [ok for _, ok in lowering.sound]

        compiled = jax.jit(whole, donate_argnums=tuple(donate))

        def run(*arrays: Array) -> list[Array]:
            check_arguments(graph.inputs, arrays)
            with jax.enable_x64(), jax.default_device(self.mesh.local_devices[0]):
                results, sound = compiled(*arrays)
                refuse_unsound(checks, sound)
                return [np.array(r) for r in results]

        return run

    def compile_loop(self, step: Graph, carry: int, rows: int) -> Loop:
        check_step(step, carry, rows)
        self.refuse_unsupported(step)
        places = [self.placed(n) for n in step.inputs[:carry]]
        kind = Loop if self.processes.count == 1 else PartLoop
        return kind(simplify(step), places, self.sharding(), self._cut, self.compute, self._residents)

    def _cut(self, batch: int) -> NamedSharding:
        """The sharding of a minibatch: cut over the devices where that leaves each the same share."""
        return self.sharding(BATCH) if batch % self.mesh.size == 0 else self.sharding()

    @cached_property
    def _residents(self) -> Residents:
        return Residents()
