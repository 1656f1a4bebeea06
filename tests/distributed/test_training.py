"""Several processes give the losses of one, and their files are those of any executor."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import backlit as bl

WORKER = Path(__file__).parent / "worker.py"
COUNTS = [2, pytest.param(4, marks=pytest.mark.full)]
TIGHT = {"rtol": 1e-5, "atol": 0}


def agree(workers, one):
    """Whether all workers told what one process tells."""
    assert [w.wait() for w in workers] == [0] * len(workers), "".join(workers[0].err)
    for worker in workers:
        assert len(worker.losses) == len(one.losses) >= 50
        worst = np.max(np.abs(np.array(worker.losses) / one.losses - 1))
        print(f"{len(workers)} processes: losses differ by at most {worst:.1e} of their size")
        np.testing.assert_allclose(worker.losses, one.losses, **TIGHT)
        assert worker.end["history"] == workers[0].end["history"]  # to the bit: they decide by it
        for name, column in one.end["history"].items():
            np.testing.assert_allclose(worker.end["history"][name], column, **TIGHT)
        np.testing.assert_allclose(worker.end["predictions"], one.end["predictions"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_the_losses_are_those_of_one_process(together, alone, tmp_path, count):
    """With dropout, batch norm, a short last minibatch, validation and a metric of all predictions; and one file."""
    paths = {str(i): {"save": str(tmp_path / f"of-{i}" / "run.backlit")} for i in range(count)}
    workers = together(count, paths)
    agree(workers, alone({}))
    assert [sorted(p.name for p in (tmp_path / f"of-{i}").iterdir()) for i in range(count)] == (
        [["run.backlit"]] + [[]] * (count - 1)
    )
    net = bl.load(paths["0"]["save"])
    for name, values in workers[0].end["params"].items():
        assert np.array_equal(np.ravel(net.params[name]), values)


@pytest.mark.full
def test_rows_of_a_file_and_cut_parameters(together, alone, tmp_path):
    """Each process reads its rows from a memory-mapped file and holds its part of the parameters."""
    rows = np.random.default_rng(0).normal(size=(250, 6)).astype(np.float32)  # those of the worker
    np.save(tmp_path / "x.npy", rows)
    settings = {"mapped": str(tmp_path / "x.npy")}
    shard = {"shard": {"dense_1.*": 0}} | {"save": str(tmp_path / "run.backlit")}
    one = alone(settings)
    agree(together(2, settings | shard), one)
    tensors = load_file(tmp_path / "run.backlit")
    assert any(t.shape[:1] == (6,) for t in tensors.values())  # whole, as in any file


@pytest.mark.parametrize(
    ("first", "second", "third"), [("native", 2, "native"), pytest.param(4, 2, 1, marks=pytest.mark.full)]
)
def test_a_run_moves_between_machines(start, together, alone, tmp_path, first, second, third):
    """The checkpoint of one way to run goes on in another, and the numbers are those of a run that stayed."""
    path = str(tmp_path / "run.backlit")

    def stage(how, settings):
        if isinstance(how, str):
            done = alone(settings | {"executor": how})
        elif how == 1:
            done = alone(settings)
        else:
            workers = together(how, settings)
            assert [w.wait() for w in workers] == [0] * how, "".join(workers[0].err)
            done = workers[0]
        return done.end["history"]

    whole = start([WORKER, json.dumps({"executor": "native", "epochs": 8})])
    stage(first, {"epochs": 2, "save": path})
    stage(second, {"epochs": 5, "save": path, "resume": path})
    moved = stage(third, {"epochs": 8, "save": path, "resume": path})
    whole.wait()
    stayed = whole.end["history"]
    assert moved["step"] == stayed["step"]
    for name, column in stayed.items():
        np.testing.assert_allclose(moved[name], column, rtol=1e-4, atol=1e-6)


def test_processes_that_were_given_different_things_say_so(together):
    """Before the first step, in every process, by name."""
    workers = together(2, {"0": {"seed": 0}, "1": {"seed": 1}})
    assert [w.wait() for w in workers] == [1, 1]
    for worker in workers:
        assert worker.losses == []
        assert "DistributedError: process 1 has another state than process 0" in "".join(worker.err)


@pytest.mark.full
def test_all_stop_at_the_same_place(together, alone):
    """Early stopping; and the cause of an infinite value is found by each from the whole minibatch."""
    stopping = {"rate": 0.1, "patience": 2, "epochs": 40, "metrics": ["accuracy"]}
    one, workers = alone(stopping), together(2, stopping)
    assert [w.wait() for w in workers] == [0, 0], "".join(workers[0].err)
    assert 3 <= len(one.end["history"]["loss"]) < 40
    for worker in workers:
        assert "has not improved" in worker.end["stopped"]
        assert len(worker.end["history"]["loss"]) == len(one.end["history"]["loss"])
    wild = {"rate": 1e38, "metrics": ["accuracy"]}
    one, workers = alone(wild), together(2, wild)
    assert [w.wait() for w in workers] == [1, 1]

    def cause(worker):
        return next(line for line in worker.err if "DivergenceError" in line)

    assert cause(one) == cause(workers[0]) == cause(workers[1])
