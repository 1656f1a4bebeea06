"""Places in the arena: values that are needed at once lie apart, and little memory is left unused."""

from __future__ import annotations

import numpy as np
import pytest

from backlit.executors.native import memory
from backlit.executors.native.kernels import Buffer, Call, Loop
from backlit.executors.native.vectors import LINE
from backlit.ir import Type

BYTE = np.dtype(np.uint8)


def value(lines: int) -> Buffer:
    return Buffer(Type(BYTE, (lines * LINE,)), "", "arena")


def row(whole: Buffer) -> Buffer:
    return Buffer(Type(BYTE, (LINE,)), "", "slice", base=whole)


def call(*buffers: Buffer) -> Call:
    return Call(None, tuple((b, 0) for b in buffers), (), ())


def loop(calls: list, *rows: Buffer) -> Loop:
    return Loop(4, False, calls, [], [], (), rows=list(rows))


def lines(program: list) -> int:
    return memory.place(program) // LINE


def overlap(a: Buffer, b: Buffer) -> bool:
    return a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes


def test_another_order_is_tried_where_the_largest_first_leave_a_gap():
    a, b, c, d = map(value, (2, 4, 3, 2))
    assert lines([call(b), call(b, d), call(a, d), call(), call(a, c), call(c)]) == 6
    assert not overlap(b, d)
    assert not overlap(a, d)
    assert not overlap(a, c)


@pytest.mark.parametrize("seed", range(20))
def test_no_two_values_that_are_needed_at_once_overlap(seed):
    r = np.random.default_rng(seed)
    spans = {value(int(n)): tuple(sorted(map(int, r.integers(0, 12, 2)))) for n in r.integers(1, 9, 15)}
    program = [call(*(b for b, span in spans.items() if t in span)) for t in range(12)]
    size = memory.place(program)
    for a, (first, last) in spans.items():
        assert 0 <= a.offset <= size - a.bytes
        assert not any(overlap(a, b) for b, s in spans.items() if b is not a and s[0] <= last and s[1] >= first)


def test_what_a_loop_within_a_step_keeps_is_free_when_the_loop_has_been_read():
    kept, later = value(4), value(4)
    inner = loop([call(row(kept))])
    inner.rows = [b for b, _ in inner.calls[0].arguments]
    assert lines([loop([inner, call(kept), call(later)])]) == 4


def test_what_moves_with_the_steps_is_needed_until_the_loop_ends():
    kept, first, second = value(4), value(2), value(2)
    moving = row(kept)
    memory.place([loop([call(first), call(moving), call(second)], moving), call(kept)])
    assert not overlap(kept, first)
    assert not overlap(kept, second)


def test_a_row_of_a_row_keeps_all_of_it():
    kept, other = value(16), value(2)
    outer_row = Buffer(Type(BYTE, (4 * LINE,)), "", "slice", base=kept)
    inner_row = row(outer_row)
    memory.place([loop([call(other), loop([call(inner_row)], inner_row)], outer_row), call(kept)])
    assert not overlap(kept, other)
