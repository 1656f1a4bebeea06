"""Which values are read with another axis last, so that this one has to go through memory by neighbours.

Movement costs nothing, since readers read elsewhere; but a convolution reads an image many times, in vectors along the
batch if that comes last. The rule that holds: such an image is written once with its axes in the new order.
"""

from __future__ import annotations

from backlit.ir import Node
from backlit.ops.contraction import parts_of


def turned(node: Node) -> Node | None:
    """What a node reads so: the operand of a pad, or under a product's windows if only the result has the last axis."""
    if node.op == "pad":
        return node.inputs[0] if _is_turned(node.inputs[0]) else None
    if node.op != "contract":
        return None
    left, right, result = parts_of(node.params["spec"])
    for seen, own, other in zip(node.inputs, (left, right), (right, left), strict=True):
        if seen.op == "windows" and _is_turned(seen.inputs[0]):
            last = own[seen.inputs[0].type.ndim - 1]
            if last in result and last not in other:
                return seen.inputs[0]
    return None


def _is_turned(node: Node) -> bool:
    return node.op == "permute_dims" and node.params["axes"][-1] != node.type.ndim - 1 and node.type.shape[-1] > 1
