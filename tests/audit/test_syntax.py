"""The worksheet language: what people type, what is refused and where, and that a stranger's sheet is bounded."""

import time
from contextlib import suppress

import numpy as np
import pytest
from audit.sheets import sheet
from hypothesis import given, settings
from hypothesis import strategies as st

from backlit.audit.check import check_text
from backlit.audit.checker import bench_of
from backlit.audit.sheet import read
from backlit.audit.syntax import WorksheetError, blocks


def values(body):
    """The final values of a sheet's quantities."""
    found = read(blocks(sheet(body))[0])
    bench = bench_of(found)
    return {name: bench.value(bench.same[node]).tolist() for name, node in found.epochs[-1].items()}


def error(body):
    with pytest.raises(WorksheetError) as caught:
        check_text(sheet(body))
    return caught.value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3*4", 14.0),
        ("2·3 × 4 − 1", 23.0),
        ("2 * 3 ÷ 4", 1.5),
        ("-2^2", -4.0),
        ("2^-1", 0.5),
        ("2^3^2", 512.0),
        ("2**3", 8.0),
        ("3²", 9.0),
        ("(1 + 2)²", 9.0),
        ("e^(-1)", np.exp(-1)),
        ("e^2·3", 3 * np.exp(2)),
        ("1/(1 + e^(-0.5))", 1 / (1 + np.exp(-0.5))),
        ("σ(0.5)", 1 / (1 + np.exp(-0.5))),
        ("sqrt(2) + abs(-1) + ln(2)", np.sqrt(2) + 1 + np.log(2)),
        ("pi*2", 2 * np.pi),
        ("max(1, 3, 2)", 3.0),
        ("relu(-1) + tanh(0.3) + softplus(0.2)", np.tanh(0.3) + np.log1p(np.exp(0.2))),
        ("sum([1, 2, 3])/mean([2, 4])", 2.0),
        ("sum([1, 2; 3])", None),
        ("1e-3 + .5 + 2.", 2.501),
    ],
)
def test_expressions(expression, value):
    if value is None:
        assert error(f"given q = 1\ny = {expression}").line == 3
    else:
        assert values(f"given q = 1\ny = 0*q + {expression}")["y"] == pytest.approx(value, rel=1e-14)


def test_names_have_one_spelling():
    found = values("given x₁ = 2, ŷ = 3, θ_1 = 4\nz = x1*yhat + θ_1\nq = x₁²")
    assert found["z"] == 10.0
    assert found["q"] == 4.0


@pytest.mark.parametrize("slope", ["dE/dw", "∂E/∂w", "d E / d w", "∂E / ∂w"])
def test_derivatives_as_people_write_them(slope):
    report = check_text(sheet(f"param w = 3\nE = w^2\n{slope} = 6"))
    assert report.ok
    assert report.sheets[0].findings[0].claim.quantity == "dE/dw"


def test_a_quantity_named_like_a_derivative_is_that_quantity():
    assert values("given dE = 6, dw = 2, E = 1, w = 1\nr = dE/dw")["r"] == 3.0


@pytest.mark.parametrize("new", ["w'", "w′", "w⁺", "w_new"])
def test_new_weights_as_people_write_them(new):
    assert check_text(sheet(f"param w = 3\nE = w^2\n{new} = w - 0.1*dE/dw = 2.4\nstep E, lr = 0.1")).ok


def test_arrays_and_matrices():
    found = values("given W = [[1, 2], [3, 4]], x = [5, 6]\nz = W @ x\ny = T(W) @ x\ns = softmax([1, 1])")
    assert found == {
        "W": [[1.0, 2.0], [3.0, 4.0]], "x": [5.0, 6.0], "z": [17.0, 39.0], "y": [23.0, 34.0], "s": [0.5, 0.5],
    }  # fmt: skip
    report = check_text(
        sheet("param W = [[1, 2], [3, 4]]\ngiven x = [5, 6]\nE = sum((W @ x)^2)\ndE/dW = [[170, 204], [390, 468]]")
    )
    assert report.ok


@pytest.mark.parametrize(
    ("body", "line", "column", "says"),
    [
        ("given x = 1\ny = x +", 3, 8, "the end of the line"),
        ("given x = 1\ny = (x + 2", 3, 11, "expected"),
        ("given x = 1\ny = x $ 2", 3, 7, "does not fit"),
        ("given x = 1\ny = xx + 1", 3, 5, "did you mean x"),
        ("given x = 1\ny = 3", 3, 1, "not defined"),
        ("given x = 1\ny = sigmiod(x)", 3, 5, "no function"),
        ("given x = 1\ny = tanh(x, x)", 3, 5, "one argument"),
        ("given x = 1\nx = x*2\ny = x\ngiven x = 2", 5, 7, "defined already"),
        ("given x = 1, x = 2", 2, 14, "defined already"),
        ("given W = [[1, 2], [3]]", 2, 11, "differ in length"),
        ("given W = [[1, 2]]\ny = W @ W", 3, 1, "1"),
        ("param w = 1\nE = w^2\nstep E", 4, 1, "learning rate"),
        ("param w = 1\nE = w^2\nrepeat 3", 4, 1, "no step"),
        ("given w = 1\nE = w^2\nstep E, lr = 1", 4, 1, "no param"),
        ("param w = 1\nE = w^2\nw' = 0.8", 4, 6, "no step follows"),
        ("given w = 1\nw' = 3", 3, 1, "no param"),
        ("param w = [1, 2]\ny = w*2\ndy/dw = 2", 4, 1, "derivative"),
        ("param w = 1\nE = w^2\nstep E, lr = 0.1\nrepeat 2.5", 5, 8, "whole number"),
    ],
)
def test_errors_name_the_place_and_what_was_expected(body, line, column, says):
    found = error(body)
    assert (found.line, found.column) == (line, column), str(found)
    assert says in str(found)
    assert "^" in str(found)  # the line is shown


def test_only_worksheet_blocks_are_read():
    text = "prose = 3\n```python\nx = (\n```\n~~~worksheet\ngiven x = 1\ny = x = 1\n~~~\n"
    assert len(check_text(text).sheets) == 1
    with pytest.raises(WorksheetError, match="no worksheet"):
        check_text("```python\nx = 1\n```\n")
    with pytest.raises(WorksheetError, match="does not end"):
        check_text("```worksheet\ngiven x = 1\n")


HOSTILE = {
    "minus": "given x = 1\ny = " + "-" * 3000 + "x",
    "powers": "given x = 1\ny = x" + "^x" * 1000,
    "sum": "given x = 1\ny = x" + "+x" * 1900,
    "brackets": "given x = " + "[" * 1900 + "1" + "]" * 1900,
    "repeat": "param w = 1\nE = w^2\nstep E, lr = 0.1\nrepeat 10^12",
    "repeat a million times": "param w = 1\nE = w^2\nstep E, lr = 0.1\nrepeat 1000000\nE = 1",
    "many repeats": "param w = 1\nE = w^2\nstep E, lr = 0.1\n" + "repeat 5\n" * 900,
    "many steps": "param w = 1\nE = w^2\n" + "step E, lr = 0.1\n" * 900,
    "exponent": "given x = 1e999999999",
    "digits": "given x = " + "1" * 3000,
    "line": "given x = " + "1" * 5000,
    "bytes": "#" * 1_100_000,
    "lines": "given x = 1\n" + "\n".join(f"y{i} = x" for i in range(2000)),
    "array": "given x = [" + ",".join(["1"] * 1900) + "]\n" + "X = " + "[" + ",".join(["x"] * 1500) + "]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sheets_are_refused_in_time(name):
    began = time.process_time()
    with pytest.raises(WorksheetError) as caught:
        check_text(sheet(HOSTILE[name]))
    assert time.process_time() - began < 3
    assert len(str(caught.value)) < 500


def test_parentheses_cost_nothing():
    assert values("given x = 1\ny = " + "(" * 1500 + "x" + ")" * 1500)["y"] == 1.0


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="xyE'dw=+-*/^()[]., 0123456789e∂σ²#\n", max_size=80))
def test_any_text_is_a_sheet_or_an_error_that_says_so(text):
    with suppress(WorksheetError):
        check_text(sheet("param w = 0.5\ngiven x = 1\nE = (w*x)^2\n" + text))
