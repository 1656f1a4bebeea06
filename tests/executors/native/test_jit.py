"""Machine code: the cache on disk, threads, processes, and other processors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import Error, IndexingError, ShapeError, UnsupportedError
from backlit.executors.native import Native, artifact, jit, threads
from backlit.executors.native import cache as cache_module
from backlit.executors.native.artifact import Artifact
from backlit.executors.native.code import Code, compiled
from backlit.executors.native.plan import plan
from backlit.executors.native.rewrites import prepared
from backlit.executors.native.script import machinery
from backlit.executors.native.target import known
from backlit.ir import Graph, Type, make_node
from backlit.tracing import input_node

from . import programs

X = np.linspace(-1, 1, 50, dtype=np.float32)


def function(x):
    return ops.sum(ops.tanh(x) * x)


def run(target="host"):
    return Native(target).compile(bl.trace(function, X))(X)[0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path))
    return tmp_path / "native"


def test_code_is_kept_and_found_again(cache):
    first = run()
    (file,) = cache.glob("*.o")
    stamp = file.stat().st_mtime_ns
    assert run() == first
    assert [f.stat().st_mtime_ns for f in cache.glob("*")] == [stamp]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 5000])
def test_a_damaged_file_is_not_used(cache, damage):
    first = run()
    (file,) = cache.glob("*.o")
    file.write_bytes(damage)
    assert run() == first
    assert len(file.read_bytes()) > 100  # it was replaced


def test_what_nobody_runs_any_more_is_taken_apart_when_the_next_is_loaded():
    def alive():
        return sum(loaded() is not None for loaded in jit._engines), len(jit._engines)

    first, second = (Native().compile(bl.trace(function, X)) for _ in range(2))
    gc.collect()
    used, kept = alive()
    del first
    gc.collect()
    assert alive() == (used - 1, kept)
    third = Native().compile(bl.trace(function, X))
    assert alive() == (used, used)
    assert second(X)[0] == third(X)[0]


def test_no_damage_goes_unnoticed(cache):
    run()
    (file,) = cache.glob("*.o")
    whole = file.read_bytes()
    assert cache_module.read(file.stem) == whole[32:]
    for at in range(0, len(whole), len(whole) // 100):
        file.write_bytes(whole[:at])
        assert cache_module.read(file.stem) is None
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert cache_module.read(file.stem) is None
    file.write_bytes(whole + b"more")
    assert cache_module.read(file.stem) is None


def test_what_ended_processes_left_behind_goes(cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_KEPT", 2)
    cache.mkdir()
    for k in range(3):
        (cache / f"{k}.part").write_bytes(b"half")
        os.utime(cache / f"{k}.part", (k, k))
    run()
    assert sorted(f.suffix for f in cache.iterdir()) == [".o", ".part"]
    assert (cache / "2.part").exists()


def test_an_interrupt_leaves_no_half_a_file(cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not list(cache.iterdir())


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for chosen, base, wanted in (
        (None, None, "home/.cache/backlit"),
        (None, "relative", "home/.cache/backlit"),
        (None, str(tmp_path / "base"), "base/backlit"),
        ("~/mine", None, "home/mine"),
        ("here", None, "here"),
    ):
        for name, value in (("BACKLIT_CACHE", chosen), ("XDG_CACHE_HOME", base)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        assert cache_module.folder().resolve() == tmp_path / wanted / "native"


def test_a_file_that_others_may_write_is_not_read(cache):
    first = run()
    (file,) = cache.glob("*.o")
    file.chmod(0o666)
    assert cache_module.read(file.stem) is None
    assert run() == first
    file.chmod(0o600)
    assert cache_module.read(file.stem) is not None
    cache.chmod(0o777)
    assert cache_module.folder() is None
    assert run() == first


def test_no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKLIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run()
    assert not list(tmp_path.rglob("*.o"))


def test_a_place_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path / "file" / "below"))
    assert cache_module.folder() is None
    run()


SCRIPT = """
import numpy as np, backlit as bl
from backlit import ops
from backlit.executors.native import Native
x = np.linspace(-1, 1, 50, dtype=np.float32)
print(Native().compile(bl.trace(lambda x: ops.sum(ops.tanh(x) * x), x))(x)[0])
"""


def test_several_processes_at_once(cache):
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(3)
    ]
    printed = {p.communicate(timeout=120)[0] for p in processes}
    assert len(printed) == 1
    assert float(printed.pop()) == pytest.approx(float(run()), rel=1e-6)
    assert not list(cache.glob("*.part"))


# --- other processors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "registers"), [("avx512", "zmm"), ("avx2", "ymm"), ("sse2", "xmm"), ("neon", "v0.4s")]
)
def test_code_for_any_processor(target, registers):
    function, args, _ = programs.cases("float32")["odd_mlp"]
    text = Native(target).assembly(bl.trace(bl.value_and_grad(function), *args))
    assert registers in text
    wider = {"sse2": "ymm", "avx2": "zmm"}.get(target)
    assert wider is None or wider not in text


def test_code_for_arm_is_an_object_file():
    graph = bl.trace(function, X)
    assert jit.object_code(Native("neon").llvm(graph), known("neon"))[:4] == b"\x7fELF"


def test_an_unknown_processor():
    with pytest.raises(Error, match="no native target"):
        known("z80")


def test_the_text_says_what_it_is_for():
    def f(x, w):
        h = ops.tanh(x @ w)
        return h * 2.0

    text = Native().llvm(bl.trace(f, np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)))
    assert "; tile of" in text
    assert "contract" in text
    assert "@step(" in text


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_op_is_refused_by_name():
    x = input_node(Type(np.dtype(np.float32), (2,)), "x")
    graph = Graph((x,), (make_node("fourier", (x,), x.types),))
    with pytest.raises(UnsupportedError, match="fourier"):
        Native().compile(graph)


def test_float16_is_refused_where_the_processor_lacks_it():
    graph = bl.trace(lambda x: x + x, np.ones(2, np.float16))
    with pytest.raises(UnsupportedError, match="float16"):
        Native("sse2").compile(graph)


@pytest.mark.parametrize("index", [5, -6, 2**40])
def test_an_index_out_of_range(index):
    table, indices = np.ones((5, 3), np.float32), np.array([0, index, 2])
    for f in (
        lambda t, i: t[i],
        lambda t, i: ops.scatter_add(t, i, 1.0),
        lambda t, i: ops.take_along_axis(t, i[:, None], 0),
    ):
        run = Native().compile(bl.trace(f, table, indices))
        with pytest.raises(IndexingError, match=f"index {index} is out of range: axis 0 has size 5"):
            run(table, indices)


# --- threads and processes --------------------------------------------------------------------------------------------


def big():
    n = programs.Normal("float32")
    w = n(300, 300)
    graph = bl.trace(lambda x: ops.tanh(x @ x) @ x, w)
    return Native().compile(graph), w


def test_several_python_threads_at_once():
    compiled, w = big()
    (wanted,) = compiled(w)
    found, errors = [], []

    def work():
        try:
            for _ in range(5):
                found.append(compiled(w)[0])
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert len(found) == 20
    for a in found:
        np.testing.assert_array_equal(a, wanted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_give_the_same_numbers():
    """In a process of its own: other tests' JAX has threads that must not be forked."""
    script = Path(__file__).with_name("forking.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["same"] * 6


def test_too_large_for_memory():
    graph = bl.trace(lambda x: ops.broadcast_to(x, (2**40, 2**20)) + 1.0, np.ones((), np.float32))
    with pytest.raises(MemoryError):
        Native().compile(graph)(np.ones((), np.float32))


# --- compilation in parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [1, 200])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_program_in_parts_is_the_program(monkeypatch, lines, workers):
    f, args, _ = programs.cases("float32")["odd_mlp"]
    made = plan(prepared(bl.trace(bl.value_and_grad(f), *args)))
    graph = made.graph
    wanted = Code(Artifact.of(made, known("host"), 2), known("host"))
    monkeypatch.setattr(artifact, "_PART", lines)
    monkeypatch.setenv("BACKLIT_THREADS", str(workers))
    parts = Artifact.of(made, known("host"), 2)
    assert len(parts.objects) > 3
    got = Code(parts, known("host"))
    results = []
    for code in (wanted, got):
        out = [np.empty(o.type.shape, o.type.dtype) for o in graph.outputs]
        code.run([*programs.leaves(args), *out], 0, 1)
        results.append(out)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_threads_get_the_interpreter_soon_only_while_they_compile():
    usual = sys.getswitchinterval()
    text, seen = Native().llvm(bl.trace(function, X)), []

    def texts():
        for _ in range(3):
            seen.append(sys.getswitchinterval())
            yield text

    assert len(set(jit.object_codes(texts(), known("host"), 2))) == 1
    assert max(seen) < usual == sys.getswitchinterval()

    def broken():
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        jit.object_codes(broken(), known("host"), 2)
    assert sys.getswitchinterval() == usual


def test_codes_come_in_the_order_of_their_texts():
    target = known("host")
    texts = [Native().llvm(bl.trace(f, X)) for f in (lambda x: x + x, function, ops.negative, ops.tanh)]
    assert jit.object_codes(texts, target, 2) == [jit.object_code(t, target, jit=True) for t in texts]


def test_what_all_programs_have_is_compiled_once_and_before_they_are_planned(monkeypatch):
    common, target, asked, planned = machinery(known("host")), known("host"), [], []
    code = jit.object_code

    def counted(text, *how, **more):
        asked.append(text)
        return code(text, *how, **more)

    def make(graph):
        planned.append(asked.count(common) or jit._begun[common])
        return plan(prepared(graph))

    monkeypatch.setattr(jit, "object_code", counted)
    monkeypatch.setattr(jit, "_begun", {})
    monkeypatch.setattr(threads, "available", lambda: 2)
    monkeypatch.setenv("BACKLIT_CACHE", "")
    w = np.ones((300, 300), np.float32)
    for f in (lambda x: ops.tanh(x @ x) @ x, lambda x: ops.exp(x @ x) @ x):
        graph = bl.trace(f, w)
        assert compiled(graph, target, partial(make, graph)).shares > 1
    assert asked.count(common) == 1
    assert all(planned)


def test_llvm_takes_code_as_it_is_written_only_for_backlit():
    f, args, _ = programs.cases("float32")["odd_mlp"]
    text, target = Native().llvm(bl.trace(bl.value_and_grad(f), *args)), known("host")

    def others():
        return bytes(jit._machine(target, jit=False).emit_object(llvm.parse_assembly(text)))

    usual, ours = others(), jit.object_code(text, target)
    assert ours != usual == others()

    def texts():
        assert others() == ours
        yield text
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jit.object_codes(texts(), target, 2)
    assert others() == usual


@pytest.mark.parametrize(("target", "as_written"), [("avx512", True), ("avx2", False), ("neon", False)])
def test_where_registers_are_few_instructions_are_ordered_anew(target, as_written, monkeypatch):
    seen, usual = [], llvm.set_option

    def set_option(name, option):
        seen.append(option)
        usual(name, option)

    text = Native(target).llvm(bl.trace(function, X))
    monkeypatch.setattr(llvm, "set_option", set_option)
    assert jit.object_code(text, known(target))
    assert "-disable-lsr=1" in seen
    assert ("-enable-misched=0" in seen) == as_written
    assert seen[-3:] == ["-disable-lsr=0", "-disable-post-ra=0", "-enable-misched=1"]


def test_an_llvmlite_that_keeps_its_lock(monkeypatch):
    text = Native().llvm(bl.trace(function, X))
    wanted = jit.object_code(text, known("host"))
    monkeypatch.setattr(jit, "ffi", SimpleNamespace(lib=SimpleNamespace(LLVMPY_TargetMachineEmitToMemory=None)))
    assert jit.object_code(text, known("host")) == wanted


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_shape_that_cannot_be_counted_is_refused():
    graph = bl.trace(lambda x: ops.sum(ops.tanh(ops.broadcast_to(x, (2**40, 2**40)))), np.ones((), np.float32))
    with pytest.raises(ShapeError, match="64 bits"):
        Native().compile(graph)


def test_values_on_the_way_that_do_not_fit_into_memory():
    def f(x):  # a product of this result is no view and cannot be computed on the fly
        y = ops.broadcast_to(x, (2**20, 2**26)) + 1.0
        return ops.sum(ops.argsort(y, 1)[:, 0])

    run = Native().compile(bl.trace(f, np.ones((), np.float32)))
    with pytest.raises(MemoryError, match="a program needs"):
        run(np.ones((), np.float32))


def test_nested_in_workers_of_joblib():
    pytest.importorskip("joblib")
    script = Path(__file__).with_name("nesting.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["same", "same"]


def test_the_cache_of_another_user_is_not_read(cache, monkeypatch):
    first = run()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(cache).st_uid + 1)
    assert cache_module.folder() is None
    assert run() == first
