"""A multilayer perceptron reads handwritten digits: 64 pixels, two hidden layers of ReLU units, ten classes.

python examples/mlp_digits.py           the full run
python examples/mlp_digits.py --quick   a short one
"""

import sys

import backlit as bl
from backlit import data, nn, optim


def main(quick: bool = False) -> float:
    digits = data.digits()
    x, y = digits.images.reshape(-1, 64), digits.labels
    train, test = data.stratified_split(y, test=0.2, seed=0)

    net = bl.Network(
        [
            nn.Dense(128, activation="relu", weight_init="he_normal"),
            nn.Dense(64, activation="relu", weight_init="he_normal"),
            nn.Dense(10),
        ],
        input_shape=(64,),
        seed=0,
    )
    print(net.summary())
    trainer = bl.Trainer(net, "crossentropy", optim.Adam(3e-3), metrics=["accuracy"])
    trainer.fit(x[train], y[train], epochs=5 if quick else 25, batch_size=64, validation=0.1)

    accuracy = trainer.evaluate(x[test], y[test])["accuracy"]
    print(f"test accuracy {accuracy:.2%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main("--quick" in sys.argv)
