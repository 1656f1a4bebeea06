"""Derivations of worksheets, and the command `backlit explain`."""

import json

import numpy as np
import pytest

import backlit as bl
from backlit import cli
from backlit.explanation.worksheets import explain_sheet, first_sheet

from .reading import check_lines
from .test_worked import GIVEN, equation, two_two_one

SHEET = """# A network

```worksheet
given x1 = 0.5, x2 = 0.1, y = 0.6
param w11 = 0.4, w12 = 0.3, w21 = 0.6, w22 = 0.9, w31 = 0.5, w32 = 0.7
param b1 = 0.1, b2 = 0.2, b3 = 0.3

z1 = w11*x1 + w12*x2 + b1
a1 = sigmoid(z1)
z2 = w21*x1 + w22*x2 + b2
a2 = sigmoid(z2)
z3 = w31*a1 + w32*a2 + b3
yhat = sigmoid(z3)
E = (yhat - y)^2

step E, lr = 0.1
```

```worksheet
given x = -2, y = 5, z = -4
q = x + y
f = q*z
```
"""


@pytest.fixture
def sheet(tmp_path):
    path = tmp_path / "sheet.md"
    path.write_text(SHEET, encoding="utf-8")
    return path


def test_a_sheet_is_explained_in_its_own_names(sheet):
    d = explain_sheet(first_sheet(sheet, None, "w11"), "w11")
    check_lines(d)
    assert d.value == bl.grad(two_two_one)(*GIVEN)
    assert equation(d, "∂E/∂z3").symbolic == "∂E/∂yhat·yhat·(1 - yhat)"
    assert equation(d, "w11'").symbolic == "w11 - lr·∂E/∂w11"
    assert equation(d, "lr").value == 0.1


def test_the_sheet_that_has_the_name_is_meant(sheet):
    d = explain_sheet(first_sheet(sheet, None, "x"), "x")
    assert equation(d, "∂f/∂x").symbolic == "∂f/∂q"
    assert d.value == -4


def test_another_quantity_may_be_differentiated(sheet):
    d = explain_sheet(first_sheet(sheet, "a1", "w11"), "w11", loss="a1")
    assert equation(d, "∂a1/∂w11").value == pytest.approx(0.5 * 0.581759 * 0.418241, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wrt", "w99"], "no worksheet"),
        (["--wrt", "w11", "--loss", "Q"], "no worksheet"),
        (["--wrt", "w11", "--html", "why.pdf"], "does not end in .html"),
    ],
)
def test_the_command_says_what_is_wrong(sheet, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(sheet.parent)
    with pytest.raises(SystemExit) as left:
        cli.main(["explain", str(sheet), *arguments])
    assert left.value.code in (1, 2)
    assert said in capsys.readouterr().err
    assert [p.name for p in sheet.parent.iterdir()] == ["sheet.md"]


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    assert not left.value.code


def test_the_command_explains_a_sheet(sheet, capsys):
    run("explain", sheet, "--wrt", "w11")
    assert "∂E/∂z1·x1" in capsys.readouterr().out
    run("explain", sheet, "--wrt", "w11", "--html", sheet.parent / "why.html", "--json", sheet.parent / "why.json")
    assert json.loads((sheet.parent / "why.json").read_text())["wrt"]["name"] == "w11"
    assert (sheet.parent / "why.html").read_text().startswith("<!doctype html>")


def test_the_command_explains_a_row_of_a_table(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'yes' if a > b else 'no'}" for a, b in rng.normal(size=(40, 2))]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["a,b,c", *rows]) + "\n")
    run("train", table, "--target", "c", "--epochs", 2, "--hidden", 4, "--out", tmp_path / "m")
    capsys.readouterr()
    run("explain", tmp_path / "m", "--data", table, "--row", 3, "--wrt", "dense_1.weight[0, 1]")
    out = capsys.readouterr().out
    assert "∂L/∂W1[0, 1]" in out
    assert "The two agree." in out
    with pytest.raises(SystemExit):
        cli.main(["explain", str(tmp_path / "m"), "--data", str(table), "--row", "41", "--wrt", "dense_1.weight[0, 1]"])
    assert "40 rows" in capsys.readouterr().err
