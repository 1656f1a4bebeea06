"""Settings are checked, and go to JSON and back."""

import json
from dataclasses import MISSING, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backlit import optim
from backlit.errors import SettingError
from backlit.settings import KINDS, Settings, kinds

BUILT_IN = {name: cls for name, cls in kinds(Settings).items() if cls.__module__.startswith("backlit.optim.")}

NEEDED = {  # the settings without which a kind cannot be made
    "constant": {"initial": 0.1},
    "stepdecay": {"initial": 0.1, "every": 3},
    "piecewise": {"rates": (0.1, 0.2), "boundaries": (5,)},
    "exponential": {"initial": 0.1, "factor": 0.5},
    "linear": {"initial": 0.1, "steps": 10},
    "cosine": {"initial": 0.1, "steps": 10},
    "onecycle": {"peak": 0.1, "steps": 10},
    "warmup": {"schedule": optim.Cosine(0.1, 10), "steps": 5},
    "ema": {"optimizer": optim.Adam(optim.Warmup(optim.Cosine(0.1, 10), 3))},
    "accumulate": {"optimizer": optim.EMA(optim.SGD(groups={"*.bias": {"frozen": True}})), "steps": 2},
    "lossscale": {"optimizer": optim.Accumulate(optim.EMA(optim.Adam()), 2)},
}


def example(kind):
    return BUILT_IN[kind](**NEEDED.get(kind, {}))


def test_the_registry_is_what_the_package_exports():
    classes = {c for c in vars(optim).values() if isinstance(c, type) and issubclass(c, Settings)}
    assert set(BUILT_IN.values()) == {c for c in classes if c not in (optim.Optimizer, optim.Descent, optim.Schedule)}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_kind_is_hashable_documented_and_goes_to_json_and_back(kind):
    settings = example(kind)
    assert hash(settings) == hash(example(kind))
    assert settings.__doc__
    assert "(" not in settings.__doc__.split("\n")[0][: len(type(settings).__name__) + 1], "a docstring of its own"
    described = json.loads(json.dumps(settings.config()))
    assert described["kind"] == kind
    if isinstance(settings, optim.Schedule):
        found = optim.from_config({"kind": "sgd", "learning_rate": described}).learning_rate
    else:
        found = optim.from_config(described)
    assert found == settings
    assert found.config() == settings.config()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_field_is_checked(kind):
    given = NEEDED.get(kind, {})
    for field in fields(BUILT_IN[kind]):
        for wrong in (object(), "0.1", float("nan"), float("inf"), -1.0, [[]], True if field.type != "bool" else 1):
            with pytest.raises(SettingError, match=field.name):
                BUILT_IN[kind](**(given | {field.name: wrong}))
        if field.default is not None and "None" not in field.type:
            with pytest.raises(SettingError, match=field.name):
                BUILT_IN[kind](**(given | {field.name: None}))


def test_bounds():
    for wrong in (1.0, 1.5, -0.1):
        with pytest.raises(
            SettingError, match=r"Adam: beta1 is .*: it must be (below 1|at least 0)\n.*test_settings\.py"
        ):
            optim.Adam(beta1=wrong)
    with pytest.raises(SettingError, match=r"clip_norm is 0.0: it must be above 0"):
        optim.Adam(clip_norm=0)
    with pytest.raises(SettingError, match="learning_rate is a function"):
        optim.Adam(lambda t: 0.1 / t)
    with pytest.raises(SettingError, match="1 boundaries part 2 rates"):
        optim.Piecewise([0.1], [5])
    with pytest.raises(SettingError, match="do not increase"):
        optim.Piecewise([0.1, 0.2, 0.3], [5, 5])
    with pytest.raises(SettingError, match="steps is 0: it must be at least 1"):
        optim.Cosine(0.1, 0)
    with pytest.raises(SettingError, match=r"steps is a whole number, not 1.5"):
        optim.Cosine(0.1, 1.5)


def test_numbers_are_kept_as_plain_floats():
    optimizer = optim.Adam(np.float32(0.5), beta1=0)
    assert type(optimizer.learning_rate) is float
    assert type(optimizer.beta1) is float
    assert type(optim.Cosine(1, np.int64(10)).steps) is int


@given(
    rate=st.floats(0, 1e3),
    decay=st.floats(0, 1, exclude_max=True),
    limit=st.none() | st.floats(1e-6, 1e6),
    groups=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.fixed_dictionaries({}, optional={"weight_decay": st.floats(0, 1), "frozen": st.booleans()}),
        max_size=3,
    ),
)
def test_any_adam_goes_to_json_and_back(rate, decay, limit, groups):
    optimizer = optim.EMA(optim.Adam(rate, beta1=decay, clip_norm=limit, groups=groups), decay)
    assert optim.from_config(json.loads(json.dumps(optimizer.config()))) == optimizer


def test_get():
    assert optim.get("adam") == optim.Adam()
    assert optim.get("AdamW", learning_rate=0.5) == optim.AdamW(0.5)
    adam = optim.Adam(0.1)
    assert optim.get(adam) is adam
    assert optim.get(adam, beta1=0.5) == optim.Adam(0.1, beta1=0.5)
    with pytest.raises(SettingError, match=r"unknown kind 'adamm'\n.*\n.*use one of .*adamax"):
        optim.get("adamm")
    with pytest.raises(SettingError, match=r"Adam has no setting 'lr'\n.*\n.*it has learning_rate"):
        optim.get("adam", lr=0.1)
    with pytest.raises(SettingError, match="has no setting 'lr'"):
        optim.get(adam, lr=0.1)
    with pytest.raises(SettingError, match="unknown kind 'cosine'"):
        optim.get("cosine")
    with pytest.raises(SettingError, match=r"a name or an optim.Optimizer, not 3"):
        optim.get(3)


def deep(n):
    return {"kind": "accumulate", "steps": 1, "optimizer": deep(n - 1)} if n else {"kind": "adam"}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "os.system"},
        {"kind": "descent"},
        {"kind": "optimizer"},
        {"kind": "settings"},
        {"kind": ["adam"]},
        {"kind": "cosine", "initial": 0.1, "steps": 3},
        {"kind": "adam", "__class__": "x"},
        {"kind": "adam", "step": 3},
        {"kind": "adam", "learning_rate": "0.1"},
        {"kind": "adam", "learning_rate": {"kind": "adam"}},
        {"kind": "adam", "learning_rate": {"kind": "cosine", "initial": 0.1}},
        {"kind": "adam", "groups": {"*": {"kind": "adam"}}},
        {"kind": "adam", "groups": [1, 2]},
        {"kind": "ema"},
        {"kind": "ema", "optimizer": {"kind": "cosine", "initial": 0.1, "steps": 3}},
        deep(2),
        deep(400),
        [],
        "adam",
        None,
    ],
    ids=lambda config: str(config)[:40],
)
def test_a_foreign_description_is_refused(config):
    with pytest.raises(SettingError):
        optim.from_config(config)


def test_two_modules_cannot_share_a_name():
    name = "Adam"
    with pytest.raises(SettingError, match=r"the name Adam is taken, by backlit\.optim\.adam"):
        type(name, (optim.Descent,), {})
    assert KINDS["adam"] is optim.Adam


def test_required_settings_are_those_without_default():
    for kind, cls in BUILT_IN.items():
        assert {f.name for f in fields(cls) if f.default is MISSING} == set(NEEDED.get(kind, {}))
