"""The examples of docs/optimisers.md run as they stand, one after the other."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "optimisers.md"


def test_the_examples_of_the_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) > 5
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["optim"].get("heavyball").momentum == 0.9
    assert "weight.v_hat = divide(weight.v" in capsys.readouterr().out
