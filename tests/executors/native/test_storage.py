"""Memory of results: aligned, used again when it has been given up, and never while somebody holds it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.executors.native import Native
from backlit.executors.native import storage as storage_module
from backlit.executors.native.storage import Storage, block, storage
from backlit.ir import Type
from backlit.train import run

F32 = np.dtype(np.float32)


@pytest.mark.parametrize("size", [1, 1000, 3 * 2**20])
def test_blocks_start_with_a_cache_line_and_are_zero(size):
    found = block(size)
    assert found.ctypes.data % 64 == 0
    assert found.nbytes == size
    assert not found.any()


def test_arrays_do_not_overlap_and_are_aligned():
    types = [Type(F32, (3, 5)), Type(np.dtype(bool), ()), Type(F32, (0, 4)), Type(np.dtype(np.int64), (7,))]
    arrays, places = Storage(types).arrays()
    assert [a.ctypes.data for a in arrays] == places
    assert [Type(a.dtype, a.shape) for a in arrays] == types
    assert all(a.ctypes.data % 64 == 0 and a.flags.writeable for a in arrays)
    for k, a in enumerate(arrays):
        a[...] = k
    assert all((a == k).all() for k, a in enumerate(arrays) if k != 1)


def test_memory_is_used_again_only_when_all_views_are_gone():
    storage = Storage([Type(F32, (10,)), Type(F32, (10,))])
    first = storage.arrays()[0]
    place, view = first[0].ctypes.data, first[1][2:]
    del first
    second = storage.arrays()[0]
    assert second[0].ctypes.data != place
    del view
    assert storage.arrays()[0][0].ctypes.data == place


def test_a_loop_leaves_what_it_gave_out_and_takes_back_what_was_given_up():
    def step(w, x):
        return w + ops.sum(x), w[0]

    graph = bl.trace(step, np.zeros(3, np.float32), np.ones((2, 3), np.float32))
    loop = Native().compile_loop(graph, 1, 1)
    data, rows = [np.ones((4, 3), np.float32)], np.zeros((5, 2), np.int64)
    state = [np.zeros(3, np.float32)]
    held, places = [], set()
    for k in range(6):
        state, _ = loop(state, data, rows)
        held.append(state[0])
        assert [h[0] for h in held] == [30.0 * (i + 1) for i in range(k + 1)]
    held.clear()
    for _ in range(6):
        state, _ = loop(state, data, rows)
        places.add(state[0].ctypes.data)
    assert len(places) <= 3


def test_programs_of_one_kind_of_state_share_its_memory_and_none_outlives_them():
    types = [Type(F32, (11,)), Type(F32, (3, 7))]
    mine, gone = storage(types), weakref.ref(storage(types))
    assert gone() is mine
    held = mine.copies([np.ones(11, np.float32), np.ones((3, 7), np.float32)])[0][1]
    place = held.ctypes.data
    del mine
    assert gone() is not None  # what it gave out may come back
    del held
    gc.collect()
    assert gone() is None
    found = Native().copies([np.ones(t.shape, np.float32) for t in types])
    place = found[1].ctypes.data
    loop = Native().compile_loop(bl.trace(lambda a, b: (a + 1.0, b), *found), 2, 0)
    del found
    state, _ = loop([np.zeros(t.shape, np.float32) for t in types], [], np.zeros((2, 0), np.int64))
    assert state[1].ctypes.data == place


def test_runs_of_a_trainer_take_memory_for_three_states(monkeypatch):
    """Those that a stretch begins and ends with, and that of the network; whatever the sizes of the batches."""
    made, take = [], storage_module.block
    monkeypatch.setattr(storage_module, "block", lambda size: made.append(size) or take(size))
    monkeypatch.setattr(run, "STRETCH_SECONDS", 0.0)  # a step a call
    x, y = np.ones((50, 7), np.float32), np.arange(50) % 3
    net = bl.Network([nn.Dense(9), nn.Dense(3)], input_shape=(7,), seed=0)
    trainer = bl.Trainer(net, "crossentropy", "adam", executor=Native())
    for epochs in (1, 1, 3):
        trainer.fit(x, y, epochs=epochs, batch_size=16, validation=0.1, progress=False)
    assert len(made) == 3
