"""Loops of the executor "xla": compiled once for any number of steps, and nothing is copied to the device twice."""

import gc

import jax
import numpy as np
import pytest

import backlit as bl
from backlit import nn, ops
from backlit.executors import get
from backlit.executors.xla import XLA, loop
from backlit.train import Trainer

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def line_step():
    """Gradient descent on a line, one example a step: (w), (x, y) -> (w, loss, the example)."""

    def step(w, x, y):
        value, slope = bl.value_and_grad(lambda w: ops.mean((x @ w - y) ** 2))(w)
        return w - 0.05 * slope, value, x

    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    y = x @ np.ones((3, 1))
    w = np.zeros((3, 1))
    return bl.trace(step, w, x[:1], y[:1]), [w], [x, y]


@pytest.fixture
def copied(monkeypatch):
    """The arrays that were copied to a device, as they come."""
    seen = []
    put = jax.device_put

    def watch(value, *args, **kwargs):
        seen.append(value.copy() if isinstance(value, np.ndarray) else value)  # as it is now
        return put(value, *args, **kwargs)

    monkeypatch.setattr(jax, "device_put", watch)
    return seen


def copies_of(copied, array):
    return sum(isinstance(c, np.ndarray) and c.shape == array.shape and np.array_equal(c, array) for c in copied)


def test_one_compilation_serves_every_number_of_steps(monkeypatch):
    monkeypatch.setattr(loop, "STEPS", 8)
    graph, state, data = line_step()
    expected, found = get("reference").compile_loop(graph, 1, 2), XLA().compile_loop(graph, 1, 2)
    found(state, data, np.zeros((1, 1), int))
    assert len(found.programs) == 1
    before = len(COMPILED)
    for steps in (0, 1, 2, 5, 7, 8, 9, 16, 37):  # less than there is room for, just as many, and more
        rows = np.random.default_rng(steps).integers(0, 40, (steps, 1))
        wanted, ours = expected(state, data, rows), found(state, data, rows)
        for a, b in zip([*wanted[0], *wanted[1]], [*ours[0], *ours[1]], strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-14)
    assert len(COMPILED) == before


def test_a_state_that_is_given_away_stays_as_it_is():
    graph, state, data = line_step()
    run, rows = XLA().compile_loop(graph, 1, 2), np.arange(10).reshape(10, 1)
    first, _ = run(state, data, rows, donate=True)
    wanted, _ = run(first, data, rows)
    second, _ = run(first, data, rows, donate=True)  # read-only, as everything that it gives back
    assert not state[0].any()
    np.testing.assert_array_equal(second[0], wanted[0])


def test_a_program_has_room_for_what_fits_into_memory():
    wide = np.zeros((2**18, 3))
    large = bl.trace(lambda n, x: (n + 1, x), np.zeros((), np.int64), wide)
    assert XLA().compile_loop(large, 1, 1).span(len(wide)) * (wide.nbytes + 8 * len(wide)) <= loop.ROOM
    huge = bl.trace(lambda n, x: (n + 1, x), np.zeros((), np.int64), np.zeros((2**21, 3)))
    assert XLA().compile_loop(huge, 1, 1).span(2**21) == 1
    assert XLA().compile_loop(line_step()[0], 1, 2).span(1) == loop.STEPS


def test_a_run_of_the_trainer_compiles_one_program_a_batch_size():
    x = np.random.default_rng(0).normal(size=(100, 4)).astype("f4")
    executor = XLA()
    trainer = Trainer(bl.Network([nn.Dense(3)], (4,)), "mse", executor=executor)
    trainer.fit(x, x[:, :3], epochs=3, batch_size=8, progress=False)  # 12 steps of 8 rows, and one of 4
    before = len(COMPILED)
    trainer.fit(x, x[:, :3], epochs=20, batch_size=8, progress=False)
    assert len(COMPILED) == before


def test_data_and_state_are_copied_to_the_device_once(copied):
    graph, state, data = line_step()
    for d in data:
        d.flags.writeable = False
    run = XLA().compile_loop(graph, 1, 2)
    rows = np.arange(12)[:, None]
    losses, w = [], state
    for part in (rows[:5], rows[5:7], rows[7:]):
        w, (loss, _) = run(w, data, part)
        losses.append(loss)
    assert [copies_of(copied, d) for d in data] == [1, 1]
    assert copies_of(copied, w[0]) == 0
    whole, (expected, _) = get("reference").compile_loop(graph, 1, 2)(state, data, rows)
    np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-12)
    np.testing.assert_allclose(w[0], whole[0], rtol=1e-12)


def test_a_state_can_be_gone_back_to():
    """The device's copy is overwritten by the next call; the array that was given out is not."""
    graph, state, data = line_step()
    run = XLA().compile_loop(graph, 1, 2)
    rows = np.arange(6)[:, None]
    middle, _ = run(state, data, rows)
    kept = middle[0].copy()
    once, again = run(middle, data, rows), run(middle, data, rows)
    assert np.array_equal(once[0][0], again[0][0])
    assert np.array_equal(middle[0], kept)
    with pytest.raises(ValueError, match="read-only"):
        middle[0][0] = 1.0


def test_arrays_that_can_be_written_to_are_read_anew():
    graph, state, data = line_step()
    run, oracle = XLA().compile_loop(graph, 1, 2), get("reference").compile_loop(graph, 1, 2)
    rows = np.arange(6)[:, None]
    for _ in range(3):
        np.testing.assert_allclose(run(state, data, rows)[0][0], oracle(state, data, rows)[0][0], rtol=1e-12)
        data[0][:] = -data[0]
        data[1][3] += 1
        state[0][0] += 0.5


def test_an_array_made_writable_again_is_read_anew():
    graph, state, data = line_step()
    run, oracle = XLA().compile_loop(graph, 1, 2), get("reference").compile_loop(graph, 1, 2)
    rows = np.arange(6)[:, None]
    (w,), _ = run(state, data, rows)
    w.flags.writeable = True
    w[:] = 2.0
    np.testing.assert_allclose(run([w], data, rows)[0][0], oracle([w], data, rows)[0][0], rtol=1e-12)


def test_copies_go_when_their_arrays_go():
    graph, state, data = line_step()
    executor = XLA()
    for d in data:
        d.flags.writeable = False
    w, _ = executor.compile_loop(graph, 1, 2)(state, data, np.arange(6)[:, None])
    assert len(executor._residents._known) == 3
    del d, data, w
    gc.collect()
    assert not executor._residents._known


def test_a_copy_is_a_copy():
    """Also on a CPU, and wherever the array lies: JAX would rather work on an aligned array itself."""
    graph, state, data = line_step()
    executor, rows = XLA(), np.arange(6)[:, None]
    for offset in (0, 8):
        memory = np.zeros(data[0].nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        x = memory[start : start + data[0].nbytes].view(float).reshape(data[0].shape)
        x[:] = data[0]
        view = x.view()
        view.flags.writeable = False
        run = executor.compile_loop(graph, 1, 2)
        before = run(state, [view, data[1]], rows)
        x[:] = 0.0  # which the contract forbids
        assert np.array_equal(run(state, [view, data[1]], rows)[0][0], before[0][0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])  # float64 is converted: the feed has an array of its own
def test_data_changed_between_two_fits_counts(dtype, copied):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(dtype)
    y = x[:, :1] * 2

    def trained(executor, copied=None):
        mine, targets = x.copy(), y.copy()
        trainer = Trainer(bl.Network([nn.Dense(1)], (4,), seed=1), "mse", "sgd", executor=executor)
        trainer.fit(mine, targets, epochs=4, batch_size=8, progress=False)
        if copied is not None:
            assert copies_of(copied, mine.astype("f4")) == 1
        mine[:, 0] = 0.0
        targets[:] = 1.0
        trainer.fit(mine, targets, epochs=4, batch_size=8, progress=False)
        if copied is not None:
            assert copies_of(copied, mine.astype("f4")) == 1
        return trainer

    ours, reference = trained(XLA(), copied), trained("reference")
    np.testing.assert_allclose(ours.history["loss"], reference.history["loss"], rtol=1e-4)
    for name, value in reference.net.params.items():
        np.testing.assert_allclose(ours.net.params[name], value, rtol=1e-4, atol=1e-6)


def test_a_validation_set_is_copied_once_a_fit(copied):
    random = np.random.default_rng(0)
    x, new = random.normal(size=(64, 4)).astype("f4"), random.normal(size=(30, 4)).astype("f4")
    trainer = Trainer(bl.Network([nn.Dense(1)], (4,)), "mse", executor=XLA())
    trainer.fit(x, x[:, :1], epochs=3, validation=(new, new[:, :1]), progress=False)
    assert copies_of(copied, new) == 1
