"""Slips on the way back: paths, weights, and the derivative of the activation."""

from __future__ import annotations

from collections.abc import Iterator

from backlit import ops
from backlit.audit.malrules.forward import operands
from backlit.audit.malrules.record import Propose, Value, malrule, node_of, value
from backlit.audit.scene import ACTIVATIONS, Edit, Scene, edit
from backlit.ir import Node


def arriving(node: Node) -> Node | None:
    """The gradient that arrives at an activation, of the node that multiplies it by the derivative; else None."""
    origin = node.origin
    if origin is None or origin.op not in ACTIVATIONS:
        return None
    if node.op == "where":  # relu
        return node.inputs[1]
    own = [i for i in node.inputs if i.origin is origin]
    rest = [i for i in node.inputs if i.origin is not origin]
    if node.op != "multiply" or len(own) != 1 or len(rest) != 1 or rest[0] in (origin, *origin.inputs):
        return None  # the last: a product inside the derivative itself
    return rest[0]


def _shared_leaf(node: Node) -> Node | None:
    """The param whose gradient a sum of two shares is, where it is used in two places."""
    leaves = [{i for i in share.origin.inputs if i.op == "input"} for share in node.inputs if share.origin]
    both = leaves[0] & leaves[1] if len(leaves) == 2 else set()
    return next(iter(both)) if len(both) == 1 else None


def _paths(scene: Scene, of_leaf: bool) -> Iterator[tuple[Node, Node, Node, Node | None]]:
    """(sum, what is kept, what is left out, the leaf whose uses are summed)."""
    for node in scene.backward:
        if node.op == "add":
            leaf = _shared_leaf(node)
            if (leaf is not None) == of_leaf:
                for place, gone in operands(node):
                    yield node, node.inputs[1 - place], gone, leaf


@malrule("path-left-out", "one of the paths to the loss is left out", 1.0)
def _path_left_out(scene: Scene) -> Iterator[Edit]:
    for node, kept, gone, _ in _paths(scene, of_leaf=False):
        yield edit(node, kept, f"the path through {scene.quantity_behind(gone)} is left out", "a path is left out")


@malrule("use-left-out", "one of the uses of a weight (a time step, an example) is left out of the sum", 0.9)
def _use_left_out(scene: Scene) -> Iterator[Edit]:
    for node, kept, gone, leaf in _paths(scene, of_leaf=True):
        assert leaf is not None
        what = f"the use of {scene.label(leaf)} in {scene.quantity_behind(gone)}"
        yield edit(node, kept, f"{what} (one time step or example) is left out of the sum")


@malrule("weight-left-out", "a weight is left out of a path back", 0.9)
def _weight_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "multiply" and arriving(node) is None:
            for kept, gone in (node.inputs, node.inputs[::-1]):
                if scene.is_weight(gone):
                    text = f"{scene.label(gone)} is left out of the path through {scene.quantity_behind(node)}"
                    yield edit(node, kept, text, "the weights are left out of the way back")


@malrule("input-left-out", "the input of the weight is left out of its gradient", 0.8)
def _input_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "multiply" and arriving(node) is None:
            for kept, gone in (node.inputs, node.inputs[::-1]):
                if (
                    gone.origin is None
                    and gone.op != "constant"
                    and not scene.is_weight(gone)
                    and gone is not node.origin
                ):
                    yield edit(node, kept, f"the factor {scene.label(gone)} is left out")


@malrule("gradient-left-out", "the gradient that arrives is left out: only the local derivative is taken", 0.6)
def _gradient_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "multiply" and arriving(node) is None:
            for kept, gone in (node.inputs, node.inputs[::-1]):
                outer = kept is not node.origin and kept.op != "constant"
                if gone.origin is not None and kept.origin is None and outer:
                    what = scene.quantity_behind(node)
                    yield edit(node, kept, f"the gradient that arrives at {what} is left out: only {scene.label(kept)}")


@malrule("derivative-left-out", "the derivative of the activation is left out", 1.0)
def _derivative_left_out(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        upstream = arriving(node)
        if upstream is not None and node.origin is not None:
            how = f"the derivative of {node.origin.op} is left out"
            yield edit(node, upstream, f"the derivative of {node.origin.op}{scene.at(node.origin)} is left out", how)


@malrule("derivative-overwrites", "the activation's derivative takes the place of the gradient that arrives", 0.6)
def _derivative_overwrites(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        upstream, activation = arriving(node), node.origin
        if upstream is None or activation is None:
            continue
        if node.op == "where":
            mask = ops.astype(value(node.inputs[0]), node.type.dtype)
            how = "the mask of relu overwrites the gradient that arrives instead of multiplying it"
            yield edit(node, node_of(mask), how + scene.at(activation), how)
        else:
            slope = next(i for i in node.inputs if i is not upstream)
            how = f"the derivative of {activation.op} takes the place of the gradient that arrives"
            yield edit(node, slope, how + scene.at(activation), how)


def _wrong_slopes(z: Value, a: Value, op: str) -> Iterator[tuple[str, str, Value]]:
    """(rule, text, derivative) of the ways to get an activation's derivative wrong."""
    if op != "sigmoid":
        yield "another-derivative", "a(1 - a), the derivative of sigmoid, is used", a * (1.0 - a)
    if op != "tanh":
        yield "another-derivative", "1 - a^2, the derivative of tanh, is used", 1.0 - a * a
    if op == "sigmoid":
        yield "derivative-wrong-point", "z(1 - z) is used in place of a(1 - a)", z * (1.0 - z)
        s = ops.sigmoid(a)
        yield "derivative-wrong-point", "the derivative is taken at a in place of z", s * (1.0 - s)
        yield "derivative-in-part", "a is used in place of a(1 - a)", a
        yield "derivative-in-part", "1 - a is used in place of a(1 - a)", 1.0 - a
        yield "derivative-in-part", "a(1 + a) is used in place of a(1 - a)", a * (1.0 + a)
    if op == "tanh":
        yield "derivative-wrong-point", "1 - z^2 is used in place of 1 - a^2", 1.0 - z * z
        again = ops.tanh(a)
        yield "derivative-wrong-point", "the derivative is taken at a in place of z", 1.0 - again * again
        yield "derivative-in-part", "a is used in place of 1 - a^2", a
        yield "derivative-in-part", "1 - a is used in place of 1 - a^2", 1.0 - a
        yield "derivative-in-part", "1 + a^2 is used in place of 1 - a^2", 1.0 + a * a
        yield "derivative-in-part", "a^2 is used in place of 1 - a^2", a * a
    if op == "softplus":
        yield "derivative-wrong-point", "the derivative is taken at a in place of z", ops.sigmoid(a)
        yield "derivative-in-part", "softplus itself is used as its derivative", a
    if op == "relu":
        yield "relu-derivative", "the derivative of relu is taken as z", z
        yield "relu-derivative", "the derivative of relu is taken as relu itself", a


def _with_slope(rule: str) -> Propose:
    def propose(scene: Scene) -> Iterator[Edit]:
        for node in scene.backward:
            upstream, activation = arriving(node), node.origin
            if upstream is None or activation is None:
                continue
            z, a = value(activation.inputs[0]), value(activation)
            for kind, how, slope in _wrong_slopes(z, a, activation.op):
                if kind == rule:
                    yield edit(node, node_of(value(upstream) * slope), how + scene.at(activation), how)

    return propose


for _name, _sentence in (
    ("another-derivative", "the derivative of another activation is used"),
    ("derivative-wrong-point", "the activation's derivative is taken at the wrong point"),
    ("derivative-in-part", "only a part of the activation's derivative is taken, or its sign is wrong"),
    ("relu-derivative", "the derivative of relu is taken as z, not as 0 or 1"),
):
    malrule(_name, _sentence, 0.6)(_with_slope(_name))


@malrule("derivative-twice", "the activation's derivative is multiplied in twice", 0.4)
def _derivative_twice(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        upstream, activation = arriving(node), node.origin
        if upstream is not None and activation is not None and node.op == "multiply":
            slope = next(i for i in node.inputs if i is not upstream)
            how = f"the derivative of {activation.op} is multiplied in twice"
            yield edit(node, node_of(value(node) * value(slope)), how + scene.at(activation), how)
