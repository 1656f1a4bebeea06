"""Each kernel of a workload's step is timed alone."""

import typer
from typer.testing import CliRunner

from benchmarks import kernels

app = typer.Typer()
app.command()(kernels.main)


def test_every_kernel_of_a_step_has_a_time_and_a_share_of_the_step():
    found = CliRunner().invoke(app, ["xor", "--seconds", "0", "--threads", "1"])
    assert found.exit_code == 0, found.output
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in found.output.splitlines() if "│" in line]
    kinds = {cells[1] for cells in rows[:-2]}
    assert {"map", "reduce"} <= kinds
    assert all(float(cells[3]) > 0 for cells in rows)
    assert rows[-2][0] == "all kernels alone"
    assert rows[-1][0] == "the step"


def test_an_unknown_workload_is_refused():
    found = CliRunner().invoke(app, ["no such net"])
    assert found.exit_code == 2
    assert "transformer" in found.output
