"""Nested dicts, lists, tuples, namedtuples and dataclasses of arrays, taken apart and put together again.

`flatten` names every leaf by its path (`p.dense_1.weight`, `state[0]`); those names become the names of graph inputs.
A dataclass field with `metadata={"static": True}` belongs to the structure, not to the leaves. `None` is an empty
structure. The order of a dict is the user's own. Mappings of any class are put together again as plain dicts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.errors import StructureError


@dataclass(frozen=True, slots=True)
class Structure:
    """What is left of a tree when its leaves are taken out. Hashable.

    `kind` is the container's class (None for a leaf), `keys` its keys or fields, `static` what is carried unchanged.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()
    static: tuple[tuple[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return 1 if self.kind is None else sum(c.size for c in self.children)

    def __str__(self) -> str:
        if self.kind is None:
            return "*"
        parts = [f"{k}: {c}" for k, c in zip(self.keys, self.children, strict=True)]
        return f"{self.kind.__name__}({', '.join(parts)})"


LEAF = Structure(None)


def _join(path: str, key: Any) -> str:
    if isinstance(key, str):
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def _parts(tree: Any) -> tuple[type, tuple[Any, ...], list[Any], tuple[tuple[str, Any], ...]] | None:
    """The container class, keys, children and static fields of a tree, or None for a leaf."""
    if tree is None:
        return type(None), (), [], ()
    if isinstance(tree, Mapping):
        return dict, tuple(tree), list(tree.values()), ()
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree), tuple(tree._fields), list(tree), ()
    if isinstance(tree, list | tuple):
        return type(tree), tuple(range(len(tree))), list(tree), ()
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not hasattr(tree, "node"):
        fields = dataclasses.fields(tree)
        inner = tuple(f.name for f in fields if not f.metadata.get("static"))
        static = tuple((f.name, getattr(tree, f.name)) for f in fields if f.metadata.get("static"))
        return type(tree), inner, [getattr(tree, k) for k in inner], static
    return None


def flatten(tree: Any, path: str = "") -> tuple[list[Any], list[str], Structure]:
    """The leaves, their paths, and the structure, in that order."""
    leaves: list[Any] = []
    paths: list[str] = []
    structure = _flatten(tree, path, leaves, paths)
    return leaves, paths, structure


def _flatten(tree: Any, path: str, leaves: list[Any], paths: list[str]) -> Structure:
    # Not a closure that calls itself: such a cycle would keep the leaves alive until the garbage collector runs.
    parts = _parts(tree)
    if parts is None:
        leaves.append(tree)
        paths.append(path)
        return LEAF
    kind, keys, children, static = parts
    inner = tuple(_flatten(c, _join(path, k), leaves, paths) for k, c in zip(keys, children, strict=True))
    return Structure(kind, keys, inner, static)


def leaves(tree: Any) -> list[Any]:
    """The leaves alone, in the order of `flatten`, in a fraction of its time."""
    found: list[Any] = []
    signature(tree, found)
    return found


def signature(tree: Any, found: list[Any]) -> Hashable:
    """Something that trees have in common exactly if their structures are equal. The leaves are added to `found`."""
    kind = type(tree)
    if kind is np.ndarray:
        found.append(tree)
        return None
    if kind is dict:
        return dict, tuple(tree), tuple([signature(child, found) for child in tree.values()]), ()
    if kind is tuple or kind is list:
        return kind, tuple([signature(child, found) for child in tree])
    parts = _parts(tree)
    if parts is None:
        found.append(tree)
        return None
    kind, keys, children, static = parts
    return kind, keys, tuple([signature(child, found) for child in children]), static


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The tree of this structure with these leaves, in the order of `flatten`."""
    return _unflatten(structure, iter(leaves))


def _unflatten(s: Structure, rest: Iterator[Any]) -> Any:
    if s.kind is None:
        return next(rest)
    children = [next(rest) if c.kind is None else _unflatten(c, rest) for c in s.children]
    if s.kind is dict:
        return dict(zip(s.keys, children, strict=True))
    if s.kind is tuple:
        return tuple(children)
    if s.kind is type(None):
        return None
    if issubclass(s.kind, tuple) and hasattr(s.kind, "_fields"):
        return s.kind(*children)
    if issubclass(s.kind, list | tuple):
        return s.kind(children)
    return s.kind(**dict(zip(s.keys, children, strict=True)), **dict(s.static))


def leaves_like(structure: Structure, tree: Any, path: str = "") -> list[tuple[Any, str]]:
    """The leaves of a tree of this structure and their paths, in the structure's order of keys.

    Raises StructureError that names the first place where the tree differs.
    """
    return list(_leaves_like(structure, tree, path))


def _leaves_like(s: Structure, tree: Any, path: str) -> Iterator[tuple[Any, str]]:
    parts = _parts(tree)
    kind, keys, children, static = parts if parts is not None else (None, (), [], ())
    if kind is not s.kind:
        names = [k.__name__ if k else "leaf" for k in (kind, s.kind)]
        raise StructureError(f"{path or 'the tree'} is a {names[0]} where a {names[1]} is expected")
    if kind is None:
        yield tree, path
        return
    if set(keys) != set(s.keys):
        raise StructureError(f"{path or 'the tree'} has {_listed(keys)} where {_listed(s.keys)} is expected")
    if static != s.static:
        raise StructureError(f"{path or 'the tree'} has the settings {dict(static)}, not {dict(s.static)}")
    by_key = dict(zip(keys, children, strict=True))
    for k, child in zip(s.keys, s.children, strict=True):
        yield from _leaves_like(child, by_key[k], _join(path, k))


def _listed(keys: tuple[Any, ...]) -> str:
    return f"({', '.join(map(str, keys))})"


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` applied to the leaves of one tree, or of several trees of one structure.

    Raises StructureError where the structures differ.
    """
    leaves, _, structure = flatten(tree)
    columns = [leaves, *([leaf for leaf, _ in leaves_like(structure, other)] for other in others)]
    return unflatten(structure, [function(*row) for row in zip(*columns, strict=True)])


_KINDS = "biuf"  # bool, signed, unsigned, real
_USUAL = "?bBhHiIlLqQefd"  # the characters of those of at most 8 bytes


def as_array(value: Any, path: str = "") -> np.ndarray[Any, np.dtype[Any]]:
    """A leaf as an ndarray. Python floats become float32, ints int64; strings, objects and complex are refused."""
    if type(value) is np.ndarray and value.dtype.char in _USUAL and value.dtype.isnative:
        return value
    if isinstance(value, bool | int | float) and not isinstance(value, np.generic):
        dtype = np.bool_ if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float32
        return np.asarray(value, dtype)
    what = f"the leaf {path!r}" if path else "the value"
    if not isinstance(value, np.ndarray | np.generic) and not hasattr(value, "__array__"):
        raise StructureError(
            f"{what} is a {type(value).__name__}",
            fix="pass arrays and numbers, alone or in nested dicts, lists, tuples and dataclasses",
        )
    array = np.asarray(value)
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
        raise StructureError(f"{what} has dtype {array.dtype}", fix="use a bool, integer or real floating-point array")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array
