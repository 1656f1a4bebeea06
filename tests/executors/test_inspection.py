"""What a graph becomes, asked of the graph itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.errors import UnsupportedError
from backlit.executors.native.table import table
from backlit.executors.native.target import known
from backlit.ir import Graph, Type, make_node
from backlit.tracing import input_node


@pytest.fixture(scope="module")
def graph():
    def layer(x, w, b):
        hidden = ops.tanh(x @ w + b)
        return hidden

    return bl.trace(layer, np.ones((20, 30), np.float32), np.ones((30, 40), np.float32), np.ones(40, np.float32))


def test_the_plan_is_a_table_of_one_line_a_kernel(graph):
    found = graph.plan("avx2")
    head, *rows, summary = str(found).splitlines()
    assert head.split() == ["#", "computes", "kind", "loops", "split", "operations", "bytes", "made", "of"]
    assert len(rows) == len(found.calls())
    assert any("hidden" in row and "tanh" in row for row in rows)
    assert "on avx2" in summary
    assert f"{len(rows)} calls" in summary


def test_a_loop_stands_above_what_it_repeats_and_only_kernels_have_numbers():
    graph = bl.trace(
        lambda h, xs: ops.scan(lambda h, x: (ops.tanh(h @ h + x), h), h, xs),
        np.ones((20, 20), np.float32), np.ones((7, 20, 20), np.float32),
    )  # fmt: skip
    found = graph.plan("avx2")
    rows = [line.split() for line in str(found).splitlines()[1:-1]]
    assert [row[0] for row in rows if row[0] != "-"] == [str(k + 1) for k in range(len(found.calls()))]
    (loop,) = (line for line in str(found).splitlines() if line.startswith("-"))
    assert "7 steps" in loop


def test_the_plan_of_a_training_step_fits_a_wide_terminal():
    layers = [nn.Conv2d(4, 3, activation="relu"), nn.BatchNorm(), nn.MaxPool(2), nn.Flatten(), nn.Dense(3)]
    trainer = bl.Trainer(bl.Network(layers, (8, 8, 2), seed=0), "crossentropy")
    x = np.random.default_rng(0).normal(size=(30, 8, 8, 2)).astype(np.float32)
    trainer.fit(x, np.arange(30) % 3, epochs=1, progress=False)
    lines = str(trainer.graph.plan()).splitlines()
    assert len(lines) > 20
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize(("width", "columns"), [(80, 6), (90, 7), (100, 8), (120, 8)])
def test_a_narrow_terminal_gets_fewer_and_shorter_columns(width, columns):
    net = bl.Network([nn.Dense(8), nn.LSTM(5), nn.Dense(3)], (6, 4), seed=0)
    trainer = bl.Trainer(net, "crossentropy")
    trainer.fit(np.ones((30, 6, 4), np.float32), np.arange(30) % 3, epochs=1, progress=False)
    plan, target = trainer.graph.plan(), known("host")
    wide, narrow = (table(plan, target, 2, w).splitlines() for w in (140, width))
    assert max(map(len, wide)) > width >= max(map(len, narrow))
    heads = ["#", "computes", "kind", "loops", "split", "operations", "bytes", "made of"]
    assert narrow[0].split("  ")[0] == "#"
    assert [h for h in heads if h in narrow[0]] == heads[:columns]
    for a, b in zip(wide[1:], narrow[1 : len(plan.calls())], strict=False):
        assert a[:15] == b[:15]
    assert any("copy of " in line for line in wide)


def test_the_program_says_what_its_kernels_compute_and_where_that_was_written(graph):
    text = graph.llvm()
    assert "; hidden = contract, add, tanh  (test_inspection.py:" in text
    assert "%p0 x f32[20,30]" in text
    assert "%hidden" in text
    for target, word in [("neon", "aarch64"), ("sse2", '"target-cpu"="x86-64"')]:
        assert word in graph.llvm(target=target)
    assert "v0.4s" in graph.assembly("neon")


def test_what_the_executor_lacks_is_refused():
    x = input_node(Type(np.dtype(np.float32), (2,)), "x")
    with pytest.raises(UnsupportedError, match="fourier"):
        Graph((x,), (make_node("fourier", (x,), x.types),)).plan()


def test_llvm_is_imported_when_it_is_asked_for():
    script = (
        "import sys, numpy as np, backlit as bl; g = bl.trace(lambda x: x + x, np.ones(3)); had = 'llvmlite' in"
        " sys.modules; g.plan(); print(had, 'llvmlite' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]
