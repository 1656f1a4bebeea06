"""Who may import whom, and what `import backlit` costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import backlit

SOURCE = Path(backlit.__file__).parent

# The floors of the house, from the ground up. A module imports from its own floor and from those below.
FLOORS = [
    ["sites", "errors", "extras", "settings", "garbage", "once"],
    ["ir", "pytree"],
    ["tracing"],
    ["ops"],
    ["autodiff", "legality", "passes"],
    ["executors"],
    ["transforms", "compilation", "gradcheck", "distributed"],
    ["nn", "optim", "data"],
    ["train"],
    ["tables"],
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}

# Libraries that are imported where they are used and nowhere else.
ONLY_IN = {"llvmlite": ["executors/native/"], "jax": ["executors/xla"], "jaxlib": ["executors/xla"]}


def imports(file):
    """(line, module) for every import of a file, also those inside functions; not those for types alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part(module):
    """`ops` for backlit.ops.record."""
    names = module.split(".")
    return names[1] if names[0] == "backlit" and len(names) > 1 else None


FILES = sorted(SOURCE.rglob("*.py"))


ON_A_FLOOR = [f for f in FILES if f.relative_to(SOURCE).with_suffix("").parts[0] in FLOOR]


@pytest.mark.parametrize("file", ON_A_FLOOR, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_go_down(file):
    own = FLOOR[file.relative_to(SOURCE).with_suffix("").parts[0]]
    for line, module in imports(file):
        if (other := part(module)) is not None:
            assert other in FLOOR, f"{file.name}:{line} imports {module}, which stands above"
            assert FLOOR[other] <= own, f"{file.name}:{line} imports {module}, from a higher floor"


def test_every_floor_stands():
    names = {f.relative_to(SOURCE).with_suffix("").parts[0] for f in FILES}
    assert set(FLOOR) <= names


@pytest.mark.parametrize("tool", ["explanation", "audit"])
def test_tools_for_people_use_no_compiled_executor(tool):
    for file in (SOURCE / tool).rglob("*.py"):
        for line, module in imports(file):
            assert not module.startswith(("backlit.executors.native", "backlit.executors.xla")), f"{file}:{line}"


def test_compilers_are_imported_in_their_executors_only():
    for file in FILES:
        path = file.relative_to(SOURCE).as_posix()
        for line, module in imports(file):
            homes = ONLY_IN.get(module.split(".")[0])
            assert homes is None or any(path.startswith(h) for h in homes), f"{path}:{line} imports {module}"


def python(code, tmp_path):
    """What a fresh Python prints. Bytecode is kept, as it is for users."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START")}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_importing_backlit_loads_nothing_heavy(tmp_path):
    modules = set(python("import backlit, sys; print(*sys.modules)", tmp_path).split())
    libraries = "jax llvmlite rich typer click matplotlib pandas polars sklearn lark safetensors opt_einsum scipy torch"
    parts = "train nn optim tables data explanation audit cli passes executors.native executors.xla"
    heavy = {*libraries.split(), *(f"backlit.{p}" for p in parts.split())}
    assert heavy & modules == set()


def test_importing_backlit_takes_less_than_a_fifth_of_a_second(tmp_path):
    """In processor time, the best of five; where NumPy alone takes longer than usual (0.1 s), so may backlit."""
    code = """
import time
start = time.process_time(); import numpy
middle = time.process_time(); import backlit
print(middle - start, time.process_time() - middle)
"""
    runs = [tuple(map(float, python(code, tmp_path).split())) for _ in range(6)][1:]
    numpy, ours = (min(column) for column in zip(*runs, strict=True))
    assert numpy + ours < 0.2 * max(1, numpy / 0.1), (numpy, ours)


def test_every_public_name_can_be_had():
    for name in backlit.__all__:
        assert getattr(backlit, name) is not None
    for name in backlit.ops.__all__:
        assert getattr(backlit.ops, name) is not None
    assert sorted(backlit.ops.__all__) == backlit.ops.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = backlit.nonsense
