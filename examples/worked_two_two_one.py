"""A network small enough for pencil and paper: two inputs, two hidden units, one output, sigmoids throughout.

    z1 = w11 x1 + w12 x2 + b1     a1 = sigmoid(z1)
    z2 = w21 x1 + w22 x2 + b2     a2 = sigmoid(z2)
    z3 = w31 a1 + w32 a2 + b3     y' = sigmoid(z3)     E = (y' - y)²

It is trained from given weights by gradient descent with a learning rate of 0.1 until E is below 0.001.
"""

import numpy as np

import backlit as bl
from backlit import nn, optim
from backlit.nn import losses

X, Y = np.array([[0.5, 0.1]]), np.array([[0.6]])
WEIGHTS = {
    "dense_1.weight": np.array([[0.4, 0.6], [0.3, 0.9]]),  # (inputs, units): w11 w21 above w12 w22
    "dense_1.bias": np.array([0.1, 0.2]),
    "dense_2.weight": np.array([[0.5], [0.7]]),  # w31 above w32
    "dense_2.bias": np.array([0.3]),
}


def train(enough: float = 1e-3, most: int = 10_000) -> tuple[dict[str, np.ndarray], list[float]]:
    """Step until the error is below `enough`, at most `most` times: the weights then, and the error before each step
    and after the last."""
    net = bl.Network(
        [nn.Dense(2, activation="sigmoid"), nn.Dense(1, activation="sigmoid")], input_shape=(2,), dtype="float64"
    )
    net.params = WEIGHTS
    descent = optim.SGD(0.1)

    @bl.compile
    def step(params, state):
        def error(params):
            predicted, _ = net.forward(params, {}, X)
            return losses.get("mse")(predicted, Y)

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
