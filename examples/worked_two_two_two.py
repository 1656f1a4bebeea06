"""A network small enough for pencil and paper: two inputs, two hidden units, two outputs, one bias a layer.

    h1 = w1 x1 + w4 x2 + b1     H1 = sigmoid(h1)        o1 = w5 H1 + w6 H2 + b2     O1 = sigmoid(o1)
    h2 = w3 x1 + w2 x2 + b1     H2 = sigmoid(h2)        o2 = w7 H1 + w8 H2 + b2     O2 = sigmoid(o2)

    E = ((y1 - O1)² + (y2 - O2)²) / 2

The biases are given and stay as they are; the weights are trained by gradient descent with a learning rate of 0.5
until E is below 0.001.
"""

import numpy as np

import backlit as bl
from backlit import nn, optim
from backlit.nn import losses

X, Y = np.array([[0.1, 0.2]]), np.array([[0.05, 0.95]])
WEIGHTS = {
    "dense_1.weight": np.array([[0.25, 0.35], [0.15, 0.28]]),  # (inputs, units): w1 w3 above w4 w2
    "dense_1.bias": np.array([0.45, 0.45]),
    "dense_2.weight": np.array([[0.35, 0.45], [0.20, 0.40]]),  # w5 w7 above w6 w8
    "dense_2.bias": np.array([0.5, 0.5]),
}


def train(enough: float = 1e-3, most: int = 10_000) -> tuple[dict[str, np.ndarray], list[float]]:
    """Step until the error is below `enough`, at most `most` times: the weights then, and the error before each step
    and after the last."""
    net = bl.Network(
        [nn.Dense(2, activation="sigmoid"), nn.Dense(2, activation="sigmoid")], input_shape=(2,), dtype="float64"
    )
    net.params = WEIGHTS
    descent = optim.SGD(0.5, groups={"*.bias": {"frozen": True}})

    @bl.compile
    def step(params, state):
        def error(params):
            predicted, _ = net.forward(params, {}, X)
            return losses.get("half_mse")(predicted, Y)

        value, gradients = bl.value_and_grad(error)(params)
        return value, *descent.update(gradients, state, params)

    params = dict(net.params)
    state = descent.init(params)
    errors: list[float] = []
    while True:
        value, stepped, state = step(params, state)
        errors.append(float(value))
        if errors[-1] < enough or len(errors) > most:
            return params, errors
        params = stepped


def main(quick: bool = False) -> list[float]:
    _, errors = train()
    for i in range(3):
        print(f"after {i} steps: E = {errors[i]:.9f}")
    print(f"after {len(errors) - 1} steps: E = {errors[-1]:.9f}, below 0.001")
    return errors


if __name__ == "__main__":
    main()
