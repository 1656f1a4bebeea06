"""How products of odd shapes compare with neat ones: forward, and the gradients by the input and by the weights.

    python -m benchmarks.shapes [--shape 50x300x513]... [--convolutions] [--dtype float64] [--threads 1]

A shape is batch x inputs x outputs of a dense layer. Each of its three products is timed alone, many times in a row,
with warm caches, beside that of the neat shape: every size above 16 rounded to a multiple of 16, where vectors and
tiles fit. The last column of each product is the odd one's GFLOP/s over the neat one's. So it is with convolutions
(`convolutions.py`), where the multiplications by the zeros around an image are counted too.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import convolutions
from benchmarks.convolutions import Convolution

Shape = tuple[int, int, int]

SHAPES: list[Shape] = [
    (1, 300, 100), (1, 1000, 1000), (3, 513, 300), (17, 100, 33), (17, 1000, 513), (50, 784, 100), (50, 300, 1),
    (50, 33, 300), (127, 10, 513), (127, 513, 10), (127, 513, 513), (127, 3000, 100), (200, 1, 100), (200, 100, 7),
    (200, 513, 1000), (200, 3000, 1), (200, 1000, 1000),
]  # fmt: skip

KINDS = ("forward", "by input", "by weights")


def neat(shape: Shape) -> Shape:
    """The shape with its sizes above 16 rounded to multiples of 16."""
    batch, inputs, outputs = (n if n < 16 else (n + 8) // 16 * 16 for n in shape)
    return batch, inputs, outputs


def product(kind: str, shape: Shape) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """One of the three products of a dense layer as a function, and the shapes of its arguments."""
    from backlit import ops

    batch, inputs, outputs = shape
    x, w, b, g = (batch, inputs), (inputs, outputs), (outputs,), (batch, outputs)
    if kind == "forward":
        return lambda x, w, b: ops.maximum(x @ w + b, 0.0), [x, w, b]
    if kind == "by input":
        return lambda g, w: g @ ops.transpose(w), [g, w]
    return lambda x, g: ops.transpose(x) @ g, [x, g]


def rate(kind: str, shape: Shape | Convolution, dtype: str, seconds: float) -> float:
    """GFLOP/s of one product of a layer of this shape."""
    if isinstance(shape, Convolution):
        return shape.flops / fastest(*convolutions.product(kind, shape), dtype, seconds) / 1e9
    return 2 * math.prod(shape) / fastest(*product(kind, shape), dtype, seconds) / 1e9


def fastest(function: Callable[..., Any], sizes: Sequence[tuple[int, ...]], dtype: str, seconds: float) -> float:
    """Seconds that a function of arguments of these sizes takes."""
    import backlit as bl
    from backlit.executors.native.artifact import Artifact
    from backlit.executors.native.code import Code, shares_for
    from backlit.executors.native.kernels import Loop
    from backlit.executors.native.plan import plan
    from backlit.executors.native.rewrites import prepared
    from backlit.executors.native.storage import Storage
    from backlit.executors.native.target import known

    rng = np.random.default_rng(0)
    graph = bl.trace(function, *(np.zeros(n, dtype) for n in sizes))
    arrays = Storage([n.type for n in [*graph.inputs, *graph.outputs]]).arrays()[0]
    for array in arrays:
        array[...] = rng.standard_normal(array.shape)
    whole = plan(prepared(graph))
    repeated = replace(whole, steps=[Loop(None, False, whole.steps, [], [], (), "repeated")])
    code = Code(Artifact.of(repeated, known("host"), shares_for(whole)), known("host"))
    steps = max(1, int(0.2 * seconds / code.seconds))
    best, until = float("inf"), time.perf_counter() + seconds
    for n in range(1_000_000):
        start = time.perf_counter()
        code.run(arrays, 0, steps)
        best = min(best, (time.perf_counter() - start) / steps)
        if n >= 4 and time.perf_counter() > until:  # the first runs try one thread and several
            break
    return best


def _shape(text: str) -> Shape:
    try:
        batch, inputs, outputs = (int(n) for n in text.split("x"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no shape: write batch x inputs x outputs, as 50x300x513") from None
    if min(batch, inputs, outputs) < 1:
        raise typer.BadParameter(f"{text!r} has a size below 1")
    return batch, inputs, outputs


def main(
    shape: Annotated[list[str] | None, typer.Option(help="batch x inputs x outputs; may be given again.")] = None,
    convolution: Annotated[bool, typer.Option("--convolutions", help="Convolutions instead of dense layers.")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    threads: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each product.")] = 0.02,
) -> None:
    """Time the products of layers of odd shapes beside those of neat ones."""
    if threads:
        os.environ["BACKLIT_THREADS"] = str(threads)
    if dtype not in ("float32", "float64"):
        raise typer.BadParameter(f"the dtype is {dtype!r}, not float32 or float64")
    table = Table("shape", "neat", *(f"{kind}\n{what}" for kind in KINDS for what in ("GFLOP/s", "neat", "of it")))
    pairs: list[tuple[Any, Any]] = [(s, neat(s)) for s in [_shape(text) for text in shape or []] or SHAPES]
    if convolution:
        pairs = [(s, convolutions.neat(s)) for s in convolutions.SHAPES]
    known: dict[tuple[str, Any], float] = {}
    for one, near in pairs:
        row = [str(s) if isinstance(s, Convolution) else "x".join(map(str, s)) for s in (one, near)]
        for kind in KINDS:
            for s in (one, near):
                if (kind, s) not in known:
                    known[kind, s] = rate(kind, s, dtype, seconds)
            own, other = known[kind, one], known[kind, near]
            row += [f"{own:.3g}", f"{other:.3g}", f"{100 * own / other:.0f}%"]
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    typer.run(main)
