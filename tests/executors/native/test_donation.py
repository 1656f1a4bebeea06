"""A carry that the caller gives away is updated where it lies, with the same bits; what cannot be is refused first."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.errors import DonationError, IndexingError
from backlit.executors import get
from backlit.executors.native import Native, stack
from backlit.pytree import leaves
from backlit.train.feeding import Stretch

from . import interrupting, programs

NATIVE = Native()


def swapping(a, b, x):
    return b, a + ops.sum(x), a * 1.0


def adam(width):
    n = programs.Normal("float32")
    params = programs.layers(n, 12, width, 5)
    state = (params, programs.start(params), np.int32(0))
    data = [n(100, 12), n.integers(5, 100)]
    return bl.trace(programs.adam, *state, data[0][:16], data[1][:16]), programs.leaves(state), data, (9, 16)


def two_values():
    state = [np.full((), 1, np.float32), np.full((), 2, np.float32)]
    data = [np.arange(12, dtype=np.float32).reshape(4, 3)]
    return bl.trace(swapping, *state, data[0][:2]), state, data, (4, 2)


@pytest.mark.parametrize("made", [lambda: adam(4), lambda: adam(300), two_values], ids=["small", "large", "swapped"])
def test_the_callers_arrays_are_the_results_and_hold_the_same_bits(made):
    step, state, data, shape = made()
    loop = NATIVE.compile_loop(step, len(state), len(data))
    rows = np.random.default_rng(0).integers(0, len(data[0]), shape)
    wanted, losses = loop(state, data, rows)
    mine = [np.array(s) for s in state]
    places = [a.ctypes.data for a in mine]
    for part in (rows[:3], rows[3:]):
        got, watched = loop(mine, data, part, donate=True)
        assert all(a is b for a, b in zip(got, mine, strict=True))
    assert [a.ctypes.data for a in got] == places
    for a, b in zip([*got, watched[0]], [*wanted, losses[0][3:]], strict=True):
        np.testing.assert_array_equal(a, b)


def plain(w, c, x):
    return w + ops.sum(x), c + 1


SHARED = np.zeros(40, np.float32)
READ_ONLY = np.zeros(8, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("w", "c", "why"),
    [
        (READ_ONLY, SHARED[:8], "w cannot be updated where it lies: it is read-only"),
        (SHARED[:16:2], SHARED[20:28], "w .* one after the other"),
        (np.zeros(33, np.uint8)[1:].view(np.float32), SHARED[:8], "w .* aligned"),
        (SHARED[:8], SHARED[:8], "[wc] .* it shares memory"),
        (SHARED[:8], SHARED[7:15], "c .* it shares memory"),
        (SHARED[32:], np.zeros(8, np.float32), "w .* it shares memory"),
        (np.zeros(8, np.float32), SHARED[16:24], "c .* it shares memory"),
    ],
    ids=["read-only", "strided", "unaligned", "twice", "overlapping", "end of data", "within data"],
)
def test_what_cannot_be_updated_where_it_lies_is_refused(w, c, why):
    data = [SHARED[16:].reshape(4, 6)]
    loop = NATIVE.compile_loop(bl.trace(plain, w, c, data[0][:2]), 2, 1)
    rows = np.zeros((3, 2), np.int64)
    with pytest.raises(DonationError, match=why):
        loop([w, c], data, rows, donate=True)
    assert not w.any()
    assert not c.any()
    wanted, _ = loop([w, c], data, rows)
    np.testing.assert_array_equal(wanted[1], np.full(8, 3, np.float32))


def test_row_numbers_in_a_carry_that_is_given_away_are_refused():
    rows = np.zeros((3, 2), np.int64)
    loop = NATIVE.compile_loop(bl.trace(plain, rows[0], rows[1], rows[:2]), 2, 1)
    with pytest.raises(DonationError, match="it shares memory"):
        loop([np.zeros(2, np.int64), rows[2]], [np.zeros((4, 2), np.int64)], rows, donate=True)


def test_data_beside_a_carry_that_is_given_away_are_fine():
    every = np.zeros(32, np.float32)
    data = [every[8:24].reshape(4, 4)]
    loop = NATIVE.compile_loop(bl.trace(plain, every[:8], every[24:], data[0][:2]), 2, 1)
    loop([every[:8], every[24:]], data, np.zeros((3, 2), np.int64), donate=True)
    np.testing.assert_array_equal(every, [0] * 24 + [3] * 8)


def test_an_array_given_away_and_read_in_one_call_is_refused():
    p = np.ones(100, np.float32)
    run = NATIVE.compile(bl.trace(lambda p, g: p - 0.1 * g, p, p), donate=(0,))
    with pytest.raises(DonationError, match=r"p .* it shares memory"):
        run(p, p)
    assert run(p, p.copy())[0] is p


def test_a_row_out_of_range_is_refused_all_the_same():
    step, state, data, _ = adam(4)
    rows = np.full((5, 16), 3)
    rows[2, 5] = 100
    with pytest.raises(IndexingError, match="index 100"):
        NATIVE.compile_loop(step, len(state), 2)([np.array(s) for s in state], data, rows, donate=True)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize("room", [True, False], ids=["here", "on another thread"])
def test_an_interrupt_leaves_the_state_of_whole_steps(room, monkeypatch):
    w, c = np.zeros((400, 500), np.float32), np.zeros(8, np.float32)
    data = [np.full((4, 3), 0.5, np.float32)]
    loop = NATIVE.compile_loop(bl.trace(lambda w, c, x: (w + x[0, 0], c + 1.0), w, c, data[0][:2]), 2, 1)
    rows = np.zeros((1_000_000, 2), np.int64)
    loop([w, c], data, rows[:10])
    monkeypatch.setattr(stack._known, "enough", room)
    interrupting.delay(lambda: loop([w, c], data, rows, donate=True), after=0.2)
    done = c[0]
    assert 0 < done < len(rows)
    assert (c == done).all()
    assert (w == done / 2).all()


def test_executors_that_compute_elsewhere_leave_what_is_given_away():
    step, state, data, shape = adam(4)
    rows = np.zeros(shape, np.int64)
    wanted, _ = get("reference").compile_loop(step, len(state), 2)(state, data, rows)
    mine = [np.array(s) for s in state]
    got, _ = get("reference").compile_loop(step, len(state), 2)(mine, data, rows, donate=True)
    for a, b, before, after in zip(got, wanted, state, mine, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(before, after)


def test_a_trainer_keeps_a_state_of_its_own_that_may_be_given_away():
    x, y = np.ones((40, 6), np.float32), np.arange(40) % 3
    net = bl.Network([nn.Dense(5), nn.Dense(3)], input_shape=(6,), seed=0)
    first = {k: v.copy() for k, v in net.params.items()}
    trainer = bl.Trainer(net, "crossentropy", "adam", executor=NATIVE)
    assert all(a.ctypes.data % 64 == 0 for a in leaves(trainer.moment.carry))
    epoch = Stretch({"x": x, "y": y}, np.arange(40).reshape(5, 8))
    program = trainer.program("train", epoch)
    wanted = leaves(program(trainer.moment.carry, epoch)[0])
    got = leaves(program(trainer.moment.carry, epoch, donate=True)[0])
    assert all(a is b for a, b in zip(got, leaves(trainer.moment.carry), strict=True))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in net.params.items():
        np.testing.assert_array_equal(value, first[name])
