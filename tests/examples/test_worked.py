"""The worked examples against hand-derived numbers: the chain rule in plain Python floats, weight by weight."""

from math import exp

import numpy as np
import pytest
import worked_two_two_one as one
import worked_two_two_two as two


def sigmoid(z):
    return 1 / (1 + exp(-z))


def two_two_one(steps):
    """Errors before each step and after the last, and the weights then."""
    x1, x2, y = 0.5, 0.1, 0.6
    w11, w12, w21, w22, w31, w32 = 0.4, 0.3, 0.6, 0.9, 0.5, 0.7
    b1, b2, b3 = 0.1, 0.2, 0.3
    rate, errors = 0.1, []
    for step in range(steps + 1):
        a1 = sigmoid(w11 * x1 + w12 * x2 + b1)
        a2 = sigmoid(w21 * x1 + w22 * x2 + b2)
        out = sigmoid(w31 * a1 + w32 * a2 + b3)
        errors.append((out - y) ** 2)
        if step == steps:
            break
        d3 = 2 * (out - y) * out * (1 - out)  # dE/dz3
        d1 = d3 * w31 * a1 * (1 - a1)  # dE/dz1, through w31 as it was before the update
        d2 = d3 * w32 * a2 * (1 - a2)
        w31, w32, b3 = w31 - rate * d3 * a1, w32 - rate * d3 * a2, b3 - rate * d3
        w11, w12, b1 = w11 - rate * d1 * x1, w12 - rate * d1 * x2, b1 - rate * d1
        w21, w22, b2 = w21 - rate * d2 * x1, w22 - rate * d2 * x2, b2 - rate * d2
    return errors, {
        "dense_1.weight": [[w11, w21], [w12, w22]],
        "dense_1.bias": [b1, b2],
        "dense_2.weight": [[w31], [w32]],
        "dense_2.bias": [b3],
    }


def two_two_two(steps):
    """The same for the network with one fixed bias a layer."""
    x1, x2, y1, y2 = 0.1, 0.2, 0.05, 0.95
    b1, b2 = 0.45, 0.5
    w1, w2, w3, w4, w5, w6, w7, w8 = 0.25, 0.28, 0.35, 0.15, 0.35, 0.20, 0.45, 0.40
    rate, errors = 0.5, []
    for step in range(steps + 1):
        H1, H2 = sigmoid(w1 * x1 + w4 * x2 + b1), sigmoid(w3 * x1 + w2 * x2 + b1)
        O1, O2 = sigmoid(w5 * H1 + w6 * H2 + b2), sigmoid(w7 * H1 + w8 * H2 + b2)
        errors.append(((y1 - O1) ** 2 + (y2 - O2) ** 2) / 2)
        if step == steps:
            break
        do1, do2 = (O1 - y1) * O1 * (1 - O1), (O2 - y2) * O2 * (1 - O2)
        dh1 = (do1 * w5 + do2 * w7) * H1 * (1 - H1)
        dh2 = (do1 * w6 + do2 * w8) * H2 * (1 - H2)
        w5, w6, w7, w8 = w5 - rate * do1 * H1, w6 - rate * do1 * H2, w7 - rate * do2 * H1, w8 - rate * do2 * H2
        w1, w4, w3, w2 = w1 - rate * dh1 * x1, w4 - rate * dh1 * x2, w3 - rate * dh2 * x1, w2 - rate * dh2 * x2
    return errors, {
        "dense_1.weight": [[w1, w3], [w4, w2]],
        "dense_1.bias": [b1, b1],
        "dense_2.weight": [[w5, w7], [w6, w8]],
        "dense_2.bias": [b2, b2],
    }


EXAMPLES = pytest.mark.parametrize(("example", "by_hand"), [(one, two_two_one), (two, two_two_two)])


@EXAMPLES
def test_the_first_steps_are_those_by_hand(example, by_hand):
    errors, weights = by_hand(5)
    params, found = example.train(most=5)
    np.testing.assert_allclose(found, errors, rtol=1e-12)
    for name, value in weights.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-12)


@EXAMPLES
def test_training_ends_with_the_step_that_it_says(example, by_hand, capsys):
    errors = example.main()
    steps = len(errors) - 1
    assert errors[-1] < 1e-3 <= errors[-2]
    assert steps == {one: 87, two: 413}[example]
    np.testing.assert_allclose(errors, by_hand(steps)[0], rtol=1e-9)
    assert f"after {steps} steps" in capsys.readouterr().out


def test_numbers_derived_on_paper():
    """Digits computed by hand from the first step, as a reader of the example would."""
    errors, weights = two_two_one(1)
    assert errors[0] == pytest.approx(0.01934555, abs=1e-8)  # (0.73908829 - 0.6)²
    assert weights["dense_2.bias"][0] == pytest.approx(0.3 - 0.1 * 2 * 0.13908829 * 0.73908829 * 0.26091171, abs=1e-8)
    errors, weights = two_two_two(1)
    assert errors[0] == pytest.approx(0.23345284, abs=1e-8)  # (0.64945012² + 0.21241519²) / 2
    assert weights["dense_2.weight"][0][0] == pytest.approx(
        0.35 - 0.5 * 0.64945012 * 0.69945012 * 0.30054988 * 0.62363363, abs=1e-8
    )
