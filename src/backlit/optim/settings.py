"""Settings: frozen dataclasses that check their fields when they are made, and that go to JSON and back.

Optimisers, wrappers around them and schedules are all of this kind. Each field is declared with what it may be
(`number(0.9, at_least=0, below=1)`), so a wrong learning rate is refused where it is written, also when that is a file.
`config()` gives plain dicts, lists, numbers, strings and booleans; `revived` builds the object again, and makes nothing
but registered classes from checked values. A subclass registers itself under its name in lower case.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from backlit.errors import SettingError

Check = Callable[[str, Any], Any]
"""(the field's name, the value given) -> the value kept; raises SettingError."""

KINDS: dict[str, type[Settings]] = {}
"""Every class of settings by its name in lower case, abstract ones included."""

_DEEPEST = 16  # how far settings may be nested in a file


class Settings:
    """Base of frozen dataclasses whose fields are declared with `setting`, `number`, `whole` or `flag`.

    A field declared in the plain way is not checked.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taken = KINDS.get(kind_of(cls))
        if taken is not None and taken.__module__ != cls.__module__:  # running a notebook cell again is no conflict
            raise SettingError(f"the name {cls.__name__} is taken, by {taken.__module__}", fix="choose another name")
        KINDS[kind_of(cls)] = cls

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            check = f.metadata.get("check")
            if check is not None:
                try:
                    object.__setattr__(self, f.name, check(f.name, getattr(self, f.name)))
                except SettingError as e:
                    raise e.within(type(self).__name__, ()) from None

    def config(self) -> dict[str, Any]:
        """The kind and all settings as plain data that JSON can hold; `optim.from_config` is its inverse."""
        return {"kind": kind_of(type(self))} | {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)  # type: ignore[arg-type]
        }


def kind_of(cls: type[Settings]) -> str:
    """The name under which a class is registered."""
    return cls.__name__.lower()


def kinds(base: type[Any]) -> dict[str, type[Any]]:
    """The classes that can be made, of those that are a `base`, by name."""
    return {k: c for k, c in KINDS.items() if issubclass(c, base) and not inspect.isabstract(c)}


def make(kind: str, base: type[Any], given: Mapping[str, Any]) -> Any:
    """The settings of that kind, which is a `base`.

    Raises SettingError for an unknown kind, a setting that it does not have, and one that it needs.
    """
    known = kinds(base)
    cls = known.get(kind.lower())
    if cls is None:
        raise SettingError(f"unknown kind {kind!r}", fix=f"use one of {', '.join(known)}")
    refuse_unknown(cls, given)
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in given]
    if missing:
        raise SettingError(f"{cls.__name__} needs {', '.join(missing)}")
    return cls(**given)


def refuse_unknown(cls: type[Settings], given: Mapping[str, Any]) -> None:
    """Raise SettingError if `given` names something that is no setting of the class."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            raise SettingError(f"{cls.__name__} has no setting {name!r}", fix=f"it has {', '.join(names)}")


def revived(value: Any, depth: int = 0) -> Any:
    """The inverse of `config()`: dicts with a "kind" become settings, lists become tuples."""
    if depth > _DEEPEST:
        raise SettingError(f"settings are nested more than {_DEEPEST} deep")
    match value:
        case Mapping() if "kind" in value:
            if not isinstance(value["kind"], str):
                raise SettingError(f"a kind is a name, not {value['kind']!r}")
            return make(value["kind"], Settings, {k: revived(v, depth + 1) for k, v in value.items() if k != "kind"})
        case Mapping():
            return {k: revived(v, depth + 1) for k, v in value.items()}
        case list() | tuple():
            return tuple(revived(v, depth + 1) for v in value)
    return value


def _plain(value: Any) -> Any:
    match value:
        case Settings():
            return value.config()
        case Mapping():
            return {k: _plain(v) for k, v in value.items()}
        case tuple():
            return [_plain(v) for v in value]
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Declarations of fields


def setting(check: Check, default: Any = MISSING, **kwargs: Any) -> Any:
    """A field whose value passes through `check`."""
    return field(default=default, metadata={"check": check}, **kwargs)


def number(
    default: Any = MISSING,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    optional: bool = False,
) -> Any:
    """A field that holds a finite number within bounds, kept as a float; or None, where it is `optional`."""

    def check(name: str, value: Any) -> float | None:
        if value is None and optional:
            return None
        return checked_number(name, value, above=above, at_least=at_least, below=below, at_most=at_most)

    return setting(check, default)


def numbers(*, above: float = -math.inf, at_least: float = -math.inf) -> Any:
    """A field that holds several numbers, kept as a tuple of floats."""

    def check(name: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list | tuple):
            raise SettingError(f"{name} is a list of numbers, not {value!r}")
        return tuple(checked_number(name, v, above=above, at_least=at_least) for v in value)

    return setting(check)


def whole(default: Any = MISSING, *, at_least: int = 0) -> Any:
    """A field that holds a whole number."""

    def check(name: str, value: Any) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise SettingError(f"{name} is a whole number, not {value!r}")
        if value < at_least:
            raise SettingError(f"{name} is {value}: it must be at least {at_least}")
        return int(value)

    return setting(check, default)


def flag(default: bool) -> Any:
    """A field that holds True or False."""

    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise SettingError(f"{name} is True or False, not {value!r}")
        return bool(value)

    return setting(check, default)


def checked_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """The value as a float. Raises SettingError if it is no number, not finite, or out of bounds."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SettingError(f"{name} is a number, not {value!r}")
    found = float(value)
    bounds = [
        (found > above, f"above {above}"),
        (found >= at_least, f"at least {at_least}"),
        (found < below, f"below {below}"),
        (found <= at_most, f"at most {at_most}"),
        (math.isfinite(found), "finite"),
    ]
    wrong = [f"it must be {words}" for holds, words in bounds if not holds]
    if wrong:
        raise SettingError(f"{name} is {found}: {wrong[0]}")
    return found
