"""The examples of docs/layers.md run as they stand, one after the other."""

import re
import runpy
from pathlib import Path

from backlit import nn
from backlit.settings import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"


BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_the_examples_of_the_page_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(KINDS)
    assert len(BLOCKS) > 10
    page = tmp_path / "page.py"  # a file, as names of quantities are read from the source
    page.write_text("\n".join(BLOCKS))
    names = runpy.run_path(str(page))
    printed = capsys.readouterr().out
    assert "conv2d_1" in printed
    assert "gate_1" in printed
    assert nn.Network([names["Bottleneck"](4)], (6, 6, 8)).output_type.shape == (6, 6, 8)
    assert nn.metrics.get(names["Within"](0.5)).result(3, 4) == 0.75
    KINDS.clear()
    KINDS.update(before)


def test_the_layer_of_the_users_own_is_short():
    (block,) = [b for b in BLOCKS if "class Gate" in b]
    assert len(block.strip().splitlines()) <= 16
