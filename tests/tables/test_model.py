"""A table model: trained on rows of its own, saved whole, loaded only if it is one."""

import json

import numpy as np
import polars as pl
import pytest

import backlit as bl
from backlit import data, nn, tables
from backlit.errors import CheckpointError, DataError, SettingError
from backlit.tables.training import split
from backlit.train.checkpoint import read, write


@pytest.fixture(scope="module")
def frame():
    return tables.read(data.penguins())


@pytest.fixture(scope="module")
def trained(frame):
    return tables.train(
        frame, "species", hidden=[8], epochs=40, learning_rate=0.01, executor="reference", progress=False
    )


def test_the_parts_share_no_row_and_the_classes_fairly(frame):
    parts = split(frame["species"], None, 0.2, 0.2, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(344))
    assert [len(p) for p in parts] == [220, 55, 69]
    for part in parts:
        share = (frame["species"][part] == "Chinstrap").mean()
        assert share == pytest.approx(68 / 344, abs=0.02)


def test_the_schema_and_the_network_never_see_the_test_part(frame, trained):
    _, _, test = trained.parts
    held_out = np.isin(np.arange(344), test)
    changed = frame.with_columns(
        pl.when(pl.Series(held_out)).then(pl.lit("9999")).otherwise(pl.col("body_mass_g")).alias("body_mass_g")
    )
    again = tables.train(
        changed, "species", hidden=[8], epochs=40, learning_rate=0.01, executor="reference", progress=False
    )
    assert again.model.schema == trained.model.schema
    for name, value in trained.model.net.params.items():
        np.testing.assert_array_equal(again.model.net.params[name], value)


def test_it_learns_and_its_scores_are_those_of_the_test_part(frame, trained):
    assert trained.scores.accuracy > 0.95 > 2 * trained.scores.baseline
    assert trained.scores.rows == len(trained.parts[2])
    again = trained.model.evaluate(frame[trained.parts[2]])
    np.testing.assert_array_equal(again.confusion, trained.scores.confusion)


def test_the_weights_kept_are_those_of_the_best_epoch(frame, trained):
    model, history = trained.model, trained.history
    watch = frame[trained.parts[1]]
    loss = nn.losses.get("crossentropy")(model.net(model.schema.features(watch)), model.schema.labels(watch))
    assert float(loss) == pytest.approx(history["val_loss"].min(), rel=1e-5)


def test_saved_and_loaded_it_says_the_same(frame, trained, tmp_path):
    trained.model.about["note"] = "a fact"
    trained.model.save(tmp_path / "model.backlit")
    for path in (tmp_path, tmp_path / "model.backlit"):
        model = tables.load(path)
        assert model.schema == trained.model.schema
        assert model.about == {"note": "a fact"}
        np.testing.assert_array_equal(model.outputs(frame), trained.model.outputs(frame))
    net = bl.load(tmp_path / "model.backlit")  # the network alone
    np.testing.assert_array_equal(net.params["dense_1.weight"], trained.model.net.params["dense_1.weight"])


def test_predictions_of_many_rows_are_those_of_each(frame, trained, monkeypatch):
    whole = trained.model.outputs(frame)
    monkeypatch.setattr("backlit.tables.model._ROWS_AT_ONCE", 100)
    np.testing.assert_allclose(trained.model.outputs(frame), whole, rtol=1e-5)


def test_extreme_inputs_give_finite_probabilities(trained, frame):
    far = frame.head(2).with_columns(pl.lit("1e90").alias("body_mass_g"))
    p = trained.model.outputs(far)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_regression_predicts_in_the_units_of_the_table(frame):
    known = frame.filter(pl.col("body_mass_g").is_not_null())
    trained = tables.train(known, "body_mass_g", hidden=[], epochs=150, learning_rate=0.02, progress=False)
    assert trained.scores.r2 > 0.8
    predicted = trained.model.predict(known)["predicted_body_mass_g"].to_numpy()
    truth = known["body_mass_g"].cast(pl.Float64).to_numpy()
    assert np.abs(predicted - truth).mean() < 320
    assert abs(predicted.mean() - truth.mean()) < 60


def test_balance_makes_a_rare_class_count():
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    rare = (x + rng.normal(size=600) * 0.7) > 1.9  # some 6 percent, and never certain
    table = pl.DataFrame({"x": x, "y": np.where(rare, "rare", "common")})
    recall = {
        balance: tables.train(
            table, "y", hidden=[], epochs=30, batch_size=64, learning_rate=0.1, balance=balance, progress=False
        )
        .model.evaluate(table)
        .recall[1]
        for balance in (False, True)
    }
    assert recall[True] > recall[False] + 0.2


def test_settings_out_of_range_are_refused(frame):
    with pytest.raises(SettingError, match="at least one unit"):
        tables.train(frame, "species", hidden=[8, 0])
    with pytest.raises(DataError, match="no classes to balance"):
        tables.train(frame.drop_nulls(), "body_mass_g", balance=True)
    with pytest.raises(SettingError):
        tables.train(frame, "species", learning_rate=-1.0)


def test_a_network_without_columns_is_no_table_model(tmp_path):
    bl.save(bl.Network([nn.Dense(3)], input_shape=(4,)), tmp_path / "net.backlit")
    with pytest.raises(CheckpointError, match="not the columns of a table"):
        tables.load(tmp_path / "net.backlit")
    with pytest.raises(CheckpointError, match="there is no file"):
        tables.load(tmp_path / "none.backlit")


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.pop("schema"),
        lambda table: table["schema"]["columns"].pop(),
        lambda table: table["schema"]["columns"][0].update(kind="code"),
        lambda table: table["schema"]["target"].update(values=["a", "b"]),
        lambda table: table.update(about=[]),
    ],
)
def test_a_model_whose_parts_do_not_fit_is_refused(trained, tmp_path, damage):
    path = tmp_path / "model.backlit"
    trained.model.save(path)
    contents = read(path)
    description = json.loads(json.dumps(dict(contents.description)))
    damage(description["extra"]["table"])
    write(path, description, contents.tensors)
    with pytest.raises(CheckpointError):
        tables.load(path)
