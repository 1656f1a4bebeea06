"""Why deep sigmoid networks did not learn, and what changed: 20 hidden layers, twice.

The slope of a sigmoid is at most 1/4, so on its way back through 20 of them a gradient shrinks to nothing, and the
first layers never hear of the error. With ReLU units (slope 1 where they are on), He's initialisation (which keeps the
size of signals) and batch norm (which restores it) the same depth learns.

python examples/vanishing_gradients.py           the full run
python examples/vanishing_gradients.py --quick   a short one
"""

import sys

import numpy as np

import backlit as bl
from backlit import data, nn, optim
from backlit.nn import losses

DEPTH = 20


def sigmoid_network() -> bl.Network:
    layers = [nn.Dense(32, activation="sigmoid", weight_init="glorot_uniform") for _ in range(DEPTH)]
    return bl.Network([*layers, nn.Dense(10)], input_shape=(64,), seed=0)


def modern_network() -> bl.Network:
    layers = []
    for _ in range(DEPTH):
        layers += [nn.Dense(32, weight_init="he_normal"), nn.BatchNorm(), nn.Activation("relu")]
    return bl.Network([*layers, nn.Dense(10)], input_shape=(64,), seed=0)


def gradient_sizes(net: bl.Network, x: np.ndarray, y: np.ndarray) -> list[float]:
    """The root mean square of dL/dW for each dense layer, first to last."""

    def loss(params):
        logits, _ = net.forward(params, net.state, x, training=True)
        return losses.get("crossentropy")(logits, y)

    gradients = bl.grad(loss)(dict(net.params))
    return [float(np.sqrt(np.mean(g**2))) for name, g in gradients.items() if name.startswith("dense") and g.ndim == 2]


def main(quick: bool = False) -> dict[str, tuple[float, float]]:
    """For each network: (test accuracy, size of the first layer's gradient over the last's before training)."""
    digits = data.digits()
    x, y = digits.images.reshape(-1, 64), digits.labels
    train, test = data.stratified_split(y, test=0.2, seed=0)

    results = {}
    for name, net in {"sigmoid": sigmoid_network(), "ReLU + He + batch norm": modern_network()}.items():
        sizes = gradient_sizes(net, x[train[:256]], y[train[:256]])
        executor = "reference" if quick else "auto"  # a short run is over before 20 layers are compiled
        trainer = bl.Trainer(net, "crossentropy", optim.Adam(0.01), metrics=["accuracy"], executor=executor)
        trainer.fit(x[train], y[train], epochs=4 if quick else 20, batch_size=128)
        accuracy = trainer.evaluate(x[test], y[test])["accuracy"]
        results[name] = accuracy, sizes[0] / sizes[-1]
        print(f"{name}: test accuracy {accuracy:.1%}; before training, the gradient of")
        print(f"  layer 1 is {sizes[0]:.1e}, of layer {len(sizes)} {sizes[-1]:.1e}: {sizes[0] / sizes[-1]:.1e} of it")
    return results


if __name__ == "__main__":
    main("--quick" in sys.argv)
