"""Code for the kernels that are no loop nests of arithmetic: searching, sorting, running sums, scattering.

Plain loops over numbers. Each function takes the pointers of its arguments (the result first) and a range of its
outermost axis, as all kernels do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backlit.executors.native.arithmetic import SCALARS
from backlit.executors.native.bounds import checked, report
from backlit.executors.native.builder import Function, Module, kernel_function
from backlit.executors.native.kernels import RunningSum, Scatter, Search, Sort, WinogradSum
from backlit.executors.native.names import BOOL, I64
from backlit.executors.native.value import Value
from backlit.executors.native.winograd_sum import emit_winograd_sum


def _lines(f: Function, shape: tuple[int, int, int], body: Callable[[Value, Value], None]) -> None:
    """body(i, j) for every line along the middle axis, i in the range of the call."""
    begin, end, _, _ = f.arguments[-4:]
    f.loop(begin, end, 1, lambda i: f.loop(0, shape[2], 1, lambda j: body(i, j), name="j") and None, name="i")


def emit_search(module: Module, name: str, kernel: Search) -> None:
    """The place of the first largest (smallest) element; nan counts as larger (smaller) than everything."""
    f = kernel_function(module, name, ["result", "x"])
    result, x = f.arguments[:2]
    _, n, inner = kernel.shape

    def line(i: Value, j: Value) -> None:
        first = i * (n * inner) + j

        def step(k: Value, best: Value, place: Value) -> list[Value]:
            new = f.load(x.at(first + k * inner, kernel.dtype), kernel.dtype)
            better = new > best if kernel.op == "argmax" else new < best
            if kernel.dtype.kind == "f":
                better = (better | (new != new)) & (best == best)
            return [better.select(new, best), better.select(k, place)]

        start = [f.load(x.at(first, kernel.dtype), kernel.dtype), f.index(0)]
        _, place = f.loop(1, n, 1, step, start, "k")
        f.store(place, result.at(i * inner + j, I64))

    _lines(f, kernel.shape, line)


def emit_running_sum(module: Module, name: str, kernel: RunningSum) -> None:
    """Every line from its start, in order."""
    f = kernel_function(module, name, ["result", "x"])
    result, x = f.arguments[:2]
    _, n, inner = kernel.shape

    def line(i: Value, j: Value) -> None:
        def step(k: Value, total: Value) -> list[Value]:
            place = i * (n * inner) + k * inner + j
            total = total + SCALARS.cast(f.load(x.at(place, kernel.dtype), kernel.dtype), kernel.result)
            f.store(total, result.at(place, kernel.result))
            return [total]

        f.loop(0, n, 1, step, [f.const(-0.0 if kernel.result.kind == "f" else 0, kernel.result)], "k")

    _lines(f, kernel.shape, line)


def emit_sort(module: Module, name: str, kernel: Sort) -> None:
    """Merging runs of 1, 2, 4, ... places, back and forth between the result and `room`; equal elements keep order."""
    f = kernel_function(module, name, ["result", "x", "room"])
    result, x, room = f.arguments[:3]
    _, n, inner = kernel.shape
    passes = max(0, (n - 1).bit_length())
    if passes % 2:  # so that the last pass ends in the result
        result, room = room, result

    def line(i: Value, j: Value) -> None:
        first = i * (n * inner) + j

        def at(k: Value) -> Value:
            return first + k * inner

        def later(a: Value, b: Value) -> Value:
            """Whether the element at place a has to come after that at place b."""
            u, v = (f.load(x.at(at(p), kernel.dtype), kernel.dtype) for p in (a, b))
            found = u > v
            return found | ((u != u) & (v == v)) if kernel.dtype.kind == "f" else found

        f.loop(0, n, 1, lambda k: f.store(k, result.at(at(k), I64)), name="fill")
        source, target = result, room
        for p in range(passes):
            _merge(f, source, target, n, 1 << p, at, later)
            source, target = target, source

    _lines(f, kernel.shape, line)


def _merge(
    f: Function, source: Value, target: Value, n: int, width: int,
    at: Callable[[Value], Value], later: Callable[[Value, Value], Value],
) -> None:  # fmt: skip
    """Each two neighbouring sorted runs of `source` made one sorted run of `target`."""
    last = f.index(n)

    def smaller(a: Value, b: Value) -> Value:
        return (a < b).select(a, b)

    def pair(low: Value) -> None:
        middle, high = smaller(low + width, last), smaller(low + 2 * width, last)

        def step(k: Value, left: Value, right: Value) -> list[Value]:
            have_left, have_right = left < middle, right < high
            a = f.load(source.at(at(have_left.select(left, low)), I64), I64)
            b = f.load(source.at(at(have_right.select(right, low)), I64), I64)
            take_right = (~have_left) | (have_right & later(a, b))
            f.store(take_right.select(b, a), target.at(at(k), I64))
            return [take_right.select(left, left + 1), take_right.select(right + 1, right)]

        f.loop(low, high, 1, step, [low, middle], "k")

    f.loop(0, n, 2 * width, pair, name="run")


def emit_scatter(module: Module, name: str, kernel: Scatter) -> None:
    """One row of updates after the other, each added to the row of the result that its indices name."""
    f = kernel_function(module, name, ["result", "updates", *(f"index{k}" for k in range(len(kernel.axes)))])
    result, updates, *indices = f.arguments[: 2 + len(kernel.axes)]
    status, code = f.arguments[-2:]
    lanes = module.target.lanes(kernel.dtype.itemsize)
    while lanes > 1 and lanes // 2 >= kernel.row:
        lanes //= 2

    def add(to: Value, given: Value, width: int, mask: Value | None = None) -> None:
        total = f.load(to, kernel.dtype, width, mask) + f.load(given, kernel.dtype, width, mask)
        f.store(total, to, mask)

    def row(counters: list[Value]) -> None:
        number = f.index(0)
        for c, n in zip(counters, kernel.space, strict=True):
            number = number * n + c
        place, bad = f.index(0), f.const(False, BOOL)
        for k, ((size, stride), (dtype, strides)) in enumerate(zip(kernel.axes, kernel.indices, strict=True)):
            at = f.index(0)
            for c, s in zip(counters, strides, strict=True):
                at = at + c * s
            index = f.load(indices[k].at(at, dtype), dtype)
            found, wrong = checked(f, index, size)
            report(f, status, code + k, index, wrong)
            place, bad = place + found * stride, bad | wrong
        to = result.at(place, kernel.dtype)
        given = updates.at(number * kernel.row, kernel.dtype)
        whole = kernel.row - kernel.row % lanes

        def work() -> None:
            f.loop(0, whole, lanes, lambda j: add(to.at(j, kernel.dtype), given.at(j, kernel.dtype), lanes), name="j")
            if kernel.row % lanes:
                mask = f.constants([i < kernel.row % lanes for i in range(lanes)], BOOL)
                add(to.at(whole, kernel.dtype), given.at(whole, kernel.dtype), lanes, mask)

        f.when(~bad, work, "in_range")

    def level(counters: list[Value]) -> None:
        if len(counters) == len(kernel.space):
            row(counters)
            return
        f.loop(0, kernel.space[len(counters)], 1, lambda i: level([*counters, i]), name="i")

    level([])


EMIT: dict[type, Callable[[Module, str, Any], None]] = {
    Search: emit_search,
    Sort: emit_sort,
    RunningSum: emit_running_sum,
    Scatter: emit_scatter,
    WinogradSum: emit_winograd_sum,
}
