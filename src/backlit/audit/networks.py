"""Worksheets of small networks: every unit a line, as they are worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backlit.errors import SettingError

ACTIVATIONS = ("sigmoid", "tanh", "relu", "softplus")
LOSSES = ("half-mse", "mse", "sse", "crossentropy")


@dataclass(frozen=True, slots=True)
class Layout:
    """The lines of a network's worksheet, and the names in it by layer.

    `weights[l][j]` are the names of the weights into unit j of layer l; `inputs[l]` the names that they multiply.
    """

    definitions: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[tuple[str, ...], ...], ...]
    biases: tuple[tuple[str, ...], ...]
    sums: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]
    targets: tuple[str, ...]


def sizes(shape: str) -> tuple[int, ...]:
    """The layer sizes of `2-3-1`. Raises SettingError for anything else, and for networks too large for a hand."""
    try:
        found = tuple(int(n) for n in shape.split("-"))
    except ValueError:
        found = ()
    if not 2 <= len(found) <= 5 or not all(1 <= n <= 8 for n in found):
        raise SettingError(f"{shape!r} is no shape of a network", fix="write 2-2-1: up to 5 layers of 1 to 8 units")
    return found


def layout(layers: Sequence[int], activation: str, loss: str) -> Layout:
    """The worksheet of a dense network: z = w x + b and a = activation(z) for each unit, then the loss E.

    With `crossentropy` several outputs go through softmax, one through sigmoid.
    """
    if activation not in ACTIVATIONS:
        raise SettingError(f"there is no activation {activation!r}", fix=f"use one of {', '.join(ACTIVATIONS)}")
    if loss not in LOSSES:
        raise SettingError(f"there is no loss {loss!r}", fix=f"use one of {', '.join(LOSSES)}")
    lines: list[str] = []
    inputs, weights, biases, sums = [tuple(f"x{i + 1}" for i in range(layers[0]))], [], [], []
    w = unit = hidden = 0
    outputs: list[str] = []
    for depth, size in enumerate(layers[1:], 1):
        last = depth == len(layers) - 1
        into, bias, z, after = [], [], [], []
        for j in range(size):
            names = tuple(f"w{w + i + 1}" for i in range(len(inputs[-1])))
            w, unit = w + len(names), unit + 1
            into.append(names)
            bias.append(f"b{unit}")
            z.append(f"z{unit}")
            terms = " + ".join(f"{a}*{b}" for a, b in zip(names, inputs[-1], strict=True))
            lines.append(f"z{unit} = {terms} + b{unit}")
            if last:
                outputs.append(f"y{j + 1}" if size > 1 else "y")
                if loss != "crossentropy":
                    lines.append(f"{outputs[-1]} = {activation}(z{unit})")
                elif size == 1:
                    lines.append(f"{outputs[-1]} = sigmoid(z{unit})")
            else:
                hidden += 1
                after.append(f"a{hidden}")
                lines.append(f"a{hidden} = {activation}(z{unit})")
        weights.append(tuple(into))
        biases.append(tuple(bias))
        sums.append(tuple(z))
        inputs.append(tuple(after))
    if loss == "crossentropy" and layers[-1] > 1:
        bottom = " + ".join(f"e^{z}" for z in sums[-1])
        lines += [f"{y} = e^{z}/({bottom})" for y, z in zip(outputs, sums[-1], strict=True)]
    targets = tuple(f"t{j + 1}" if len(outputs) > 1 else "t" for j in range(len(outputs)))
    lines.append(f"E = {_loss(loss, outputs, targets)}")
    return Layout(tuple(lines), tuple(inputs[:-1]), tuple(weights), tuple(biases), tuple(sums), tuple(outputs), targets)


def _loss(loss: str, outputs: Sequence[str], targets: Sequence[str]) -> str:
    pairs = list(zip(outputs, targets, strict=True))
    if loss == "crossentropy":
        if len(pairs) == 1:
            y, t = pairs[0]
            return f"-({t}*ln({y}) + (1 - {t})*ln(1 - {y}))"
        return "-(" + " + ".join(f"{t}*ln({y})" for y, t in pairs) + ")"
    squares = " + ".join(f"({y} - {t})^2" for y, t in pairs)
    whole = f"({squares})" if len(pairs) > 1 else squares
    if loss == "half-mse":
        return f"{whole}/2"
    return f"{whole}/{len(pairs)}" if loss == "mse" and len(pairs) > 1 else squares
