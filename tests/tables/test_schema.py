"""What columns mean: kinds, statistics of the training rows alone, unknown and missing cells, refusals."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backlit import data, tables
from backlit.errors import CheckpointError, DataError


def text(**columns):
    """A frame as a CSV file gives it: every cell is text or missing."""
    return pl.DataFrame({k: [None if c is None else str(c) for c in v] for k, v in columns.items()})


def frame_of(column, target=None):
    """A frame with the column `x` and a target that fits."""
    return text(x=column, y=target or ["a", "b"] * (len(column) // 2) + ["a"] * (len(column) % 2))


NUMBERS = [3.0, 1.5, 4.25, 1.0, 5.0, 9.5, 2.0, 6.0, 5.5, 3.5, 7.0, 8.0]


def test_numbers_are_standardised_by_the_training_rows_only():
    frame = frame_of(NUMBERS)
    rows = np.arange(8)
    schema = tables.fit(frame, "y", rows).schema
    mean = sum(NUMBERS[:8]) / 8
    std = math.sqrt(sum((v - mean) ** 2 for v in NUMBERS[:8]) / 8)
    np.testing.assert_allclose(schema.features(frame)[:, 0], [(v - mean) / std for v in NUMBERS], rtol=1e-6)
    changed = frame_of([*NUMBERS[:8], 1e6, -1e6, 0, 12])
    assert tables.fit(changed, "y", rows).schema.columns == schema.columns  # the test part leaves no trace


def test_missing_numbers_become_the_median_and_say_so():
    cells = [*NUMBERS[:10], None, None]
    frame = frame_of(cells)
    fitted = tables.fit(frame, "y")
    x = fitted.schema.features(frame)
    assert fitted.schema.inputs == ("x", "x missing")
    np.testing.assert_array_equal(x[:, 1], [0] * 10 + [1, 1])
    column = fitted.schema.columns[0]
    np.testing.assert_allclose(x[10:, 0] * column.std + column.mean, np.median(NUMBERS[:10]), rtol=1e-6)


def test_missing_cells_that_training_never_saw_are_filled_and_reported():
    schema = tables.fit(frame_of(NUMBERS), "y").schema
    new = text(x=[None, 3.0, None])
    assert np.isfinite(schema.features(new)).all()
    (note,) = schema.surprises(new)
    assert "'x'" in note
    assert "2 rows" in note
    assert schema.surprises(text(x=[2.0])) == []


def test_categories_are_one_hot_and_unknown_ones_none_of_them():
    frame = frame_of(["red", "blue", None, "red", "green", "blue"] * 2)
    schema = tables.fit(frame, "y").schema
    assert schema.inputs == ("x=blue", "x=green", "x=red", "x missing")
    new = text(x=["red", "violet", None, "green"])
    np.testing.assert_array_equal(schema.features(new), [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])
    (note,) = schema.surprises(new)
    assert "1 row holds a value" in note
    assert "'violet'" in note


def test_a_category_of_many_values_pools_the_rare_ones():
    cells = [f"v{i:02}" for i in range(60) for _ in range(3 if i < 50 else 1)]
    fitted = tables.fit(frame_of(cells), "y")
    column = fitted.schema.columns[0]
    assert column.values == tuple(f"v{i:02}" for i in range(50))
    assert fitted.schema.inputs[-1] == "x other"
    np.testing.assert_array_equal(fitted.schema.features(text(x=["v55", "unheard"]))[:, -1], [1, 1])
    assert "commonest of 60" in fitted.notes[0]


def test_booleans_are_categories():
    frame = pl.DataFrame({"x": [True, False, None, True, False, True] * 2, "y": ["a", "b"] * 6})
    schema = tables.fit(frame, "y").schema
    assert schema.inputs == ("x=false", "x=true", "x missing")


def test_codes_are_categories_when_asked_in_csv_and_parquet_alike():
    codes = [1, 2, 3, 1, 2, 3] * 2
    of_text = tables.fit(frame_of(codes), "y", categories=["x"]).schema
    typed = pl.DataFrame({"x": [float(c) for c in codes], "y": ["a", "b"] * 6})
    assert of_text.inputs == ("x=1", "x=2", "x=3")
    assert tables.fit(typed, "y", categories=["x"]).schema == of_text
    np.testing.assert_array_equal(of_text.features(typed), of_text.features(frame_of(codes)))


@pytest.mark.parametrize(
    ("cells", "cycles"),
    [
        (["2024-01-05", "2024-03-09", "2024-06-11", "2024-09-01", "2024-12-24", None], ("year", "week")),
        (["2024-01-05 08:30", "2024-01-05 12:00", "2024-01-05 21:15"] * 2, ("day",)),
        (["08:30", "12:00", "21:15"] * 2, ("day",)),
        (["2024-01-05T08:30:00Z", "2024-01-09T12:00:00Z", "2024-01-12T21:15:30Z"] * 2, ("week", "day")),
    ],
)
def test_dates_give_time_and_cycles(cells, cycles):
    frame = frame_of(cells * 2)
    schema = tables.fit(frame, "y").schema
    (column,) = schema.columns
    assert column.kind == "date"
    assert column.cycles == cycles
    x = schema.features(frame)
    assert x.shape == (12, len(schema.inputs))
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=0.5)
    for i in range(len(cycles)):
        np.testing.assert_allclose(x[:, 1 + 2 * i] ** 2 + x[:, 2 + 2 * i] ** 2, 1, rtol=1e-5)


def test_dates_a_week_apart_have_the_same_weekday_inputs():
    days = ["2024-01-01", "2024-01-08", "2024-01-02", "2024-01-15", "2024-01-20", "2024-01-09"] * 2
    schema = tables.fit(frame_of(days), "y").schema
    x = schema.features(frame_of(days))
    week = [i for i, name in enumerate(schema.inputs) if "week" in name]
    np.testing.assert_allclose(x[0, week], x[1, week], atol=1e-4)
    assert np.abs(x[0, week] - x[2, week]).max() > 0.3


def test_dates_and_durations_of_parquet():
    from datetime import date, time, timedelta

    days = [date(2024, 1, 1) + timedelta(days=17 * i) for i in range(12)]
    clock = [time(2 * i, 30) for i in range(12)]
    hours = [timedelta(hours=i * i) for i in range(12)]
    frame = pl.DataFrame({"d": days, "c": clock, "t": hours, "y": ["a", "b"] * 6})
    schema = tables.fit(frame, "y").schema
    assert [c.kind for c in schema.columns] == ["date", "date", "number"]
    same = text(d=[d.isoformat() for d in days], c=[f"{t:%H:%M}" for t in clock], y=["a", "b"] * 6)
    assert tables.fit(same, "y").schema.columns == schema.columns[:2]


@pytest.mark.parametrize(
    ("name", "cells", "words"),
    [
        ("x", [None] * 24, "is empty"),
        ("x", ["same"] * 24, "always 'same'"),
        ("x", [7] * 24, "always '7'"),
        ("x", [f"person {i}" for i in range(24)], "identifier or free text"),
        ("x", range(1, 25), "numbers the rows"),
        ("passenger_id", [(i * 7919) % 100_003 for i in range(24)], "numbers the rows"),
        ("", range(24), "numbers the rows"),
    ],
)
def test_columns_that_cannot_help_are_left_out_and_said(name, cells, words):
    frame = text(**{name: list(cells)}, z=[(i * i) % 7 for i in range(24)], y=["a", "b"] * 12)
    fitted = tables.fit(frame, "y")
    assert [c.name for c in fitted.schema.columns] == ["z"]
    assert words in fitted.notes[0]
    assert repr(name) in fitted.notes[0]


def test_a_column_is_kept_or_dropped_as_asked():
    frame = text(id=range(24), z=[(i * i) % 7 for i in range(24)], y=["a", "b"] * 12)
    assert [c.name for c in tables.fit(frame, "y", keep=["id"]).schema.columns] == ["id", "z"]
    assert [c.name for c in tables.fit(frame, "y", keep=["id"], drop=["z"]).schema.columns] == ["id"]
    with pytest.raises(DataError, match="no column is left"):
        tables.fit(frame, "y", drop=["z"])


def test_amounts_that_vary_are_no_identifiers():
    prices = [(i * 7919) % 100_003 for i in range(40)]  # all different, in no order
    assert tables.fit(frame_of(prices), "y").notes == ()


def test_a_code_for_missing_values_is_noticed():
    cells = [float(i % 10) for i in range(999)] + [-99999]
    (note,) = tables.fit(frame_of(cells), "y").notes
    assert "row 1000" in note
    assert "--missing -99999" in note


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([*range(19), "unknown"], ["'x'", "row 20", "'unknown'", "no number", "--missing unknown", "--category x"]),
        ([*range(38), "n.a.", "n.a."], ["row 39", "1 more", "38 other cells"]),
        ([*range(19), "inf"], ["'x'", "row 20", "infinite"]),
        (["$1,200", "$950", "$3"] * 6, ["'x'", "row 1", "$1,200", "plain numbers"]),
        (["12%", "9%", "31.5%"] * 6, ["12%", "plain numbers"]),
        (["1,5", "2,25", "3,0"] * 6, ["1,5", "plain numbers"]),
        (["31/12/2024", "01/02/2024", "05/11/2023"] * 6, ["31/12/2024", "2024-03-31"]),
        (["2024-02-28"] * 10 + ["2024-01-05"] * 9 + ["2024-02-30"], ["row 20", "2024-02-30", "no date"]),
    ],
)
def test_cells_that_do_not_fit_their_column_are_refused(cells, words):
    with pytest.raises(DataError) as error:
        tables.fit(frame_of(list(cells)), "y")
    for word in words:
        assert word in str(error.value)


def test_nested_cells_are_refused():
    frame = pl.DataFrame({"x": [[1, 2]] * 12, "y": ["a", "b"] * 6})
    with pytest.raises(DataError, match=r"'x'.*List"):
        tables.fit(frame, "y")


def test_a_word_in_a_number_column_is_refused_at_prediction_too():
    schema = tables.fit(frame_of(NUMBERS), "y").schema
    with pytest.raises(DataError, match="'x', row 2: 'many' is no number"):
        schema.features(text(x=["1", "many"]))
    with pytest.raises(DataError, match=r"no column 'x'[\s\S]*did you mean 'X1'"):
        schema.features(text(X1=["1"]))


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (["yes", "no"] * 6, "classification"),
        ([0, 1] * 6, "classification"),
        ([0.0, 1.0, 2.0] * 4, "classification"),
        ([0.5, 1.0, 2.0] * 4, "regression"),
        (range(12), "regression"),
    ],
)
def test_the_task_is_found_from_the_target(cells, task):
    frame = text(x=NUMBERS, y=list(cells))
    fitted = tables.fit(frame, "y")
    assert fitted.schema.target.task == task
    assert fitted.why


def test_the_task_can_be_said():
    frame = text(x=NUMBERS, y=[1, 2, 3] * 4)
    target = tables.fit(frame, "y", task="regression").schema.target
    assert isinstance(target, tables.Quantity)
    assert tables.fit(frame, "y").schema.target == tables.Classes("y", ("1", "2", "3"))


def test_quantities_are_standardised_by_the_training_rows_and_turned_back():
    frame = text(x=NUMBERS, y=[v * 1000 + 7 for v in NUMBERS])
    schema = tables.fit(frame, "y", np.arange(6)).schema
    labels = schema.labels(frame)
    assert labels.shape == (12, 1)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels[:6].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(schema.target.decode(labels), [v * 1000 + 7 for v in NUMBERS], rtol=1e-6)


def test_class_numbers_follow_the_numbers_and_not_the_letters():
    frame = text(x=NUMBERS, y=[10, 9, 2] * 4)
    schema = tables.fit(frame, "y").schema
    assert schema.target.values == ("2", "9", "10")
    np.testing.assert_array_equal(schema.labels(frame), [2, 1, 0] * 4)


def test_classes_with_hardly_any_rows_are_named():
    frame = text(x=NUMBERS, y=["a"] * 6 + ["b"] * 5 + ["c"])
    assert tables.fit(frame, "y").notes == ("too few rows to learn or to test these classes: 'c' (1)",)


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (["a"] * 12, {}, ["'y'", "every row holds 'a'", "two classes"]),
        ([3.5] * 12, {}, ["'y'", "every row holds 3.5"]),
        (["a", "b"] * 5 + ["a", None], {}, ["'y', row 12", "missing", "--drop-missing-target"]),
        ([*NUMBERS[:10], None, None], {}, ["'y', row 11", "1 more"]),
        (list("abcdefghijkl"), {}, ["12 classes in 12 rows"]),
        (["a", "b"] * 6, {"task": "regression"}, ["row 1", "'a' is no number"]),
        ([f"2024-01-{d:02}" for d in range(1, 13)], {}, ["dates, which are not predicted"]),
        ([*range(20), "?!"], {}, ["'y', row 21", "'?!'"]),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(target, options, words):
    numbers = (NUMBERS * 2)[: len(target)]
    with pytest.raises(DataError) as error:
        tables.fit(text(x=numbers, y=target), "y", **options)
    for word in words:
        assert word in str(error.value)


def test_an_unknown_target_suggests_the_nearest():
    with pytest.raises(DataError, match="did you mean 'species'"):
        tables.fit(tables.read(data.penguins()), "Species")
    with pytest.raises(DataError, match="did you mean 'island'"):
        tables.fit(tables.read(data.penguins()), "species", drop=["islands"])
    with pytest.raises(DataError, match="9 rows are too few"):
        tables.fit(text(x=NUMBERS[:9], y=["a", "b", "c"] * 3), "y")


def test_a_class_that_the_model_does_not_know_is_refused():
    schema = tables.fit(frame_of(NUMBERS), "y").schema
    with pytest.raises(DataError, match="'y', row 2: 'c' is no class of the model"):
        schema.labels(text(y=["a", "c"]))


_column = st.one_of(
    st.lists(st.none() | st.floats(-1e100, 1e100), min_size=12, max_size=12),
    st.lists(st.none() | st.sampled_from(["red", "blue", "green", "ü ñ", '"']), min_size=12, max_size=12),
    st.lists(st.none() | st.dates().map(str), min_size=12, max_size=12),
)


def _varies(column):
    known = [cell for cell in column if cell is not None]
    if len(set(known)) < 2:
        return False
    return isinstance(known[0], str) or np.std(known) > max(1e-100, 1e-12 * abs(np.mean(known)))


@settings(max_examples=60)
@given(st.lists(_column, min_size=1, max_size=3))
def test_whatever_is_fitted_gives_finite_inputs_and_survives_json(columns):
    frame = text(**{f"c{i}": column for i, column in enumerate(columns)}, y=["a", "b"] * 6)
    if not any(_varies(column) for column in columns):
        with pytest.raises(DataError, match="no column is left"):
            tables.fit(frame, "y")
        return
    schema = tables.fit(frame, "y").schema
    x = schema.features(frame)
    assert x.shape == (12, len(schema.inputs))
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    again = tables.Schema.from_config(json.loads(json.dumps(schema.config(), allow_nan=False)))
    assert again == schema
    np.testing.assert_array_equal(again.features(frame), x)


def damage(config, path, value):
    *parents, last = path
    place = config
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["columns"], []),
        (["columns"], "all"),
        (["columns", 0], ["x"]),
        (["columns", 0, "kind"], "pickle"),
        (["columns", 0, "mean"], "0"),
        (["columns", 0, "mean"], float("inf")),
        (["columns", 0, "std"], 0.0),
        (["columns", 0, "flag"], 1),
        (["columns", 0, "flag"], None),
        (["columns", 0, "more"], 1),
        (["columns", 1, "values"], [1, 2]),
        (["columns", 2, "cycles"], ["century"]),
        (["target"], None),
        (["target", "task"], "dreaming"),
        (["target", "values"], ["a"]),
        (["target", "values"], ["a", "a"]),
        (["more"], 1),
    ],
)
def test_a_damaged_description_is_refused(path, value):
    days = ["2024-01-05", "2024-03-09", "2024-06-11"] * 4
    frame = text(x=NUMBERS, c=["u", "v", "w"] * 4, d=days, y=["a", "b"] * 6)
    config = json.loads(json.dumps(tables.fit(frame, "y").schema.config()))
    tables.Schema.from_config(config)
    with pytest.raises(CheckpointError):
        tables.Schema.from_config(damage(config, path, value))


def test_the_penguins():
    frame = tables.read(data.penguins())
    schema = tables.fit(frame, "species").schema
    assert [c.kind for c in schema.columns] == ["category", *["number"] * 4, "category", "number"]
    assert schema.target.values == ("Adelie", "Chinstrap", "Gentoo")
    assert schema.features(frame).shape == (344, len(schema.inputs))
