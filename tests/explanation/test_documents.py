"""The notebook runs from top to bottom; the documentation's own derivations are true; so is the code it shows."""

import importlib.util
import json
import linecache
import re
import sys
import types
from pathlib import Path

import pytest

from .reading import check_lines

ROOT = Path(__file__).parents[2]


def execute(sources):
    """Run pieces of code one after the other, as a notebook does: the last expression of each is shown."""
    names, shown = {"__name__": "__main__"}, []
    for i, source in enumerate(sources):
        file = f"<cell {i}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        lines = source.splitlines()
        last = lines[-1]
        expression = re.fullmatch(r"[a-z]\w*", last) is not None
        exec(compile("\n".join(lines[:-1] if expression else lines), file, "exec"), names)
        if expression:
            shown.append(names[last])
    return names, shown


def test_the_notebook_runs(capsys):
    notebook = json.loads((ROOT / "examples" / "explain.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert all(not c["outputs"] for c in notebook["cells"] if c["cell_type"] == "code")
    names, shown = execute(cells)
    assert shown[0]._repr_html_().startswith("<iframe")
    assert "m_hat" not in names
    out = capsys.readouterr().out
    assert "∂E/∂z1·x1" in out  # the reader's own names
    assert "xᵀ @ δ1" in out
    assert "0.9·m[0, 1] + 0.1·∂L/∂W2[0, 1]" in out


def test_the_code_of_the_page_runs(capsys):
    text = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    names, _ = execute(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert names["d"].steps[-1].sentence == "The two agree."
    assert "∂E/∂a·(1 - a^2)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def hook():
    """The hook that writes the derivations of the documentation, with stand-ins for the site generator's classes."""
    for name, classes in {
        "mkdocs.config.defaults": ["MkDocsConfig"],
        "mkdocs.structure.files": ["File", "Files"],
        "mkdocs.structure.pages": ["Page"],
    }.items():
        module = types.ModuleType(name)
        for each in classes:
            setattr(module, each, type(each, (), {}))
        sys.modules.setdefault(name, module)
    spec = importlib.util.spec_from_file_location("derivations", ROOT / "docs" / "derivations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_derivations_of_the_documentation_are_true(hook):
    for make in (*hook.DERIVATIONS.values(), *(make for _, make in hook.GALLERY.values())):
        d = make()
        assert check_lines(d) > 5
        assert [s for s in d if s.kind == "check"] == [] or d.steps[-1].sentence == "The two agree."


def test_the_page_asks_for_derivations_that_there_are(hook):
    text = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    asked = re.findall(r"<!-- derivation: (\w+) -->", text)
    assert asked
    written = hook.on_page_markdown(text, None, None, None)
    assert "<!-- derivation" not in written
    assert "#### Backward pass" in written
    for name in hook.GALLERY:
        assert f"gallery/{name}.md" in text
