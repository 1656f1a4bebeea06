"""How processes find each other: settings given or found in a cluster's environment, and what is said of wrong ones."""

import json
import os
import socket
import sys
import time
import types

import numpy as np
import pytest

from backlit.errors import DistributedError
from backlit.executors.api import Processes
from backlit.executors.xla import cluster
from backlit.ops import random
from backlit.train import agreement
from backlit.train.feeding import ArrayFeed

SLURM = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_NODELIST": "node[007-009],other1", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "4",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """environment(variables): those, and none of any cluster besides."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_", "JAX_COORD", "JAX_LOCAL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0")  # so that it is put back

    def these(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return these


def found(coordinator=None, processes=None, process_id=None):
    return cluster.find_member(coordinator, processes, process_id, timeout=1)


def test_slurm_is_found(environment):
    environment(SLURM)
    assert found() == cluster.Member(3, 4, f"node007:{4242 % 4096 + 61440}")
    assert found("head:7777") == cluster.Member(3, 4, "head:7777")  # what is given counts


def test_open_mpi_is_found(environment):
    environment(OPEN_MPI)
    assert found() == cluster.Member(5, 8, f"10.96.0.1:{1531576320 // 4096 % 4096 + 61440}")


def test_kubernetes_is_found(environment, monkeypatch):
    """An indexed job with a headless service, as its interface would describe it."""
    from jax._src.clusters.k8s_cluster import K8sCluster

    pod = types.SimpleNamespace(
        metadata=types.SimpleNamespace(
            name="train-2-x",
            labels={"job-name": "train"},
            owner_references=[types.SimpleNamespace(controller=True, kind="Job")],
        ),
        spec=types.SimpleNamespace(subdomain="pods"),
    )
    job = types.SimpleNamespace(
        metadata=types.SimpleNamespace(name="train", labels={}), spec=types.SimpleNamespace(parallelism=3)
    )
    package = types.ModuleType("kubernetes")
    package.config = types.SimpleNamespace(load_incluster_config=lambda: None)
    package.client = types.SimpleNamespace(
        CoreV1Api=lambda: None, BatchV1Api=lambda: None, exceptions=types.SimpleNamespace(ApiException=OSError)
    )
    monkeypatch.setitem(sys.modules, "kubernetes", package)
    monkeypatch.setattr(K8sCluster, "_pod", lambda: pod)
    monkeypatch.setattr(K8sCluster, "_job", lambda: job)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")
    environment({"KUBERNETES_SERVICE_HOST": "10.0.0.2", "JOB_COMPLETION_INDEX": "2"})
    assert found() == cluster.Member(2, 3, "train-0.pods:55527")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no cluster is found here"),
        ({"coordinator": "a:1"}, "processes and process_id not given, and not found"),
        ({"coordinator": "a:1", "processes": 2}, "process_id not given, and not found"),
        ({"processes": 2, "process_id": 1}, "coordinator not given, and not found"),
        ({"coordinator": "a:1", "processes": 2, "process_id": 2}, "process_id is 2 and processes 2"),
        ({"coordinator": "a:1", "processes": 2, "process_id": -1}, "process_id is -1 and processes 2"),
        ({"coordinator": "a", "processes": 2, "process_id": 1}, "coordinator is 'a'"),
        ({"coordinator": "a:b", "processes": 2, "process_id": 1}, "coordinator is 'a:b'"),
        ({"coordinator": "a:123456", "processes": 2, "process_id": 1}, "coordinator is 'a:123456'"),
    ],
)
def test_settings_that_are_missing_or_wrong(environment, given, said):
    environment({})
    with pytest.raises(DistributedError, match=said) as caught:
        found(**given)
    assert caught.value.fix


def test_half_a_description_of_a_cluster(environment):
    environment({"OMPI_MCA_orte_hnp_uri": "nonsense", "OMPI_COMM_WORLD_LOCAL_RANK": "0"})
    with pytest.raises(DistributedError, match="the cluster's own description is of no use"):
        found()


def backlit(*arguments):
    """The command line, as the arguments of Python."""
    return ["-m", "backlit", *arguments]


TABLE = "x,y\n" + "".join(f"{(7 * i) % 11 / 4 + i % 2},{i % 2}\n" for i in range(60))


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "table.csv"


def cluster_flags(port, processes, number, timeout):
    return [
        "--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", processes, "--process-id", number,
        "--timeout", timeout,
    ]  # fmt: skip


def test_processes_that_do_not_meet_say_so_in_time(start, table):
    """The coordinator is not there; the others do not come; the port is taken; settings are half given."""
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        train = backlit("train", table, "--target", "y")
        begun = time.monotonic()
        nobody = start([*train, *cluster_flags(free.getsockname()[1], 2, 1, 1)])
        occupied = start([*train, *cluster_flags(taken.getsockname()[1], 2, 0, 1)])
        half = start([*train, "--distributed", "--processes", 2])
        without = start([*train, "--processes", 2])
        native = start([*train, *cluster_flags(1, 2, 0, 1), "--executor", "native"])
        codes = [p.wait(40) for p in (nobody, occupied, half, without, native)]
        assert time.monotonic() - begun < 40
    assert codes == [1, 1, 1, 2, 2]
    for process, said in (
        (nobody, "could not be reached in 1 s"),
        (occupied, "process 0 cannot listen at 127.0.0.1:"),
        (half, "coordinator and process_id not given, and not found"),
        (without, "settings of several processes are given for one"),
        (native, "--executor native runs in one process only"),
    ):
        assert said in "".join(process.err).splitlines()[-2], process.err
        assert "Traceback" not in "".join(process.err)


@pytest.mark.full
def test_a_coordinator_whom_nobody_joins_says_so(start, table, port):
    """JAX aborts here; the last line is still ours."""
    lonely = start([*backlit("train", table, "--target", "y"), *cluster_flags(port, 2, 0, 1)])
    assert lonely.wait(40) == 1
    assert "process 0: error: the 2 processes did not all come to" in lonely.err[-2]


def test_jax_that_worked_before_is_refused(start):
    code = "import backlit as bl, jax; jax.devices(); bl.distributed.initialize('127.0.0.1:1', 2, 0)"
    late = start(["-c", code])
    assert late.wait() == 1
    assert "JAX has computed in this process already" in "".join(late.err)


# --- what the processes agree on --------------------------------------------------------------------------------------


class Some(Processes):
    """One of three, as which it is told what the others give."""

    count = 3

    def __init__(self, number, others=()):
        self.id, self.others = number, others

    def part(self, batch):
        return slice(self.id * batch // 3, (self.id + 1) * batch // 3) if batch % 3 == 0 else slice(0, batch)

    def collected(self, value):
        parts = [np.asarray(o, value.dtype) for o in self.others]
        return np.stack([*parts[: self.id], value, *parts[self.id :]])


def test_what_one_process_decides_all_do():
    assert agreement.steps_and_stop(Some(1, ([7, 0], [3, 0])), 5, False) == (7, False)
    assert agreement.steps_and_stop(Some(0, ([7, 0], [3, 1])), 5, False) == (5, True)
    assert not agreement.everywhere(Some(2, (True, False)), True)
    assert agreement.everywhere(Some(2, (True, True)), True)
    assert agreement.figures(Some(2, ([0.25], [1.0])), {"loss": 0.5}) == {"loss": 0.25}


def test_data_that_differs_in_one_number_is_refused():
    x = np.arange(6.0)
    other = np.array([0.0, 1, 2, 3, 4, 6])
    own, strange = ([agreement.digest(v)] for v in ([x], [other]))
    agreement.refuse_different(Some(0, (own, own)), {"data": [x]})
    for number, who in ((0, 2), (1, 2), (2, 1)):
        with pytest.raises(DistributedError, match=f"process {who} has another data than process 0"):
            agreement.refuse_different(Some(number, (own, strange)), {"data": [x]})


def test_each_process_takes_its_rows_of_the_same_minibatches():
    """Also from a file, of which it reads no others; a minibatch that does not part evenly is read whole."""
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    feeds = [
        ArrayFeed({"x": x}, 12, {"x": np.dtype("f4")}, random.key(1), processes=p)
        for p in (Processes(), Some(0), Some(1), Some(2))
    ]
    for feed in feeds[1:]:
        feed.resident = False
    for batch in (0, 1):
        whole, *parts = [feed.take(0, batch, 1) for feed in feeds]
        expected = whole.data["x"][whole.rows[0]]
        got = [p.data["x"][p.rows[0]] for p in parts]
        assert [p.batch for p in parts] == [len(expected)] * 3
        if batch == 0:
            assert all(len(p.data["x"]) == 4 for p in parts)
            assert np.array_equal(np.concatenate(got), expected)
        else:
            assert all(np.array_equal(g, expected) for g in got)


def test_the_command_trains_in_two_processes(start, table, port, tmp_path):
    """One of them speaks and writes; the model is that of one process, and the run in the checkpoint goes on alone."""
    train = [*backlit("train", table, "--target", "y"), "--task", "classification", "--hidden", "4", "--dropout", "0.2"]
    outs = [tmp_path / "model-0", tmp_path / "model-1"]
    run = tmp_path / "run.backlit"
    both = [
        start([*train, "--epochs", 2, "--out", out, "--checkpoint", run, *cluster_flags(port, 2, i, 60)])
        for i, out in enumerate(outs)
    ]
    assert [p.wait() for p in both] == [0, 0], "".join(both[0].err)
    assert "accuracy" in "".join(both[0].out)
    assert not outs[1].exists()
    assert [line for line in both[1].out + both[1].err if "[Gloo]" not in line] == []
    one = start([*train, "--epochs", 3, "--out", tmp_path / "alone"])
    longer = start([*train, "--epochs", 3, "--out", tmp_path / "longer", "--checkpoint", run])
    other = start([*train, "--epochs", 3, "--out", tmp_path / "other", "--checkpoint", run, "--dropout", "0.1"])
    assert [one.wait(), longer.wait(), other.wait()] == [0, 0, 2]
    assert "is of a run with another network" in other.err[-2]

    def history(name):
        return json.loads((tmp_path / name / "history.json").read_text())

    for column in ("loss", "val_loss", "accuracy"):
        np.testing.assert_allclose(history("model-0")[column], history("alone")[column][:2], rtol=1e-4)
        np.testing.assert_allclose(history("longer")[column], history("alone")[column], rtol=1e-4)
