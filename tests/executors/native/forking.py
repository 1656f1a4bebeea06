"""Processes that are forked after compiled code has run with threads. Run as a program, in a process without JAX.

python forking.py    prints "same" for each way to fork that gives the parent's numbers
"""

import multiprocessing
import os

import numpy as np

import backlit as bl
from backlit import ops
from backlit.executors.native import Native


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


def child(compiled, w, wanted):
    """Whether a child can run what its parent compiled."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"1" if float(compiled(w)[0].sum()) == wanted else b"0")
        os._exit(0)
    os.wait()
    return os.read(read, 1) == b"1"


if __name__ == "__main__":
    compiled, w = big()
    wanted = float(compiled(w)[0].sum())
    print("same" if workers(wanted) else "other", "same" if child(compiled, w, wanted) else "other")
