"""Feeding: every row once an epoch, in an order that depends on key and epoch alone; files are read in pieces."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import backlit as bl
from backlit import nn, ops
from backlit.errors import DataError, Error
from backlit.train import Trainer, arrays, feeding
from backlit.train.feeding import ArrayFeed, BatchFeed, Order, split_rows

F4 = np.dtype(np.float32)


def epoch_of(feed, epoch=0, most=3, start=0):
    """The x of each batch of an epoch, asked for in stretches."""
    batches, done = [], start
    while (stretch := feed.take(epoch, done, most)) is not None:
        batches += [stretch.data["x"][rows] for rows in stretch.rows]
        done += stretch.steps
    return batches


@given(n=st.integers(1, 2000), block=st.integers(0, 40), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_an_order_has_every_number_once_and_can_be_asked_for_any_part(n, block, seed, data):
    order = Order(ops.random.key(seed), n, block)
    whole = order.places(0, n)
    assert np.array_equal(np.sort(whole), np.arange(n))
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    assert np.array_equal(Order(ops.random.key(seed), n, block).places(start, stop), whole[start:stop])


def test_an_order_in_windows_mixes_far_beyond_its_blocks(monkeypatch):
    monkeypatch.setattr(feeding, "WINDOW_BLOCKS", 16)
    firsts = np.array([Order(ops.random.key(s), 1000, 10).places(0, 100) for s in range(40)])
    assert len(np.unique(firsts[:, 0])) > 30  # any row may come first
    assert np.ptp(firsts, axis=1).min() > 500  # the first 100 come from all over the file
    assert np.mean(np.abs(np.diff(firsts, axis=1)) == 1) < 0.1  # neighbours are parted


@given(
    n=st.integers(1, 60), batch=st.integers(1, 20), drop=st.booleans(), most=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_an_epoch_of_arrays_has_each_row_once(n, batch, drop, most, seed):
    x = np.arange(n, dtype=np.float32)[:, None]
    feed = ArrayFeed({"x": x}, batch, {"x": F4}, ops.random.key(seed), drop)
    batches = epoch_of(feed, most=most)
    sizes = [len(b) for b in batches]
    full, rest = divmod(n, batch)
    assert sizes == [batch] * full + ([rest] if rest and not drop else [])
    assert feed.steps == len(sizes)
    seen = np.concatenate(batches)[:, 0] if batches else np.empty(0)
    assert len(np.unique(seen)) == len(seen) == (full * batch if drop else n)


def test_the_order_is_a_function_of_key_and_epoch():
    x = np.arange(50, dtype=np.float32)[:, None]

    def feed(seed):
        return ArrayFeed({"x": x}, 8, {"x": F4}, ops.random.key(seed))

    one = epoch_of(feed(1), 3)
    assert all(np.array_equal(a, b) for a, b in zip(one[2:], epoch_of(feed(1), 3, most=1, start=2), strict=True))
    assert not np.array_equal(one[0], epoch_of(feed(1), 4)[0])
    assert not np.array_equal(one[0], epoch_of(feed(2), 3)[0])
    assert np.array_equal(np.concatenate(epoch_of(ArrayFeed({"x": x}, 8, {"x": F4})))[:, 0], np.arange(50))


def test_a_share_is_held_out_of_each_class():
    labels = np.repeat([0, 1, 2], [70, 20, 2])
    kept, held = split_rows(92, 0.1, ops.random.key(0), labels)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(92))
    assert np.bincount(labels[held]).tolist() == [7, 2, 1]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path):
    """A file of 48 MB of uint8, with labels that a network can find."""
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (24000, 2000))
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 24000)
    for start in range(0, 24000, 1000):
        part = x[start : start + 1000]
        part[...] = rng.integers(0, 200, part.shape)
        part[:, :50] += (50 * y[start : start + 1000, None]).astype(np.uint8)  # the first columns tell
    x.flush()
    return np.load(tmp_path / "x.npy", mmap_mode="r"), y


def test_a_memory_mapped_array_is_never_copied_whole(big, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 2**20)
    monkeypatch.setattr(feeding, "CHUNK_BYTES", 2**20)
    x, y = big
    net = bl.Network([nn.Dense(2)], (2000,))
    net.params["dense_1.weight"] = np.zeros((2000, 2))
    trainer = Trainer(net, "crossentropy", bl.optim.SGD(2e-6), metrics=["accuracy"])
    tracemalloc.start()
    history = trainer.fit(x, y, epochs=1, batch_size=100, validation=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # the array has 48 MB, and 192 MB as float32
    assert history["val_accuracy"][0] > 0.95


def test_files_and_memory_give_the_same_numbers_in_the_same_order(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert arrays.is_memory_mapped(mapped[5:].reshape(-1, 3))
    assert not arrays.is_memory_mapped(x)
    one, two = (ArrayFeed({"x": a}, 8, {"x": F4}) for a in (x, mapped))
    assert one.resident
    assert not two.resident
    for a, b in zip(epoch_of(one), epoch_of(two), strict=True):
        assert np.array_equal(a, b)


def test_a_part_of_a_file_is_shuffled_too(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3000, dtype=np.float32)[:, None])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    feed = ArrayFeed({"x": mapped}, 7, {"x": F4}, ops.random.key(0), subset=np.arange(0, 3000, 3))
    seen = np.concatenate(epoch_of(feed, most=50))[:, 0]
    assert np.array_equal(np.sort(seen), np.arange(0, 3000, 3))
    assert not np.array_equal(seen, np.sort(seen))


# --- batches of an iterator -------------------------------------------------------------------------------------------


def batches(count=5, size=4):
    for i in range(count):
        x = np.full((size, 4), i, np.float32)
        yield x, np.arange(size) % 2


def run(source, **how):
    net = bl.Network([nn.Dense(2)], (4,), seed=1)
    trainer = Trainer(net, "crossentropy")
    history = trainer.fit(source, **how)
    return history, trainer


def test_lists_functions_and_generators_of_batches_train_alike():
    stored = list(batches())
    results = [
        run(stored, epochs=2)[1].params,
        run(batches, epochs=2)[1].params,
        run(lambda epoch: batches(), epochs=2)[1].params,
        run((b for _ in range(2) for b in batches()), epochs=2, steps_per_epoch=5)[1].params,
    ]
    for other in results[1:]:
        assert all(np.array_equal(results[0][k], other[k]) for k in other)


def test_a_generator_is_one_epoch_unless_it_is_cut():
    history, _ = run(batches(), epochs=1)
    assert history["step"].tolist() == [5]
    with pytest.raises(DataError, match="a generator, which gives its batches once"):
        run(batches(), epochs=2)
    with pytest.raises(DataError, match="used up after 2 epochs"):
        run((b for _ in range(2) for b in batches()), epochs=3, steps_per_epoch=5)


def test_epochs_of_a_function_know_their_number():
    seen = []

    def source(epoch):
        seen.append(epoch)
        return batches()

    run(source, epochs=3)
    assert seen == [0, 1, 2]


def test_batches_may_have_weights_and_any_size():
    def source():
        for size in (3, 5, 3):
            yield np.ones((size, 4)), np.arange(size) % 2, np.ones(size)

    history, trainer = run(source, epochs=1, validation=source)
    assert history["step"].tolist() == [3]
    assert len([k for k in trainer._programs if k[0] == "train"]) == 2


@pytest.mark.parametrize(
    ("source", "how", "message"),
    [
        (lambda: iter([]), {}, "no batches"),
        (lambda: iter([np.ones((4, 4))]), {}, "batch 0 is a ndarray"),
        (lambda: iter([(np.ones((4, 3)), np.zeros(4, int))]), {}, "batch 0, x has rows of the shape"),
        (lambda: iter([(np.full((4, 4), np.nan), np.arange(4) % 2)]), {}, "batch 0, x, column 0, row 0 is missing"),
        (batches, {"validation": 0.2}, "cannot be held out from an iterator"),
        (lambda: iter(batches(3)), {"steps_per_epoch": 5}, "the batches end after 3 of 5 steps"),
        (3, {}, "x is a int"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(source, how, message):
    with pytest.raises(Error, match=message):
        run(source, **how)


def test_going_past_batches_to_where_a_run_goes_on():
    stored = list(batches())
    feed = BatchFeed(stored, lambda b, i: {"x": b[0], "y": b[1]})
    assert feed.take(2, 3, 9).data["x"][0, 0] == 3
    assert feed.take(2, 4, 9).data["x"][0, 0] == 4
    assert feed.take(2, 5, 9) is None
    assert feed.take(3, 0, 9).data["x"][0, 0] == 0
