"""`backlit check` as a user meets it: exit codes, the terminal report, JSON and the HTML page."""

import json
from html.parser import HTMLParser

import pytest
from audit.sheets import HERE, sheet

PUBLISHED = HERE / "published"


def test_exit_codes(run, tmp_path):
    assert run("check", PUBLISHED / "one-neuron.md")[0] == 0
    assert run("check", PUBLISHED / "shared-bias.md")[0] == 1
    (tmp_path / "broken.md").write_text(sheet("given x = 1\ny = x +"), encoding="utf-8")
    code, _, err = run("check", "broken.md")
    assert code == 2
    assert "line 3, column 8" in err
    code, _, err = run("check", "nothing.md")
    assert code == 2
    assert "nothing.md" in err
    code, out, _ = run("check", "broken.md", PUBLISHED / "one-neuron.md")  # the other files are checked all the same
    assert code == 2
    assert "All 5 claims are right" in out


@pytest.mark.parametrize("width", [60, 120])
def test_the_report_reads_like_a_markers(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = run("check", PUBLISHED / "shared-bias.md")
    assert max(map(len, out.splitlines()[1:])) <= width
    text = " ".join(out.split())
    right, first, after = (
        text.index("10 of 16 claims are right"),
        text.index("The first slip"),
        text.index("After that"),
    )
    assert right < first < after
    assert "b1 is used in place of b2" in text[first:after]


def test_json_is_one_object_a_file(run):
    _, out, _ = run("check", PUBLISHED / "one-neuron.md", PUBLISHED / "shared-bias.md", "--json")
    reports = [json.loads(line) for line in out.splitlines()]
    assert [len(r["sheets"]) for r in reports] == [2, 1]
    assert [s["first_slip"] for s in reports[0]["sheets"]] == [None, None]


def test_a_number_that_json_does_not_have_is_null(run, tmp_path):
    (tmp_path / "s.md").write_text(sheet("given x = 0\ny = log(x) = 3"), encoding="utf-8")
    code, out, _ = run("check", "s.md", "--json")
    assert code == 1
    assert json.loads(out)["sheets"][0]["claims"][0]["true"] is None


def test_the_html_page_is_one_file_with_everything_escaped(run, tmp_path):
    (tmp_path / "s.md").write_text(sheet("given x = 1 # <script>alert(1)</script>\ny = x*2 = 3"), encoding="utf-8")
    run("check", "s.md", "--html", "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Tags().feed(page)
    names = {tag for tag, _ in tags}
    assert "script" not in names
    assert not any("src" in attrs or "href" in attrs for _, attrs in tags)
    assert "&lt;script&gt;" in page
    assert "it should be 2" in page


def test_practice_and_grade(run, tmp_path):
    assert run("practice", "--seed", "7", "--count", "1", "--out", "sheets")[0] == 0
    key = (tmp_path / "sheets" / "key-01.md").read_text(encoding="utf-8")
    answers = (tmp_path / "sheets" / "answers-01.csv").read_text("utf-8").splitlines()[1:]
    wanted = {a.split(",")[0] for a in answers}
    table = dict(line.split(" = ") for line in key.splitlines() if line.split(" = ")[0] in wanted)
    (tmp_path / "ada.csv").write_text("".join(f"{q},{a}\n" for q, a in table.items()), "utf-8")
    (tmp_path / "eve.csv").write_text("z1,import os\n", "utf-8")
    code, out, _ = run("grade", "sheets/key-01.md", "ada.csv", "eve.csv", "--csv", "m.csv", "--html", "class.html")
    assert code == 1  # one could not be read
    assert "ada  22 / 22" in out
    assert "eve  not marked" in out
    assert (tmp_path / "m.csv").read_text("utf-8").splitlines()[1].startswith("ada,22,22,11,0,0,0")
    assert "<h2>Slips</h2>" in (tmp_path / "class.html").read_text("utf-8")
    assert run("grade", "nothing.md", "ada.csv")[0] == 2
    assert run("practice", "--shape", "9-9")[0] == 2
