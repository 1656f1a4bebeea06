"""Processes of a test: started together on this machine, and ended with the test in any case."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "worker.py"

# One device and one thread a process. As in tests/conftest.py, functions run seldom: compiling is what takes time.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0 "
    "--xla_cpu_multi_thread_eigen=false",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


class Process:
    """One process, whose output is read as it comes."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=os.environ | ENVIRONMENT | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out, self.err = [], []
        pipes = (self.process.stdout, self.out), (self.process.stderr, self.err)
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in pipes]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe, lines):
        with pipe:
            lines += iter(pipe.readline, "")

    @property
    def told(self):
        """What a worker told so far."""
        return [json.loads(line) for line in list(self.out) if line.startswith("{") and line.endswith("\n")]

    @property
    def losses(self):
        return [line["loss"] for line in self.told if "loss" in line]

    @property
    def end(self):
        """What a worker told last."""
        assert self.process.returncode == 0, "".join(self.err)
        return self.told[-1]

    def wait(self, seconds=60):
        """The exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        return code

    def after_steps(self, count, seconds=60):
        """Wait until a worker has done so many steps."""
        end = time.monotonic() + seconds
        while len(self.losses) < count:
            assert self.process.poll() is None, "".join(self.err)
            assert time.monotonic() < end, f"{len(self.losses)} steps in {seconds} s"
            time.sleep(0.01)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def port():
    """One that nothing listens at."""
    return free_port()


@pytest.fixture
def start():
    """start(command, environment) -> Process; it is killed when the test ends."""
    started = []

    def one(command, environment=None):
        started.append(Process(command, environment))
        return started[-1]

    yield one
    for process in started:
        process.process.kill()
        process.wait(10)


@pytest.fixture
def together(start):
    """together(count, settings) -> the workers of a cluster; heartbeat in seconds."""

    def several(count, settings, heartbeat=10):
        at = f"127.0.0.1:{free_port()}"
        how = {"coordinator": at, "processes": count, "timeout": 60, "heartbeat": heartbeat}
        return [start([WORKER, json.dumps({**settings, "cluster": how | {"process_id": i}})]) for i in range(count)]

    return several


@pytest.fixture
def alone(start):
    """alone(settings) -> the worker, when it is done."""

    def one(settings):
        process = start([WORKER, json.dumps(settings)])
        process.wait()
        return process

    return one
