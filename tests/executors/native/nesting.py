"""Compiled code within the workers of joblib. Run as a program, whose functions joblib can send to its workers.

python nesting.py    prints "same" for each kind of worker that finds the numbers of a run without workers
"""

import joblib
import numpy as np


def run(seed):
    import backlit as bl
    from backlit import ops
    from backlit.executors.native import Native

    w = np.random.default_rng(seed).normal(size=(300, 300)).astype(np.float32)
    (found,) = Native().compile(bl.trace(lambda x: ops.tanh(x @ x) @ x, w))(w)
    return found


if __name__ == "__main__":
    wanted = [run(seed) for seed in range(4)]
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            found = joblib.Parallel(timeout=120)(joblib.delayed(run)(seed) for seed in range(4))
        print("same" if all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)) else "other")
