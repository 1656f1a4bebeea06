"""Bad data is refused before training starts, with the place and a remedy; good data of every kind is taken."""

# ruff: noqa: E501 (the table of bad data reads best with a case a line)

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.errors import DataError, DivergenceError
from backlit.train import Trainer, arrays

X = np.random.default_rng(0).normal(size=(30, 3))
Y = np.arange(30) % 3


def with_value(value, row=17, column=1, array=X):
    changed = array.copy()
    changed[row, column] = value
    return changed


def trainer(loss="crossentropy", outputs=3, inputs=(3,), **how):
    layers = [nn.Flatten()] * (len(inputs) > 1) + [nn.Dense(outputs)]
    return Trainer(bl.Network(layers, inputs, **how), loss)


def fit(x, y, loss="crossentropy", outputs=3, inputs=(3,), **how):
    return trainer(loss, outputs, inputs).fit(x, y, epochs=1, **how)


FRAME = pd.DataFrame(X, columns=["age", "height", "mass"])
BAD = {
    "nan": (lambda: fit(with_value(np.nan), Y), "x, column 1, row 17 is missing .nan.", "fill missing values"),
    "inf": (lambda: fit(with_value(-np.inf), Y), "x, column 1, row 17 is infinite", "leave those rows out"),
    "several nan": (
        lambda: fit(with_value(np.nan, row=slice(17, 20)), Y),
        "row 17 is missing .nan., and 2 more are in rows",
        "",
    ),
    "too large": (lambda: fit(with_value(1e300), Y), "row 17 is 1e.300, too large for f32", "scale it"),
    "nan in an image": (
        lambda: fit(with_value(np.nan, column=(1, 0), array=X.reshape(30, 3, 1)), Y, inputs=(3, 1)),
        r"x, row 17, element",
        "",
    ),
    "nan in pandas": (
        lambda: fit(pd.DataFrame(with_value(np.nan), columns=FRAME.columns), Y),
        "x, column 'height', row 17 is missing",
        "median",
    ),
    "NA in pandas": (
        lambda: fit(FRAME.assign(age=pd.array([1, None, *range(28)], dtype="Int64")), Y),
        "x, column 'age', row 1 is missing",
        "",
    ),
    "null in polars": (
        lambda: fit(pl.DataFrame({"a": [1, None, *range(28)], "b": [True] * 30, "c": [0.5] * 30}), Y),
        "x, column 'a', row 1 is missing",
        "",
    ),
    "text in pandas": (
        lambda: fit(FRAME.assign(mass=["heavy"] * 30), Y),
        "x, column 'mass', row 0 is the text 'heavy', no number",
        "one-hot",
    ),
    "one word in a pandas column": (
        lambda: fit(FRAME.assign(mass=[1.0] * 5 + ["n/a"] + [2.0] * 24).astype({"mass": object}), Y),
        "x, column 'mass', row 5 is the text 'n/a'",
        "",
    ),
    "categories in pandas": (
        lambda: fit(FRAME.assign(mass=pd.Categorical(["a"] * 30)), Y),
        "column 'mass', row 0 is the text 'a'",
        "one-hot",
    ),
    "dates in pandas": (
        lambda: fit(FRAME.assign(mass=pd.date_range("2020", periods=30)), Y),
        "column 'mass', row 0 is .*Timestamp",
        "numbers",
    ),
    "text in polars": (
        lambda: fit(pl.DataFrame({"a": ["3.5"] * 30, "b": [1] * 30, "c": [1] * 30}), Y),
        "column 'a', row 0 is the text '3.5'",
        "written as text",
    ),
    "text array": (lambda: fit(np.array([["a"] * 3] * 30), Y), "x, column 0, row 0 is the text 'a'", "one-hot"),
    "None": (lambda: fit(np.where(X > 5, 1, None), Y), "is None", "fill"),
    "ragged": (lambda: fit([[1, 2, 3]] * 4 + [[1, 2]], [0, 1, 2, 0, 1]), "x, row 4 has 2 elements where row 0", "mask="),
    "masked": (lambda: fit(np.ma.masked_greater(X, 1), Y), "is masked", "filled"),
    "complex": (lambda: fit(X + 0j, Y), "complex numbers", ""),
    "an object": (lambda: fit(object(), Y), "x is a object", "pass an array"),
    "columns": (lambda: fit(FRAME[["age", "mass"]], Y), r"2 columns .age, mass., and the network takes 3", "input_shape"),
    "one example": (lambda: fit(X[0], Y[:1]), "the numbers of rows differ: x has 3, y has 1", ""),
    "no batch axis": (lambda: trainer().predict(X[0]), r"rows of the shape \(\)", "x[None]"),
    "flat images": (lambda: fit(X, Y, inputs=(3, 1)), r"rows of the shape \(3,\)", "x.reshape(-1, 3, 1)"),
    "lengths": (lambda: fit(X, Y[:29]), "x has 30, y has 29", "one row in each"),
    "empty": (lambda: fit(X[:0], Y[:0]), "x is empty", "filtered"),
    "no targets": (lambda: fit(X, None), "no targets for x", "pass them as y"),
    "text labels": (lambda: fit(X, np.array(["a", "b", "c"] * 10)), "y, row 0 is the text 'a'", "numpy.unique"),
    "label too large": (lambda: fit(X, Y + 1), "y, row 2 is the class 3, and the network tells 3", "number the classes"),
    "label below 0": (lambda: fit(X, Y - 1), "y, row 0 is the class -1", ""),
    "label 0.5": (lambda: fit(X, Y + 0.5), "y, row 0 is 0.5: a class is a whole number", ""),
    "one class": (lambda: fit(X, np.full(30, 2)), "y holds one class only: every target is 2", "how the rows were chosen"),
    "labels of another shape": (lambda: fit(X, np.zeros((30, 2))), r"rows of the shape \(2,\), and the network", "one-hot"),
    "rows that are no probabilities": (lambda: fit(X, np.full((30, 3), 0.5)), "do not sum up to 1", "binary_cross"),
    "binary targets": (
        lambda: fit(X, Y, "binary_crossentropy", 1),
        "y, column 0, row 2 is 2, and binary_crossentropy takes targets from 0 to 1",
        "mse",
    ),
    "one class of two": (lambda: fit(X, np.ones(30), "binary_crossentropy", 1), "one class only", ""),
    "numbers of another shape": (lambda: fit(X, X[:, :2], "mse"), r"shape \(2,\), and the network gives \(3,\)", "last layer"),
    "nan in targets": (lambda: fit(X, with_value(np.nan), "mse"), "y, column 1, row 17 is missing", ""),
    "negative weights": (lambda: fit(X, Y, sample_weight=np.arange(30) - 4.0), "sample_weight, row 0 is -4.0", ""),
    "no weight": (lambda: fit(X, Y, sample_weight=np.zeros(30)), "0 everywhere", ""),
    "weights of a function": (
        lambda: fit(X, X, lambda p, t: ops.mean((p - t) ** 2), sample_weight=np.ones(30)),
        "takes no sample weights",
        "Loss",
    ),
    "mask": (lambda: fit(X, Y, mask=np.ones((30, 7), bool)), r"mask has rows of the shape \(7,\)", ""),
    "validation data": (lambda: fit(X, Y, validation=(with_value(np.nan), Y)), "validation x, column 1, row 17", ""),
    "validation tuple": (lambda: fit(X, Y, validation=(X,)), "a tuple of 1", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_with_place_and_remedy(case):
    attempt, message, remedy = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        attempt()
    assert remedy in caught.value.fix


def test_tokens_that_the_embedding_does_not_know_are_refused():
    net = bl.Network([nn.Embedding(5, 4), nn.Flatten(), nn.Dense(2)], (3,))
    x = np.arange(30).reshape(10, 3) % 5
    t = Trainer(net, "crossentropy")
    t.fit(x, np.arange(10) % 2, epochs=1)
    with pytest.raises(DataError, match="x, column 2, row 4 is 7, and the embedding knows the tokens 0 to 4"):
        t.fit(with_value(7, 4, 2, x), np.arange(10) % 2, epochs=1)
    with pytest.raises(DataError, match=r"is 0\.5, and the network takes whole numbers"):
        t.fit(x + 0.5, np.arange(10) % 2, epochs=1)


def test_the_place_is_right_in_later_pieces(monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 100)
    with pytest.raises(DataError, match="x, column 1, row 17 is missing"):
        fit(with_value(np.nan), Y)
    with pytest.raises(DataError, match="y, row 23 is the class 9"):
        fit(X, np.where(np.arange(30) == 23, 9, Y))


def test_one_example_is_no_lack_of_classes():
    fit(X[:1], Y[:1])


def test_ignored_labels_are_no_classes():
    loss = nn.losses.CrossEntropy(ignore=-1)
    fit(X, Y - 1, loss)
    with pytest.raises(DataError, match="the class -2"):
        fit(X, Y - 2, loss)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X.astype(np.float32), Y.astype(np.uint8)),
        (X.tolist(), Y.tolist()),
        (np.asfortranarray(X), Y.astype(float)),
        (FRAME, pd.Series(Y)),
        (FRAME.astype("Float64"), pd.DataFrame({"class": Y})),
        (pl.DataFrame(X), pl.Series(Y)),
        (pl.DataFrame(X).lazy(), pl.DataFrame(Y)),
        (X[::2].repeat(2, 0), np.eye(3)[Y]),
        (np.ma.masked_invalid(X), np.eye(3, dtype=bool)[Y]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_tables_lists_and_arrays_of_any_dtype_are_taken(x, y):
    history = fit(x, y)
    assert np.isfinite(history["loss"]).all()


def test_tables_give_the_same_numbers_as_arrays():
    a, b, c = trainer(), trainer(), trainer()
    a.fit(X, Y, epochs=1)
    b.fit(FRAME, pd.Series(Y, name="class"), epochs=1)
    c.fit(pl.DataFrame(X), pl.Series(Y), epochs=1)
    for k, v in a.net.params.items():
        assert np.array_equal(v, b.net.params[k])
        assert np.array_equal(v, c.net.params[k])


def test_a_column_of_targets_meets_one_output():
    """(n,) against (n, 1) must not be compared everybody with everybody."""
    x = np.random.default_rng(1).normal(size=(60, 3))
    y = x @ [1.0, -2.0, 0.5]
    t = Trainer(bl.Network([nn.Dense(1)], (3,)), "mse", bl.optim.Adam(0.05), metrics=["r2"])
    t.fit(x, y, epochs=60)
    assert t.evaluate(x, y)["r2"] > 0.99
    assert t.evaluate(x, y[:, None]) == t.evaluate(x, y)


def test_checks_can_be_left_out():
    with pytest.raises(DivergenceError, match="x is nan already, before the step"):
        trainer().fit(with_value(np.nan), Y, epochs=1, check=False)
