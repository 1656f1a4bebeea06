"""Settings as such: plain fields, functions by name, and classes that take each other's place.

The settings of layers, losses and optimisers are tested beside these.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import backlit.nn  # registers the activations  # noqa: F401
from backlit import ops
from backlit.errors import SettingError
from backlit.settings import (
    FUNCTIONS,
    KINDS,
    Settings,
    choice,
    flag,
    function,
    kinds,
    number,
    numbers,
    register,
    revived,
    whole,
    wholes,
)


@pytest.fixture(autouse=True)
def own_registries():
    before = dict(KINDS), dict(FUNCTIONS)
    yield
    for registry, old in zip((KINDS, FUNCTIONS), before, strict=True):
        registry.clear()
        registry.update(old)


def make():
    @dataclass(frozen=True)
    class Sample(Settings):
        anything: Any = None
        rate: float = number(0.5, above=0)
        limit: float | None = number(2.0, optional=True)
        rates: tuple[float, ...] | None = numbers(None)
        count: int = whole(1, at_least=1)
        size: int | tuple[int, ...] = wholes(2, at_least=1)
        on: bool = flag(True)
        how: str = choice("sum", "mean")

    return Sample


def again(settings):
    return revived(json.loads(json.dumps(settings.config(), allow_nan=False)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"anything": [[1, 2.5], ["a", None]]},
        {"anything": {"a": [1, {"b": True}]}},
        {"limit": None, "rates": [1, 2], "size": [3, 4], "how": "mean", "on": np.bool_(False)},
        {"rate": np.float32(0.25), "count": np.int64(3), "anything": np.float64(1.5)},
    ],
)
def test_settings_go_to_json_and_back(given):
    settings = make()(**given)
    assert again(settings) == settings


def test_what_can_change_is_kept_as_what_cannot():
    sample = make()
    mine = [[1, 2], [3]]
    settings = sample(mine)
    mine[0].append(9)
    assert settings.anything == ((1, 2), (3,))
    assert hash(settings) == hash(sample([[1, 2], [3]]))
    assert sample(np.eye(2)) == sample([[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0}, "Sample: rate is 0.0: it must be above 0.0"),
        ({"rate": None}, "rate is a number, not None"),
        ({"rate": True}, "rate is a number, not True"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rates": 3}, "rates is a list of numbers"),
        ({"count": 1.0}, "count is a whole number, not 1.0"),
        ({"count": True}, "count is a whole number"),
        ({"size": [1, 0]}, "size is 0: it must be at least 1"),
        ({"on": 1}, "on is True or False, not 1"),
        ({"how": "max"}, "how is 'max'"),
    ],
)
def test_wrong_values_are_refused(given, message):
    with pytest.raises(SettingError, match=message.replace("0.0", "0(.0)?")):
        make()(**given)


def test_functions_are_written_by_name():
    @register
    def wave(x):
        return x

    sample = make()
    assert sample(wave).config()["anything"] == {"function": "wave"}
    assert again(sample([wave, ops.tanh])).anything == (wave, ops.tanh)
    with pytest.raises(SettingError, match="anything=<lambda> cannot be written"):
        sample(lambda x: x).config()
    with pytest.raises(SettingError, match=r"anything=.*object.* cannot be written"):
        sample(object()).config()
    with pytest.raises(SettingError, match=r"there is no function 'os\.system'"):
        function("os.system")


def test_a_function_registered_again_counts_and_backlits_own_stay():
    for number_ in (1, 2):

        @register
        def wave(x, number_=number_):
            return number_

    assert function("wave")(0) == 2
    assert function("tanh") is ops.tanh

    with pytest.raises(SettingError, match="there is a function 'gelu' already"):

        @register
        def gelu(x):
            return x


def test_a_class_defined_again_counts():
    first, second = make(), make()
    assert first is not second
    assert type(again(first())) is second


def test_only_classes_that_can_be_made_are_found():
    class Abstract(Settings):
        pass

    assert "settings" not in kinds(Settings)
    for config, message in [
        ({"kind": "nothing"}, "unknown kind 'nothing'"),
        ({"kind": 3}, "a kind is a name, not 3"),
        ({"kind": "abstract"}, "unknown kind 'abstract'"),
        ({"kind": "sample", "more": 1}, "Sample has no setting 'more'"),
        ({"kind": "sample", "anything": {"function": "exec"}}, "there is no function 'exec'"),
    ]:
        make()
        with pytest.raises(SettingError, match=message):
            revived(config)


def test_the_base_is_held_to():
    class Family(Settings):
        pass

    @dataclass(frozen=True)
    class Member(Family):
        inner: Any = None

    make()
    assert revived({"kind": "member", "inner": {"kind": "sample"}}, Family).inner == KINDS["sample"]()
    with pytest.raises(SettingError, match="unknown kind 'sample'"):
        revived({"kind": "sample"}, Family)
