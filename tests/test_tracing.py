"""A graph keeps what the user wrote: names, scopes, lines, and nothing simplified."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import backlit as bl
from backlit import ops
from backlit.ir import Graph, Type, make_node, reachable, substitute
from backlit.legality import check
from backlit.tracing import Traced, input_node

X, W = np.ones((4, 3)), np.ones((3, 2))


def model(p, x):
    z = x @ p["w"]
    h = ops.tanh(z) * 2.0
    with ops.scope("head"):
        y = ops.softmax(h)
    h = ops.named(h + 1.0, "again")
    total = ops.sum(y * h)
    return total / 3.0


GRAPH = bl.trace(model, {"w": W}, X)
LINE = model.__code__.co_firstlineno


def node(op, graph=GRAPH):
    (found,) = [n for n in graph.nodes if n.op == op]
    return found


def test_names_are_those_of_the_source():
    names = GRAPH.names()
    assert [names[i] for i in GRAPH.inputs] == ["p.w", "x"]
    assert names[node("contract")] == "z"
    assert names[node("tanh")].startswith("%")  # a part of an expression has no name
    assert names[node("tanh")] != "h"
    products = [names[n] for n in GRAPH.nodes if n.op == "multiply"]
    assert products[0] == "h"
    assert names[node("add")] == "again"
    assert len(set(names.values())) == len(names)


def test_a_composite_is_named_as_a_whole():
    names = GRAPH.names()
    (division,) = [n for n in GRAPH.nodes if n.op == "divide" and n.scope is not None]
    assert names[division] == "head.y"
    assert [s.name for s in division.scope.path()] == ["head", "softmax"]
    assert [s.kind for s in division.scope.path()] == ["layer", "composite"]


def test_sites_are_the_users_lines():
    site = node("tanh").site
    assert site.line == LINE + 2
    assert site.describe() == f"test_tracing.py:{LINE + 2}, in model: h = ops.tanh(z) * 2.0"
    assert node("contract").site.short() == f"test_tracing.py:{LINE + 1}"
    assert node("exp").site.line == LINE + 4


def test_what_was_written_is_what_is_recorded():
    graph = bl.trace(lambda x: (x * 1.0 + 0.0) - x, 1.0)
    assert [n.op for n in graph.nodes] == ["input", "constant", "multiply", "constant", "add", "subtract"]


def test_printed_one_line_a_node():
    text = str(GRAPH)
    lines = text.splitlines()
    assert lines[0] == "model(p.w: f64[3,2], x: f64[4,3]):"
    assert lines[-1].startswith("  return ")
    assert len(lines) == len(GRAPH.nodes) - len(GRAPH.inputs) + 2
    assert f"z = contract(x, p.w, spec='xy,yz->xz')" in lines[1]  # noqa: F541
    assert "f64[4,2]" in lines[1]
    assert f"test_tracing.py:{LINE + 1}" in lines[1]
    assert "[head.softmax]" in text


def test_a_loop_is_printed_with_its_body():
    graph = bl.trace(lambda x: ops.scan(lambda c, v: (c * v, c), x[0], x)[0], np.ones(3))
    text = str(graph)
    assert "scan(" in text
    assert "step(carry: f64[], x: f64[])" in text
    assert "multiply(carry, x)" in text


def test_gradient_nodes_say_so():
    text = str(bl.trace(bl.grad(lambda x: ops.sum(ops.tanh(x))), X))
    assert "gradient of tanh" in text
    assert "gradient of sum" in text


def test_one_name_used_twice_is_told_apart():
    def f(x):
        for _ in range(3):
            x = ops.sin(x) + x
        return x

    graph = bl.trace(f, 1.0)
    assert [graph.names()[n] for n in graph.nodes if n.op != "sin"] == ["x", "x_2", "x_3", "x_4"]


def test_arguments_are_named_by_path_also_with_keywords():
    graph = bl.trace(lambda a, *rest, scale, **more: a, 1.0, 2.0, [3.0], scale=4.0, other={"k": 5.0})
    assert [i.name for i in graph.inputs] == ["a", "rest[0]", "rest[1][0]", "scale", "other.k"]
    graph = bl.trace(lambda a, b, c: a - b * c, 1.0, c=2.0, b=np.float64(3.0))
    assert [i.name for i in graph.inputs] == ["a", "c", "b"]
    assert [i.type.dtype.name for i in graph.inputs] == ["float32", "float32", "float64"]


# --- equality ---------------------------------------------------------------------------------------------------------


def test_equal_graphs_do_the_same_in_the_same_way():
    def f(x):
        y = ops.tanh(x)
        return y * 2.0

    def g(z):
        with ops.scope("other"):
            return ops.tanh(z) * 2.0

    a, b = bl.trace(f, X), bl.trace(g, X)
    assert a == b
    assert hash(a) == hash(b)
    for other in (
        bl.trace(f, X[0]),
        bl.trace(f, X.astype("f4")),
        bl.trace(lambda x: ops.tanh(x) * 3.0, X),
        bl.trace(lambda x: 2.0 * ops.tanh(x), X),
        bl.trace(lambda x: ops.sin(x) * 2.0, X),
        bl.trace(lambda x, y: ops.tanh(x) * 2.0, X, X),
    ):
        assert a != other
    assert bl.trace(lambda x: x * 0.0, 1.0) != bl.trace(lambda x: x * -0.0, 1.0)
    assert bl.trace(lambda x: x * np.nan, 1.0) == bl.trace(lambda x: x * np.nan, 1.0)
    assert a != "a graph"


def test_loops_are_equal_when_their_bodies_are():
    def f(factor):
        return bl.trace(lambda x: ops.scan(lambda c, v: (c * factor + v, None), x[0], x)[0], np.ones(3))

    assert f(2.0) == f(2.0)
    assert f(2.0) != f(3.0)


def test_sharing_is_a_part_of_the_structure():
    shared = bl.trace(lambda x: (y := ops.sin(x)) * y, 1.0)
    twice = bl.trace(lambda x: ops.sin(x) * ops.sin(x), 1.0)
    assert shared != twice


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_types_print_short():
    assert str(Type(np.dtype("f4"), (8, 3))) == "f32[8,3]"
    assert str(Type(np.dtype("u4"), ())) == "u32[]"
    assert str(Type(np.dtype("?"), (1,))) == "bool[1]"
    assert str(Type(np.dtype("i8"), (0,))) == "i64[0]"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=30))
def test_reachable_gives_inputs_first_and_each_node_once(edges):
    t = Type(np.dtype(float), ())
    nodes = [input_node(t, "x")]
    for a, b in edges:
        nodes.append(make_node("add", [nodes[a % len(nodes)], nodes[b % len(nodes)]], (t,)))
    order = reachable([nodes[-1]])
    place = {n: i for i, n in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[i] < place[n] for n in order for i in n.inputs)
    graph = Graph((nodes[0],), (nodes[-1],))
    check(graph)
    other = input_node(t, "y")
    moved = Graph((other,), tuple(substitute(graph.outputs, {nodes[0]: other})))
    assert moved == graph
    assert nodes[0] not in moved.nodes


def test_only_what_depends_on_a_replaced_node_is_rebuilt():
    t = Type(np.dtype(float), ())
    x, y, z = (input_node(t, n) for n in "xyz")
    untouched, touched = ops.sin(Traced(y)), ops.cos(Traced(x))
    both = (untouched * touched).node
    (new,) = substitute([both], {x: z})
    assert new.inputs[0] is untouched.node
    assert new.inputs[1].inputs == (z,)


def test_an_argument_can_be_given_a_second_name():
    def f(x):
        z = ops.named(x, "z")
        return ops.named(ops.exp(z), "e") + z

    graph = bl.trace(f, 1.0)
    check(graph)
    assert {"x", "z", "e"} <= set(graph.names().values())
    assert bl.grad(f)(0.0) == 2.0
