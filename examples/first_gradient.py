"""The gradient of a small network's loss: as a graph to read, as numbers, and checked against finite differences.

python examples/first_gradient.py
"""

import numpy as np

import backlit as bl
from backlit import ops


def loss(p, x, y):
    """The mean squared error of a network with one hidden layer: x (n, 2), y (n, 1)."""
    z = x @ p["w1"] + p["b1"]
    h = ops.tanh(z)
    prediction = h @ p["w2"]
    error = prediction - y
    return ops.mean(error * error)


def main(quick: bool = False) -> dict[str, np.ndarray]:
    """The gradient with respect to each parameter, by name."""
    random = np.random.default_rng(0)
    p = {"w1": random.normal(size=(2, 3)), "b1": np.zeros(3), "w2": random.normal(size=(3, 1))}
    x, y = random.normal(size=(4, 2)), random.normal(size=(4, 1))

    print("the loss, one line an operation:\n")
    print(bl.trace(loss, p, x, y))

    print("\nits gradient is a graph of the same kind; the part that belongs to b1 alone:\n")
    print(bl.trace(bl.grad(loss, wrt="p.b1"), p, x, y))

    value, gradient = bl.value_and_grad(loss)(p, x, y)
    print(f"\nloss {value:.6f}, and the gradient with respect to")
    for name, g in gradient.items():
        print(f"  {name}: {np.array2string(g, precision=4, prefix='      ')}")

    bl.check_grads(loss, p, x, y, order=2)
    print("\nfinite differences agree, to second order")
    return gradient


if __name__ == "__main__":
    main()
