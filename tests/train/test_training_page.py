"""The examples of docs/training.md run as they stand, one after the other, and print what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
NUMBER = re.compile(r"-?\d+\.\d+")


def blocks():
    """(code, what it prints or None) of each Python block; a block of text counts where it follows at once."""
    text = PAGE.read_text()
    return re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", text, re.DOTALL)


def test_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for code, printed in blocks():
        capsys.readouterr()
        exec(compile(code, str(PAGE), "exec"), space)
        found = capsys.readouterr().out
        assert NUMBER.sub("#", found) == NUMBER.sub("#", printed or ""), code
        numbers = [[float(n) for n in NUMBER.findall(t)] for t in (found, printed)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02), code
    assert len(blocks()) >= 14
