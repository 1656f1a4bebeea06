"""Several processes that compute together: how they find each other, notice that one is lost, and end.

All of it is `jax.distributed`'s: the coordination service in process 0, its heartbeats and barriers. The rule that
holds here: when a process is lost, every other one ends with a line that says which, and what to do. There are three
ways to hear of it, by where this process is at that moment:

- A collective fails, as those over sockets do: `together` raises DistributedError.
- A collective hangs, as it does where the lost process only stands still: `_watch` ends this process.
- Process 0 is lost, and the coordination service with it. JAX's own code then aborts the process, with no exception
  that Python could see: `_last_words` stands where the abort arrives.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax._src import clusters, distributed, xla_bridge

from backlit.errors import DistributedError, Error

GRACE = 3.0
"""Seconds that a collective may still take once a process is known to be lost."""

PATIENCE = 10.0
"""Seconds that a process which is done, or has failed, waits for the others before it leaves."""

INTERVAL = 1.0
"""Seconds between two questions who is there, at most."""

T = TypeVar("T")

_AGAIN = "start all processes again: a run with a checkpoint goes on from it, with any number of processes"


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a cluster: its number, how many there are, and where the coordinator (process 0) listens."""

    id: int
    processes: int
    coordinator: str


class Cluster:
    """The cluster that this process is a member of.

    heartbeat   seconds without a sign of life after which a process is lost
    lost        the numbers of those that are
    """

    def __init__(self, member: Member, heartbeat: float) -> None:
        self.member, self.heartbeat = member, heartbeat
        self.lost: tuple[int, ...] = ()
        self.joined = False
        self._known = threading.Event()
        self._leaving = threading.Event()
        self._inside = False  # a computation of all processes
        self._watcher = threading.Thread(target=self._watch, name="backlit-cluster", daemon=True)

    def join(self, timeout: float) -> None:
        """Meet the other processes."""
        me = self.member
        _last_words(self)
        if me.id == 0:
            _refuse_taken(me.coordinator)
        else:
            _reach(me.coordinator, timeout)
        configure: Any = jax.config.update
        configure("jax_cpu_collectives_implementation", "gloo")
        configure("jax_enable_recoverability", True)  # the loss of another process is ours to tell
        configure("jax_enable_preemption_service", False)  # which would make SIGTERM do nothing
        try:
            jax.distributed.initialize(
                me.coordinator,
                me.processes,
                me.id,
                initialization_timeout=max(1, round(timeout)),
                heartbeat_timeout_seconds=max(1, round(self.heartbeat)),
                shutdown_timeout_seconds=max(1, round(self.heartbeat)),
            )
        except RuntimeError as e:
            raise DistributedError(f"the processes could not meet: {_line(e)}") from None
        self.joined = True
        self._watcher.start()
        atexit.register(self.leave)

    def together(self, compute: Callable[[], T]) -> T:
        """The result of what all processes compute together. Raises DistributedError where one of them is lost."""
        if self.lost:
            raise self.error()
        self._inside = True
        try:
            return compute()
        except Error:
            raise
        except (ValueError, RuntimeError) as e:
            if self._known.wait(self.heartbeat + GRACE):
                raise self.error() from None
            if "gloo" in str(e).lower():
                raise DistributedError(
                    f"the connection to another process broke: {_line(e)}", fix=f"look at its last lines; {_AGAIN}"
                ) from None
            raise
        finally:
            self._inside = False

    def error(self) -> DistributedError:
        """What is to be said of the processes that are lost."""
        who = ", ".join(map(str, self.lost))
        many = len(self.lost) > 1
        return DistributedError(
            f"process{'es' * many} {who} of {self.member.processes} {'are' if many else 'is'} lost: "
            f"no sign of life for {self.heartbeat:g} s",
            fix=f"look at {'their' if many else 'its'} last lines; {_AGAIN}",
        )

    def _watch(self) -> None:
        """Ask again and again who is there. Ends when a process is lost, or when this one leaves."""
        client: Any = distributed.global_state.client
        everybody = range(self.member.processes)
        born: dict[int, int] = {}  # what tells a process from one that took its place
        while True:
            try:
                found = client.get_live_nodes(list(everybody))
            except Exception:  # the coordinator is gone, or we are
                return
            born = born or found
            there = {i for i in found if found[i] == born.get(i)}  # one that was started again is lost to us
            if self._leaving.is_set() and (self.member.id != 0 or there == {0}):
                return  # process 0 stays until the others have left
            if len(there) < self.member.processes and not self._leaving.is_set():
                self.lost = tuple(i for i in everybody if i not in there)
                self._known.set()
                break
            time.sleep(min(INTERVAL, self.heartbeat / 5) if not self._leaving.is_set() else 0.02)
        for _ in range(round(GRACE / 0.05)):
            if not self._inside:
                return
            time.sleep(0.05)
        _say(self.member, self.error())
        os._exit(1)

    def leave(self) -> None:
        """End the membership: wait for the others to have done their work, unless one of them is lost."""
        if self._leaving.is_set():
            return
        client: Any = distributed.global_state.client
        try:
            if not self.lost:
                patience = self.heartbeat if self.member.id == 0 else min(self.heartbeat, PATIENCE)
                client.wait_at_barrier("backlit/end", round(1000 * patience))
        except Exception:  # somebody is lost meanwhile, or has failed: nothing is left to wait for
            pass
        self._leaving.set()
        if self.member.id == 0:
            self._watcher.join(GRACE)  # the others hear through this process that all is well
        jax.distributed.shutdown()  # type: ignore[no-untyped-call]
        self._watcher.join(GRACE)
        _last_words(None)

    def abort(self) -> DistributedError:
        """What to say when JAX ends this process."""
        if self.lost:
            return self.error()
        me = self.member
        if not self.joined:
            return DistributedError(
                f"the {me.processes} processes did not all come to {me.coordinator} in time",
                fix="start all, each with a process id of its own, and look at the last lines of those that failed",
            )
        return DistributedError(f"process 0 of {me.processes} is lost", fix=f"look at its last lines; {_AGAIN}")


_cluster: Cluster | None = None


def together(compute: Callable[[], T]) -> T:
    """What all processes compute together, watched where they met by `initialize`."""
    return compute() if _cluster is None else _cluster.together(compute)


def current() -> Cluster | None:
    """The cluster that this process is in."""
    return _cluster


def initialize(
    coordinator: str | None, processes: int | None, process_id: int | None, timeout: float, heartbeat: float
) -> Member:
    """See `backlit.distributed.initialize`."""
    global _cluster
    given = coordinator, processes, process_id
    if _cluster is not None:
        now = _cluster.member
        if any(g not in (None, n) for g, n in zip(given, (now.coordinator, now.processes, now.id), strict=True)):
            raise DistributedError(
                f"this process is number {now.id} of the {now.processes} at {now.coordinator} already",
                fix="call initialize once",
            )
        return now
    if xla_bridge.backends_are_initialized():
        raise DistributedError(
            "JAX has computed in this process already, alone",
            fix="call backlit.distributed.initialize() before anything else that uses JAX",
        )
    member = find_member(*given, timeout)
    cluster = Cluster(member, heartbeat)
    try:
        cluster.join(timeout)
    except BaseException:
        _last_words(None)
        raise
    _cluster = cluster
    return member


def find_member(coordinator: str | None, processes: int | None, process_id: int | None, timeout: float) -> Member:
    """The settings; those that are not given as JAX finds them in Slurm's, Open MPI's or Kubernetes' environment."""
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if None in (coordinator, processes, process_id):
        try:
            coordinator, processes, process_id, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, processes, process_id, None, None, round(timeout)
            )
        except (RuntimeError, ValueError, OSError, KeyError) as e:
            raise DistributedError(f"the cluster's own description is of no use: {_line(e)}") from None
        if local:
            os.environ.setdefault("JAX_LOCAL_DEVICE_IDS", ",".join(map(str, local)))
    settings = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    missing = [name for name, value in settings.items() if value is None]
    if len(missing) == len(settings):
        raise DistributedError(
            "no cluster is found here: neither Slurm, Open MPI nor Kubernetes started this process",
            fix="give coordinator (host:port of process 0), processes and process_id",
        )
    if missing:
        raise DistributedError(f"{' and '.join(missing)} not given, and not found", fix=f"give {', '.join(settings)}")
    assert coordinator is not None
    assert processes is not None
    assert process_id is not None
    if processes < 1 or not 0 <= process_id < processes:
        raise DistributedError(
            f"process_id is {process_id} and processes {processes}", fix="number the processes from 0 to processes - 1"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DistributedError(
            f"coordinator is {coordinator!r}", fix="give the host of process 0 and a port: host:port"
        )
    return Member(process_id, processes, coordinator)


def _refuse_taken(coordinator: str) -> None:
    """DistributedError where something listens at the port already: JAX may crash at that."""
    port = int(coordinator.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as e:
        raise DistributedError(
            f"process 0 cannot listen at {coordinator}: {os.strerror(e.errno or 0)}", fix="choose another port"
        ) from None


def _reach(coordinator: str, timeout: float) -> None:
    """Wait until somebody listens at the coordinator's address; DistributedError after `timeout` seconds."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError as e:
            if time.monotonic() > end:
                raise DistributedError(
                    f"the coordinator {coordinator} could not be reached in {timeout:g} s: {e.strerror or e}",
                    fix="start process 0 on that host, and let nothing (a firewall) stand between",
                ) from None
        time.sleep(0.1)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(member: Member, error: Error) -> None:
    sys.stderr.flush()
    text = f"process {member.id}: error: {error.what}\n{error.fix}\n"
    os.write(2, text.encode())


_handlers: list[Any] = []  # kept, since C calls the last one


def _last_words(cluster: Cluster | None) -> None:
    """Let an abort of this process end with what the cluster says of it, and exit code 1; None: as usual.

    Python's own signal handlers do not run in an aborting process, so this one is C's.
    """
    if os.name != "posix":
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    if cluster is None:
        libc.signal(signal.SIGABRT, None)
        return

    def handle(number: int) -> None:
        _say(cluster.member, cluster.abort())
        os._exit(1)

    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    libc.signal(signal.SIGABRT, ctypes.cast(_handlers[-1], ctypes.c_void_p))
