"""The examples of docs/gradients.md run as one program and print what the page says they print."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def run(page, folder):
    """What each example prints, beside what the page says; call sites are looked up in the program's own file."""
    blocks = BLOCK.findall(page)
    file = folder / "example.py"
    file.write_text("".join(code for code, _ in blocks))
    names, line = {"__name__": "example"}, 0
    for code, said in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, str(file), "exec"), names)
        line += code.count("\n")
        yield printed.getvalue(), said


def test_the_examples_print_what_the_page_says(tmp_path):
    found = [*run(PAGE.read_text(), tmp_path)]
    assert len(found) > 8
    for printed, said in found:
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", said)
        # the last digit of a tanh is the processor's
        np.testing.assert_allclose(*([float(n) for n in NUMBER.findall(text)] for text in (printed, said)), rtol=1e-7)
