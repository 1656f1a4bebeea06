"""Trees: taken apart, put together, matched."""

import gc
import weakref
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses

from backlit.errors import StructureError
from backlit.pytree import as_array, flatten, leaves, leaves_like, map_leaves, signature, unflatten

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Layer:
    weight: object
    bias: object
    units: int = field(default=3, metadata={"static": True})


def nodes(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(st.text("abc", min_size=1, max_size=2), children, max_size=3),
        st.builds(Point, children, children),
        st.builds(Layer, children, children),
    )


trees = st.recursive(st.one_of(st.integers(), st.none()), nodes, max_leaves=12)


@given(trees)
def test_what_is_taken_apart_can_be_put_together(tree):
    leaves, paths, structure = flatten(tree)
    assert unflatten(structure, leaves) == tree
    assert len(set(paths)) == len(paths) == len(leaves)
    assert hash(structure) == hash(flatten(tree)[2])
    assert [leaf for leaf, _ in leaves_like(structure, tree)] == leaves
    assert map_leaves(lambda a, b: a - b, tree, tree) == map_leaves(lambda a: 0, tree)


@given(trees)
def test_leaves_alone_are_those_of_flatten(tree):
    assert leaves(tree) == flatten(tree)[0]


@given(trees, trees)
def test_signatures_are_equal_as_structures_are(a, b):
    assert (signature(a, []) == signature(b, [])) == (flatten(a)[2] == flatten(b)[2])
    assert signature(a, []) == signature(map_leaves(lambda _: 7, a), [])
    hash(signature(a, []))


def test_paths_read_like_the_code_that_reaches_a_leaf():
    tree = {"dense_1": Layer(1, [2, (3,)]), "p": Point(4, None), 7: 5}
    assert flatten(tree, "p")[1] == [
        "p.dense_1.weight", "p.dense_1.bias[0]", "p.dense_1.bias[1][0]", "p.p.x", "p[7]"
    ]  # fmt: skip


def test_static_fields_belong_to_the_structure():
    a, b = (flatten(Layer(1, 2, units))[2] for units in (3, 4))
    assert a != b
    assert unflatten(b, [5, 6]) == Layer(5, 6, 4)


def test_mappings_come_back_as_dicts():
    assert type(unflatten(flatten(OrderedDict(a=1))[2], [2])) is dict


def test_the_order_of_keys_does_not_matter_between_trees():
    assert map_leaves(lambda a, b: (a, b), {"a": 1, "b": 2}, {"b": 20, "a": 10}) == {"a": (1, 10), "b": (2, 20)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, {"w": 1}]}, r"p.a\[1\] has \(w\) where \(w, b\) is expected"),
        ({"a": [1]}, r"p.a has \(0\) where \(0, 1\) is expected"),
        ({"a": (1, {"w": 1, "b": 2})}, "p.a is a tuple where a list is expected"),
        ({"a": [{}, {"w": 1, "b": 2}]}, r"p.a\[0\] is a dict where a leaf is expected"),
        (3, "p is a leaf where a dict is expected"),
        ({"a": [1, {"w": None, "b": 2}]}, r"p.a\[1\].w is a NoneType where a leaf is expected"),
    ],
)
def test_the_first_difference_is_named(tree, message):
    structure = flatten({"a": [1, {"w": 2, "b": 3}]})[2]
    with refuses(StructureError, message):
        leaves_like(structure, tree, "p")


def test_settings_that_differ():
    with refuses(StructureError, r"has the settings \{'units': 4\}, not \{'units': 3\}"):
        map_leaves(lambda a, b: a, Layer(1, 2), Layer(1, 2, 4))


def test_leaves_become_arrays():
    assert as_array(1.5).dtype == np.float32
    assert as_array(2).dtype == np.int64
    assert as_array(True).dtype == np.bool_
    assert as_array(np.float64(1.5)).dtype == np.float64
    swapped = as_array(np.array([1, 2], ">i4"))
    assert swapped.dtype == np.int32
    assert swapped.tolist() == [1, 2]


@pytest.mark.parametrize(
    "leaf", ["text", 1j, np.array(["a"]), np.array([None]), object(), np.array([1], "M8[s]"), {1, 2}]
)
def test_what_is_no_array_is_refused(leaf):
    with refuses(StructureError, "the leaf 'p.w' (is a|has dtype) "):
        as_array(leaf, "p.w")


def test_leaves_are_freed_without_the_garbage_collector():
    leaf = np.zeros(3)
    gone = weakref.ref(leaf)
    gc.disable()
    try:
        leaves, _, structure = flatten({"a": [leaf], "b": 1})
        unflatten(structure, leaves)
        leaves_like(structure, {"a": [leaf], "b": 1})
        del leaf, leaves
        assert gone() is None
    finally:
        gc.enable()
