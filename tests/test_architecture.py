"""What docs/architecture.md says about modules and imports is so."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "backlit"

BASE = {"sites", "errors", "garbage", "once", "ir", "pytree", "tracing"}
CORE = BASE | {"ops", "autodiff", "passes", "legality"}
MODEL = BASE | {"ops", "settings", "extras", "compilation", "nn", "optim"}

# What each part may import of the others; parts that are not listed may import anything.
ALLOWED = {
    "sites": set(),
    "errors": {"sites"},
    "once": set(),
    "extras": {"errors"},
    "settings": {"errors", "sites"},
    "ir": {"once", "sites"},
    "pytree": {"errors"},
    "tracing": {
        "sites",
        "errors",
        "garbage",
        "ir",
        "pytree",
        "ops",
    },  # ops in an error only, to name the function that is meant
    "ops": BASE,
    "autodiff": BASE | {"ops"},
    "legality": BASE | {"ops"},
    "passes": BASE | {"ops"},
    "executors": CORE | {"extras"},
    "transforms": CORE | {"executors"},
    "gradcheck": CORE | {"executors", "transforms"},
    "compilation": CORE | {"executors"},
    "distributed": {"errors", "executors"},
    "nn": MODEL,
    "optim": MODEL,
    "explanation": CORE | MODEL | {"audit"},  # it explains worksheets
    "audit": CORE | {"executors", "extras"},
    "train": CORE | MODEL | {"executors", "transforms", "data"},
}


def imported(file):
    """The modules of backlit that a file imports, dotted."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "backlit":
            yield from (f"backlit.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backlit."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("backlit."))


def files_of(part):
    return [SOURCE / f"{part}.py"] if (SOURCE / f"{part}.py").exists() else sorted((SOURCE / part).rglob("*.py"))


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_go_one_way(part):
    files = files_of(part)
    assert files
    for file in files:
        found = {name.split(".")[1] for name in imported(file)} - {part}
        assert found <= ALLOWED[part], f"{file.relative_to(ROOT)} imports {', '.join(sorted(found - ALLOWED[part]))}"


@pytest.mark.parametrize("part", ["explanation", "audit"])
def test_what_shows_and_checks_work_needs_no_compiled_executor(part):
    for file in files_of(part):
        assert not {n for n in imported(file) if n.startswith(("backlit.executors.native", "backlit.executors.xla"))}


def test_the_compilers_are_imported_only_by_their_executors():
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        for library, home in [("llvmlite", "native"), ("jax", "xla")]:
            if re.search(rf"^\s*(import|from) {library}\b", text, re.M):
                assert (SOURCE / "executors" / home) in file.parents, file


def test_importing_backlit_imports_nothing_heavy():
    code = "import sys, backlit; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jax", "llvmlite", "rich", "typer", "pandas", "polars", "matplotlib", "safetensors"} & {*found}


def test_every_part_stands_in_the_layout_and_every_part_of_the_layout_exists():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## Layout")[1].split("## Contracts")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    for name in named:
        assert (SOURCE / name).exists(), name
    parts = {p.name + "/" * p.is_dir() for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    missing = {p for p in parts if p not in named and not p.startswith("__")}
    assert not missing
