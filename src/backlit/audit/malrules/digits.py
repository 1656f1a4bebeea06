"""Slips with the digits: rounding too early, and numbers misread or miswritten."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from backlit.audit.malrules.record import malrule
from backlit.audit.scene import Edit, Scene, edit

PEN = {
    "slip-of-the-pen": "the right number is miswritten: digits transposed, dropped or doubled, the point moved",
    "one-digit": "one digit of the right number is wrong",
}
"""Slips that are no edit of a graph: the number itself is miswritten."""


@malrule("rounded-early", "an intermediate result is rounded too early", 0.5)
def _rounded_early(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node is scene.target or node.type.shape or scene.is_number(node):
            continue
        number = float(scene.value(node))
        for digits in (1, 2, 3, 4):
            short = round(number, digits)
            if short != number and abs(short - number) > 1e-12:
                text = f"{scene.label(node)} is rounded to {short:.{digits}f} too early"
                yield edit(node, scene.number(short), text)


@malrule("misread", "a given, or a number from above, is misread", 0.4)
def _misread(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        for place, leaf in enumerate(node.inputs):
            if leaf not in scene.by_node or leaf.type.shape or (leaf not in scene.held and leaf.op != "input"):
                continue
            for other, how in misreadings(f"{float(scene.value(leaf)):.10g}"):
                new = scene.with_input(node, place, scene.number(float(other)))
                yield edit(node, new, f"{scene.label(leaf)} is read as {other} ({how})")


def misreadings(text: str) -> Iterator[tuple[str, str]]:
    """The numbers that a printed number is easily taken for, and how: digits transposed, dropped or doubled, the point
    in another place, the sign lost."""
    if "e" in text or not np.isfinite(float(text)):
        return
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    found: dict[str, str] = {}
    places = [i for i, c in enumerate(digits) if c.isdigit()]
    significant = [i for i in places if digits[: i + 1].strip("0.")]
    for i, j in pairwise(places):
        if digits[i] != digits[j] and j in significant:
            swapped = list(digits)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            found.setdefault("".join(swapped), "two digits transposed")
    for i in significant if len(significant) > 1 else ():
        found.setdefault(digits[:i] + digits[i + 1 :], "a digit dropped")
        found.setdefault(digits[:i] + digits[i] + digits[i:], "a digit doubled")
    number = float(digits)
    for factor in (10.0, 0.1, 100.0, 0.01):
        found.setdefault(f"{number * factor:.12g}", "the decimal point in another place")
    for other, how in found.items():
        if other.strip(".") and float(other) != number:
            yield sign + other, how
    if number:
        yield ("" if sign else "-") + digits, "the sign"
