"""The commands and the Python of docs/start.md and docs/own-data.md run as they stand, and print what the pages say."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from backlit import data
from backlit.cli import main

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, kind):
    return re.findall(rf"```{kind}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def run(line, capsys):
    """(exit code, everything printed) of a command; what follows a pipe is left to the shell."""
    with pytest.raises(SystemExit) as leaving:
        main(shlex.split(line.partition(" | ")[0])[1:])
    out, err = capsys.readouterr()
    return leaving.value.code or 0, out + err


def commands(page):
    lines = [line.removeprefix("$ ") for block in blocks(page, "console") for line in block.splitlines()]
    return [line for line in lines if line.startswith("backlit ")]


def shown(text):
    """The text with each time replaced by #, as the pages write it."""
    return re.sub(r"\d+\.\d s", "# s", text)


def test_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, printed = run("backlit demo", capsys)
    assert code == 0
    (said,) = blocks("start.md", "text")
    assert said in shown(printed)
    table = re.search(r"\| file \|.*?\n\n", (DOCS / "start.md").read_text(), re.S)[0]
    assert set(re.findall(r"^\| `(\S+)`", table, re.M)) == {p.name for p in Path("backlit-demo").iterdir()}
    assert len(commands("start.md")) == 3
    for line in commands("start.md"):
        assert run(line, capsys)[0] == 0, line
    assert len(Path("predictions.csv").read_text().splitlines()) == 345
    for block in blocks("start.md", "python"):
        exec(compile(block, "start.md", "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert float(re.search(r"'accuracy': (\S+)}", printed)[1]) > 0.96


def test_every_example_is_in_the_table_of_the_start_page():
    examples = {p.name for p in (DOCS.parent / "examples").glob("*.py")}
    assert set(re.findall(r"^\| `(\w+\.py)`", (DOCS / "start.md").read_text(), re.M)) == examples


def test_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("penguins.csv", "new.csv", "other.csv"):
        shutil.copyfile(data.penguins(), name)
    found, refused = blocks("own-data.md", "text")
    for line in commands("own-data.md"):
        code, printed = run(line, capsys)
        assert code == 0, line
        if line == "backlit train penguins.csv --target species":
            assert found in printed
    Path("people.csv").write_text("age,y\n" + "".join(f"{i if i != 29 else 'unknown'},{i % 2}\n" for i in range(100)))
    assert run("backlit train people.csv --target y", capsys) == (2, refused)
    space = {"__name__": "page"}
    for block in blocks("own-data.md", "python"):
        exec(compile(block, "own-data.md", "exec"), space)
    assert space["trained"].scores.accuracy > 0.95


def test_the_options_of_the_page_exist(capsys):
    _, text = run("backlit train --help", capsys)
    options = set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"`([^`\n]*)`", (DOCS / "own-data.md").read_text()))))
    known = set(re.findall(r"--[a-z-]+", text))
    for name in ("predict", "evaluate"):
        known |= set(re.findall(r"--[a-z-]+", run(f"backlit {name} --help", capsys)[1]))
    assert len(options) > 12
    assert options <= known
