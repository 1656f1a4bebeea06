"""Each kernel of a workload is timed within the running step."""

import typer
from typer.testing import CliRunner

from benchmarks import kernels

app = typer.Typer()
app.command()(kernels.main)


def test_every_kernel_of_a_step_and_the_step_have_a_time():
    found = CliRunner().invoke(app, ["xor", "--seconds", "0", "--threads", "1"])
    assert found.exit_code == 0, found.output
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in found.output.splitlines() if "│" in line]
    each, (total, waiting, step) = rows[:-3], rows[-3:]
    assert {"map", "reduce"} <= {cells[1] for cells in each}
    assert [cells[0] for cells in (total, waiting, step)] == ["all kernels", "waiting, of all threads", "the step"]
    assert all(float(cells[3]) > 0 for cells in [*each, total, step])


def test_an_unknown_workload_is_refused():
    found = CliRunner().invoke(app, ["no such net"])
    assert found.exit_code == 2
    assert "transformer" in found.output
