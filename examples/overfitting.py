"""Overfitting, and two remedies: a large network, 300 digits to learn from, and every fifth of them labelled wrongly.

Without remedies the network learns its examples by heart, the wrong labels too, and gets worse at new digits while it
gets better at the old ones. Dropout (a random half of the units rests in each step) and weight decay (all weights
shrink a little in each step) leave it too little freedom for that.

python examples/overfitting.py           the full run
python examples/overfitting.py --quick   a short one
"""

import sys

import numpy as np

import backlit as bl
from backlit import data, nn, optim


def network(dropout: float) -> bl.Network:
    layers = []
    for _ in range(2):
        layers += [nn.Dense(256, activation="relu"), *([nn.Dropout(dropout)] if dropout else [])]
    return bl.Network([*layers, nn.Dense(10)], input_shape=(64,), seed=0)


def main(quick: bool = False) -> dict[str, dict[str, float]]:
    digits = data.digits()
    x, y = digits.images.reshape(-1, 64), digits.labels
    few, new = data.stratified_split(y, test=1 - 300 / len(y), seed=0)
    rng = np.random.default_rng(0)
    wrong = rng.permutation(len(few))[: len(few) // 5]
    given = y[few]
    given[wrong] = (given[wrong] + rng.integers(1, 10, len(wrong))) % 10

    results = {}
    for name, dropout, decay in [("plain", 0.0, 0.0), ("dropout and weight decay", 0.5, 1.0)]:
        trainer = bl.Trainer(network(dropout), "crossentropy", optim.AdamW(weight_decay=decay), metrics=["accuracy"])
        history = trainer.fit(x[few], given, epochs=15 if quick else 100, validation=(x[new], y[new]))
        by_heart = float((trainer.predict(x[few[wrong]]).argmax(axis=1) == given[wrong]).mean())
        best, last = float(history["val_accuracy"].max()), float(history["val_accuracy"][-1])
        results[name] = {"by heart": by_heart, "best": best, "last": last}
        print(
            f"{name}: learnt {by_heart:.0%} of the {len(wrong)} wrong labels by heart; "
            f"accuracy on {len(new)} new digits {last:.1%}, at its best {best:.1%}"
        )
    return results


if __name__ == "__main__":
    main("--quick" in sys.argv)
