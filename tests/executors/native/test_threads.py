"""How many threads a program gets: by the times that it took, not by one of them."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.executors.native import Native, balance, errand, method, sharing, stack, threads, tiling
from backlit.executors.native.threads import Choice, Pool


def run(choice, times, runs):
    """The numbers of threads of so many runs that take `times`, by number."""
    found = []
    for _ in range(runs):
        found.append(choice.next()[0])
        choice.learn(found[-1], times[found[-1]])
    return found


def test_both_are_tried_and_the_faster_is_kept():
    assert run(Choice(4), {4: 1.0, 1: 2.0}, 10) == [4, 4, 1, 1, *[4] * 6]
    assert run(Choice(4), {4: 3.0, 1: 2.0}, 9) == [4, 4, 1, 1, *[1] * 5]


def test_one_thread_is_not_tried_where_several_surely_are_faster():
    assert run(Choice(4, alone=4.0), {4: 1.5, 1: 3.0}, 100) == [4] * 100
    assert 1 in run(Choice(4, alone=4.0), {4: 2.5, 1: 3.0}, 5)


def test_helpers_that_lose_their_processors_are_noticed():
    choice = Choice(4, alone=4.0)
    run(choice, {4: 1.5, 1: 3.0}, 50)
    assert run(choice, {4: 6.0, 1: 3.0}, 15)[-3:] == [1, 1, 1]


def test_runs_of_one_thread_are_short_while_it_is_only_tried():
    choice = Choice(2)
    lasting = []
    for _ in range(80):
        count, most = choice.next()
        lasting.append((count, most < 1))
        choice.learn(count, {2: 1.0, 1: 1.5}[count])
    assert lasting[:5] == [(2, False), (2, False), (1, True), (1, True), (2, False)]
    assert all(short == (count == 1) for count, short in lasting)


def test_one_slow_run_changes_nothing():
    choice = Choice(2)
    run(choice, {2: 1.0, 1: 1.5}, 10)
    choice.learn(2, 100.0)
    assert run(choice, {2: 1.0, 1: 1.5}, 10) == [2] * 10


def test_it_changes_its_mind_when_the_machine_does():
    choice = Choice(2)
    run(choice, {2: 1.0, 1: 1.5}, 10)
    busy = run(choice, {2: 9.0, 1: 1.5}, 19)
    assert busy[-1] == 1
    assert run(choice, {2: 1.0, 1: 1.5}, 60)[-5:] == [2] * 5


def test_helpers_hold_nothing_of_the_callers():
    class Held:
        pass

    pool, seen, over = Pool(), [], threading.Event()

    def run(held):
        gone = weakref.ref(held)

        def work(meeting, number, count):
            seen.append((number, count))
            if number:
                over.set()

        pool.run(2, work)
        return gone

    gone = run(Held())
    assert gone() is None
    assert over.wait(60)
    assert sorted(seen) == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("layers", "shape", "tiles"),
    [
        ([nn.Dense(130, "relu"), nn.Dense(70), nn.LayerNorm()], (301,), "different"),
        (
            [nn.Conv2d(32, 3, padding="same"), nn.BatchNorm(), nn.Conv2d(33, 3), nn.GlobalAvgPool()],
            (15, 16, 17),
            "equal",
        ),
    ],
)
def test_bits_depend_on_the_number_of_processors_neither_by_tiles_nor_by_shares(layers, shape, tiles, monkeypatch):
    net = bl.Network(layers, input_shape=shape, seed=0)

    def loss(params, x):
        return ops.mean(ops.tanh(net.forward(params, net.state, x, training=True)[0]) ** 2)

    x = np.random.default_rng(0).normal(size=(37, *shape)).astype(np.float32)
    graph = bl.trace(bl.value_and_grad(loss), dict(net.params), x)
    found, texts = [], set()
    for processors in (1, 2, 3, 8):
        for module in (threads, tiling, balance):
            monkeypatch.setattr(module, "SHARES", processors)
        for function in (method.method, sharing._share_of_nest):
            function.cache_clear()
        found.append(Native().compile(graph)(*net.params.values(), x))
        texts.add(Native().llvm(graph))
    assert (len(texts) > 1) == (tiles == "different")
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def in_a_thread(work, size):
    """The results of work() in a thread whose stack has so many bytes."""
    found = []
    old = threading.stack_size(size)
    try:
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
    finally:
        threading.stack_size(old)
    thread.join()
    return found[0]


def test_threads_with_little_stack_have_the_work_done_elsewhere():
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 64)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(3, 3, 64, 128)).astype(np.float32)
    run = Native().compile(bl.trace(lambda x, w: ops.conv(x, w, padding="same"), x, w))
    assert "winograd" in str(bl.trace(lambda x, w: ops.conv(x, w, padding="same"), x, w).plan())  # half a megabyte
    assert in_a_thread(stack.has_room, 2 * stack.ROOM)
    assert not in_a_thread(stack.has_room, 256 * 1024)
    (found,) = in_a_thread(lambda: run(x, w), 256 * 1024)
    assert found.tobytes() == run(x, w)[0].tobytes()


def test_what_is_raised_elsewhere_is_raised_here():
    def wrong():
        raise IndexError("seven")

    with pytest.raises(IndexError, match="seven"):
        errand.elsewhere(wrong)
