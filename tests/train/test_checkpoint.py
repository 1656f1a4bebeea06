"""Files: what is written is read again bit for bit; what is cut, foreign or hostile is refused, and harmless."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import backlit as bl
from backlit import nn, ops, optim
from backlit.errors import CheckpointError, Error
from backlit.train import BestWeights, Checkpoint, EarlyStopping, LambdaCallback, Trainer, checkpoint, load, save
from backlit.train.saving import load_with_extra

DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "uint32", "bool"])
ARRAYS = DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda n: n != "__metadata__"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(max_examples=40, deadline=None)
@given(tensors=st.dictionaries(NAMES, ARRAYS, max_size=5), about=st.dictionaries(st.text(max_size=5), st.integers()))
def test_what_is_written_is_read_again(folder, tensors, about):
    path = folder / "any.backlit"
    checkpoint.write(path, {"kind": "x", "about": about}, tensors)
    found = checkpoint.read(path)
    assert found.description == {"kind": "x", "about": about}
    assert found.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found.tensors[name].dtype == array.dtype
        assert found.tensors[name].shape == array.shape
        assert found.tensors[name].tobytes() == array.tobytes()
        assert np.array_equal(load_file(path)[name], array, equal_nan=array.dtype.kind == "f")  # other tools read it


def test_a_header_of_any_length_is_read_even_if_that_looks_like_another_kind_of_file(folder):
    """A header of 640 bytes begins with 80 02, as a pickle does."""
    path, lengths = folder / "length.backlit", set()
    for n in range(300, 1400, 8):
        checkpoint.write(path, {"kind": "x", "about": "y" * n}, {})
        lengths.add(path.read_bytes()[:2])
        assert len(checkpoint.read(path).description["about"]) == n
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04"} <= lengths


def network(seed=0):
    layers = [nn.Dense(5, "relu"), nn.BatchNorm(), nn.Dropout(0.2), nn.Dense(2, weight_init="orthogonal")]
    return bl.Network(layers, (4,), seed=seed)


X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(int)


@pytest.fixture(scope="module")
def saved(folder):
    trainer = Trainer(network(), "crossentropy", optim.EMA(optim.Adam(), decay=0.9), ["accuracy"])
    save = LambdaCallback(steps=lambda t: t.save(folder / "run.backlit") if t.step == 5 else None, every_steps=5)
    callbacks = [EarlyStopping(), BestWeights(), save]
    trainer.fit(X, Y, epochs=3, batch_size=16, validation=0.2, callbacks=callbacks)
    return folder / "run.backlit", trainer


def test_a_network_is_saved_and_loaded(folder):
    net = network(seed=3)
    save(net, folder / "model.backlit", {"columns": ["a", "b"]})
    other, extra = load_with_extra(folder / "model.backlit")
    assert extra == {"columns": ["a", "b"]}
    assert np.array_equal(net(X), other(X))
    assert np.array_equal(load(folder / "model.backlit")(X), net(X))
    assert other.config() == net.config()


def test_loading_a_checkpoint_gives_the_averaged_network(saved):
    path, _ = saved
    trainer = Trainer.resume(path)
    assert not np.array_equal(trainer.net.params["dense_1.weight"], trainer.params["dense_1.weight"])
    assert np.array_equal(load(path)(X), trainer.net(X))


def test_functions_that_no_file_can_name_are_passed_again(folder):
    def shift(x):
        return ops.tanh(x + 1.0)

    def loss(predicted, target):
        return ops.mean((predicted - target) ** 2)

    def network():
        return bl.Network([nn.Dense(3, shift), nn.Dense(4)], (4,), seed=1)

    path = folder / "own.backlit"
    trainer = Trainer(network(), loss, metrics={"mine": loss}, penalty=lambda p: nn.losses.l2(p, 0.1))
    trainer.fit(X, X, epochs=1)
    trainer.save(path)
    given = {}
    for name, value, message in [
        ("net", network(), "layers or functions that no file can name"),
        ("loss", loss, "a loss that no file can name"),
        ("metrics", {"mine": loss}, "the metric 'mine', a function"),
        ("penalty", lambda p: nn.losses.l2(p, 0.1), "a run with a penalty"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            Trainer.resume(path, **given)
        given[name] = value
    other = Trainer.resume(path, **given)
    for t in (trainer, other):
        t.fit(X, X, epochs=2)
    assert np.array_equal(other.net(X), load(path, network())(X)) is False
    assert other.epoch == 2  # what the run comes to in all


def test_a_model_is_no_run_and_a_misfit_is_named(folder, saved):
    save(network(), folder / "model.backlit")
    with pytest.raises(CheckpointError, match="holds a network, and not a run"):
        Trainer.resume(folder / "model.backlit")
    with pytest.raises(CheckpointError, match=r"'dense_1.weight' is f32\[4,5\], not f32\[4,6\]"):
        load(folder / "model.backlit", bl.Network([nn.Dense(6, "relu"), nn.BatchNorm(), nn.Dense(2)], (4,)))
    with pytest.raises(CheckpointError, match=r"the network lacks the parameter 'dense_2.bias'"):
        load(folder / "model.backlit", bl.Network([nn.Dense(5), nn.BatchNorm()], (4,)))
    with pytest.raises(Error, match="resume does not take batch_size"):
        Trainer.resume(saved[0], batch_size=3)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    path = folder / "kept.backlit"
    save(network(), path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(network(1), path)
    assert path.read_bytes() == before
    assert not list(folder.glob(".kept*"))


def test_places_that_cannot_be_written_to(folder):
    with pytest.raises(CheckpointError, match="could not be written"):
        save(network(), folder / "no" / "such" / "folder.backlit")
    with pytest.raises(CheckpointError, match="is a directory"):
        save(network(), folder)
    with pytest.raises(CheckpointError, match="no directory"):
        Trainer(network(), "crossentropy").fit(X, Y, callbacks=[Checkpoint(folder / "no" / "x")])


# --- reading what is not right ----------------------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(saved, folder):
    whole = saved[0].read_bytes()
    path = folder / "cut.backlit"
    rng = np.random.default_rng(0)
    for length in {0, 1, 7, 8, 9, len(whole) - 1, *rng.integers(0, len(whole), 60)}:
        path.write_bytes(whole[:length])
        for attempt in (load, Trainer.resume):
            with pytest.raises(CheckpointError):
                attempt(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_does_no_harm(saved, folder, data):
    """Bytes of the header are changed at will: it is refused in words, or what changed did not matter."""
    whole = bytearray(saved[0].read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.backlit"
    path.write_bytes(whole)
    try:
        Trainer.resume(path)
    except Error as e:
        assert isinstance(e, CheckpointError)  # noqa: PT017 (either outcome is right)


def test_foreign_files_are_named(folder):
    def told(name, content):
        path = folder / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load(path)
        return str(caught.value)

    with zipfile.ZipFile(folder / "model.pt", "w") as z:
        z.writestr("data.pkl", "x")
    assert "zip archive" in told("model.pt", (folder / "model.pt").read_bytes())
    assert "a pickle" in told("model.pkl", pickle.dumps({"a": 1}))
    assert "HDF5" in told("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "no backlit file" in told("text", b"hello, world, this is text")
    assert "no backlit file" in told("json", b'{"kind": "model", "network": {}}')
    save_file({"a": np.ones(3)}, folder / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by backlit"):
        load(folder / "other.safetensors")
    with pytest.raises(CheckpointError, match="there is no file"):
        load(folder / "nothing")
    with pytest.raises(CheckpointError, match="is a directory"):
        load(folder)


def crafted(path, description=None, tensors=None, length=None, body=b"", version="1"):
    """A file with a header of the attacker's choice."""
    metadata = {"format": "backlit", "version": version, "description": json.dumps(description or {"kind": "model"})}
    header = json.dumps({"__metadata__": metadata, **(tensors or {})}).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": 2**60}, "sensible length"),
        ({"length": 2**20}, "cut short"),
        ({"tensors": {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}}, "cut short"),
        ({"tensors": {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}}, "the entry of the tensor"),
        ({"tensors": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}}, "the entry of the tensor"),
        ({"tensors": {"a": {"dtype": "OBJ", "shape": [], "data_offsets": [0, 8]}}}, "the entry of the tensor"),
        ({"tensors": {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}}, "the entry of the tensor"),
        ({"tensors": {"a": 3}}, "the entry of the tensor"),
        (
            {
                "tensors": {n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"},
                "body": bytes(4),
            },
            "does not follow",
        ),
        ({"body": bytes(9)}, "9 bytes follow"),
        ({"version": "99"}, "version '99'"),
        ({"description": [1]}, "no JSON object"),
        ({"description": {"kind": "virus"}}, "is a 'virus'"),
    ],
)
def test_hostile_headers_are_refused(folder, how, message):
    with pytest.raises(CheckpointError, match=message):
        load(crafted(folder / "hostile.backlit", **how))


@pytest.mark.parametrize(
    "network",
    [
        {"layers": [{"kind": "dense", "units": 10**12}]},
        {"layers": [{"kind": "dense", "units": 10**5}] * 4},
        {"layers": [{"kind": "dense", "units": 10**9, "weight_init": {"kind": "orthogonal"}}]},
        {"layers": [], "input_shape": [10**9, 10**9]},
        {"layers": [{"kind": "positionencoding"}], "input_shape": [10**7, 10**5]},
        {"layers": [{"kind": "subprocess.Popen"}]},
        {"layers": [{"kind": "dense", "units": 3, "activation": {"function": "eval"}}]},
        {"layers": [{"kind": "adam"}]},
        {"layers": "dense"},
        {"layers": 3},
        {"dtype": "object"},
        {"input_dtype": "U4"},
        {"extra": 1},
    ],
)
def test_hostile_definitions_are_refused_before_anything_large_is_made(folder, network):
    config = {"layers": [], "input_shape": [4], "seed": 0, "dtype": "float32", "input_dtype": "float32"} | network
    path = crafted(folder / "hostile.backlit", {"kind": "model", "network": config})
    with pytest.raises(CheckpointError):
        load(path)


def test_a_deep_definition_is_refused(folder):
    deep = "[" * 100_000 + "]" * 100_000
    header = json.dumps({"__metadata__": {"format": "backlit", "version": "1", "description": deep}}).encode()
    path = folder / "deep.backlit"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d["plan"].update(batch_size=0), "plan"),
        (lambda d, t: d["plan"].update(until="x"), "until"),
        (lambda d, t: d["plan"].pop("seed"), "plan"),
        (lambda d, t: d.update(epoch=-1), "epoch"),
        (lambda d, t: d.update(on_nan="explode"), "on_nan"),
        (lambda d, t: d.update(optimizer={"kind": "adam", "learning_rate": -1}), "learning_rate"),
        (lambda d, t: d.update(optimizer={"kind": "sgd"}), "optimizer/"),
        (lambda d, t: d.update(loss={"kind": "dense", "units": 3}), "loss"),
        (lambda d, t: d.update(metrics={"a": {"kind": "dense", "units": 3}}), "no metric"),
        (lambda d, t: d.update(history=["loss"]), "history"),
        (lambda d, t: t.update(key=t["key"].astype(np.int64)), "'key' is i64"),
        (lambda d, t: t.pop("step"), "'step' is missing"),
        (lambda d, t: t.update({"history/loss": np.zeros(7)}), "different lengths"),
        (lambda d, t: t.update({"sums/loss/0": np.zeros(9)}), "sums"),
        (lambda d, t: t.pop("sums/loss/0"), "its state"),
        (lambda d, t: t.update({"params/dense_1.bias": np.zeros(6, "f4")}), "dense_1.bias"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(saved, folder, change, message):
    contents = checkpoint.read(saved[0])
    description, tensors = json.loads(json.dumps(contents.description)), dict(contents.tensors)
    assert description["batch"] == 1  # in the middle of an epoch
    change(description, tensors)
    path = folder / "changed.backlit"
    checkpoint.write(path, description, tensors)
    with pytest.raises(CheckpointError, match=message):
        Trainer.resume(path)
