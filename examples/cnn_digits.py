"""A convolutional network reads handwritten digits: the same few weights look at every place of the image.

python examples/cnn_digits.py           the full run
python examples/cnn_digits.py --quick   a short one
"""

import sys

import backlit as bl
from backlit import data, nn


def main(quick: bool = False) -> float:
    digits = data.digits()
    x, y = digits.images[..., None], digits.labels  # one channel
    train, test = data.stratified_split(y, test=0.2, seed=0)

    net = bl.Network(
        [
            nn.Conv2d(16, size=3, padding="same", activation="relu"),
            nn.MaxPool(2),
            nn.Conv2d(32, size=3, padding="same", activation="relu"),
            nn.MaxPool(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Dense(10),
        ],
        input_shape=(8, 8, 1),
        seed=0,
    )
    print(net.summary())
    trainer = bl.Trainer(net, "crossentropy", "adam", metrics=["accuracy"])
    trainer.fit(x[train], y[train], epochs=3 if quick else 30, validation=0.1)

    accuracy = trainer.evaluate(x[test], y[test])["accuracy"]
    print(f"test accuracy {accuracy:.2%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main("--quick" in sys.argv)
