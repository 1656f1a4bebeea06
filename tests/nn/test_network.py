"""Networks: names, parameters set by hand, configs, inference, and how wrong input is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backlit as bl
from backlit import nn, ops
from backlit.errors import ControlFlowError, DtypeError, SettingError, ShapeError, StructureError


def mlp(**kwargs):
    return nn.Network([nn.Dense(4, "tanh"), nn.Dropout(0.5), nn.Dense(3)], input_shape=(2,), **kwargs)


def test_layers_are_named_by_kind_and_count_or_by_name():
    inner = nn.Residual([nn.Dense(4), nn.Activation("relu"), nn.Dense(4)])
    net = nn.Network([nn.Dense(4), nn.Dense(4, name="middle"), inner, nn.Dense(2)], (3,))
    assert list(net.layers) == ["dense_1", "middle", "residual_1", "dense_3"]  # a name does not rename the others
    assert list(net.params) == [
        f"{layer}.{part}"
        for layer in ("dense_1", "middle", "residual_1.dense_1", "residual_1.dense_2", "dense_3")
        for part in ("weight", "bias")
    ]


def test_quantities_are_called_after_layers_and_their_variables():
    net = nn.Network([nn.Dense(4, "sigmoid"), nn.Residual([nn.Dense(4, "softmax")])], (3,))
    names = bl.trace(lambda x: net(x), np.ones((2, 3), np.float32)).names().values()
    wanted = {"dense_1.z", "dense_1.a", "residual_1.dense_1.z", "residual_1.dense_1.a", "residual_1.y"}
    assert wanted <= set(names)


def test_a_network_computes_what_its_layers_say():
    net = mlp(dtype="float64")
    p, x = net.params, np.random.default_rng(0).standard_normal((5, 2))
    hidden = np.tanh(x @ p["dense_1.weight"] + p["dense_1.bias"])
    np.testing.assert_allclose(net(x), hidden @ p["dense_2.weight"] + p["dense_2.bias"], rtol=1e-12)


def test_the_seed_decides_the_parameters():
    one, again, other = mlp(seed=1), mlp(seed=1), mlp(seed=2)
    assert all(np.array_equal(one.params[k], again.params[k]) for k in one.params)
    assert not np.array_equal(one.params["dense_1.weight"], other.params["dense_1.weight"])
    longer = nn.Network([nn.Dense(4), nn.Dropout(0.5), nn.Dense(3), nn.Dense(5)], (2,), seed=1)
    assert np.array_equal(longer.params["dense_2.weight"], one.params["dense_2.weight"])
    wide = mlp(seed=1, dtype="float64")
    np.testing.assert_allclose(wide.params["dense_1.weight"], one.params["dense_1.weight"], rtol=1e-6)


# --- parameters by hand -----------------------------------------------------------------------------------------------


def test_the_worked_example_two_two_one():
    net = nn.Network([nn.Dense(2, "sigmoid"), nn.Dense(1, "sigmoid")], (2,), dtype="float64")
    net.params["dense_1.weight"] = [[0.4, 0.6], [0.3, 0.9]]
    net.params["dense_1.bias"] = [0.1, 0.2]
    net.params["dense_2.weight"] = [[0.5], [0.7]]
    net.params["dense_2.bias"] = [0.3]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    a1, a2 = sigmoid(0.4 * 0.5 + 0.3 * 0.1 + 0.1), sigmoid(0.6 * 0.5 + 0.9 * 0.1 + 0.2)
    expected = sigmoid(0.5 * a1 + 0.7 * a2 + 0.3)
    found = net(np.array([[0.5, 0.1]]))
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(expected, rel=1e-14)


def test_parameters_are_checked_and_converted():
    net = mlp()
    net.params["dense_1.weight"] = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert net.params["dense_1.weight"].dtype == np.float32
    with pytest.raises(StructureError, match=r"no parameter 'dense_1\.weights'") as e:
        net.params["dense_1.weights"] = np.ones((2, 4))
    assert "there are dense_1.weight, dense_1.bias" in str(e.value)
    assert "test_network.py" in str(e.value)
    with pytest.raises(ShapeError, match=r"dense_1.weight has the shape \(2, 4\), and the value \(4, 2\)") as e:
        net.params["dense_1.weight"] = np.ones((4, 2))
    assert "transpose" in str(e.value)
    with pytest.raises(ShapeError, match=r"\(4,\), and the value \(\)"):
        net.params["dense_1.bias"] = 1.0
    for wrong in ("nought", "3", [[1, 2], [3]], None, [1j] * 4, ["a", "b", "c", "d"]):
        with pytest.raises(StructureError, match=r"dense_1\.bias takes an array"):
            net.params["dense_1.bias"] = wrong
    with pytest.raises(StructureError, match="cannot be taken out"):
        del net.params["dense_1.bias"]
    with pytest.raises(StructureError, match="cannot be taken out"):
        net.params.pop("dense_1.bias")


def test_the_arrays_that_are_given_are_copied():
    net, mine = mlp(), np.ones(4, np.float32)
    net.params["dense_1.bias"] = mine
    mine[0] = 9
    assert net.params["dense_1.bias"][0] == 1


def test_several_parameters_are_set_together_or_not_at_all():
    net = mlp()
    before = dict(net.params)
    with pytest.raises(ShapeError):
        net.params = {"dense_1.bias": np.full(4, 7.0), "dense_2.bias": np.ones(5)}
    assert all(np.array_equal(net.params[k], before[k]) for k in before)
    net.params = {"dense_1.bias": np.full(4, 7.0)}
    net.params |= {"dense_2.bias": np.full(3, 8.0)}
    assert net.params["dense_1.bias"][0] == 7
    assert net.params["dense_2.bias"][0] == 8


def test_parameters_are_a_tree_like_any_dict():
    net = mlp(dtype="float64")

    def loss(params):
        return ops.mean(net.forward(params, net.state, np.ones((2, 2)))[0])

    of_own, of_plain = bl.grad(loss)(net.params), bl.grad(loss)(dict(net.params))
    assert list(of_own) == list(of_plain) == list(net.params)
    net.params = {k: v - 0.1 * of_own[k] for k, v in net.params.items()}
    bl.check_grads(loss, dict(net.params), order=2)


def test_what_was_compiled_sees_new_parameters():
    net, x = mlp(), np.ones((2, 2), np.float32)
    first = net(x)
    net.params["dense_2.bias"] = net.params["dense_2.bias"] + 1
    np.testing.assert_allclose(net(x), first + 1, rtol=1e-6)


# --- running ----------------------------------------------------------------------------------------------------------


def test_forward_gives_new_state_and_leaves_the_old():
    net = nn.Network([nn.BatchNorm()], (3,))
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    y, state = net.forward(net.params, net.state, x, training=True)
    assert abs(y.mean()) < 1e-6
    assert not np.array_equal(state["batchnorm_1.mean"], net.state["batchnorm_1.mean"])
    _, kept = net.forward(net.params, net.state, x)
    assert all(np.array_equal(kept[k], net.state[k]) for k in net.state)
    net.state = state
    assert np.array_equal(net.state["batchnorm_1.mean"], state["batchnorm_1.mean"])


def test_inference_takes_any_numbers_that_fit():
    net = mlp()
    for x in ([[1, 2]], np.ones((4, 2)), np.ones((4, 2), np.uint8), np.ones((4, 2), bool)):
        assert net(x).dtype == np.float32
    assert net(np.ones((0, 2))).shape == (0, 3)
    inner = bl.trace(lambda x: net(x), np.ones((4, 2), np.float32))
    assert "dense_2.z" in inner.names().values()


def test_wrong_input_is_refused():
    net = mlp()
    with pytest.raises(ShapeError, match=r"takes \(batch, 2\), and x has the shape \(2,\)") as e:
        net(np.ones(2))
    assert "x[None]" in str(e.value)
    with pytest.raises(ShapeError, match=r"layer dense_1 .*\(batch, 3\)") as e:
        net(np.ones((5, 3)))
    assert "made for inputs (batch, 2)" in str(e.value)
    with pytest.raises(DtypeError, match="float32 inputs, and x is str"):
        net(np.array([["a", "b"]]))
    with pytest.raises(StructureError, match=r"parameters lack 'dense_1\.bias'"):
        net.forward({k: v for k, v in net.params.items() if k != "dense_1.bias"}, {}, np.ones((1, 2), np.float32))
    with pytest.raises(StructureError, match="parameters have 'more'"):
        net.forward({**net.params, "more": 1.0}, {}, np.ones((1, 2), np.float32))


def test_python_cannot_look_at_traced_results():
    net = mlp()
    with pytest.raises(ControlFlowError):
        bl.trace(lambda x: float(ops.sum(net(x))), np.ones((2, 2), np.float32))


def test_wrong_networks_are_refused():
    for kwargs, message in [
        ({"input_shape": (0,)}, "is no shape of one example"),
        ({"input_shape": "ab"}, "is no shape of one example"),
        ({"input_shape": (2,), "dtype": "int32"}, "dtype='int32'"),
        ({"input_shape": (2,), "dtype": "float16"}, "dtype='float16'"),
    ]:
        with pytest.raises(SettingError, match=message):
            nn.Network([nn.Dense(2)], **kwargs)
    with pytest.raises(SettingError, match="'relu' is no layer"):
        nn.Network(["relu"], (2,))
    assert nn.Network([], 3)(np.ones((2, 3))).shape == (2, 3)


# --- configs ----------------------------------------------------------------------------------------------------------


@nn.register
def wave(x):
    return ops.sin(x)


def test_configs_hold_the_whole_definition():
    layers = [nn.Embedding(9, 4, padding=0), nn.Residual([nn.GRU(4, return_sequences=True)]), nn.GlobalAvgPool()]
    net = nn.Network([*layers, nn.Dense(3, wave, weight_init=np.eye(4, 3), bias_init=0.5)], (5,), 3, "float64")
    config = json.loads(json.dumps(net.config(), allow_nan=False))
    again = nn.Network.from_config(config)
    assert again.config() == net.config()
    assert again.input_type == net.input_type
    assert list(again.params) == list(net.params)
    assert all(np.array_equal(again.params[k], net.params[k]) for k in net.params)
    assert again.layers["dense_1"].activation is wave
    tokens = np.array([[1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(again(tokens), net(tokens))


def test_a_function_without_a_name_cannot_be_written():
    net = nn.Network([nn.Dense(3, lambda x: x)], (2,))
    with pytest.raises(SettingError, match=r"activation=<lambda> cannot be written.*\n?.*") as e:
        net.config()
    assert "nn.register" in str(e.value)


def spoiled(change):
    config = json.loads(json.dumps(mlp().config()))
    change(config)
    return config


HOSTILE = [
    (lambda c: c.pop("seed"), "has the entries"),
    (lambda c: c.update(extra=1), "has the entries"),
    (lambda c: c.update(layers="dense"), "a list of layers"),
    (lambda c: c.update(layers=["dense"]), "is no layer"),
    (lambda c: c["layers"][0].update(kind="os.system"), "unknown kind 'os.system'"),
    (lambda c: c["layers"][0].update(kind=["dense"]), "a kind is a name"),
    (lambda c: c["layers"][0].update(kind="layer"), "unknown kind 'layer'"),
    (lambda c: c["layers"][0].update(kind="normal"), "unknown kind 'normal'"),
    (lambda c: c["layers"][0].update(kind="_convolution"), "unknown kind"),
    (lambda c: c["layers"][0].update(shell="rm"), "Dense has no setting 'shell'"),
    (lambda c: c["layers"][0].pop("units"), "Dense needs units"),
    (lambda c: c["layers"][0].update(units="4"), "units is a whole number"),
    (lambda c: c["layers"][0].update(activation={"function": "eval"}), "there is no function 'eval'"),
    (lambda c: c["layers"][0].update(activation={"function": ["eval"]}), "there is no function"),
    (
        lambda c: c["layers"][0].update(weight_init={"kind": "dense", "units": 3}),
        "weight_init: Dense.* is no initialiser",
    ),
    (lambda c: c.update(dtype="object"), "dtype='object'"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=[m for _, m in HOSTILE])
def test_hostile_configs_are_refused(change, message):
    with pytest.raises(SettingError, match=message):
        nn.Network.from_config(spoiled(change))


def test_a_config_nested_without_end_is_refused():
    layer = {"kind": "sequential", "name": None, "layers": []}
    for _ in range(200):
        layer = {"kind": "sequential", "name": None, "layers": [layer]}
    with pytest.raises(SettingError, match="nested more than"):
        nn.Network.from_config(spoiled(lambda c: c.update(layers=[layer])))


sizes = st.integers(1, 4)
activations = st.sampled_from([None, "relu", "tanh", "softmax"])
leaf = st.one_of(
    st.builds(nn.Dense, sizes, activations, bias=st.booleans()),
    st.builds(nn.Activation, st.sampled_from(["gelu", "selu"])),
    st.builds(nn.Dropout, st.floats(0, 0.9)),
    st.just(nn.LayerNorm()),
    st.just(nn.BatchNorm()),
)
layer_lists = st.recursive(
    st.lists(leaf, max_size=3).map(tuple),
    lambda inner: st.one_of(
        inner.map(lambda layers: (nn.Sequential(layers), nn.Dense(3))),
        st.lists(inner, min_size=1, max_size=2).map(lambda branches: (nn.Concat(branches),)),
    ),
    max_leaves=4,
)


@given(layer_lists, sizes, st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_any_network_survives_json_and_runs_as_its_types_say(layers, features, seed):
    net = nn.Network(layers, (features,), seed)
    again = nn.Network.from_config(json.loads(json.dumps(net.config())))
    x = np.random.default_rng(0).standard_normal((2, features)).astype(np.float32)
    y = net(x)
    assert y.shape == (2, *net.output_type.shape)
    assert y.dtype == net.output_type.dtype
    np.testing.assert_array_equal(again(x), y)
    assert net.summary().parameters == sum(v.size for v in net.params.values())
