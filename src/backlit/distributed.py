"""Training in several processes, on one machine or many, that compute together through JAX.

    import backlit as bl

    me = bl.distributed.initialize()  # in each process, before anything else
    trainer = bl.Trainer(net, "crossentropy", executor=bl.executors.XLA(devices=None))
    trainer.fit(x, y)  # the same call with the same data in each

The rule: all processes run the same program on the same settings and the same data, and the executor "xla" then
computes over the devices of all. A step means what it means in one process; each reads only its rows of a minibatch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from backlit.errors import SettingError

if TYPE_CHECKING:
    from backlit.executors.xla.cluster import Member

__all__ = ["initialize", "member", "shutdown"]


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300.0,
    heartbeat: float = 60.0,
) -> Member:
    """Join this process with the others. A second call changes nothing.

    coordinator   host:port of process 0, which listens there
    processes     how many there are
    process_id    which of them this is, from 0
    timeout       seconds to wait for the others
    heartbeat     seconds without a sign of life after which a process is lost, at least 1. The others then stop with
                  a DistributedError, or within 3 more seconds with its text as their last line and exit code 1

    What is not given is found where Slurm, Open MPI or Kubernetes started the process. Gives this process's `id`, the
    number of `processes` and the `coordinator`.

    Raises DistributedError where settings are missing or wrong, JAX was used before, or the processes do not meet in
    time; MissingExtraError without JAX.
    """
    if timeout <= 0 or heartbeat < 1:
        raise SettingError(f"timeout={timeout}, heartbeat={heartbeat}", fix="wait for more than 0 s and 1 s")
    from backlit.executors.xla import cluster

    return cluster.initialize(coordinator, processes, process_id, timeout, heartbeat)


def member() -> Member | None:
    """This process as `initialize` gave it; None before."""
    cluster = sys.modules.get("backlit.executors.xla.cluster")
    found = None if cluster is None else cluster.current()
    return None if found is None else found.member


def shutdown() -> None:
    """Leave the others, when all are done. Happens by itself when the process ends."""
    cluster = sys.modules.get("backlit.executors.xla.cluster")
    if cluster is not None and (found := cluster.current()) is not None:
        found.leave()
