"""What makes a graph illegal is found, and named."""

import numpy as np
import pytest
from refusals import refuses

import backlit as bl
from backlit import ops
from backlit.errors import LegalityError
from backlit.ir import Graph, Type, make_node
from backlit.legality import check
from backlit.tracing import input_node

F, I = Type(np.dtype(float), (2,)), Type(np.dtype(int), (2,))  # noqa: E741
X, Y = input_node(F, "x"), input_node(F, "y")


def constant(value, t):
    return make_node("constant", (), (t,), {"value": value})


def frozen(value):
    value.flags.writeable = False
    return value


def illegal_body():
    loop = bl.trace(lambda x: ops.scan(lambda c, v: (c + v, c), x[0], x)[0], np.ones(2))
    (scan,) = [n for n in loop.nodes if n.op == "scan"]
    body = scan.params["body"]
    wrong = make_node("add", body.inputs, (Type(np.dtype("f4"), ()),))
    node = make_node("scan", scan.inputs, scan.types, {**scan.params, "body": Graph(body.inputs, (wrong, wrong))})
    return Graph(loop.inputs, (make_node("item", [node], [node.types[0]], {"index": 0}),))


CASES = [
    (Graph((X,), (make_node("add", [X, Y], [F]),)), "an input that the graph does not declare"),
    (Graph((X, X), (X,)), "declares an input twice"),
    (Graph((X,), (make_node("add", [X, X], [I]),)), r"add: .* should have the type f64\[2\]"),
    (Graph((X,), (make_node("add", [X, X], [F.with_shape((3,))]),)), r"should have the type f64\[2\]"),
    (Graph((X,), (make_node("add", [X], [F]),)), r"takes \(x1, x2\), not 1 values"),
    (Graph((X,), (make_node("frobnicate", [X], [F]),)), "there is no op 'frobnicate'"),
    (
        Graph((X,), (make_node("sum", [X], [F], {"axis": (1,), "keepdims": False}),)),
        r"breaks the rule of its op: \(1,\) are no axes of f64\[2\]",
    ),
    (Graph((X,), (make_node("logical", [X], [F]),)), "there is no op 'logical'"),
    (Graph((X,), (make_node("bitwise_and", [X, X], [F]),)), "takes booleans and integers, not f64"),
    (Graph((X,), (make_node("tanh", [X], [F], {"speed": 3}),)), r"has not the params of its op: .* not \(speed\)"),
    (Graph((), (constant(np.zeros(2), F),)), "can be changed from outside"),
    (Graph((), (constant(frozen(np.zeros(3)), F),)), "does not hold an array of its type"),
    (Graph((), (constant([0.0, 0.0], F),)), "does not hold an array of its type"),
    (Graph((X,), (make_node("item", [X], [F], {"index": 0}),)), "is not that result of"),
    (Graph((X,), (make_node("sin", [X], [F, F]),)), r"should have the type|no single value"),
    (illegal_body(), "the carry changes its type"),
]


@pytest.mark.parametrize(("graph", "message"), CASES)
def test_illegal(graph, message):
    with refuses(LegalityError, message):
        check(graph)


def test_legal():
    check(bl.trace(bl.value_and_grad(lambda x: ops.sum(ops.scan(lambda c, v: (c * v, c), x[0], x)[1])), np.ones(3)))


def test_a_node_older_than_its_input():
    late = make_node("sin", [X], [F])
    early = make_node("sin", [X], [F])
    object.__setattr__(late, "inputs", (early,))
    with refuses(LegalityError, "is older than its input"):
        check(Graph((X,), (late,)))
