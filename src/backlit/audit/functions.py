"""`bl.diagnose`: which slip gives the number that someone claims for a quantity of a function."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.audit.checker import Diagnosis
from backlit.audit.diagnosis import candidates
from backlit.audit.diagnosis import diagnose as search
from backlit.audit.printed import Printed, Values, unit_of
from backlit.audit.program import Program, program
from backlit.audit.scene import Scene
from backlit.errors import GradientError
from backlit.ir import Node
from backlit.ops.movement import reshape
from backlit.tracing import Traced

_SLOPE = re.compile(r"\s*(?:d\s*|∂\s*)(\w+)\s*/\s*(?:d\s*|∂\s*)([^\s].*?)\s*")
_ELEMENT = re.compile(r"(.+?)\[\s*(-?\d+(?:\s*,\s*-?\d+)*)\s*\]")


@dataclass(frozen=True, slots=True)
class Slip:
    """One way to go wrong about a quantity: the mal-rule, a sentence, and the value that it gives."""

    rule: str
    text: str
    value: Values


def diagnose(
    function: Callable[..., Any], *arguments: Any, quantity: str, claimed: str | float
) -> tuple[Diagnosis, ...]:
    """The slips that give the number someone claims for a quantity of `function(*arguments)`; best first.

        bl.diagnose(loss, w5, w6, x, y, quantity="dE/dw5", claimed="0.294")

    quantity   a name of the function's own code ("h1"), one of its arguments ("p.w1[0, 1]"), or a derivative "dE/dw5"
               of its result, or of one of its numbers, by one of them
    claimed    the number as text, whose digits say how precise it is meant to be; a float is taken as Python prints it

    Empty where the number is right, and where no slip that is known gives it. Raises GradientError for a quantity that
    the function does not have.
    """
    text = claimed if isinstance(claimed, str) else repr(float(claimed))
    try:
        number = Printed(np.asarray(float(text)), np.asarray(unit_of(text)))
    except ValueError:
        raise GradientError(f"the claim {text!r} is no number") from None
    scene = scene_for(function, arguments, quantity)
    if number.stands_for(scene.value(scene.target)):
        return ()
    return tuple(search(scene, number, np.asarray(0.0), text))


def slips(function: Callable[..., Any], *arguments: Any, quantity: str) -> list[Slip]:
    """What every single mal-rule gives for a quantity, most ordinary first: see `diagnose` for the quantity."""
    found = candidates(scene_for(function, arguments, quantity))
    return [Slip(c.rules[0].name, c.edits[0].text, c.value) for c in found]


def scene_for(function: Callable[..., Any], arguments: Any, quantity: str) -> Scene:
    """The scene of one quantity of a function."""
    found = program(function, arguments)
    slope = _SLOPE.fullmatch(quantity)
    if slope is None:
        node, element = _named(found, quantity)
    else:
        node, element = _named(found, slope[2])
        node = found.slope(found.names.get(slope[1], found.loss), node)
    if element is not None:
        flat = reshape(Traced(node), (node.type.size,))
        node = flat[int(np.ravel_multi_index(element, node.type.shape))].node
    elif node.type.shape:
        raise GradientError(f"{quantity} has the shape {node.type.shape}", fix="name one element, such as dE/dw[0, 1]")
    return found.scene([node])


def _named(found: Program, name: str) -> tuple[Node, tuple[int, ...] | None]:
    """The node of a name, and the element of it that is meant."""
    indexed = _ELEMENT.fullmatch(name)
    base = indexed[1] if indexed else name
    fitting = [n for n in found.names if n == base] or [n for n in found.names if n.endswith("." + base)]
    if len(fitting) != 1:
        raise GradientError(
            f"there is no quantity {base!r}" if not fitting else f"{base!r} may mean {', '.join(fitting)}",
            fix=f"choose from {', '.join(list(found.names)[:30])}",
        )
    node = found.names[fitting[0]]
    if indexed is None:
        return node, None
    element = tuple(int(k) for k in indexed[2].split(","))
    shape = node.type.shape
    if len(element) != len(shape) or any(not -n <= k < n for k, n in zip(element, shape, strict=False)):
        raise GradientError(f"{name} is no element of an array of the shape {shape}")
    return node, tuple(k % n for k, n in zip(element, shape, strict=True))
