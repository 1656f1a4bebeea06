"""Odd shapes are timed beside neat ones."""

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import shapes

app = typer.Typer()
app.command()(shapes.main)


@pytest.mark.parametrize(
    ("shape", "neat"), [((1, 300, 100), (1, 304, 96)), ((7, 16, 23), (7, 16, 16)), ((24, 513, 15), (32, 512, 15))]
)
def test_the_neat_shape_is_near(shape, neat):
    assert shapes.neat(shape) == neat
    assert shapes.neat(neat) == neat


def test_each_product_of_a_shape_is_timed():
    found = CliRunner().invoke(app, ["--shape", "3x33x5", "--dtype", "float64", "--seconds", "0"])
    assert found.exit_code == 0, found.output
    (row,) = [line for line in found.output.splitlines() if "3x33x5" in line]
    cells = [c.strip() for c in row.split("│")[1:-1]]
    assert cells[:2] == ["3x33x5", "3x32x5"]
    assert all(float(c) > 0 for k, c in enumerate(cells[2:]) if k % 3 != 2)


@pytest.mark.parametrize("arguments", [["--shape", "3x4"], ["--shape", "0x1x2"], ["--dtype", "int8"]])
def test_what_is_no_shape_is_refused(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2
