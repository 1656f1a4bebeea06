"""A process is lost: the others stop in time, say which one it was, and the run goes on from its checkpoint."""

import os
import signal
import time

import numpy as np
import pytest

from backlit.executors.xla.cluster import GRACE
from backlit.train.checkpoint import read

HEARTBEAT = 3
LATEST = 2 * HEARTBEAT + GRACE + 2  # seconds: JAX looks every so often, and a busy machine is slow


@pytest.mark.parametrize(
    ("count", "victim", "how"),
    [
        (2, 1, signal.SIGKILL),
        pytest.param(4, 2, signal.SIGKILL, marks=pytest.mark.full),
        pytest.param(4, 0, signal.SIGKILL, marks=pytest.mark.full),
        pytest.param(4, 2, signal.SIGSTOP, marks=pytest.mark.full),
        pytest.param(4, 0, signal.SIGSTOP, marks=pytest.mark.full),
    ],
)
def test_the_others_stop_and_the_run_goes_on(together, alone, tmp_path, count, victim, how):
    path = str(tmp_path / "run.backlit")
    workers = together(count, {"epochs": 100_000, "save": path, "metrics": ["accuracy"]}, heartbeat=HEARTBEAT)
    for worker in workers:
        worker.after_steps(24)  # in the fourth epoch, of seven steps each
    os.kill(workers[victim].process.pid, how)
    lost_at = time.monotonic()
    others = [w for i, w in enumerate(workers) if i != victim]
    codes = [w.wait(LATEST) for w in others]
    seconds = time.monotonic() - lost_at
    print(f"{count} processes, {how.name} to process {victim}: the others ended after {seconds:.1f} s")
    assert codes == [1] * (count - 1)
    for worker in others:
        last = "".join(worker.err).strip().splitlines()[-3:]
        assert any(f"process {victim} of {count} is lost" in line for line in last), last
        assert "start all processes again" in last[-1]
    if how == signal.SIGSTOP:
        workers[victim].process.kill()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["run.backlit"]
    epochs = read(path).get("epoch", int)
    assert epochs >= 3
    resumed = {"resume": path, "epochs": epochs + 2, "metrics": ["accuracy"]}
    if count == 2:
        end = alone(resumed).end
    else:
        fewer = together(2, resumed)
        assert [w.wait() for w in fewer] == [0, 0], "".join(fewer[0].err)
        end = fewer[0].end
    assert len(end["history"]["loss"]) == epochs + 2
    assert np.all(np.isfinite(end["history"]["loss"]))


@pytest.mark.full
def test_a_process_that_was_started_again_is_lost_to_the_others(together, start, tmp_path):
    """As Kubernetes does, faster than silence can be heard: it cannot slip into a run that goes on without it."""
    settings = {"epochs": 100_000, "metrics": ["accuracy"]}
    workers = together(2, settings, heartbeat=30)
    for worker in workers:
        worker.after_steps(10)
    workers[1].process.kill()
    again = start(workers[1].process.args[1:])
    assert workers[0].wait(25) == 1
    assert "process 1 of 2 is lost" in "".join(workers[0].err)
    assert again.wait(40) == 1
    assert again.losses == []
