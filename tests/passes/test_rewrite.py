"""The engine: order, labels, several results, bodies, and what a careless rule meets."""

import numpy as np
import pytest

import backlit as bl
from backlit import ops
from backlit.errors import LegalityError
from backlit.passes.rewrite import in_bodies, in_turn, rewrite, table
from backlit.tracing import Traced

X = np.ones((2, 3), np.float32)


def sine_to_cosine(node, old):
    return ops.cos(Traced(node.inputs[0])) if node.op == "sin" else None


def test_no_answer_gives_the_same_object():
    graph = bl.trace(lambda x: ops.exp(x) + 1.0, X)
    assert rewrite(graph, lambda node, old: None) is graph


def test_an_answer_replaces_the_node_wherever_it_is_used():
    graph = bl.trace(lambda x: (ops.sin(x) + x, ops.exp(ops.sin(x))), X)
    assert rewrite(graph, sine_to_cosine) == bl.trace(lambda x: (ops.cos(x) + x, ops.exp(ops.cos(x))), X)


def test_an_answer_is_asked_about_again():
    steps = {"sin": "cos", "cos": "tanh", "tanh": "exp"}
    rule = table({k: (lambda node, v=v: getattr(ops, v)(Traced(node.inputs[0])),) for k, v in steps.items()})
    assert rewrite(bl.trace(ops.sin, X), rule) == bl.trace(ops.exp, X)


def test_the_first_answer_counts():
    def to_exp(node, old):
        return ops.exp(Traced(node.inputs[0])) if node.op == "sin" else None

    graph = bl.trace(ops.sin, X)
    assert rewrite(graph, in_turn(to_exp, sine_to_cosine)) == bl.trace(ops.exp, X)
    assert rewrite(graph, in_turn(sine_to_cosine, to_exp)) == bl.trace(ops.cos, X)


def test_an_output_that_is_replaced_by_an_input():
    graph = bl.trace(lambda x: ops.sin(x), X)
    after = rewrite(graph, lambda node, old: Traced(node.inputs[0]))
    assert after.outputs == after.inputs == graph.inputs


def test_labels_are_those_of_what_is_replaced():
    def f(x):
        with ops.scope("layer"):
            h = ops.sin(x)
        return ops.named(ops.sin(h), "wave")

    graph = bl.trace(bl.value_and_grad(lambda x: ops.sum(f(x))), X)

    def to_two_nodes(node, old):
        return ops.cos(ops.negative(Traced(node.inputs[0]))) if node.op == "sin" else None

    after = rewrite(graph, to_two_nodes)
    replaced = {n.serial: n for n in graph.nodes if n.op == "sin"}
    labels = [(n.scope, n.site, n.origin) for n in replaced.values()]
    for op in ("cos", "negative"):
        fresh = [n for n in after.nodes if n.op == op and n.serial > max(replaced)]
        assert {(n.scope, n.site, n.origin) for n in fresh} >= {*labels}
    assert [n.op for n in after.nodes if n.name == "wave"] == ["cos"]
    assert "layer.h" in after.names().values()


def test_an_answer_of_another_type_is_refused():
    graph = bl.trace(ops.sin, X)
    with pytest.raises(LegalityError, match=r"a rewrite of .* gives f32\[6\]"):
        rewrite(graph, lambda node, old: ops.reshape(Traced(node.inputs[0]), -1))
    with pytest.raises(LegalityError, match="sin"):
        rewrite(graph, lambda node, old: ops.astype(Traced(node.inputs[0]), "float64"))


def test_a_rule_that_never_rests_ends_all_the_same():
    rule = table({"sin": (sine_to_cosine_alone,), "cos": (cosine_to_sine,)})
    assert rewrite(bl.trace(ops.sin, X), rule).outputs[0].op in ("sin", "cos")


def sine_to_cosine_alone(node):
    return ops.cos(Traced(node.inputs[0]))


def cosine_to_sine(node):
    return ops.sin(Traced(node.inputs[0]))


def scanned(f):
    return lambda x: ops.scan(lambda c, e: (f(c) + e, c), np.zeros(3, np.float32), x)


def test_several_results_may_fall_apart():
    graph = bl.trace(lambda x: (lambda c, ys: (ops.exp(ys), c))(*scanned(ops.sin)(x)), X)

    def rule(node, old):
        return (Traced(node.inputs[0]), Traced(node.inputs[1])) if node.op == "scan" else None

    assert rewrite(graph, rule) == bl.trace(lambda x: (ops.exp(x), np.zeros(3, np.float32)), X)


def test_a_result_that_nobody_uses_needs_no_value():
    graph = bl.trace(lambda x: scanned(ops.sin)(x)[1], X)

    def rule(node, old):
        return (None, Traced(node.inputs[1])) if node.op == "scan" else None

    assert rewrite(graph, rule).outputs == graph.inputs


def test_bodies_are_rewritten_once_each_and_innermost_first():
    def inner(c, e):
        return ops.sin(c) + e, None

    def outer(c, e):
        return ops.sin(ops.scan(inner, c, e)[0]), None

    def f(x):
        return ops.scan(outer, np.zeros(3, np.float32), x)[0]

    def simplified(graph):
        return rewrite(in_bodies(graph, simplified), sine_to_cosine)

    graph = bl.trace(f, np.ones((2, 4, 3), np.float32))
    text = str(simplified(graph))
    assert text.count("cos(") == 2
    assert "sin(" not in text
    assert in_bodies(graph, lambda body: body) is graph
