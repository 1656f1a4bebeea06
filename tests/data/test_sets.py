"""The shipped data sets are what they say, and splits keep their promises."""

import csv
import gzip
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlit import data
from backlit.errors import Error, ShapeError


def test_digits_are_those_of_the_source():
    ours = data.digits()
    assert ours.images.shape == (1797, 8, 8)
    assert ours.images.dtype == np.float32
    assert ours.class_names == tuple("0123456789")
    # the counts that the UCI page states for its test part
    assert np.bincount(ours.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # scikit-learn's own copy, read another way (and without its import, which takes seconds)
    (sklearn,) = importlib.util.find_spec("sklearn").submodule_search_locations
    with gzip.open(Path(sklearn, "datasets/data/digits.csv.gz"), "rt") as lines:
        theirs = [[float(cell) for cell in line] for line in csv.reader(lines)]
    np.testing.assert_array_equal(ours.images.reshape(-1, 64) * 16, [row[:-1] for row in theirs])
    np.testing.assert_array_equal(ours.labels, [row[-1] for row in theirs])


def test_each_call_gives_fresh_arrays():
    data.digits().images[:] = -1
    assert data.digits().images.min() == 0


def test_every_file_has_its_licence_and_source_stated():
    folder = Path(data.__file__).parent
    note = (folder / "LICENSES.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", note, re.M | re.S))
    shipped = {p.name for p in folder.iterdir() if p.suffix not in (".py", ".md") and p.is_file()}
    assert shipped == set(sections)
    for text in sections.values():
        for word in ("Authors:", "Source:", "Citation:", "Licence:", "https://"):
            assert word in text


def test_penguins_is_a_readable_table():
    lines = data.penguins().read_text(encoding="utf-8").splitlines()
    assert lines[0] == "species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year"
    assert len(lines) == 345
    assert {line.split(",")[0] for line in lines[1:]} == {"Adelie", "Chinstrap", "Gentoo"}


def test_python_reference_is_long_english():
    text = data.python_reference()
    assert len(text) > 300_000
    assert text.count(" the ") > 3000
    assert text == data.python_reference()


@given(count=st.integers(2, 400), test=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
def test_random_split_parts_every_row_once(count, test, seed):
    first, second = data.random_split(count, test, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(count))
    assert len(second) == min(max(round(count * test), 1), count - 1)
    again = data.random_split(count, test, seed)
    np.testing.assert_array_equal(first, again[0])


@given(
    labels=st.lists(st.sampled_from("abcde"), min_size=2, max_size=200),
    test=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_stratified_split_shares_each_class(labels, test, seed):
    labels = np.array(labels)
    first, second = data.stratified_split(labels, test, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(len(labels)))
    for label in np.unique(labels):
        total, out = np.sum(labels == label), np.sum(labels[second] == label)
        if total == 1:
            assert out == 0
        else:
            assert 1 <= out <= total - 1
            assert abs(out - total * test) < 1 or out in (1, total - 1)


def test_stratified_split_of_the_digits_is_the_one_the_figures_were_measured_on():
    labels = data.digits().labels
    train, test = data.stratified_split(labels, 0.2, seed=0)
    assert (len(train), len(test)) == (1438, 359)
    shares = np.bincount(labels[test]) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.005
    other = data.stratified_split(labels, 0.2, seed=1)[1]
    assert not np.array_equal(test, other)
    assert list(test[:5]) == [0, 1, 7, 8, 9]  # the bits of the random stream are part of the promise


@pytest.mark.parametrize("test", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(test):
    with pytest.raises(Error, match="no share"):
        data.random_split(10, test)
    with pytest.raises(Error, match="no share"):
        data.stratified_split([0, 1, 0, 1], test)


def test_too_few_rows_are_refused():
    with pytest.raises(Error, match="cannot be split"):
        data.random_split(1)
    with pytest.raises(ShapeError, match="cannot be split"):
        data.stratified_split([1])
    with pytest.raises(ShapeError, match="cannot be split"):
        data.stratified_split([[1, 2], [3, 4]])
