"""Rows of a large table are asked for before they are read; their indices are checked once a row."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import IndexingError

ROWS = 2000


def rows(table, index):
    return ops.take(table, index, 0) * 2.0


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((ROWS, 300), np.float32)


def kernel(table, index):
    """The text of the kernel that reads the rows."""
    text = bl.trace(rows, table, index).llvm()
    start = text.index("define internal", text.index("gather"))
    return text[start : text.index("\n}", start)]


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32"])
def test_the_rows_are_those_of_the_indices(table, dtype):
    index = np.random.default_rng(1).integers(0, ROWS, 67).astype(dtype)
    if dtype != "uint32":
        index[::3] -= ROWS  # from the end
    got = bl.compile(rows, executor="native")(table, index)
    np.testing.assert_array_equal(got, table[index.astype(np.int64)] * 2)


@pytest.mark.parametrize("place", [0, 64, 66])
@pytest.mark.parametrize("bad", [ROWS, -ROWS - 1, 2**40])
def test_an_index_out_of_range_raises(table, place, bad):
    index = np.zeros(67, np.int64)
    index[place] = bad
    with pytest.raises(IndexingError, match=f"index {bad} is out of range"):
        bl.compile(rows, executor="native")(table, index)


def test_a_row_is_checked_once_and_asked_for_where_the_table_is_large(table):
    index = np.zeros(67, np.int64)
    text = kernel(table, index)
    before, inner = text[: text.index("i1.loop:")], text[text.index("i1.loop:") :]
    assert "out_of_range" in before
    assert "prefetch" in before
    assert "icmp uge" not in inner
    assert "prefetch" not in kernel(table[:100], index)
