"""The catalogue of mal-rules: the ways in which backpropagation by hand goes wrong.

A mal-rule (the word is from Sleeman & Brown, Intelligent Tutoring Systems, 1982) is a rewrite of the graph of a
quantity that gives what someone gets who makes one particular slip. It has a name, a sentence, a prior (how ordinary
the slip is, relative to the others), and says whether it is a convention rather than a mistake. A rule only proposes
edits; whether one reproduces the author's number is found by running the edited graph (`diagnosis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from backlit import ops
from backlit.audit.scene import ACTIVATIONS, Edit, Scene
from backlit.ir import Node, reachable
from backlit.tracing import Traced, lift

Value: TypeAlias = Any
Propose: TypeAlias = Callable[[Scene], Iterator[Edit]]


@dataclass(frozen=True, slots=True)
class MalRule:
    """One kind of slip. `propose` gives the edits that commit it, anywhere in a scene."""

    name: str
    sentence: str
    prior: float
    propose: Propose
    conventional: bool = False


RULES: dict[str, MalRule] = {}
"""Every mal-rule by its name."""


def malrule(name: str, sentence: str, prior: float, conventional: bool = False) -> Callable[[Propose], Propose]:
    """Register a generator of edits as a mal-rule."""

    def register(propose: Propose) -> Propose:
        RULES[name] = MalRule(name, sentence, prior, propose, conventional)
        return propose

    return register


def _v(node: Node) -> Value:
    return Traced(node)


def _n(value: Value) -> Node:
    return lift(value).node


def _leaves(scene: Scene, node: Node) -> Iterator[tuple[int, Node]]:
    """The inputs of a node that are quantities with a name."""
    for place, i in enumerate(node.inputs):
        if i in scene.by_node:
            yield place, i


def _is_weight(scene: Scene, node: Node) -> bool:
    return scene.by_node.get(node) in scene.trainable


def _is_bias(scene: Scene, node: Node) -> bool:
    return scene.by_node.get(node, "").startswith(("b", "bias"))


def _activation_of(node: Node) -> Node | None:
    """The activation whose derivative a backward node multiplies by, if it is such a node."""
    if node.origin is not None and node.op == "multiply" and node.origin.op in ACTIVATIONS:
        return node.origin
    return None


# --- terms and factors ------------------------------------------------------------------------------------------------


@malrule("term-left-out", "a term of the sum is left out", 0.9)
def _term_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ("add", "subtract"):
            left, right = node.inputs
            if not _is_bias(scene, right):
                yield Edit(node, left, f"{scene.label(right)} is left out of {scene.label(node)}")
            if not _is_bias(scene, left):
                kept = right if node.op == "add" else _n(-_v(right))
                yield Edit(node, kept, f"{scene.label(left)} is left out of {scene.label(node)}")


@malrule("bias-left-out", "the bias is left out", 1.0)
def _bias_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op == "add":
            for kept, gone in (node.inputs, node.inputs[::-1]):
                if _is_bias(scene, gone):
                    yield Edit(node, kept, f"the bias {scene.label(gone)} is left out")


@malrule("path-left-out", "one of the paths to the loss is left out", 1.0)
def _path_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "add":
            for kept, gone in (node.inputs, node.inputs[::-1]):
                yield Edit(node, kept, f"the path through {scene.quantity_behind(gone)} is left out")


@malrule("factor-left-out", "a factor of the product is left out", 0.6)
def _factor_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op == "multiply" and _activation_of(node) is None:
            left, right = node.inputs
            for kept, gone in ((left, right), (right, left)):
                if not (node.origin is not None and _is_weight(scene, gone)):
                    yield Edit(node, kept, f"the factor {scene.label(gone)} is left out")
        elif node.op == "divide":
            yield Edit(node, node.inputs[0], f"the division by {scene.label(node.inputs[1])} is left out")


@malrule("weight-left-out", "a weight is left out of a path back", 0.9)
def _weight_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "multiply":
            for kept, gone in (node.inputs, node.inputs[::-1]):
                if _is_weight(scene, gone):
                    yield Edit(node, kept, f"{scene.label(gone)} is left out of the path back")


@malrule("sign-flipped", "a sign is the wrong way round", 0.8)
def _sign_flipped(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op == "subtract":
            a, b = map(_v, node.inputs)
            yield Edit(node, _n(a + b), f"{scene.label(node.inputs[1])} is added instead of subtracted")
            yield Edit(node, _n(b - a), f"{scene.label(node.inputs[1])} and {scene.label(node.inputs[0])} are swapped")
        elif node.op == "add":
            a, b = map(_v, node.inputs)
            yield Edit(node, _n(a - b), f"{scene.label(node.inputs[1])} is subtracted instead of added")
        elif node.op == "negative":
            yield Edit(node, node.inputs[0], f"the minus before {scene.label(node.inputs[0])} is lost")
    yield Edit(scene.target, _n(-_v(scene.target)), "the sign is the wrong way round")


# --- one quantity for another -----------------------------------------------------------------------------------------


def _swapped(scene: Scene, wanted: Callable[[Node], bool]) -> Iterator[Edit]:
    for node in scene.cone:
        for place, leaf in _leaves(scene, node):
            if wanted(leaf):
                for name, other in scene.alike(leaf):
                    if node not in reachable([other]):
                        text = f"{name} used in place of {scene.label(leaf)}"
                        yield Edit(node, scene.with_input(node, place, other), text)


@malrule("another-bias", "the bias of another layer is used", 0.9)
def _another_bias(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, lambda leaf: _is_bias(scene, leaf))


@malrule("another-weight", "another weight is used", 0.8)
def _another_weight(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, lambda leaf: _is_weight(scene, leaf) and not _is_bias(scene, leaf))


@malrule("another-quantity", "another quantity of the same kind is used", 0.6)
def _another_quantity(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, lambda leaf: not _is_weight(scene, leaf) and not _is_bias(scene, leaf))


@malrule("pre-activation", "the value before the activation is used for the one after it", 0.7)
def _pre_activation(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        for place, i in enumerate(node.inputs):
            if i.op in ACTIVATIONS and _activation_of(node) is None:
                z = i.inputs[0]
                text = f"{scene.label(z)} used in place of {scene.label(i)}, which has gone through {i.op}"
                yield Edit(node, scene.with_input(node, place, z), text)
        if node.op in ACTIVATIONS and node.origin is None:
            yield Edit(node, node.inputs[0], f"{node.op} is left out")


@malrule("activation-twice", "an activation is applied once too often", 0.4)
def _activation_twice(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ACTIVATIONS:
            yield Edit(node, _n(getattr(ops, node.op)(_v(node))), f"{node.op} is applied twice")


@malrule("another-activation", "another activation function is used", 0.4)
def _another_activation(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ACTIVATIONS:
            for other in ACTIVATIONS:
                if other != node.op:
                    changed = getattr(ops, other)(_v(node.inputs[0]))
                    yield Edit(node, _n(changed), f"{other} is used in place of {node.op}")


# --- the activation's derivative --------------------------------------------------------------------------------------


@malrule("derivative-left-out", "the derivative of the activation is left out", 1.0)
def _derivative_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        activation = _activation_of(node)
        if activation is not None and _upstream(node) is not None:
            text = f"the derivative of {activation.op} at {scene.label(activation)} is left out"
            yield Edit(node, _upstream(node), text)  # type: ignore[arg-type]


@malrule("derivative-overwrites", "the activation's derivative takes the place of the gradient that arrives", 0.6)
def _derivative_overwrites(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if _activation_of(node) is not None and _upstream(node) is not None:
            slope = next(i for i in node.inputs if i is not _upstream(node))
            yield Edit(node, slope, "the gradient that arrives from above is overwritten, not multiplied")
        if node.op == "where" and node.origin is not None and node.origin.op == "relu":
            ones = ops.where(_v(node.inputs[0]), 1.0 + 0.0 * _v(node.origin), 0.0)
            yield Edit(node, _n(ones), "the gradient that arrives from above is overwritten by the mask of relu")


def _upstream(node: Node) -> Node | None:
    """The gradient that arrives at an activation: the input of its backward product that its derivative is not."""
    own = [i for i in node.inputs if i.origin is node.origin]
    rest = [i for i in node.inputs if i.origin is not node.origin]
    return rest[0] if len(own) == 1 and len(rest) == 1 else None


def _other_slopes(z: Value, a: Value, op: str) -> Iterator[tuple[str, str, Value]]:
    """(rule, text, derivative) of the ways to get an activation's derivative wrong."""
    if op != "sigmoid":
        yield "another-derivative", "a(1 - a), the derivative of sigmoid,", a * (1.0 - a)
    if op != "tanh":
        yield "another-derivative", "1 - a^2, the derivative of tanh,", 1.0 - a * a
    if op == "sigmoid":
        yield "derivative-wrong-point", "z(1 - z) in place of a(1 - a)", z * (1.0 - z)
        s = ops.sigmoid(a)
        yield "derivative-wrong-point", "the derivative at a in place of z", s * (1.0 - s)
        yield "derivative-in-part", "a in place of a(1 - a)", a
        yield "derivative-in-part", "1 - a in place of a(1 - a)", 1.0 - a
    if op == "tanh":
        yield "derivative-wrong-point", "1 - z^2 in place of 1 - a^2", 1.0 - z * z
        yield "derivative-wrong-point", "the derivative at a in place of z", 1.0 - ops.tanh(a) * ops.tanh(a)
        yield "derivative-in-part", "a in place of 1 - a^2", a
        yield "derivative-in-part", "1 - a in place of 1 - a^2", 1.0 - a
    if op == "relu":
        yield "relu-derivative", "the derivative of relu taken as z", z
        yield "relu-derivative", "the derivative of relu taken as 1 where z is negative", 1.0 + 0.0 * z


def _wrong_slopes(rule: str) -> Propose:
    def propose(scene: Scene) -> Iterator[Edit]:
        for node in scene.backward:
            activation = node.origin
            if activation is None or activation.op not in ACTIVATIONS:
                continue
            arriving = _upstream(node) if node.op == "multiply" else node.inputs[1] if node.op == "where" else None
            if arriving is None:
                continue
            for kind, text, slope in _other_slopes(_v(activation.inputs[0]), _v(activation), activation.op):
                if kind == rule:
                    new = _n(_v(arriving) * slope)
                    yield Edit(node, new, f"{text} for {scene.label(activation)}")

    return propose


malrule("another-derivative", "the derivative of another activation is used", 0.6)(_wrong_slopes("another-derivative"))
malrule("derivative-wrong-point", "the activation's derivative is taken at the wrong point", 0.6)(
    _wrong_slopes("derivative-wrong-point")
)
malrule("derivative-in-part", "only a part of the activation's derivative is taken", 0.6)(
    _wrong_slopes("derivative-in-part")
)
malrule("relu-derivative", "the derivative of relu is not 0 or 1", 0.5)(_wrong_slopes("relu-derivative"))


# --- the loss, the update ---------------------------------------------------------------------------------------------


@malrule("half-or-two", "the half, or the two, of the squared error is lost or added", 0.9, conventional=True)
def _half_or_two(scene: Scene) -> Iterator[Edit]:
    half = "half of the squared error is taken where the sheet takes all of it, or the 2 of its derivative is lost"
    whole = "all of the squared error is taken where the sheet takes half of it, or the 2 of its derivative is added"
    for node in _loss_like(scene):
        yield Edit(node, _n(0.5 * _v(node)), half)
        yield Edit(node, _n(2.0 * _v(node)), whole)


def _loss_like(scene: Scene) -> list[Node]:
    """The nodes that are a loss, or a gradient that starts at one."""
    if scene.rate is None:
        return [scene.target]
    return [n for n in scene.backward if any(i.op == "constant" for i in n.inputs)][:4]


@malrule("sum-or-mean", "a sum is taken for a mean, or a mean for a sum", 0.6, conventional=True)
def _sum_or_mean(scene: Scene) -> Iterator[Edit]:
    counts = {n.type.size for n in scene.cone} | {2, 3, 4}
    for count in sorted(c for c in counts if c > 2):
        yield Edit(scene.target, _n(_v(scene.target) * float(count)), f"a sum over {count} taken for a mean")
        yield Edit(scene.target, _n(_v(scene.target) / float(count)), f"a mean over {count} taken for a sum")


def _update(scene: Scene) -> tuple[Node, Node, Node] | None:
    """Of a target that is w - rate * g: the node, w, and g."""
    node = scene.target
    if scene.rate is None or node.op != "subtract" or node.inputs[1].op != "multiply":
        return None
    return node, node.inputs[0], node.inputs[1].inputs[1]


@malrule("gradient-added", "the gradient is added where it should be subtracted", 0.9)
def _gradient_added(scene: Scene) -> Iterator[Edit]:
    found = _update(scene)
    if found:
        node, w, g = found
        yield Edit(node, _n(_v(w) + scene.rate * _v(g)), "the gradient is added, so the step goes uphill")


@malrule("rate-left-out", "the learning rate is left out", 0.8)
def _rate_left_out(scene: Scene) -> Iterator[Edit]:
    found = _update(scene)
    if found:
        node, w, g = found
        yield Edit(node, _n(_v(w) - _v(g)), "the learning rate is left out")


@malrule("rate-twice", "the learning rate is applied twice", 0.5)
def _rate_twice(scene: Scene) -> Iterator[Edit]:
    found = _update(scene)
    if found and scene.rate is not None:
        node, w, g = found
        yield Edit(node, _n(_v(w) - scene.rate**2 * _v(g)), "the learning rate is applied twice")


@malrule("step-alone", "the change of the weight is given in place of the new weight", 0.5)
def _step_alone(scene: Scene) -> Iterator[Edit]:
    found = _update(scene)
    if found and scene.rate is not None:
        node, w, g = found
        yield Edit(node, _n(-scene.rate * _v(g)), "the change of the weight is given, not the new weight")
        yield Edit(node, w, "the weight is not changed at all")


# --- numbers ----------------------------------------------------------------------------------------------------------


@malrule("rounded-early", "an intermediate result is rounded too early", 0.5)
def _rounded_early(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node is scene.target or node.type.shape:
            continue
        value = float(scene.value(node))
        for digits in (1, 2, 3, 4):
            short = np.round(value, digits)
            if short != value:
                text = f"{scene.label(node)} is rounded to {short:.{digits}f} too early"
                yield Edit(node, scene.number(short), text)


@malrule("misread", "a number is misread", 0.4)
def _misread(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        for place, leaf in _leaves(scene, node):
            if leaf.type.shape:
                continue
            value = float(scene.bench.value(leaf, scene.held) if leaf not in scene.held else scene.held[leaf])
            for other, how in misreadings(f"{value:g}"):
                replacement = scene.with_input(node, place, scene.number(float(other)))
                yield Edit(node, replacement, f"{scene.label(leaf)} is read as {other} ({how})")


def misreadings(text: str) -> Iterator[tuple[str, str]]:
    """The numbers that a printed number is easily taken for, and how: digits transposed, dropped or doubled, the point
    in another place, the sign lost."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    found: dict[str, str] = {}
    places = [i for i, c in enumerate(digits) if c.isdigit()]
    for i, j in pairwise(places):
        swapped = list(digits)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        found.setdefault("".join(swapped), "two digits transposed")
    for i in places[1:]:
        found.setdefault(digits[:i] + digits[i + 1 :], "a digit dropped")
        found.setdefault(digits[:i] + digits[i] + digits[i:], "a digit doubled")
    value = float(digits)
    for factor in (10.0, 0.1, 100.0, 0.01):
        found.setdefault(f"{value * factor:.12g}", "the decimal point in another place")
    for other, how in found.items():
        if other not in ("", ".") and float(other) != value:
            yield sign + other, how
    if value:
        yield ("" if sign else "-") + digits, "the sign"
