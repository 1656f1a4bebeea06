"""How a derivation is divided for reading: the parts that every renderer shows, in order, each with its heading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from backlit.explanation.derivation import Derivation
from backlit.explanation.steps import Step


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the steps under it."""

    title: str
    steps: tuple[Step, ...]


TITLES = {
    "given": "Given",
    "forward": "Forward pass",
    "loss": "Loss",
    "backward": "Backward pass",
    "local": "Local derivatives",
    "gradient": "Gradient",
    "path": "Along each path",
    "update": "Update",
    "check": "Check",
}


def sections(d: Derivation) -> Iterator[Section]:
    """The parts of a derivation: steps of one kind that follow each other."""
    for kind, steps in groupby(d.steps, key=lambda s: s.kind):
        yield Section(TITLES[kind], tuple(steps))


def legend(d: Derivation) -> str:
    """What the layer numbers mean: `Layer 1 is dense_1, layer 2 is dense_2.`"""
    if not d.layers:
        return ""
    named = [f"layer {number} is {name}" for number, name in d.layers.items()]
    text = ", ".join(named) + "."
    if any(s.symbol.name == "delta" for s in d.steps):
        text += " δ is the derivative of the loss by a layer's z."
    return text[0].upper() + text[1:]
