"""A recurrent network reads handwritten digits row by row, as a sequence of eight steps of eight pixels.

It reads down and up (bidirectional), and decides from what it remembers at both ends.

python examples/gru_digits.py           the full run
python examples/gru_digits.py --quick   a short one
"""

import sys

import backlit as bl
from backlit import data, nn, optim


def main(quick: bool = False) -> float:
    digits = data.digits()
    x, y = digits.images, digits.labels  # (image, time step = row, pixel of the row)
    train, test = data.stratified_split(y, test=0.2, seed=0)

    net = bl.Network([nn.GRU(48, bidirectional=True), nn.Dropout(0.3), nn.Dense(10)], input_shape=(8, 8), seed=0)
    print(net.summary())
    epochs = 5 if quick else 30
    rate = optim.Cosine(5e-3, steps=21 * epochs)  # 21 batches an epoch
    trainer = bl.Trainer(net, "crossentropy", optim.Adam(rate, clip_global_norm=1.0), metrics=["accuracy"])
    trainer.fit(x[train], y[train], epochs=epochs, batch_size=64, validation=0.1)

    accuracy = trainer.evaluate(x[test], y[test])["accuracy"]
    print(f"test accuracy {accuracy:.2%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main("--quick" in sys.argv)
