"""Every example runs, with its quick setting, and shows what it says it shows."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


def run(name):
    return importlib.import_module(name).main(quick=True)


@pytest.mark.parametrize(("name", "least"), [("mlp_digits", 0.93), ("cnn_digits", 0.80), ("gru_digits", 0.90)])
def test_networks_read_digits(name, least, capsys):
    accuracy = run(name)
    assert least < accuracy <= 1
    assert f"test accuracy {accuracy:.2%}" in capsys.readouterr().out


def test_gradients_vanish_through_sigmoids_and_not_through_relu(capsys):
    results = run("vanishing_gradients")
    accuracy, ratio = results["sigmoid"]
    assert accuracy < 0.15
    assert ratio < 1e-6
    accuracy, ratio = results["ReLU + He + batch norm"]
    assert accuracy > 0.5
    assert ratio > 0.1


def test_remedies_hold_overfitting_back(capsys):
    results = run("overfitting")
    plain, remedied = results["plain"], results["dropout and weight decay"]
    assert plain["by heart"] > 3 * remedied["by heart"]
    assert plain["last"] < remedied["last"]
    assert plain["last"] < plain["best"]


def test_a_transformer_writes_better_than_by_frequency(capsys):
    bits, guess = run("char_transformer")
    assert bits < guess - 0.2
    assert "it writes: The statement " in capsys.readouterr().out


def test_regression_on_a_table(capsys):
    r2 = run("regression_table")
    assert 0.7 < r2 < 1
    assert "body_mass_g" in capsys.readouterr().out


def test_every_example_is_tested():
    tested = (Path(__file__).parent / "test_examples.py").read_text() + (
        Path(__file__).parent / "test_worked.py"
    ).read_text()
    for path in FOLDER.glob("*.py"):
        assert path.stem in tested, f"{path.name} has no test"
