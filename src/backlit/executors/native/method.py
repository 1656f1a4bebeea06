"""By which method a Nest is run: decided here, for whoever writes its code, shares it among threads or prints it.

How its operands lie in memory leaves little choice, so the first that can run it does:

    tiles of groups            where an axis of the result, as channels that do not meet, goes through both operands
    tiles of a product         where an axis of the result lies side by side in an operand, or can be turned on the way
    tiles of dot products      where that which is summed lies side by side in both operands
    squares that are turned    for a copy from one order of axes to another
    loops                      for all else

What may be chosen is how the operands lie, and that is settled before, when kernels are made of a graph: `packed`
copies an operand, `winograd_weights` and `gradients` take Winograd's method, whose kernels are of kinds of their own,
`parts` cuts long sums and `remainder` a few columns off.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from backlit.executors.native.builder import Module, kernel_function
from backlit.executors.native.dots import Dots, DotWriter, dots
from backlit.executors.native.groups import Groups, groups
from backlit.executors.native.groups_product import GroupWriter
from backlit.executors.native.kernels import Nest, Winograd
from backlit.executors.native.nest import NestWriter
from backlit.executors.native.product import ProductWriter
from backlit.executors.native.schedule import Schedule, schedule
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import Tiling, tiling
from backlit.executors.native.transpose import Transpose, TransposeWriter, transpose
from backlit.executors.native.winograd_product import WinogradWriter, by_squares


@lru_cache(maxsize=4096)
def method(nest: Nest, target: Target) -> Schedule:
    """How a nest is run: `Groups`, a `Tiling`, `Dots` or `Transpose`, or a plain schedule."""
    if isinstance(nest, Winograd):
        return by_squares(nest, target)
    ways = groups, tiling, dots, transpose, schedule
    return next(plan for way in ways if (plan := way(nest, target)) is not None)


def emit_nest(module: Module, name: str, nest: Nest, lengths: Sequence[int]) -> None:
    """Write the function of a Nest. `lengths` are the sizes of the ranges that it will be called for."""
    f = kernel_function(module, name, [f"p{k}" for k in range(len(nest.arguments))])
    match method(nest, module.target):
        case plan if isinstance(nest, Winograd):
            WinogradWriter(f, nest, plan, lengths).write()
        case Groups() as plan:
            GroupWriter(f, nest, plan, lengths).write()
        case Tiling() as plan:
            ProductWriter(f, nest, plan, lengths).write()
        case Dots() as plan:
            DotWriter(f, nest, plan, lengths).write()
        case Transpose() as plan:
            TransposeWriter(f, nest, plan, lengths).write()
        case plan:
            NestWriter(f, nest, plan, lengths).write()
