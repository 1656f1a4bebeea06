"""Settings: frozen dataclasses that check their fields when they are made, and that go to JSON and back.

Layers, initialisers, losses, metrics, optimisers and schedules are all of this kind. A field is declared with what it
may be (`number(0.5, at_least=0, below=1)`), so a wrong value is refused where it is written, and so is one that comes
from a file; a field declared plainly takes anything. `config()` gives plain dicts, lists, numbers, strings and
booleans; `revived` builds the object again. It makes nothing but registered classes and finds nothing but registered
functions: a file can name them, never define them.

A class registers itself under its name in lower case as soon as it is defined. Names of backlit's own classes are
taken; of two classes of the user's with one name the later counts, so that a notebook cell can run again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from backlit.errors import SettingError
from backlit.sites import is_own

Check = Callable[[str, Any], Any]
"""(the field's name, the value given) -> the value kept; raises SettingError."""

KINDS: dict[str, type[Settings]] = {}
"""Every class of settings by its name in lower case, abstract ones included."""

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions that a file may name: activations, and what the user registers."""

_DEEPEST = 64  # how far settings may be nested in a file
_F = TypeVar("_F", bound=Callable[..., Any])


class Settings:
    """Base of frozen dataclasses that are registered, checked, and go to JSON and back."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        taken = KINDS.get(kind_of(cls))
        if taken is not None and is_own(taken) and taken.__module__ != cls.__module__:
            raise SettingError(f"the name {cls.__name__} is taken, by {taken.__module__}", fix="choose another name")
        KINDS[kind_of(cls)] = cls

    def __post_init__(self) -> None:
        if not _is_dataclass(type(self)):
            raise SettingError(
                f"{type(self).__name__} is no dataclass", fix="put @dataclass(frozen=True) above the class"
            )
        for f in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            check = f.metadata.get("check", _plain)
            try:
                value = check(f.name, getattr(self, f.name))
            except SettingError as e:
                raise e.within(type(self).__name__, ()) from None
            object.__setattr__(self, f.name, value)

    def config(self) -> dict[str, Any]:
        """The kind and all settings as plain data that JSON can hold; `revived` is its inverse."""
        found = {f.name: _written(getattr(self, f.name), f.name) for f in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses
        return {"kind": kind_of(type(self))} | found

    def description(self) -> str | None:
        """All that this is, as text: with one version of backlit, equal texts do the same.

        None where a class, a method or a function of somebody else's takes part, as their code may change.
        """
        try:
            written = repr(self.config())
        except SettingError:
            return None
        return written if _is_known(self) else None


def _is_known(value: Any) -> bool:
    """Whether the value, and all that it holds, is plain data or the settings of a class as backlit wrote it."""
    match value:
        case Settings():
            methods = [m for c in type(value).__mro__ for m in vars(c).values() if inspect.isfunction(m)]
            if not all(is_own(m) for m in (type(value), *methods)):
                return False
            return all(_is_known(getattr(value, f.name)) for f in fields(value))  # type: ignore[arg-type]  # subclasses are dataclasses
        case Mapping():
            return all(_is_known(v) for v in value.values())
        case tuple() | list():
            return all(map(_is_known, value))
    return not callable(value)


def _is_dataclass(cls: type) -> bool:
    """Whether the class itself is one, and not just a class that it is made from."""
    return "__dataclass_params__" in vars(cls)


def kind_of(cls: type[Settings]) -> str:
    """The name under which a class is registered."""
    return cls.__name__.lower()


def kinds(base: type[Any]) -> dict[str, type[Any]]:
    """The classes that can be made, of those that are a `base`, by name."""
    return {
        k: c
        for k, c in KINDS.items()
        if issubclass(c, base) and not inspect.isabstract(c) and _is_dataclass(c) and not k.startswith("_")
    }


def make(kind: str, base: type[Any], given: Mapping[str, Any]) -> Any:
    """The settings of that kind, which is a `base`.

    Raises SettingError for an unknown kind, a setting that it does not have, and one that it needs.
    """
    known = kinds(base)
    cls = known.get(kind.lower())
    if cls is None:
        raise SettingError(
            f"unknown kind {kind!r}",
            fix=f"use one of {', '.join(known)}; a class of your own must be imported before a file can name it",
        )
    refuse_unknown(cls, given)
    missing = [f.name for f in fields(cls) if _is_required(f) and f.name not in given]
    if missing:
        raise SettingError(f"{cls.__name__} needs {', '.join(missing)}")
    return cls(**given)


def _is_required(f: Any) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def refuse_unknown(cls: type[Settings], given: Mapping[str, Any]) -> None:
    """Raise SettingError if `given` names something that is no setting of the class."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
    for name in given:
        if name not in names:
            raise SettingError(f"{cls.__name__} has no setting {name!r}", fix=f"it has {', '.join(names)}")


def revived(value: Any, base: type[Settings] = Settings, depth: int = 0) -> Any:
    """The inverse of `config()`: dicts with a "kind" become settings, with a "function" functions, lists tuples.

    The outermost must be a `base`. Raises SettingError for everything that `config()` would not have written.
    """
    if depth > _DEEPEST:
        raise SettingError(f"settings are nested more than {_DEEPEST} deep")
    match value:
        case Mapping() if "kind" in value:
            if not isinstance(value["kind"], str):
                raise SettingError(f"a kind is a name, not {value['kind']!r}")
            given = {k: revived(v, Settings, depth + 1) for k, v in value.items() if k != "kind"}
            return make(value["kind"], base, given)
        case Mapping() if "function" in value:
            return function(value["function"])
        case Mapping():
            return {k: revived(v, Settings, depth + 1) for k, v in value.items()}
        case list() | tuple():
            return tuple(revived(v, Settings, depth + 1) for v in value)
    return value


def _written(value: Any, where: str) -> Any:
    """A value as plain data."""
    match value:
        case Settings():
            return value.config()
        case Mapping():
            return {k: _written(v, where) for k, v in value.items()}
        case tuple() | list():
            return [_written(v, where) for v in value]
        case None | bool() | int() | float() | str():
            return value
    for name, f in FUNCTIONS.items():
        if f is value:
            return {"function": name}
    what = getattr(value, "__name__", None) or repr(value)
    raise SettingError(
        f"{where}={what} cannot be written to a file",
        fix="give the function a name that files can use: put @backlit.nn.register above it"
        if callable(value)
        else "use numbers, strings, booleans, lists, layers and registered functions",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Functions


def register(f: _F) -> _F:
    """A decorator: files, and arguments such as `activation=`, may name the function from now on.

    Raises SettingError if backlit has a function of that name.
    """
    taken = FUNCTIONS.get(f.__name__)
    if taken is not None and taken is not f and is_own(taken):
        raise SettingError(f"there is a function {f.__name__!r} already", fix="choose another name")
    FUNCTIONS[f.__name__] = f
    return f


def function(name: Any) -> Callable[..., Any]:
    """The registered function of that name. Raises SettingError if there is none."""
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise SettingError(
            f"there is no function {name!r}",
            fix=f"use one of {', '.join(FUNCTIONS)}, or put @backlit.nn.register above a function of your own",
        )
    return FUNCTIONS[name]


# ---------------------------------------------------------------------------------------------------------------------
# Declarations of fields


def setting(check: Check, default: Any = MISSING, **kwargs: Any) -> Any:
    """A field whose value passes through `check`."""
    return field(default=default, metadata={"check": check}, **kwargs)


def _plain(name: str, value: Any) -> Any:
    """Lists and arrays as tuples, which cannot change."""
    match value:
        case np.ndarray():
            return _plain(name, value.tolist())
        case list() | tuple():
            return tuple(_plain(name, v) for v in value)
        case Mapping():
            return {k: _plain(name, v) for k, v in value.items()}
        case np.generic():
            return value.item()
    return value


def number(
    default: Any = MISSING,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    optional: bool = False,
) -> Any:
    """A field that holds a finite number within bounds, kept as a float; None as well if `optional` or the default."""

    def check(name: str, value: Any) -> float | None:
        if value is None and (optional or default is None):
            return None
        return checked_number(name, value, above=above, at_least=at_least, below=below, at_most=at_most)

    return setting(check, default)


def numbers(default: Any = MISSING, *, above: float = -math.inf, at_least: float = -math.inf) -> Any:
    """A field that holds several numbers, kept as a tuple of floats; None as well if that is the default."""

    def check(name: str, value: Any) -> tuple[float, ...] | None:
        if value is None and default is None:
            return None
        if not isinstance(value, list | tuple | np.ndarray):
            raise SettingError(f"{name} is a list of numbers, not {value!r}")
        return tuple(checked_number(name, v, above=above, at_least=at_least) for v in value)

    return setting(check, default)


def whole(default: Any = MISSING, *, at_least: int | None = 0) -> Any:
    """A field that holds a whole number, of any sign with `at_least=None`; None as well if that is the default."""

    def check(name: str, value: Any) -> int | None:
        return None if value is None and default is None else checked_whole(name, value, at_least=at_least)

    return setting(check, default)


def wholes(default: Any = MISSING, *, at_least: int = 0) -> Any:
    """A field that holds a whole number or several, kept as an int or a tuple; None as well if that is the default."""

    def check(name: str, value: Any) -> int | tuple[int, ...] | None:
        if value is None and default is None:
            return None
        if isinstance(value, list | tuple):
            return tuple(checked_whole(name, v, at_least=at_least) for v in value)
        return checked_whole(name, value, at_least=at_least)

    return setting(check, default)


def flag(default: bool) -> Any:
    """A field that holds True or False."""

    def check(name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise SettingError(f"{name} is True or False, not {value!r}")
        return bool(value)

    return setting(check, default)


def choice(default: str, *options: str) -> Any:
    """A field that holds one of a few words."""

    def check(name: str, value: Any) -> str:
        if value not in (default, *options):
            raise SettingError(f"{name} is {value!r}", fix=f"use one of {', '.join((default, *options))}")
        return str(value)

    return setting(check, default)


def checked_whole(name: str, value: Any, *, at_least: int | None = 0) -> int:
    """The value as an int. Raises SettingError if it is no whole number, or too small."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise SettingError(f"{name} is a whole number, not {value!r}")
    if at_least is not None and value < at_least:
        raise SettingError(f"{name} is {value}: it must be at least {at_least}")
    return int(value)


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
