"""The batch script and the manifest of `examples/cluster`: legal by their own validators, and of one piece with us."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from backlit.cli import build

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
SLURM, KUBERNETES = FOLDER / "slurm.sh", FOLDER / "kubernetes.yaml"


def program(name):
    """A program of this environment, or of the machine."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


@pytest.mark.parametrize("command", [["bash", "-n"], ["shellcheck"]], ids=lambda c: c[0])
def test_the_script_is_sound(command):
    if program(command[0]) is None:
        pytest.skip(f"there is no {command[0]} here")
    done = subprocess.run([program(command[0]), *command[1:], SLURM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifest_fits_the_schema_of_kubernetes():
    """With `pip install kubernetes-validate`, which has the schemas and is too large (22 MB) to come with the tests."""
    validate = pytest.importorskip("kubernetes_validate")
    documents = list(pytest.importorskip("yaml").safe_load_all(KUBERNETES.read_text()))
    assert [d["kind"] for d in documents] == ["Service", "Job"]
    for document in documents:
        validate.validate(document, "1.34", strict=True)


@pytest.mark.parametrize("path", [SLURM, KUBERNETES], ids=lambda p: p.name)
def test_every_flag_is_one_of_the_command(path):
    command = typer.main.get_command(build()).commands["train"]
    known = {name for parameter in command.params for name in parameter.opts}
    text = re.sub(r"#.*", "", path.read_text())
    used = set(re.findall(r"(?<=[\s(])--[a-z-]+", text[text.index("backlit train" if path is SLURM else "args:") :]))
    assert {"--distributed", "--checkpoint", "--heartbeat"} <= used <= known


def test_the_pods_meet_where_the_service_is():
    text = KUBERNETES.read_text()
    service, job = (re.search(rf"kind: {kind}\nmetadata:\n  name: (\S+)", text).group(1) for kind in ("Service", "Job"))
    count = re.search(r"completions: (\d+)", text).group(1)
    port = re.search(r"port: (\d+)", text).group(1)
    assert f"subdomain: {service}\n" in text
    assert f"job-name: {job}\n" in text
    assert f"parallelism: {count}\n" in text
    assert f"--processes={count}\n" in text
    assert f"--coordinator={job}-0.{service}:{port}\n" in text
