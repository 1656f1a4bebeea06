"""Every example runs, with its quick setting, and shows what it says it shows."""

import importlib
import re
from pathlib import Path

import pytest

from backlit.executors import api, get

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture(params=["auto", pytest.param("xla", marks=pytest.mark.full)])
def on(request, monkeypatch):
    """The executor that is taken where none is named."""
    if request.param != "auto":
        monkeypatch.setattr(api, "_best", lambda: request.param)
        get.cache_clear()
    yield
    get.cache_clear()


def run(name):
    return importlib.import_module(name).main(quick=True)


@pytest.mark.parametrize(("name", "least"), [("mlp_digits", 0.93), ("cnn_digits", 0.80), ("gru_digits", 0.90)])
@pytest.mark.usefixtures("on")
def test_networks_read_digits(name, least, capsys):
    accuracy = run(name)
    assert least < accuracy <= 1
    assert f"test accuracy {accuracy:.2%}" in capsys.readouterr().out


@pytest.mark.usefixtures("on")
def test_gradients_vanish_through_sigmoids_and_not_through_relu(capsys):
    results = run("vanishing_gradients")
    accuracy, ratio = results["sigmoid"]
    assert accuracy < 0.15
    assert ratio < 1e-6
    accuracy, ratio = results["ReLU + He + batch norm"]
    assert accuracy > 0.5
    assert ratio > 0.1


@pytest.mark.usefixtures("on")
def test_remedies_hold_overfitting_back(capsys):
    results = run("overfitting")
    plain, remedied = results["plain"], results["dropout and weight decay"]
    assert plain["by heart"] > 3 * remedied["by heart"]
    assert plain["last"] < remedied["last"]
    assert plain["last"] < plain["best"]


@pytest.mark.usefixtures("on")
def test_a_transformer_writes_better_than_by_frequency(capsys):
    bits, guess = run("char_transformer")
    assert bits < guess - 0.2
    assert "it writes: The statement " in capsys.readouterr().out


@pytest.mark.usefixtures("on")
def test_regression_on_a_table(capsys):
    r2 = run("regression_table")
    assert 0.7 < r2 < 1
    assert "body_mass_g" in capsys.readouterr().out


@pytest.mark.full
def test_full_runs_end_as_the_documentation_says(capsys):
    """Within what another executor's rounding may change."""
    page = (FOLDER.parent / "docs" / "start.md").read_text()
    said = {
        name: [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", result)]
        for name, result in re.findall(r"^\| `(\w+)\.py` \|[^|]*\| ([^|]*) \|", page, re.M)
    }

    def full(name):
        return importlib.import_module(name).main()

    for name in ("mlp_digits", "cnn_digits", "gru_digits"):
        accuracy = 100 * full(name)
        assert accuracy > 97
        assert accuracy == pytest.approx(said[name][0], abs=1)
    sigmoid, modern = full("vanishing_gradients").values()
    assert (100 * sigmoid[0], 100 * modern[0]) == pytest.approx(said["vanishing_gradients"][:2], abs=3)
    assert (sigmoid[1], modern[1]) == pytest.approx(said["vanishing_gradients"][2:], rel=0.2)
    plain, remedied = full("overfitting").values()
    found = [plain["last"], remedied["last"], plain["by heart"], remedied["by heart"]]
    assert [100 * f for f in found] == pytest.approx(said["overfitting"], abs=5)
    assert full("char_transformer") == pytest.approx(said["char_transformer"], abs=0.1)
    assert full("regression_table") == pytest.approx(said["regression_table"][0], abs=0.02)


def test_the_first_gradient_is_checked(capsys):
    gradient = run("first_gradient")
    assert {name: g.shape for name, g in gradient.items()} == {"w1": (2, 3), "b1": (3,), "w2": (3, 1)}
    out = capsys.readouterr().out
    assert "h = tanh(z)" in out
    assert "gradient of tanh" in out
    assert "finite differences agree" in out


def test_every_example_is_tested():
    tested = (Path(__file__).parent / "test_examples.py").read_text() + (
        Path(__file__).parent / "test_worked.py"
    ).read_text()
    for path in FOLDER.glob("*.py"):
        assert path.stem in tested, f"{path.name} has no test"
