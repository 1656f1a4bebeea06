"""Worked examples with known figures, and what each equation of them says."""

import re

import numpy as np
import pytest

import backlit as bl
from backlit import ops

from .reading import check_lines


def two_two_one(w11, w12, w21, w22, w31, w32, b1, b2, b3, x1, x2, y):
    z1 = w11 * x1 + w12 * x2 + b1
    a1 = ops.sigmoid(z1)
    z2 = w21 * x1 + w22 * x2 + b2
    a2 = ops.sigmoid(z2)
    z3 = w31 * a1 + w32 * a2 + b3
    yhat = ops.sigmoid(z3)
    E = (yhat - y) ** 2
    return E


GIVEN = [np.float64(v) for v in (0.4, 0.3, 0.6, 0.9, 0.5, 0.7, 0.1, 0.2, 0.3, 0.5, 0.1, 0.6)]


def two_two_two(w1, w2, w3, w4, w5, w6, w7, w8, b1, b2, i1, i2, t1, t2):
    net_h1 = w1 * i1 + w2 * i2 + b1
    out_h1 = ops.sigmoid(net_h1)
    net_h2 = w3 * i1 + w4 * i2 + b1
    out_h2 = ops.sigmoid(net_h2)
    net_o1 = w5 * out_h1 + w6 * out_h2 + b2
    out_o1 = ops.sigmoid(net_o1)
    net_o2 = w7 * out_h1 + w8 * out_h2 + b2
    out_o2 = ops.sigmoid(net_o2)
    E_o1 = 0.5 * (t1 - out_o1) ** 2
    E_o2 = 0.5 * (t2 - out_o2) ** 2
    E = E_o1 + E_o2
    return E


MAZUR = [np.float64(v) for v in (0.15, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 0.55, 0.35, 0.6, 0.05, 0.1, 0.01, 0.99)]


def equation(d, name):
    """The first equation for the quantity that prints as `name`."""
    from backlit.explanation.notation import plain

    return next(s for s in d if plain(s.symbol) == name)


def test_the_two_two_one_network_reads_as_on_the_board():
    d = bl.explain(two_two_one, *GIVEN, wrt="w11", lr=0.1)
    assert equation(d, "z1").symbolic == "w11·x1 + w12·x2 + b1"
    assert equation(d, "z1").substituted == "0.4·0.5 + 0.3·0.1 + 0.1"
    assert equation(d, "z1").text == "0.33"
    assert equation(d, "∂E/∂yhat").symbolic == "2·(yhat - y)"
    assert equation(d, "∂E/∂z3").symbolic == "∂E/∂yhat·yhat·(1 - yhat)"
    assert equation(d, "∂E/∂a1").symbolic == "∂E/∂z3·w31"
    assert equation(d, "∂E/∂w11").symbolic == "∂E/∂z1·x1"
    assert equation(d, "w11'").symbolic == "w11 - lr·∂E/∂w11"
    assert equation(d, "∂E/∂w11").uses == (equation(d, "x1").number, equation(d, "∂E/∂z1").number)
    # worked by hand with a pocket calculator's functions
    s = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    a1, a2 = s(0.33), s(0.59)
    yhat = s(0.5 * a1 + 0.7 * a2 + 0.3)
    expected = 2 * (yhat - 0.6) * yhat * (1 - yhat) * 0.5 * a1 * (1 - a1) * 0.5
    assert d.value == pytest.approx(expected, rel=1e-14)
    assert equation(d, "w11'").value == pytest.approx(0.4 - 0.1 * expected, rel=1e-14)
    check_lines(d)


# figures as the example publishes them
@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("net_h1", "0.3775"),
        ("out_h1", "0.593269992"),
        ("out_h2", "0.596884378"),
        ("net_o1", "1.105905967"),
        ("out_o1", "0.75136507"),
        ("out_o2", "0.772928465"),
        ("E_o1", "0.274811083"),
        ("E_o2", "0.023560026"),
        ("E", "0.298371109"),
        ("∂E/∂out_o1", "0.74136507"),
        ("∂E/∂net_o1", "0.138498562"),
        ("∂E/∂out_h1", "0.036350306"),
        ("∂E/∂w1", "0.000438568"),
        ("w1'", "0.149780716"),
    ],
)
def test_the_two_two_two_network_has_the_published_figures(name, printed):
    d = bl.explain(two_two_two, *MAZUR, wrt="w1", lr=0.5, digits=9)
    digits = len(printed.partition(".")[2])
    assert f"{equation(d, name).value:.{digits}f}" == f"{float(printed):.{digits}f}"


def test_one_weight_of_the_output_layer():
    d = bl.explain(two_two_two, *MAZUR, wrt="w5", lr=0.5, digits=9)
    assert equation(d, "∂E/∂w5").text == "0.0821670406"
    assert equation(d, "w5'").text == "0.35891648"
    path = next(s for s in d if s.kind == "path")
    assert "Along w5 → net_o1 → out_o1 → E" in path.sentence
    check_lines(d)


def test_every_path_is_written_out_and_adds_up():
    d = bl.explain(two_two_two, *MAZUR, wrt="w1", view="paths")
    paths = [s for s in d if s.kind == "path"]
    assert len(paths) == 2  # through each output
    assert sum(p.value for p in paths) == pytest.approx(d.value, rel=1e-12)
    local = equation(d, "∂out_o1/∂net_o1")
    assert local.kind == "local"
    assert local.symbolic == "out_o1·(1 - out_o1)"
    assert local.value == pytest.approx(0.186815602, abs=5e-10)
    check_lines(d)


def test_more_paths_than_are_shown_are_counted():
    def deep(w, x):
        h = x * w
        for _ in range(4):
            h = ops.tanh(ops.stack([h + h * h, ops.sin(h)]))[0] * ops.sigmoid(h)
        E = h * h
        return E

    d = bl.explain(deep, np.float64(0.7), np.float64(0.9), wrt="w", view="paths", terms=3)
    total = next(s for s in d if s.kind == "gradient")
    assert total.folded > 0
    assert re.search(r"⟨\d+ other paths?⟩", total.substituted)
    assert total.value == pytest.approx(bl.grad(deep)(np.float64(0.7), np.float64(0.9)), rel=1e-12)
    check_lines(d)


def test_matrix_code_and_scalar_code_give_the_same_numbers():
    def matrices(W1, b1, W2, b2, x, y):
        a = ops.sigmoid(W1 @ x + b1)
        yhat = ops.sigmoid(W2 @ a + b2)
        return ops.sum((yhat - y) ** 2)

    v = [float(g) for g in GIVEN]
    W1, b1 = np.array([[v[0], v[1]], [v[2], v[3]]]), np.array(v[6:8])
    W2, b2 = np.array([[v[4], v[5]]]), np.array(v[8:9])
    d = bl.explain(matrices, W1, b1, W2, b2, np.array(v[9:11]), np.array(v[11:]), wrt="W1[0, 0]")
    assert d.value == pytest.approx(bl.explain(two_two_one, *GIVEN, wrt="w11").value, rel=1e-14)
    check_lines(d)


def test_what_does_not_reach_the_loss_has_a_gradient_of_nothing():
    d = bl.explain(lambda w, u: w * w, np.float64(2.0), np.float64(3.0), wrt="u")
    assert d.value == 0
    assert next(s for s in d if s.kind == "gradient").sentence == "It does not enter the loss."


def test_the_loss_by_itself():
    d = bl.explain(lambda w: w, np.float64(2.0), wrt="w")
    assert d.value == 1
    check_lines(d)


@pytest.mark.parametrize(
    ("wrt", "said"),
    [
        ("q", "there is no argument 'q'"),
        ("p.w", r"name one element, such as p.w\[0, 0\]"),
        ("w[2, 0]", "is no element of p.w"),
        ("p.w[0]", "is no element of p.w"),
        ("p.w[0, 1, 0]", "is no element of p.w"),
        ("p.w[zero]", "is no element of p.w"),
        ("n", "only floating-point"),
        ("b", "may mean"),
    ],
)
def test_a_wrong_name_is_told(wrt, said):
    p = {"w": np.ones((2, 3)), "b": np.ones(()), "r": {"b": np.ones(())}}
    with pytest.raises(bl.errors.Error, match=said):
        bl.explain(lambda p, n: ops.sum(p["w"]) * p["b"] * p["r"]["b"], p, 3, wrt=wrt)


@pytest.mark.parametrize("options", [{"terms": 0}, {"depth": -1}, {"digits": 0}, {"view": "sideways"}, {"terms": 2.5}])
def test_a_wrong_option_is_told(options):
    with pytest.raises(bl.errors.Error):
        bl.explain(lambda w: w * w, np.float64(2.0), wrt="w", **options)


def test_a_function_of_several_numbers_is_refused():
    with pytest.raises(bl.errors.GradientError, match="one floating-point number"):
        bl.explain(lambda w: w * np.ones(3), np.float64(2.0), wrt="w")
