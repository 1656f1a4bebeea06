"""What all optimisers share: states, compiled loops, groups, the learning rate, and what they refuse."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import backlit as bl
from backlit import ops, optim
from backlit.errors import DtypeError, SettingError, ShapeError, StructureError
from backlit.executors import get as executor
from backlit.ops.record import OPS
from backlit.pytree import flatten, unflatten
from backlit.settings import kinds

RULES = kinds(optim.Descent)
VARIANTS = {name: cls() for name, cls in RULES.items() if cls.__module__.startswith("backlit.")} | {
    "all at once": optim.AdamW(
        optim.Warmup(optim.OneCycle(0.05, 12), 3),
        clip_value=0.5,
        clip_norm=0.4,
        clip_global_norm=0.3,
        groups={"*.bias": {"weight_decay": 0.0, "learning_rate": 0.1}},
    ),
    "frozen": optim.RMSProp(centered=True, momentum=0.5, groups={"dense_2.*": {"frozen": True}}),
    "average": optim.EMA(optim.Momentum(0.1), 0.8),
    "accumulated": optim.Accumulate(optim.EMA(optim.Adam(0.1), 0.8, bias_correction=False), 3),
}

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 1))


def parameters(dtype=np.float64):
    rng = np.random.default_rng(1)
    shapes = {"dense_1.weight": (3, 4), "dense_1.bias": (4,), "dense_2.weight": (4, 1), "dense_2.bias": (1,)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def loss(p, x, y):
    h = ops.tanh(x @ p["dense_1.weight"] + p["dense_1.bias"])
    return ops.mean((h @ p["dense_2.weight"] + p["dense_2.bias"] - y) ** 2)


def ones(params):
    return {name: np.ones_like(theta) for name, theta in params.items()}


@pytest.mark.parametrize("program", ["reference", "native"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_compiled_loop_is_the_same_as_stepping_by_hand(name, program):
    optimizer = VARIANTS[name]

    def step(params, state, x, y):
        value, gradients = bl.value_and_grad(loss)(params, x, y)
        return (*optimizer.update(gradients, state, params), value)

    params, state = parameters(), optimizer.init(parameters())
    rows = RNG.integers(0, len(X), size=(8, 5))
    graph = bl.trace(step, params, state, X[:5], Y[:5])
    carry, _, structure = flatten((params, state))
    run = executor(program).compile_loop(graph, carry=len(carry), rows=2)
    looped, (values,) = run(carry, [X, Y], rows)
    looped_params, looped_state = unflatten(structure, looped)

    for t, chosen in enumerate(rows):
        np.testing.assert_allclose(values[t], loss(params, X[chosen], Y[chosen]), rtol=1e-12)
        params, state = optimizer.update(bl.grad(loss)(params, X[chosen], Y[chosen]), state, params)
    for found, wanted in ((looped_params, params), (looped_state, state)):
        for a, b, path in zip(flatten(found)[0], *flatten(wanted)[:2], strict=True):
            assert np.asarray(b).dtype == a.dtype, path
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14, err_msg=path)
    assert not np.array_equal(params["dense_1.weight"], parameters()["dense_1.weight"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_dtypes_are_kept(name, dtype):
    optimizer = RULES[name]()
    params = parameters(dtype) | {"wide": np.ones(2)}
    state = optimizer.init(params)
    assert state["step"].dtype == np.uint32
    assert state["step"].shape == state["scale"].shape == ()
    assert state["scale"].dtype == np.float64, "the widest of the parameters"
    new, new_state = bl.compile(optimizer.update)(ones(params), state, params)
    assert new_state["step"] == 1
    for a, b, path in zip(flatten((new, new_state))[0], *flatten((params, state))[:2], strict=True):
        assert a.dtype == b.dtype, path
        assert np.isfinite(a).all(), path
    assert (new["wide"] < params["wide"]).all(), "down the gradient"


@pytest.mark.parametrize("name", RULES)
def test_arguments_are_left_alone(name):
    optimizer = RULES[name]()
    params = parameters()
    gradients, state = ones(params), optimizer.init(params)
    before = [np.array(leaf) for leaf in flatten((gradients, state, params))[0]]
    optimizer.update(gradients, state, params)
    after = flatten((gradients, state, params))[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_zero_gradients_move_nothing_and_give_no_nan(name):
    params = parameters()
    optimizer = RULES[name](weight_decay=0.0)
    gradients = {k: np.zeros_like(v) for k, v in params.items()}
    new, _ = optimizer.update(gradients, optimizer.init(params), params)
    for k, v in params.items():
        np.testing.assert_array_equal(new[k], v)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_billionth_step_is_finite(name, dtype):
    params = parameters(dtype)
    optimizer = RULES[name]()
    state = optimizer.init(params) | {"step": np.asarray(4_000_000_000, np.uint32)}
    new, state = optimizer.update(ones(params), state, params)
    assert state["step"] == 4_000_000_001
    assert all(np.isfinite(v).all() for v in new.values())


def test_adam_far_on_has_no_correction_left():
    params = {"w": np.asarray(1.0)}
    optimizer = optim.Adam(0.1, epsilon=0.0)
    state = optimizer.init(params) | {"step": np.asarray(10**6, np.uint32)}
    new, state = optimizer.update({"w": np.asarray(1.0)}, state, params)
    assert new["w"] == pytest.approx(1 - 0.1 * 0.1 / np.sqrt(0.001), rel=1e-12)


def test_adam_reads_like_its_algorithm():
    params = {"w": np.ones((2, 2), np.float32)}
    optimizer = optim.Adam(0.5)
    graph = bl.trace(optimizer.update, params, optimizer.init(params), params)
    names = graph.names()
    formulas = {names[n]: formula(n, names) for n in graph.nodes if not names[n].startswith("%") and n.op != "input"}
    assert formulas == {
        "step": "(state.step + 1)",
        "t": "cast(step)",
        "alpha": "(state.scale * 0.5)",
        "w.m": "((0.9 * state.m.w) + (0.1 * gradients.w))",
        "w.v": "((0.999 * state.v.w) + (0.001 * (gradients.w * gradients.w)))",
        "w.m_hat": "(w.m / (1 - (0.9 ^ t)))",
        "w.v_hat": "(w.v / (1 - (0.999 ^ t)))",
        "w.theta": "(params.w - ((alpha * w.m_hat) / (sqrt(w.v_hat) + 1e-08)))",
    }


def formula(node, names, top=True):
    if node.op == "constant":
        return f"{float(node.params['value']):.6g}"
    if not top and not names[node].startswith("%"):
        return names[node]
    inner = [formula(i, names, False) for i in node.inputs]
    glyph = OPS[node.op].notation
    return f"({inner[0]} {glyph.glyph} {inner[1]})" if glyph.form == "infix" else f"{glyph.glyph}({', '.join(inner)})"


@pytest.mark.parametrize(
    "tree",
    [np.ones(3), {"a": {"b": np.ones(2), "c": [np.ones(1), np.ones(())]}}, [np.ones(2), (np.ones(3),)]],
    ids=["array", "nested", "list"],
)
def test_parameters_may_be_any_tree(tree):
    optimizer = optim.Momentum(0.25)
    new, state = bl.compile(optimizer.update)(tree, optimizer.init(tree), tree)
    leaves, _, structure = flatten(new)
    assert structure == flatten(tree)[2]
    assert all(np.array_equal(leaf, np.full(leaf.shape, 0.75)) for leaf in leaves)
    again, _ = bl.compile(optimizer.update)(tree, state, new)
    assert all(np.allclose(leaf, 0.75 - 0.25 * 1.9) for leaf in flatten(again)[0])


# --- the learning rate ------------------------------------------------------------------------------------------------


def test_scale_changes_the_rate_without_compiling_again():
    params = parameters()
    optimizer = optim.SGD(optim.Linear(1.0, 10))
    update = bl.compile(optimizer.update, "reference")
    state = optimizer.init(params)
    assert optimizer.rate(state) == 1.0
    first, state = update(ones(params), state, params)
    np.testing.assert_allclose(params["dense_1.bias"] - first["dense_1.bias"], 1.0)
    assert optimizer.rate(state) == pytest.approx(0.9)
    state = state | {"scale": state["scale"] * 0.5}
    assert optimizer.rate(state) == pytest.approx(0.45)
    second, state = update(ones(params), state, first)
    np.testing.assert_allclose(first["dense_1.bias"] - second["dense_1.bias"], 0.45)
    assert len(update.graphs) == 1


def test_another_learning_rate():
    optimizer = optim.Accumulate(optim.EMA(optim.Adam(0.1, beta1=0.5)), 2)
    found = optimizer.with_learning_rate(optim.Exponential(1.0, 0.5))
    state = found.init(parameters())
    assert found.rate(state) == 1.0
    assert found.rate(state | {"step": np.asarray(2, np.uint32)}) == 0.25
    assert found == optim.Accumulate(optim.EMA(optim.Adam(optim.Exponential(1.0, 0.5), beta1=0.5)), 2)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_change_settings_of_some_parameters():
    params = parameters()
    groups = {"*.bias": {"weight_decay": 0.0}, "dense_2.*": {"learning_rate": 1.0}, "dense_?.bias": {"clip_value": 0.5}}
    optimizer = optim.SGD(0.1, weight_decay=0.1, groups=groups)
    new, _ = optimizer.update(ones(params), optimizer.init(params), params)
    moved = {k: params[k] - new[k] for k in params}
    np.testing.assert_allclose(moved["dense_1.weight"], 0.1 * (1 + 0.1 * params["dense_1.weight"]))
    np.testing.assert_allclose(moved["dense_1.bias"], 0.1 * 0.5)
    np.testing.assert_allclose(moved["dense_2.weight"], 1.0 * (1 + 0.1 * params["dense_2.weight"]))
    np.testing.assert_allclose(moved["dense_2.bias"], 1.0 * 0.5)


def test_the_later_of_two_groups_counts():
    params = parameters()
    first = optim.SGD(groups={"*": {"learning_rate": 1.0}, "*.bias": {"learning_rate": 2.0}})
    last = optim.SGD(groups={"*.bias": {"learning_rate": 2.0}, "*": {"learning_rate": 1.0}})
    for optimizer, rate in ((first, 2.0), (last, 1.0)):
        new, _ = optimizer.update(ones(params), optimizer.init(params), params)
        np.testing.assert_allclose(params["dense_1.bias"] - new["dense_1.bias"], rate)


def test_frozen_parameters_stay_and_count_nowhere():
    params = parameters()
    frozen = optim.Adam(1.0, clip_global_norm=1.0, groups={"dense_1.*": {"frozen": True}})
    state = frozen.init(params)
    assert list(state["m"]) == ["dense_2.weight", "dense_2.bias"]
    assert [frozen.trains(name) for name in params] == [False, False, True, True]
    gradients = ones(params) | {"dense_1.weight": np.full((3, 4), np.nan)}
    new, state = frozen.update(gradients, state, params)
    np.testing.assert_array_equal(new["dense_1.weight"], params["dense_1.weight"])
    np.testing.assert_allclose(state["m"]["dense_2.bias"], 0.1 / np.sqrt(5))  # the norm of 4 + 1 ones
    some = {k: v for k, v in gradients.items() if k.startswith("dense_2")}
    again, _ = frozen.update(some, frozen.init(params), params)
    np.testing.assert_array_equal(again["dense_2.weight"], new["dense_2.weight"])


def test_everything_frozen():
    params = parameters()
    optimizer = optim.Adam(clip_global_norm=1.0, groups={"*": {"frozen": True}})
    new, state = bl.compile(optimizer.update)({}, optimizer.init(params), params)
    assert state["step"] == 1
    assert all(np.array_equal(new[k], v) for k, v in params.items())


def test_a_pattern_is_no_regular_expression():
    params = {"layers[0].w": np.ones(1), "layersX0Y.w": np.ones(1)}
    optimizer = optim.SGD(groups={"layers[0].*": {"frozen": True}})
    optimizer.init(params)
    assert [optimizer.trains(name) for name in params] == [False, True]


def test_a_group_without_parameters_is_a_mistake():
    with pytest.raises(SettingError, match=r"'\*.bais' has no parameters\n.*\n.*dense_1.bias"):
        optim.SGD(groups={"*.bais": {"frozen": True}}).init(parameters())


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"*": {"weight_decai": 0.0}}, "no setting 'weight_decai'"),
        ({"*": {"weight_decay": -1.0}}, "at least 0"),
        ({"*": {"clip_global_norm": 1.0}}, "all parameters together"),
        ({"*": {"frozen": 1}}, "True or False"),
        ({"*": 0.1}, "dict of dicts"),
        (["*"], "dict of dicts"),
    ],
)
def test_groups_are_checked_when_they_are_written(groups, words):
    with pytest.raises(SettingError, match=words):
        optim.SGD(groups=groups)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    params = parameters()
    optimizer = optim.Adam()
    state = optimizer.init(params)
    with pytest.raises(DtypeError, match=r"'w' is i64\[2\]"):
        optimizer.init({"w": np.array([1, 2])})
    with pytest.raises(StructureError, match=r"no gradient of the parameter 'dense_2\.bias'"):
        optimizer.update({k: v for k, v in params.items() if k != "dense_2.bias"}, state, params)
    with pytest.raises(StructureError, match="gradient but no parameter 'other'"):
        optimizer.update(params | {"other": np.ones(2)}, state, params)
    with pytest.raises(ShapeError, match=r"'dense_1\.weight' is f64\[4\], not f64\[3,4\]"):
        optimizer.update(params | {"dense_1.weight": np.ones(4)}, state, params)
    with pytest.raises(StructureError, match=r"no 'v' of the parameter 'dense_1\.weight'\n(.*\n)?.*optimizer\.init"):
        optimizer.update(params, optim.Lion().init(params), params)
    with pytest.raises(StructureError, match="the same name"):
        optimizer.init({"a.b": np.ones(1), "a": {"b": np.ones(1)}})


def test_overflow_is_quiet_and_shows():
    params = {"w": np.ones(2, np.float32)}
    optimizer = optim.Adam(clip_global_norm=1.0)
    new, _ = optimizer.update({"w": np.array([np.inf, 1.0], np.float32)}, optimizer.init(params), params)
    assert np.isnan(new["w"][0])


# --- a rule of one's own ----------------------------------------------------------------------------------------------


def test_a_rule_of_ones_own():
    @dataclass(frozen=True)
    class SignDescent(optim.Descent):
        """θ ← θ - α sign(g)."""

        sharpness: float = 1.0

        def step(self, g, theta, alpha, t):
            theta = theta - alpha * ops.sign(self.sharpness * g)
            return theta, {}

    optimizer = optim.get("signdescent", learning_rate=0.5, weight_decay=0.0, groups={"*.bias": {"frozen": True}})
    assert isinstance(optimizer, SignDescent)
    assert optim.from_config(optimizer.config()) == optimizer == replace(optimizer)
    params = parameters()
    new, _ = bl.compile(optimizer.update)(ones(params), optimizer.init(params), params)
    np.testing.assert_allclose(new["dense_1.weight"], params["dense_1.weight"] - 0.5)
