"""What can go wrong around compiled code, in a process of its own that may be limited and forked. Run as a program.

python unkind.py memory             an arena that a limit on memory does not allow
python unkind.py disk FOLDER        a cache on a disk that is full
python unkind.py read-only FOLDER   a cache that can only be read
python unkind.py fork               children made while another thread compiles and runs
python unkind.py interrupts SECONDS     interrupts at random moments of short loops on two threads
"""

import faulthandler
import itertools
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

import backlit as bl
from backlit import ops
from backlit.executors.native import Native
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code
from backlit.executors.native.steps import Steps
from backlit.executors.native.target import known
from backlit.executors.native.threads import Choice

X = np.linspace(-1, 1, 50, dtype=np.float32)


def compiled(k=0.0):
    return Native().compile(bl.trace(lambda x: ops.sum(ops.tanh(x) * x) + k, X))


def said(good):
    print("same" if good else "other", flush=True)


def memory():
    x = np.ones((3000, 3000), np.float32)
    small, wanted = compiled(), compiled()(X)[0]
    run = Native().compile(
        bl.trace(lambda x: ops.astype(ops.argsort(ops.sort(x * 2.0, 0) @ x, 0)[0], x.dtype) + x[0], x), donate=(0,)
    )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
    try:
        run(x)
    except MemoryError as e:
        print(type(e).__name__)
    print("unchanged" if (x == 1).all() else "changed")
    said(small(X)[0] == wanted)


def disk(folder):
    os.environ["BACKLIT_CACHE"] = ""
    wanted = compiled()(X)[0]
    os.environ["BACKLIT_CACHE"] = folder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may be larger
    said(compiled()(X)[0] == wanted)
    print(len(list(Path(folder, "native").iterdir())))


def read_only(folder):
    os.environ["BACKLIT_CACHE"] = folder
    wanted = compiled()(X)[0]
    place = Path(folder, "native")
    (file,) = place.iterdir()
    if os.geteuid() == 0:
        for path in (folder, place, file):
            os.chown(path, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)
    place.chmod(0o500)
    said(compiled()(X)[0] == wanted)
    from backlit.executors.native import cache

    print("found" if cache.read(file.stem) is not None else "lost")
    said(abs(compiled(2.0)(X)[0] - 2.0 - wanted) < 1e-5)
    print(len(list(place.iterdir())) - 1)


def fork():
    busy = threading.Event()

    def work():
        k = 0.0
        while not busy.is_set():
            k += 1.0
            compiled(k)(X)

    os.environ["BACKLIT_CACHE"] = ""
    run = compiled()
    wanted = run(X)[0]
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    for k in range(12):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            good = run(X)[0] == wanted and abs(compiled(0.25 + k)(X)[0] - 0.25 - k - wanted) < 1e-4
            os._exit(0 if good else 1)
        said(os.waitpid(child, 0)[1] == 0)
    busy.set()
    thread.join()


class Always(Choice):
    """All threads in each run."""

    def next(self):
        return self._most, float("inf")


def two_threads():
    """A loop of short steps on two threads, its data, and rows for a few steps.

    Each step adds 1 to both parts of the state: a matrix, and a count.
    """
    w, x = np.zeros((8, 8), np.float32), np.ones((40, 8), np.float32)
    step = bl.trace(lambda w, n, x: (w + ops.mean(x, 0), n + 1, ops.sum(x @ w)), w, np.int64(0), x[:4])
    loop, target = Steps(step, 2, 1, known("host")), known("host")
    code = Code(Artifact.of(loop.plan([40], sources=False), target, 2), target)
    code.seconds, code._choice = 1.0, Always(2)
    loop._codes[(40,)] = code
    return loop, [x], np.zeros((3, 4), np.int64)


def interrupts(seconds):
    loop, data, rows = two_threads()
    w = np.zeros((8, 8), np.float32)
    state, old, came = [w, np.zeros((), np.int64)], os.sched_getaffinity(0), 0
    loop(state, data, rows, donate=True)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    faulthandler.dump_traceback_later(float(seconds) + 60, exit=True)
    end = time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-4))
            try:
                for _ in itertools.repeat(None):  # Python 3.11: at a `while` the interrupt may leave both `try`s
                    loop(state, data, rows, donate=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            came += 1
        assert (w == int(state[1])).all(), state
        assert os.sched_getaffinity(0) == old
    print(came)


if __name__ == "__main__":
    {"memory": memory, "disk": disk, "read-only": read_only, "fork": fork, "interrupts": interrupts}[sys.argv[1]](
        *sys.argv[2:]
    )
