"""Training steps of backlit, PyTorch, JAX and scikit-learn, timed side by side: `python -m benchmarks`.

    workloads        what is trained: networks, data, goals, as plain data
    givens           the weights and batches that all runners of a workload start from
    with_backlit, with_torch, with_jax, with_sklearn
                     the same training in each library, in its fastest documented way
    worker, processes   one runner in a process of its own, and the handle to it
    measuring        rounds of turns, so that what slows the machine down slows all alike
    agreement        runners whose losses differ do not do the same work, and are not compared
    report, machine  tables, picture, files; what it was measured on

The rule that holds here: a time is the minimum over all rounds, and only times of one run are compared.
"""
