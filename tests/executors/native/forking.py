"""Processes that are forked after compiled code has run with threads. Run as a program, in a process without JAX.

python forking.py    prints "same" for each way to fork, and each moment, that gives the parent's numbers
"""

import multiprocessing
import os
import signal
import threading

import numpy as np

import backlit as bl
from backlit import ir, ops
from backlit.executors.native import Native, errand, stack, storage
from backlit.once import once


def big():
    """A program large enough for several threads, and its argument."""
    w = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    return Native().compile(bl.trace(lambda x: ops.tanh(x @ x) @ x, w)), w


def in_a_worker(_):
    compiled, w = big()
    return float(compiled(w)[0].sum())


def workers(wanted):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map_async(in_a_worker, range(4)).get(timeout=100) == [wanted] * 4


def child(work):
    """Whether `work` is true in a forked child, and done in a minute."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        signal.alarm(60)
        os.write(write, b"1" if work() else b"0")
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    return os.read(read, 1) == b"1"


class Busy:
    """What another thread is about to find out when `child` is called: it waits in `pause` until that has returned."""

    def __init__(self):
        self.parent, self.begun, self.over = os.getpid(), threading.Event(), threading.Event()

    def pause(self):
        if os.getpid() == self.parent:
            self.begun.set()
            self.over.wait()

    @once
    def answer(self):
        self.pause()
        return 42

    def child(self, busy, work):
        thread = threading.Thread(target=busy, daemon=True)
        thread.start()
        try:
            return self.begun.wait(60) and child(work)
        finally:
            self.over.set()
            thread.join()


def while_a_loop_is_compiled():
    """Whether a child can compile the very loop that a thread of its parent is compiling."""
    w, rows, index = np.eye(3, dtype=np.float32), np.ones((5, 3), np.float32), np.zeros((2, 4), np.int64)
    loop = Native().compile_loop(bl.trace(lambda w, x: (w + x.T @ x,), w, rows[:4]), 1, 1)
    here, plan = Busy(), loop.plan

    def slowly(*args, **how):
        here.pause()
        return plan(*args, **how)

    loop.plan = slowly
    return here.child(lambda: loop([w], [rows], index), lambda: loop([w], [rows], index)[0][0][0, 0] == 9)


def while_memory_is_lent():
    """Whether a child gets memory from the very storage from which a thread of its parent is getting some."""
    here, found, block = Busy(), storage.Storage([ir.Type(np.dtype("float32"), (3,))]), storage.block

    def slowly(size):
        here.pause()
        return block(size)

    storage.block = slowly
    try:
        return here.child(found.arrays, lambda: len(found.arrays()[0]) == 1)
    finally:
        storage.block = block


def while_a_property_is_worked_out():
    """Whether a child can work out a property that a thread of its parent is working out for another object."""
    here, other = Busy(), Busy()
    return here.child(lambda: here.answer, lambda: other.answer == 42)


def while_a_thread_is_started():
    """Whether a child can start a thread while one of its parent is starting one."""
    here = Busy()

    def slowly():
        with stack._starting.door:
            here.pause()

    return here.child(slowly, lambda: errand.elsewhere(lambda: None) is None)


if __name__ == "__main__":
    os.environ["BACKLIT_CACHE"] = ""  # a program that is found is not compiled
    compiled, w = big()
    wanted = float(compiled(w)[0].sum())
    for same in (
        workers(wanted),
        child(lambda: float(compiled(w)[0].sum()) == wanted),
        while_a_loop_is_compiled(),
        while_memory_is_lent(),
        while_a_property_is_worked_out(),
        while_a_thread_is_started(),
    ):
        print("same" if same else "other")
