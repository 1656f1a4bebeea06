"""The command line as a user meets it: help, exit codes, what is written where, and no traceback for their mistakes."""

import json
import sys

import numpy as np
import polars as pl
import pytest

import backlit as bl
from backlit import data
from backlit.cli import GROUPS, build, main

UNCOMPILED = ("--executor", "reference")  # where the training is over before it is compiled


@pytest.fixture(scope="module")
def penguins(tmp_path_factory):
    """A folder with a model of the penguins' species."""
    folder = tmp_path_factory.mktemp("penguins") / "model"
    with pytest.raises(SystemExit) as leaving:
        main(
            ["train", str(data.penguins()), "--target", "species", "--out", str(folder), "--epochs", "40", *UNCOMPILED]
        )
    assert not leaving.value.code
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Help and usage


def test_help_shows_every_command_and_every_command_shows_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    groups = [g.typer_instance for g in build().registered_groups]
    names = [c.name or c.callback.__name__ for g in groups for c in g.registered_commands]
    assert {"demo", "train", "predict", "evaluate"} <= set(names)
    for name in names:
        assert name in out
        code, text, _ = run(name, "--help")
        assert code == 0
        assert f"backlit {name} " in text.partition("Example")[2]


def test_version(run):
    assert run("--version")[:2] == (0, f"backlit {bl.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "fly"),
        (["train", "t.csv"], "--target"),
        (["train", "t.csv", "--target", "y", "--hidden", "64,x"], "64,x"),
        (["train", "t.csv", "--target", "y", "--hidden", "64,0"], "64,0"),
        (["train", "t.csv", "--target", "y", "--test", "1.5"], "1.5"),
        (["train", "t.csv", "--target", "y", "--epochs", "0"], "--epochs"),
        (["train", "t.csv", "--target", "y", "--task", "dreaming"], "dreaming"),
        (["train", "t.csv", "--target", "y", "--epoch", "3"], "--epoch"),
        (["predict", "m"], "TABLE"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what(run, arguments, words):
    code, out, err = run(*arguments)
    assert code == 2
    assert words in err
    assert out == ""


# ---------------------------------------------------------------------------------------------------------------------
# Train, predict, evaluate


def test_train_writes_a_folder_and_reports(run, tmp_path):
    code, out, err = run("train", data.penguins(), "--target", "species", "--epochs", "30")
    assert code == 0
    assert "classification" in err
    assert "220 for training, 55 for validation, 69 for the test" in err
    assert "accuracy" in out
    folder = tmp_path / "penguins-model"
    written = ["history.json", "learning-curve.png", "model.backlit", "report.md"]
    assert sorted(p.name for p in folder.iterdir()) == written
    history = json.loads((folder / "history.json").read_text())
    assert len(history["loss"]) == len(history["val_accuracy"]) <= 30
    report = (folder / "report.md").read_text()
    for words in ("# species from penguins.csv", "accuracy", "Chinstrap", "bill_length_mm", "learning-curve.png"):
        assert words in report
    assert (folder / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_and_predict_agree_with_the_table(run, penguins):
    code, out, _ = run("evaluate", penguins, data.penguins(), "--json")
    assert code == 0
    scores = json.loads(out)
    assert scores["accuracy"] > 0.95
    assert scores["baseline_accuracy"] == pytest.approx(152 / 344)
    assert np.sum(scores["confusion"]) == scores["rows"] == 344
    code, out, err = run("predict", penguins, data.penguins())
    assert (code, err) == (0, "")
    predictions = pl.read_csv(out.encode())
    truth = pl.read_csv(data.penguins())["species"]
    assert (predictions["predicted_species"] == truth).mean() == pytest.approx(scores["accuracy"])
    chances = predictions.select("probability_Adelie", "probability_Chinstrap", "probability_Gentoo").to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    code, out, _ = run("evaluate", penguins / "model.backlit", data.penguins())
    assert code == 0
    assert "Gentoo" in out
    assert "0.4419" in out


def test_predict_writes_files_with_or_without_the_columns(run, penguins, tmp_path):
    assert run("predict", penguins, data.penguins(), "--out", "p.csv")[0] == 0
    assert pl.read_csv("p.csv").columns[0] == "predicted_species"
    assert run("predict", penguins, data.penguins(), "--with-columns", "--out", "p.parquet")[0] == 0
    both = pl.read_parquet("p.parquet")
    assert both.columns[:2] == ["species", "island"]
    assert both.columns[-4] == "predicted_species"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.csv", "p.parquet"]


def test_new_rows_with_unknown_and_missing_cells_are_predicted_with_a_note(run, penguins, tmp_path):
    (tmp_path / "new.csv").write_text(
        "island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year\n"
        "Dream,49,18.5,196,3700,,2009\nAtlantis,47,15,218,5100,male,?\n"
    )
    code, out, err = run("predict", penguins, "new.csv")
    assert code == 0
    assert "'Atlantis'" in err
    assert "'year'" in err
    rows = out.splitlines()
    assert len(rows) == 3
    assert rows[1].startswith("Chinstrap,")
    assert rows[2].startswith("Gentoo,")


def test_the_same_seed_gives_the_same_model(run, tmp_path):
    train = ("train", data.penguins(), "--target", "species", "--epochs", 3, *UNCOMPILED)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(*train, "--seed", seed, "--out", name)[0] == 0
    a, b, c = (bl.load(tmp_path / name / "model.backlit").params for name in "abc")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a["dense_1.weight"], c["dense_1.weight"])


def test_regression(run):
    code, _, err = run("train", data.penguins(), "--target", "body_mass_g")
    assert code == 2
    assert "'body_mass_g', row 4" in err
    assert "--drop-missing-target" in err
    code, out, err = run("train", data.penguins(), "--target", "body_mass_g", "--drop-missing-target", "--out", "m")
    assert code == 0
    assert "2 of 344 rows" in err
    assert "regression" in err
    assert "R2" in out
    scores = json.loads(run("evaluate", "m", data.penguins(), "--drop-missing-target", "--json")[1])
    assert scores["r2"] > 0.8
    assert scores["rmse"] < 0.5 * scores["baseline_rmse"]
    first = run("predict", "m", data.penguins())[1].splitlines()
    assert first[0] == "predicted_body_mass_g"
    assert 3000 < float(first[1]) < 4500


def test_options_reach_the_training(run, tmp_path):
    table = pl.DataFrame({"code": [1, 2, 3] * 20, "x": [float(i % 7) for i in range(60)], "y": ["a", "b", "b"] * 20})
    table.write_csv("t.csv")
    code, _, err = run(
        "train", "t.csv", "--target", "y", "--category", "code", "--drop", "x", "--hidden", "none", "--balance",
        "--dropout", "0", "--epochs", "60", "--learning-rate", "0.05", "--batch-size", "8", "--missing", "9",
        "--test", "0.25", "--validation", "0.25", "--patience", "60", "--weight-decay", "0", "--executor", "reference",
    )  # fmt: skip
    assert code == 0
    assert "inputs   3 from 1 columns" in err
    assert "34 for training, 11 for validation, 15 for the test" in err
    report = (tmp_path / "t-model" / "report.md").read_text()
    assert "| code | category | 3 |" in report
    assert json.loads(run("evaluate", "t-model", "t.csv", "--json")[1])["accuracy"] == 1
    # the words for missing cells that training was given belong to the model
    pl.DataFrame({"code": [1, 9, 3] * 20}).write_csv("nines.csv")
    assert "'code': 20 rows lack a value" in run("predict", "t-model", "nines.csv")[2]


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "no.csv", "--target", "y"], ["there is no file no.csv"]),
        (["train", "rubbish.csv", "--target", "y"], ["Excel"]),
        (["train", "short.csv", "--target", "y"], ["3 rows are too few"]),
        (["train", "words.csv", "--target", "y"], ["column 'x', row 30", "'many'", "--missing many"]),
        (["train", "words.csv", "--target", "Y"], ["no column 'Y'", "did you mean 'y'"]),
        (["train", "words.csv", "--target", "y", "--drop", "z"], ["no column 'z'"]),
        (["predict", "no-model", "words.csv"], ["there is no file no-model"]),
        (["predict", "words.csv", "words.csv"], ["words.csv is no backlit file"]),
        (["evaluate", "rubbish.csv", "words.csv"], ["zip archive"]),
    ],
)
def test_bad_input_exits_with_2_and_says_what_and_what_to_do(run, tmp_path, arguments, words):
    (tmp_path / "rubbish.csv").write_bytes(b"PK\x03\x04 and more")
    (tmp_path / "short.csv").write_text("x,y\n1,a\n2,b\n3,a\n")
    (tmp_path / "words.csv").write_text(
        "x,y\n" + "".join(f"{i if i != 29 else 'many'},{'ab'[i % 2]}\n" for i in range(40))
    )
    code, out, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    for word in words:
        assert word in err
    assert out == ""
    assert not list(tmp_path.glob("*-model"))  # nothing is left half done


def test_a_table_without_the_model_s_columns(run, penguins, tmp_path):
    (tmp_path / "t.csv").write_text("Island,x\nDream,1\n")
    code, out, err = run("predict", penguins, "t.csv", "--out", "p.csv")
    assert (code, out) == (2, "")
    assert "no column 'island'" in err
    assert "did you mean 'Island'" in err
    assert not (tmp_path / "p.csv").exists()


def test_a_place_that_cannot_be_written_exits_with_1(run, penguins, tmp_path):
    (tmp_path / "taken").write_text("a file")
    code, _, err = run("train", data.penguins(), "--target", "species", "--epochs", "1", "--out", "taken", *UNCOMPILED)
    assert code == 1
    assert "taken" in err
    code, _, err = run("predict", penguins, data.penguins(), "--out", "nowhere/p.csv")
    assert code == 1
    assert "nowhere" in err


def test_without_polars_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)  # as if it were not installed
    code, _, err = run("train", "t.csv", "--target", "y")
    assert (code, err) == (1, "error: polars is not installed: pip install 'backlit[tables]'\n")


def test_without_matplotlib_there_is_a_note_instead_of_a_picture(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("train", data.penguins(), "--target", "species", "--epochs", "1", "--out", "m", *UNCOMPILED)
    assert code == 0
    assert "no learning-curve.png: matplotlib is not installed: pip install 'backlit[plot]'" in err
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["history.json", "model.backlit", "report.md"]
    assert ".png" not in (tmp_path / "m" / "report.md").read_text()


# ---------------------------------------------------------------------------------------------------------------------
# The demo


def test_demo_reads_digits_and_leaves_what_it_says(run, tmp_path):
    code, _, err = run("demo")
    assert code == 0
    written = {p.name for p in (tmp_path / "backlit-demo").iterdir()}
    assert {"model.backlit", "history.json", "learning-curve.png", "report.md", "penguins.csv"} <= written
    for name in written:
        assert name in err
    history = json.loads((tmp_path / "backlit-demo" / "history.json").read_text())
    assert history["val_accuracy"][-1] > 0.97
    # the saved network is the one that was tested
    digits = data.digits()
    _, test = data.stratified_split(digits.labels, test=0.2, seed=0)
    net = bl.load("backlit-demo/model.backlit")
    read = net(digits.images[test].reshape(-1, 64)).argmax(axis=1)
    assert (read == digits.labels[test]).mean() == pytest.approx(history["val_accuracy"][-1])
    # and its advice works
    assert "backlit train backlit-demo/penguins.csv --target species" in err
    assert run("train", "backlit-demo/penguins.csv", "--target", "species", "--epochs", "1", *UNCOMPILED)[0] == 0


def test_a_demo_that_does_not_reach_its_bar_fails(run):
    code, _, err = run("demo", "--epochs", "1", "--out", "d")
    assert code == 1
    assert "below 97%" in err


def test_groups_are_modules_with_commands():
    import importlib

    for group in GROUPS:
        assert importlib.import_module(f"backlit.cli.{group}").commands.registered_commands
