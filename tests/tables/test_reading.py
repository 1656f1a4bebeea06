"""Files become frames of text, or are refused with the line and a remedy."""

import csv
import gzip
import io

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlit import tables
from backlit.errors import DataError
from backlit.extras import MissingExtraError


def read(tmp_path, content, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read(path, **options).to_dict(as_series=False)


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x\n2,\n",
        "a;b\n1;x\n2;\n",
        "a\tb\n1\tx\n2\tNA\n",
        "a|b\r\n1|x\r\n2|?\r\n",
        " a , b \n 1 , x \n 2 , NaN \n",
        '"a","b"\n\n"1","x"\n\n\n"2",""\n',
        "\ufeffa,b\n1,x\n2,null\n",
        "a,b\n1,x\n2,n/a",
        "a,b\r1,x\r2,None\r",
    ],
)
def test_the_same_table_written_in_many_ways(tmp_path, content):
    assert read(tmp_path, content) == {"a": ["1", "2"], "b": ["x", None]}


def test_encodings_compression_and_quotes(tmp_path):
    expected = {"a": ["1"], "b": ["é"]}
    assert read(tmp_path, "a,b\n1,é\n".encode("utf-16")) == expected
    assert read(tmp_path, "a,b\n1,é\n".encode("cp1252"), encoding="cp1252") == expected
    assert read(tmp_path, gzip.compress(b"a,b\n1,\xc3\xa9\n"), "t.csv.gz") == expected
    assert read(tmp_path, 'a,"b ""c"", d"\n1,"x\n\ny, z"\n') == {"a": ["1"], 'b "c", d': ["x\n\ny, z"]}


def test_a_comma_is_decimal_only_between_semicolons(tmp_path):
    assert read(tmp_path, "a;b\n1,5;x, y\n-0,25;3,4,5\n") == {"a": ["1.5", "-0.25"], "b": ["x, y", "3,4,5"]}
    assert read(tmp_path, 'a,b\n"1,5",x\n') == {"a": ["1,5"], "b": ["x"]}


def test_own_words_for_missing(tmp_path):
    assert read(tmp_path, "a,b\n-999,unknown\n3,x\n", missing=["-999", "Unknown"]) == {
        "a": [None, "3"],
        "b": [None, "x"],
    }


def test_parquet_keeps_its_types(tmp_path):
    frame = pl.DataFrame(
        {"n": [1.5, float("nan")], "c": [" x", "NA"], "e": pl.Series(["u", "v"], dtype=pl.Categorical), "i": [-999, 4]}
    )
    frame.write_parquet(tmp_path / "t.parquet")
    read = tables.read(tmp_path / "t.parquet", missing=["-999"])
    assert read.to_dict(as_series=False) == {"n": [1.5, None], "c": ["x", None], "e": ["u", "v"], "i": [None, 4]}
    assert read["n"].dtype == pl.Float64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b"  \n\n", ["is empty"]),
        (b"a,b\n", ["no rows"]),
        (b"a,b,a\n1,2,3\n", ["'a'", "name of its own"]),
        (b"a,b\n1,2\n1,2,3\n", ["line 3", "3 cells", "2"]),
        (b"a,b\n1,2\n\n\n1\n", ["line 5", "1 cells"]),
        (b'a,b\n1,2\n"3,4\n5,6\n', ["line 3", "quotes"]),
        (b"a,b\n1,2\n3,\xe9\n", ["line 3", "0xe9", "--encoding"]),
        (b"1,2\n3,4\n", ["numbers only", "names of the columns"]),
        (b"a\x00b,c\n1,2\n", ["no text file"]),
        (b"PK\x03\x04\x00", ["Excel", "CSV"]),
        (b"PAR1 and then rubbish", ["damaged Parquet"]),
        (b"\x1f\x8b rubbish", ["damaged gzip"]),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, words):
    with pytest.raises(DataError) as error:
        read(tmp_path, content)
    for word in words:
        assert word in str(error.value)


def test_a_truncated_copy_is_refused_and_not_read_as_missing_cells(tmp_path):
    with pytest.raises(DataError, match="line 3: 1 cells"):
        read(tmp_path, "a,b\n1,2\n3")


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "houses.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"did you mean 'houses.csv'"):
        tables.read(tmp_path / "house.csv")
    with pytest.raises(DataError, match="is a folder"):
        tables.read(tmp_path)
    with pytest.raises(DataError, match="check the path"):
        tables.read(tmp_path / "no" / "file.csv")
    with pytest.raises(DataError, match="no encoding 'utf8x'"):
        tables.read(tmp_path / "houses.csv", encoding="utf8x")
    with pytest.raises(DataError, match="one character"):
        tables.read(tmp_path / "houses.csv", separator="::")


def test_without_polars_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "polars", None)  # as if it were not installed
    with pytest.raises(MissingExtraError) as error:
        tables.read(tmp_path / "t.csv")
    assert error.value.what == "polars is not installed: pip install 'backlit[tables]'"


_cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=6)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(_cells, min_size=n, max_size=n), min_size=1, max_size=6)))
def test_any_text_written_as_csv_is_read_back(tmp_path_factory, rows):
    out = io.StringIO()
    header = [f"c{i}" for i in range(len(rows[0]))]
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    from backlit.tables.reading import MISSING

    expected = [[None if cell.lower() in MISSING else cell for cell in row] for row in rows]
    assert [list(row) for row in tables.read(path).rows()] == expected
