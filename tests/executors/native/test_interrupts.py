"""An interrupt that comes at whatever moment: nothing hangs, the state is that of a whole step, the threads go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.executors.native import Native, code, jit, stack, threads
from backlit.executors.native.target import known

from . import interrupting, unkind

# Python itself loses an interrupt that comes within a `__del__`.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("where", ["here", "where there is room", "as a long step"])
def test_at_each_point_of_a_call(where, monkeypatch):
    if where == "where there is room":
        monkeypatch.setattr(stack, "has_room", lambda: threading.current_thread() is not threading.main_thread())
    if where == "as a long step":
        monkeypatch.setattr(code, "_LONG", -1.0)
    loop, data, rows = unkind.two_threads()
    w = np.zeros((8, 8), np.float32)
    state, old = [w, np.zeros((), np.int64)], os.sched_getaffinity(0)
    loop(state, data, rows, donate=True)
    points = 0
    for _ in interrupting.everywhere(lambda: loop(state, data, rows, donate=True)):
        points += 1
        assert (w == int(state[1])).all()
        assert os.sched_getaffinity(0) == old
    assert points > 50
    for _ in range(10):
        loop(state, data, rows, donate=True)
        if threads._pool._meeting[0] > 0:  # both were there
            break
    else:
        pytest.fail("the helper is gone")
    for _ in interrupting.everywhere(lambda: loop(state, data, rows)):
        pass
    assert (loop(state, data, rows)[0][0] == int(state[1]) + len(rows)).all()


def test_at_each_point_of_compiling():
    x = np.linspace(-1, 1, 50, dtype=np.float32).reshape(5, 10)
    graph = bl.trace(lambda x: ops.softmax(x @ x.mT) @ x, x)
    text, target = Native().llvm(graph), known("host")
    wanted = jit.object_code(text, target, jit=True)
    found = []

    def make():
        (made,) = jit.object_codes([text], target, 2)
        found.append((made, jit.Loaded([made], target).function("step")))

    points = [*interrupting.everywhere(make)]
    assert len(points) > 20
    assert sys.getswitchinterval() > 1e-3
    assert found[-1][0] == wanted


def stress(seconds):
    """Interrupts that came in so many seconds, at random moments, in a process of its own."""
    path = Path(__file__).with_name("unkind.py")
    done = subprocess.run(
        [sys.executable, path, "interrupts", str(seconds)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_at_random_moments():
    assert stress(1.5) > 10


@pytest.mark.full
def test_at_random_moments_for_long():
    assert stress(60) > 3000
