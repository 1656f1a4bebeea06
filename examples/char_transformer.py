"""A transformer learns to write: one character after another, from the language reference that comes with Python.

Each position sees only what stands before it (causal attention) and predicts the next character. The measure is bits a
character on text that was held out: how many yes-or-no answers it still takes to know the next character.

python examples/char_transformer.py           the full run
python examples/char_transformer.py --quick   a short one
"""

import sys

import numpy as np

import backlit as bl
from backlit import data, nn, optim


def windows(codes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of `length` characters, and the same pieces one character later: (pieces, length) both."""
    count = (len(codes) - 1) // length
    return codes[: count * length].reshape(count, length), codes[1 : count * length + 1].reshape(count, length)


def write(net: bl.Network, letters: str, start: str, count: int, length: int, seed: int = 0) -> str:
    """The text, continued by `count` characters, each drawn from the network's probabilities."""
    codes = [letters.index(c) for c in start.rjust(length)]
    rng = np.random.default_rng(seed)
    for _ in range(count):
        logits = net(np.array([codes[-length:]]))[0, -1].astype(np.float64)
        chances = np.exp((logits - logits.max()) / 0.8)  # a little bolder than the network: temperature 0.8
        codes.append(int(rng.choice(len(letters), p=chances / chances.sum())))
    return start + "".join(letters[c] for c in codes[-count:])


def main(quick: bool = False) -> tuple[float, float]:
    """(bits a character of the network, bits a character of guessing by frequency), on held-out text."""
    text = data.python_reference()
    length, units, blocks, epochs = (16, 32, 1, 5) if quick else (64, 64, 2, 8)
    text = text[:12_000] if quick else text
    letters = "".join(sorted(set(text)))
    number = {c: i for i, c in enumerate(letters)}
    codes = np.array([number[c] for c in text])
    cut = int(0.9 * len(codes))
    (x, y), (x_new, y_new) = windows(codes[:cut], length), windows(codes[cut:], length)

    net = bl.Network(
        [
            nn.Embedding(len(letters), units),
            nn.PositionEmbedding(length),
            *[nn.TransformerBlock(heads=4, causal=True, dropout=0.0 if quick else 0.1) for _ in range(blocks)],
            nn.LayerNorm(),
            nn.Dense(len(letters)),
        ],
        input_shape=(length,),
        seed=0,
    )
    print(net.summary())
    steps = epochs * -(-len(x) // 32)
    rate = optim.Warmup(optim.Cosine(2e-3, steps), max(1, steps // 20))
    trainer = bl.Trainer(net, "crossentropy", optim.AdamW(rate, weight_decay=0.01, clip_global_norm=1.0))
    trainer.fit(x, y, epochs=epochs, validation=(x_new, y_new))

    bits = trainer.evaluate(x_new, y_new)["loss"] / np.log(2)
    shares = np.bincount(codes[:cut], minlength=len(letters)) + 1.0
    guess = float(-np.log2(shares / shares.sum())[y_new].mean())
    print(f"{bits:.2f} bits a character on held-out text; guessing by frequency takes {guess:.2f}")
    print("it writes: " + write(net, letters, "The statement ", 30 if quick else 300, length))
    return bits, guess


if __name__ == "__main__":
    main("--quick" in sys.argv)
