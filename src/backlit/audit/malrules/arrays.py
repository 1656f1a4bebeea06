"""Slips of array programs: axes, transposes, softmax, normalisation, masks, convolution, loops."""

from __future__ import annotations

from collections.abc import Iterator

from backlit import ops
from backlit.audit.malrules.record import Value, malrule, node_of, value
from backlit.audit.scene import Edit, Scene, edit
from backlit.ir import Node
from backlit.ops.record import constant_like


def _transposed(x: Node) -> Value:
    return ops.matrix_transpose(value(x))


@malrule("transposed", "a matrix is used where its transpose belongs", 0.8)
def _transposed_weights(scene: Scene) -> Iterator[Edit]:
    for node in scene.cone:
        if node.op in ("contract", "matmul"):
            for place, i in enumerate(node.inputs):
                if i.type.ndim == 2 and i.type.shape[0] == i.type.shape[1]:
                    how = "the weights are transposed" if i.op == "input" else f"{scene.label(i)} is transposed"
                    text = f"{scene.label(i)} is transposed{scene.of(node)}"
                    yield edit(node, scene.with_input(node, place, node_of(_transposed(i))), text, how)
    shape = scene.target.type.shape
    if len(shape) == 2 and shape[0] == shape[1]:
        yield edit(scene.target, node_of(_transposed(scene.target)), "the result is transposed", "the result")


def softmaxes(scene: Scene) -> Iterator[tuple[Node, Node]]:
    """(x, y) of every softmax y = e^x / sum(e^x): its input and its result."""
    for node in scene.all_forward:
        if node.op == "divide" and node.scope is not None and node.scope.name == "softmax":
            shifted = node.inputs[0].inputs[0]  # e^(x - max)
            yield shifted.inputs[0], node


@malrule("softmax-without-exp", "softmax is taken without the exponential", 0.6)
def _softmax_without_exp(scene: Scene) -> Iterator[Edit]:
    for x, y in softmaxes(scene):
        total = y.inputs[1]
        axis = total.params.get("axis", (-1,)) if total.op == "sum" else -1
        plain = value(x) / ops.sum(value(x), axis, keepdims=True)
        yield edit(y, node_of(plain), "softmax is taken without the exponential: x / sum(x)", "without exp")
        yield edit(y, y.inputs[0].inputs[0], "softmax is left out", "softmax is left out")


@malrule("softmax-axis", "softmax is normalised over the wrong axis", 0.6)
def _softmax_axis(scene: Scene) -> Iterator[Edit]:
    for x, y in softmaxes(scene):
        for axis in range(y.type.ndim - 1) if y.type.ndim > 1 else ():
            how = f"softmax is normalised over axis {axis}"
            yield edit(y, node_of(ops.softmax(value(x), axis)), how, how)
        yield edit(y, y.inputs[0], "softmax is not normalised: e^x alone", "softmax is not normalised")


@malrule("softmax-diagonal", "only the diagonal of softmax's Jacobian is taken", 0.7)
def _softmax_diagonal(scene: Scene) -> Iterator[Edit]:
    for _, y in softmaxes(scene):
        back = [n for n in scene.backward if n.origin is not None and n.origin.scope is y.scope]
        quotients = [n for n in back if n.origin is y and n.op == "divide" and n.inputs[1] is y.inputs[1]]
        from_y = [n for n in quotients if n.inputs[0].origin is not y]
        from_exp = [n for n in back if n.origin is not None and n.origin.op == "exp" and n.op == "multiply"]
        if len(from_y) == 1 and len(from_exp) == 1:
            g, p = value(from_y[0].inputs[0]), value(y)
            how = "only the diagonal of softmax's Jacobian is taken: y(1 - y)"
            yield edit(from_exp[0], node_of(g * (p * (1.0 - p))), how, how)
            how = "softmax's Jacobian is left out: its gradient is passed on as it is"
            yield edit(from_exp[0], node_of(g), how, how)


@malrule("statistics-held", "the mean and variance of a normalisation are held fixed on the way back", 0.7)
def _statistics_held(scene: Scene) -> Iterator[Edit]:
    how = "the mean and variance of the normalisation are held fixed: their gradient is left out"
    for node in scene.backward:
        origin = node.origin
        if node.op == "broadcast_to" and origin is not None and origin.op == "sum" and _normalises(scene, origin):
            text = f"the gradient through {origin.name or 'a statistic'} is left out"
            yield edit(node, node_of(constant_like(value(node), 0.0)), text, how)


@malrule("max-pool-all", "max-pooling passes its gradient to every element of the window", 0.6)
def _max_to_all(scene: Scene) -> Iterator[Edit]:
    how = "the gradient of a maximum is passed to every element, not to the largest"
    for node in scene.backward:
        if node.op == "where" and node.origin is not None and node.origin.op in ("max", "min"):
            share = node.inputs[1]
            if share.op == "divide":  # by the number of elements that tie
                yield edit(node, node_of(ops.broadcast_to(value(share.inputs[0]), node.type.shape)), how, how)
                size = node.type.size / max(1, node.origin.type.size)
                spread = ops.broadcast_to(value(share.inputs[0]) / float(size), node.type.shape)
                mean = "the gradient of a maximum is shared by every element, as that of a mean"
                yield edit(node, node_of(spread), mean, mean)


def _normalises(scene: Scene, statistic: Node) -> bool:
    """Whether a sum is a mean or variance that something of its own input is shifted or divided by."""
    return any(
        n.op in ("subtract", "divide", "multiply") and scene.needs(n, statistic) and n.type == statistic.inputs[0].type
        for n in scene.all_forward
    )


@malrule("mask-left-out", "a mask (of dropout, of padding) is left out on the way back", 0.6)
def _mask_left_out(scene: Scene) -> Iterator[Edit]:
    how = "the mask is left out on the way back"
    for node in scene.backward:
        origin = node.origin
        if origin is None or not node.type.shape:
            continue
        if node.op == "where" and origin.op == "where":
            kept = [i for i in node.inputs[1:] if i.op != "constant"]
            if len(kept) == 1 and kept[0].type == node.type:
                yield edit(node, kept[0], how + scene.of(node), how)
        elif node.op == "multiply" and origin.op == "multiply":
            for kept_node, gone in (node.inputs, node.inputs[::-1]):
                if gone.op in ("input", "constant") and gone.type.shape and not scene.is_weight_of_gradient(gone):
                    yield edit(node, kept_node, how + scene.of(node), how)


def _kernel_use(node: Node) -> Node | None:
    """The kernel of a convolution whose gradient by its input a node is."""
    if node.op != "contract" or node.origin is None or node.origin.op != "contract":
        return None
    kernel = node.origin.inputs[1]
    seen = node.origin.inputs[0].op == "windows"
    return kernel if seen and node.inputs[-1] is kernel else None


@malrule("kernel-not-flipped", "the kernel of a convolution is turned the wrong way round on the way back", 0.6)
def _kernel_not_flipped(scene: Scene) -> Iterator[Edit]:
    how = "the kernel is turned the wrong way round on the way back (a correlation for a convolution, or the reverse)"
    for node in scene.backward:
        kernel = _kernel_use(node)
        if kernel is not None:
            turned = node_of(ops.flip(value(kernel), tuple(range(kernel.type.ndim - 2))))
            yield edit(node, scene.with_input(node, 1, turned), how, how)


@malrule("recurrence-cut", "the gradient is not passed on to the time step before", 0.7)
def _recurrence_cut(scene: Scene) -> Iterator[Edit]:
    uses: dict[Node, list[Node]] = {}
    for node in scene.backward:
        if node.op in ("contract", "multiply") and node.origin is not None and node.origin.op == node.op:
            for i in node.inputs:
                if i.op == "input" and scene.is_weight(i):
                    uses.setdefault(i, []).append(node)
    for weight, nodes in uses.items():
        if len(nodes) > 1:
            zeros = tuple((n, node_of(constant_like(value(n), 0.0))) for n in nodes)
            text = f"the gradient is not passed on through {scene.label(weight)} to the time step before"
            yield Edit(zeros, text)


@malrule("not-passed-on", "the gradient stops at a layer: what stands before it gets none", 0.5)
def _not_passed_on(scene: Scene) -> Iterator[Edit]:
    for node in scene.backward:
        if node.op == "contract" and node.origin is not None and node.type.shape:
            used = [i for i in node.inputs if scene.is_weight(i)]
            if used:
                text = f"the gradient is not passed on through {scene.label(used[0])}"
                yield edit(node, node_of(constant_like(value(node), 0.0)), text)


@malrule("batch-sum", "a gradient is not summed over the batch: its mean, or one example, is taken", 0.7)
def _batch_sum(scene: Scene) -> Iterator[Edit]:
    for target in scene.targets:
        node = target
        if node.op == "reshape":
            node = node.inputs[0]
        if node.op == "sum" and node.origin is not None and node.type.size:
            count = node.inputs[0].type.size // node.type.size
            name = scene.by_node_gradient(target)
            text = f"the mean over the {count} examples is taken for their sum in the gradient by {name}"
            yield edit(node, node_of(value(node) / float(count)), text, "the mean over the batch is taken for the sum")
