"""Odd shapes are timed beside neat ones."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import backlit as bl
from benchmarks import convolutions, shapes
from benchmarks.convolutions import Convolution

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


def test_each_convolution_has_a_neat_neighbour():
    assert convolutions.neat(Convolution(7, (13, 61), 33, 6, (3, 3), stride=2)) == Convolution(
        16, (16, 64), 32, 16, (3, 3), stride=2
    )
    assert all(convolutions.neat(convolutions.neat(s)) == convolutions.neat(s) for s in convolutions.SHAPES)


@pytest.mark.parametrize("kind", shapes.KINDS)
def test_each_product_of_a_convolution_is_timed(kind):
    shape = Convolution(2, (5, 6), 4, 6, (3, 3), stride=2, groups=2)
    function, sizes = convolutions.product(kind, shape)
    results = {"forward": shape.flops // (2 * 3 * 3 * 2), "by input": 2 * 5 * 6 * 4, "by weights": 3 * 3 * 2 * 6}
    graph = bl.trace(function, *(np.zeros(n, np.float32) for n in sizes))
    assert graph.outputs[0].type.size == results[kind]
    assert shapes.rate(kind, shape, "float32", 0.0) > 0


@pytest.mark.parametrize("arguments", [["--shape", "3x4"], ["--shape", "0x1x2"], ["--dtype", "int8"]])
def test_what_is_no_shape_is_refused(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2
