"""Every layer of the registry: gradients, shapes, parameter counts, configs, determinism; and how errors speak."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from layer_samples import SAMPLES, Sample

import backlit as bl
from backlit import nn, ops
from backlit.errors import DtypeError, Error, SettingError, ShapeError, StructureError
from backlit.ir import Type
from backlit.nn.layer import Context, build
from backlit.settings import KINDS, kinds, revived

KEY = ops.random.key(7)
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.id)


def built(sample: Sample, key: Any = KEY) -> nn.layer.Built:
    dtype = np.dtype(np.int64 if sample.integers else np.float64)
    return build("sample", sample.layer, key, Type(dtype, sample.shape))


def shaken(params: dict[str, Any]) -> dict[str, Any]:
    """Random numbers in place of zeros and ones, so that no parameter goes unnoticed."""
    random = np.random.default_rng(1)
    return {k: 0.5 * random.standard_normal(np.shape(v)) for k, v in params.items()}


def test_every_layer_has_a_sample():
    own = {c for c in kinds(nn.Layer).values() if c.__module__.startswith("backlit.")}
    assert own == {type(s.layer) for s in SAMPLES}
    assert {c.__name__ for c in own} <= set(nn.__all__)


@every_sample
@pytest.mark.parametrize("training", [False, True])
def test_gradients_agree_with_finite_differences(sample, training):
    made = built(sample)
    x, params = sample.batch(), shaken(made.params)
    w = np.random.default_rng(2).standard_normal((3, *sample.result))

    def loss(params, x):
        ctx = Context(made.state, training=training, key=KEY)
        return ops.sum(w * sample.layer.apply(params, x, ctx))

    bl.check_grads(loss, params, x, directions=1)


@every_sample
def test_results_have_the_shape_and_layers_the_parameters_that_they_should(sample):
    made = built(sample)
    assert made.result.shape == sample.result
    assert sum(np.size(v) for v in made.params.values()) == sample.parameters
    y = sample.layer.apply(made.params, sample.batch(), Context(made.state))
    assert y.shape == (3, *sample.result)


@every_sample
def test_examples_of_a_batch_do_not_mix_outside_training(sample):
    made, x = built(sample), sample.batch()
    params = shaken(made.params)
    together = sample.layer.apply(params, x, Context(made.state))
    alone = np.concatenate([sample.layer.apply(params, x[i : i + 1], Context(made.state)) for i in range(len(x))])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)


@every_sample
def test_layers_survive_json(sample):
    text = json.dumps(sample.layer.config(), allow_nan=False)
    again = revived(json.loads(text), nn.Layer)
    assert again == sample.layer
    assert hash(again) == hash(sample.layer)
    first, second = built(sample), build("sample", again, KEY, Type(first_dtype(sample), sample.shape))
    assert list(first.params) == list(second.params)
    assert all(np.array_equal(first.params[k], second.params[k]) for k in first.params)


def first_dtype(sample: Sample) -> np.dtype:
    return np.dtype(np.int64 if sample.integers else np.float64)


@every_sample
def test_the_key_alone_decides_the_first_parameters_and_the_noise(sample):
    first, again, other = built(sample), built(sample), built(sample, ops.random.key(8))
    assert all(np.array_equal(first.params[k], again.params[k]) for k in first.params)
    drawn = [k for k, v in first.params.items() if k.endswith("weight")]
    assert all(not np.array_equal(first.params[k], other.params[k]) for k in drawn)
    x = sample.batch()

    def noisy(key):
        return sample.layer.apply(first.params, x, Context(first.state, training=True, key=key))

    assert np.array_equal(noisy(KEY), noisy(KEY))


@every_sample
def test_shapes_are_known_without_drawing_anything(sample):
    dtype = np.dtype(np.int64 if sample.integers else np.float64)
    made = built(sample)
    graph = bl.trace(lambda key: build("sample", sample.layer, key, Type(dtype, sample.shape)).params, KEY)
    assert [o.type.shape for o in graph.outputs] == [np.shape(v) for v in made.params.values()]


@every_sample
def test_float32_stays_float32(sample):
    made, x = built(sample), sample.batch(dtype=np.float32)
    params = {k: np.asarray(v, np.float32) for k, v in made.params.items()}
    state = {k: np.asarray(v, np.float32) for k, v in made.state.items()}

    def run(params, state, x):
        ctx = Context(state, training=True, key=KEY)
        return sample.layer.apply(params, x, ctx), ctx.new_state()

    graph = bl.trace(run, params, state, x)
    assert {o.type.dtype for o in graph.outputs} <= {np.dtype(np.float32)}
    floats = {t.dtype.name for n in graph.nodes for t in n.types if t.dtype.kind == "f"}
    assert floats == {"float32"}


# --- what single layers promise ---------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_its_share():
    x = np.ones((200, 500))
    y = nn.Dropout(0.3).apply({}, x, Context(training=True, key=KEY))
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs((y == 0).mean() - 0.3) < 0.01
    assert nn.Dropout(0.3).apply({}, x, Context()) is x
    assert nn.Dropout(0).apply({}, x, Context(training=True)) is x


def test_two_dropouts_draw_different_noise():
    net = nn.Network([nn.Dropout(0.5), nn.Reshape((100,)), nn.Dropout(0.5)], (100,))
    y, _ = net.forward({}, {}, np.ones((50, 100), np.float32), training=True, key=KEY)
    assert abs((y == 4).mean() - 0.25) < 0.03  # kept twice: were both the same, it would be half


def test_dropout_says_that_it_needs_a_key():
    with pytest.raises(StructureError, match=r"layer dropout_1 \(Dropout\).*random numbers"):
        nn.Network([nn.Dropout(0.5)], (3,)).forward({}, {}, np.ones((2, 3), np.float32), training=True)


def test_batch_norm_normalises_the_batch_and_learns_its_statistics():
    random = np.random.default_rng(0)
    layer = nn.BatchNorm(momentum=0.5)
    state = layer.init_state(Type(np.dtype(float), (4,)))
    params = layer.init(KEY, Type(np.dtype(float), (4,)))
    for _ in range(40):
        x = 3 + 2 * random.standard_normal((500, 4))
        ctx = Context(state, training=True)
        y = layer.apply(params, x, ctx)
        state = ctx.new_state()
    np.testing.assert_allclose([y.mean(0), y.std(0)], [[0] * 4, [1] * 4], atol=1e-4)
    np.testing.assert_allclose(state["mean"], 3, atol=0.3)
    np.testing.assert_allclose(state["variance"], 4, atol=0.6)
    outside = layer.apply(params, x, Context(state))
    np.testing.assert_allclose(outside.mean(0), 0, atol=0.2)


def test_causal_attention_does_not_look_ahead():
    layer = nn.TransformerBlock(2, causal=True)
    made = build("t", layer, KEY, Type(np.dtype(float), (6, 4)))
    x = np.random.default_rng(0).standard_normal((2, 6, 4))
    later = x.copy()
    later[:, 4:] += 100
    first, second = (layer.apply(made.params, v, Context()) for v in (x, later))
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert not np.allclose(first[:, 4:], second[:, 4:])


def test_a_bidirectional_layer_joins_two_runs_of_its_two_halves():
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    layer = nn.LSTM(4, return_sequences=True, bidirectional=True)
    params = layer.init(KEY, Type(np.dtype(float), (5, 3)))
    one = nn.LSTM(4, return_sequences=True)
    forth = {k: v for k, v in params.items() if not k.startswith("backward.")}
    back = {k.removeprefix("backward."): v for k, v in params.items() if k.startswith("backward.")}
    assert not np.array_equal(forth["weight"], back["weight"])
    expected = [one.apply(forth, x, Context()), one.apply(back, x[:, ::-1], Context())[:, ::-1]]
    np.testing.assert_allclose(layer.apply(params, x, Context()), np.concatenate(expected, -1), rtol=1e-12)


def test_the_lstm_remembers_at_first():
    bias = nn.LSTM(3).init(KEY, Type(np.dtype(float), (5, 2)))["bias"]
    np.testing.assert_array_equal(bias, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])


def test_recurrent_layers_multiply_all_inputs_before_the_loop():
    net = nn.Network([nn.GRU(4)], (10, 3))
    graph = bl.trace(lambda x: net(x), np.ones((2, 10, 3), np.float32))
    (loop,) = [n for n in graph.nodes if n.op == "scan"]
    assert [n.type.shape for n in graph.nodes if n.op == "contract"] == [(2, 10, 12)]
    assert [n.op for n in loop.params["body"].nodes].count("contract") == 1


def test_embedding_refuses_numbers_that_are_no_tokens():
    with pytest.raises(DtypeError, match="takes integers"):
        nn.Network([nn.Dense(3), nn.Embedding(5, 2)], (4,))
    net = nn.Network([nn.Embedding(5, 2)], (4,))
    assert net.input_type.dtype == np.int64
    with pytest.raises(DtypeError, match="int64"):
        net(np.ones((2, 4)))
    with pytest.raises(Error, match="out of range"):
        net(np.full((2, 4), 5))


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = [
    ([nn.Conv2d(4, 3)], (8, 8), r"layer conv2d_1 \(Conv2d\).*\(batch, 8, 8\).*height, width, channels"),
    ([nn.Dense(4), nn.Conv1d(2, 3)], (8,), r"layer conv1d_1 \(Conv1d\).*\(batch, 4\)"),
    ([nn.Conv2d(4, 5)], (3, 3, 1), r"layer conv2d_1.*\(batch, 3, 3, 1\).*does not fit"),
    ([nn.Dense(4), nn.Reshape((3, 5))], (8,), r"layer reshape_1.*\(batch, 4\).*do not make"),
    ([nn.Residual([nn.Dense(3)])], (4,), r"layer residual_1.*\(batch, 3\).*\(batch, 4\)"),
    ([nn.Residual([nn.Dense(4), nn.LSTM(2)])], (4,), r"layer residual_1\.lstm_1 \(LSTM\).*sequences"),
    ([nn.Add([nn.Dense(3), nn.Dense(4)])], (4,), r"layer add_1.*\(batch, 3\) and \(batch, 4\)"),
    ([nn.MultiHeadAttention(4)], (5, 6), r"6 features cannot be cut into 4"),
    ([nn.LSTM(4), nn.LSTM(4)], (5, 6), r"layer lstm_2 \(LSTM\).*\(batch, 4\)"),
    ([nn.Dense(4, weight_init=np.ones((3, 4)))], (5,), r"layer dense_1.*\(5, 4\).*\(3, 4\)"),
    ([nn.GroupNorm(groups=3)], (5, 4), r"4 channels cannot be cut into 3"),
]


@pytest.mark.parametrize(("layers", "shape", "message"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_errors_name_the_layer_and_both_shapes(layers, shape, message):
    with pytest.raises(Error, match=message) as e:
        nn.Network(layers, shape)
    assert "test_layers.py" in str(e.value)  # the user's own line


SETTINGS = [
    (lambda: nn.Dense(0), "Dense: units is 0: it must be at least 1"),
    (lambda: nn.Dense(2.5), "units is a whole number, not 2.5"),
    (lambda: nn.Dense(3, "rely"), "there is no function 'rely'"),
    (lambda: nn.Dense(3, 7), "activation is the name of a function"),
    (lambda: nn.Dense(3, weight_init="hee"), "weight_init: there is no initialiser 'hee'"),
    (lambda: nn.Dense(3, name="a.b"), "name='a.b' is no name"),
    (lambda: nn.Dropout(1.0), "rate is 1.0: it must be below 1"),
    (lambda: nn.Conv1d(3, 2, padding="some"), "padding is 'some'"),
    (lambda: nn.Concat([nn.Dense(1)], axis=0), "axis is 0, which is the batch"),
    (lambda: nn.Sequential([nn.Dense]), "the class Dense is no layer"),
    (lambda: nn.Sequential([nn.Dense(1, name="a"), nn.Dense(2, name="a")]), "two layers are called 'a'"),
    (lambda: nn.Residual(None), "layers is a list of layers"),
]


@pytest.mark.parametrize(("make", "message"), SETTINGS, ids=[m for _, m in SETTINGS])
def test_wrong_settings_are_refused_where_they_are_written(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_layers_cannot_change():
    with pytest.raises(AttributeError):
        nn.Dense(3).units = 4


# --- layers of the user's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stretch(nn.Layer):
    """y = s x, one learned factor a feature."""

    start: float = 1.0

    def init(self, key, input_type):
        return {"s": np.full(input_type.shape[-1:], self.start)}

    def init_state(self, input_type):
        return {"seen": np.zeros((), np.int64)}

    def apply(self, params, x, ctx):
        ctx.set_state("seen", ctx.state("seen") + 1)
        y = params["s"] * x
        return y


def test_a_layer_of_the_users_own_works_everywhere():
    net = nn.Network([nn.Dense(3), Stretch(2.0)], (4,))
    assert net.params["stretch_1.s"].dtype == np.float32
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(net(x), 2 * (x @ net.params["dense_1.weight"]), rtol=1e-6)
    assert "stretch_1" in net.summary().text(80)
    again = nn.Network.from_config(json.loads(json.dumps(net.config())))
    assert again.layers["stretch_1"] == Stretch(2.0)
    _, state = net.forward(net.params, net.state, x, training=True)
    assert state["stretch_1.seen"] == 1
    assert state["stretch_1.seen"].dtype == np.int64
    graph = bl.trace(lambda x: net(x), x)
    assert "stretch_1.y" in graph.names().values()


def test_a_layer_that_is_no_dataclass_is_refused():
    class Plain(nn.Layer):
        def apply(self, params, x, ctx):
            return x

    with pytest.raises(SettingError, match=r"@dataclass\(frozen=True\)"):
        Plain()
    del KINDS["plain"]


def test_a_layers_name_cannot_be_taken():
    with pytest.raises(SettingError, match=r"the name Dense is taken, by backlit\.nn\.dense"):

        @dataclass(frozen=True)
        class Dense(nn.Layer):
            def apply(self, params, x, ctx):
                return x


def test_mistakes_in_a_layer_are_told_with_its_name():
    @dataclass(frozen=True)
    class Broken(nn.Layer):
        how: str = ""

        def init(self, key, input_type):
            return {"count": np.zeros(3, np.int64)} if self.how == "integers" else {}

        def apply(self, params, x, ctx):
            if self.how == "batch":
                return ops.sum(x, 0)
            if self.how == "state":
                return ctx.state("mean")
            raise KeyError("gamma")

    for how, error, message in [
        ("integers", StructureError, "count is no array of floating-point"),
        ("batch", ShapeError, "the first axis must stay the batch"),
        ("state", StructureError, "there is no state 'mean'"),
    ]:
        with pytest.raises(error, match=message) as e:
            nn.Network([Broken(how)], (3,))
        assert "layer broken_1 (Broken)" in str(e.value)
    with pytest.raises(KeyError) as plain:
        nn.Network([Broken()], (3,))
    assert "broken_1" in plain.value.__notes__[0]
    del KINDS["broken"]
