"""Slips in what the author's own formulas compute: terms, factors, signs, and one quantity taken for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from backlit import ops
from backlit.audit.malrules.record import malrule, node_of, value
from backlit.audit.scene import ACTIVATIONS, Edit, Scene, edit
from backlit.ir import Node


def operands(node: Node) -> Iterator[tuple[int, Node]]:
    """The terms of a sum, or the factors of a product, that this node adds: inner sums have nodes of their own."""
    for place, i in enumerate(node.inputs):
        if i.name is not None or i.op != node.op or i.origin is not node.origin:
            yield place, i


@malrule("term-left-out", "a term of a sum is left out", 0.9)
def _term_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ("add", "subtract") and scene.update is None:
            for place, gone in operands(node):
                if not scene.is_bias(gone):
                    kept = node.inputs[1 - place]
                    new = node_of(-value(kept)) if node.op == "subtract" and place == 0 else kept
                    yield edit(node, new, f"the term {scene.label(gone)} is left out{scene.of(node)}")


@malrule("bias-left-out", "the bias is left out", 1.0)
def _bias_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op == "add":
            for kept, gone in (node.inputs, node.inputs[::-1]):
                if scene.is_bias(gone):
                    yield edit(node, kept, f"the bias {scene.label(gone)} is left out{scene.of(node)}")


@malrule("factor-left-out", "a factor of a product is left out", 0.6)
def _factor_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op == "multiply":
            for place, gone in operands(node):
                if gone.op != "constant":
                    yield edit(node, node.inputs[1 - place], f"the factor {scene.label(gone)} is left out")
        elif node.op == "divide" and node.inputs[1].op != "constant":
            yield edit(node, node.inputs[0], f"the division by {scene.label(node.inputs[1])} is left out")


@malrule("sign-flipped", "a sign is the wrong way round", 0.8)
def _sign_flipped(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op in ("subtract", "add"):
            a, b = map(value, node.inputs)
            first, second = map(scene.label, node.inputs)
            if node.op == "subtract":
                yield edit(node, node_of(a + b), f"{second} is added where it should be subtracted")
            elif node.origin is None:
                yield edit(node, node_of(a - b), f"{second} is subtracted where it should be added")
                if node.inputs[0].op != "add":
                    yield edit(node, node_of(b - a), f"{first} is subtracted where it should be added")
        elif node.op == "negative":
            yield edit(node, node.inputs[0], f"the minus before {scene.label(node.inputs[0])} is lost")
    yield edit(scene.target, node_of(-value(scene.target)), "the sign is the wrong way round", "sign")


@malrule("difference-swapped", "a difference is taken the wrong way round: y - yhat for yhat - y", 0.9)
def _difference_swapped(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op == "subtract" and scene.update is None:
            first, second = map(scene.label, node.inputs)
            yield edit(node, node_of(-value(node)), f"{second} - {first} is taken where it is {first} - {second}")


def _swapped(scene: Scene, wanted: Callable[[Node], bool]) -> Iterator[Edit]:
    for node in scene.cone:
        for place, leaf in enumerate(node.inputs):
            if leaf in scene.by_node and wanted(leaf):
                for name, other in scene.alike(leaf):
                    if not scene.needs(other, node):
                        text = f"{name} is used in place of {scene.label(leaf)}{scene.of(node)}"
                        yield edit(node, scene.with_input(node, place, other), text)


@malrule("another-bias", "the bias of another unit or layer is used", 0.9)
def _another_bias(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, scene.is_bias)


@malrule("another-weight", "another weight is used", 0.8)
def _another_weight(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, lambda leaf: scene.is_weight(leaf) and not scene.is_bias(leaf))


@malrule("another-quantity", "another quantity of the same kind is used: another input, activation or target", 0.6)
def _another_quantity(scene: Scene) -> Iterator[Edit]:
    yield from _swapped(scene, lambda leaf: not scene.is_weight(leaf) and not scene.is_bias(leaf))


@malrule("number-of-another", "the number of another quantity of the same kind is written", 0.5)
def _number_of_another(scene: Scene) -> Iterator[Edit]:
    for name, other in scene.alike(scene.target):
        yield edit(scene.target, other, f"the number of {name} is written for {scene.label(scene.target)}")


@malrule("pre-activation", "the value before the activation is used for the one after it", 0.7)
def _pre_activation(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op in ACTIVATIONS and node.origin is None:
            how = f"{node.op} is left out"
            yield edit(node, node.inputs[0], f"{how}{scene.of(node)}", how)
            continue
        for place, i in enumerate(node.inputs):
            if i.op in ACTIVATIONS and i.origin is None and node.origin is not i:
                z = i.inputs[0]
                text = f"{scene.label(z)} is used in place of {scene.label(i)}, which has gone through {i.op},"
                yield edit(node, scene.with_input(node, place, z), text + scene.of(node))


@malrule("activation-twice", "the value after the activation is used for the one before it", 0.4)
def _activation_twice(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ACTIVATIONS:
            twice = node_of(getattr(ops, node.op)(value(node)))
            yield edit(node, twice, f"{node.op} is applied twice{scene.of(node)}", f"{node.op} is applied twice")


@malrule("another-activation", "another activation function is used", 0.4)
def _another_activation(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op in ACTIVATIONS:
            for other in ACTIVATIONS:
                if other != node.op:
                    changed = node_of(getattr(ops, other)(value(node.inputs[0])))
                    how = f"{other} is used in place of {node.op}"
                    yield edit(node, changed, how + scene.of(node), how)


@malrule("function-left-out", "an exponential, logarithm, square root or square is left out", 0.4)
def _function_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.scope is not None and node.scope.kind == "composite":
            continue  # softmax and its kin have rules of their own
        if node.op in ("exp", "log", "sqrt", "abs", "pow"):
            x = scene.label(node.inputs[0])
            what = f"the power of {x}" if node.op == "pow" else f"the {node.op} of {x}"
            yield edit(node, node.inputs[0], f"{what} is left out", f"{node.op} is left out")


@malrule("double-for-square", "a square is taken as twice the number", 0.3)
def _double_for_square(scene: Scene) -> Iterator[Edit]:
    for node in scene.forward:
        if node.op == "pow" and scene.constant(node.inputs[1]) == 2.0:
            x = value(node.inputs[0])
            yield edit(node, node_of(2.0 * x), f"twice {scene.label(node.inputs[0])} is taken for its square")
