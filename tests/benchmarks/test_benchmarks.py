"""The benchmarks run, their runners do the same work, and one that does not is told apart."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import agreement, givens, networks, report, runners
from benchmarks.__main__ import app
from benchmarks.measuring import Result, Timing
from benchmarks.workloads import WORKLOADS, ConvNet, LeNet5, Lstm, Mlp, Transformer

ROOT = Path(__file__).parents[2]
MACHINE = {"date": "2026-01-01T00:00+00:00", "processor": "P", "cores": 2, "system": "S", "python": "3", "versions": {}}


def small(name):
    """A workload of the same kind that is done at once."""
    workload = WORKLOADS[name]
    net = {
        Mlp: lambda net: replace(net, sizes=tuple(min(n, 12) for n in net.sizes)),
        LeNet5: lambda net: net,
        ConvNet: lambda net: net,
        Lstm: lambda net: replace(net, input_shape=(5, 4), units=3),
        Transformer: lambda net: replace(net, input_shape=(6,), width=8, heads=2, blocks=1, classes=7),
    }[type(workload.net)](workload.net)
    return replace(workload, net=net, batch=2, steps=3)


def first_losses(runner, workload):
    """The losses of the first epoch, as a worker would tell them; the runner starts from weights of its own kind."""
    train = runners.RUNNERS[runner].prepare(workload, givens.make(workload))
    return [float(loss) for loss in train()]


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("digits 64-100-10", "sklearn"),
        ("xor 2-8-1", "sklearn"),
        ("digits 64-100-10", "jax"),
        pytest.param("seed 2-2-1", "jax-scan", marks=pytest.mark.full),
        pytest.param("LeNet-5 28x28", "jax", marks=pytest.mark.full),
        pytest.param("CNN with batch norm 32x32x3", "jax", marks=pytest.mark.full),
        pytest.param("LSTM 28->64, T 28", "jax-scan", marks=pytest.mark.full),
        pytest.param("char transformer 4x128, T 64", "jax", marks=pytest.mark.full),
    ],
)
def test_peers_have_the_losses_of_backlit(name, peer):
    workload = small(name)
    assert agreement.difference(first_losses("backlit", workload), first_losses(peer, workload)) == ""


def test_a_peer_that_trains_otherwise_is_found_out():
    workload = small("xor 2-8-1")
    other = replace(workload, learning_rate=10 * workload.learning_rate)
    assert agreement.difference(first_losses("backlit", workload), first_losses("sklearn", other)) != ""


def test_losses_that_differ_are_named():
    losses = list(np.linspace(2.0, 1.0, 20))
    assert agreement.difference(losses, [losses[0], 1.001 * losses[1], *losses[2:]]).startswith("its loss at step 2 is")
    assert agreement.difference(losses, [*losses[:10], *(0.9 * v for v in losses[10:])]).startswith("its mean loss is")
    assert agreement.difference(losses, [float("nan")]) != ""
    assert agreement.difference(losses, [1.5]) == ""


def result(**more):
    timings = {"backlit": Timing(1e-6, 0.1, 10**8, 0.01), "jax": Timing(3e-6, 1.0, 10**8), "torch": Timing(2e-6, 0, 1)}
    return Result("w", "w b1 SGD", 1.5, 1000, 1e11, timings, {}, **more)


def test_the_ratio_is_to_the_best_peer():
    assert result().best == "torch"
    assert result().ratio == pytest.approx(2.0)
    assert report.summary([result()])[0][2:6] == ("torch", "2 us", "2.00x", "1.5x met")
    assert (
        "1.5x missed" in report.summary([replace(result(), timings={**result().timings, "jax": Timing(1e-6, 0, 1)})])[0]
    )


def test_figures_come_back_from_their_file_and_make_a_picture(tmp_path):
    text = report.as_json(MACHINE, {"rounds": 1, "seconds": 1.0}, [result()])
    assert Result.from_json(json.loads(text)["results"][0]) == result()
    report.picture(MACHINE, [result()], tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert "| backlit | 1 us |" in report.markdown(MACHINE, [result()])


def test_the_command_measures_and_says_what_is_missing(tmp_path):
    arguments = ["--workload", "xor", "--peers", "torch,sklearn", "--rounds", "1", "--seconds", "0"]
    arguments += ["--json", str(tmp_path / "figures.json")]
    command = [sys.executable, "-m", "benchmarks", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    lacking = runners.missing(runners.RUNNERS["torch"])
    assert ("pip install -e '.[bench]'" in found.stderr) == bool(lacking)
    written = json.loads((tmp_path / "figures.json").read_text())
    timings = written["results"][0]["timings"]
    assert set(timings) == {"backlit", "sklearn"} | (set() if lacking else {"torch"})
    assert all(t["step"] > 0 and t["memory"] > 1e6 for t in timings.values())
    assert "xor 2-8-1 b4 Adam" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--peers", "keras"], "keras"), (["--workload", "vgg"], "vgg"), (["--json", "no/x"], "no")]
)
def test_what_is_unknown_is_refused_before_anything_runs(arguments, said):
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 2
    assert said in found.output


def test_odd_networks_beside_neat_ones(monkeypatch):
    pairs = [("xor", (Mlp((2, 8, 1), "tanh"), 4), (Mlp((3, 7, 1), "tanh"), 5))]
    monkeypatch.setattr(networks, "PAIRS", pairs)
    app = typer.Typer()
    app.command()(networks.main)
    done = CliRunner().invoke(app, ["xor", "--seconds", "0"])
    assert done.exit_code == 0, done.output
    assert "3-7-1" in done.output
    assert "2-8-1" in done.output
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2


def test_odd_networks_are_beside_workloads_that_exist():
    assert [odd.batch for _, odd in networks.pairs("")] == [odd[1] for *_, odd in networks.PAIRS]
