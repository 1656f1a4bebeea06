"""Convolutions of odd shapes and the neat ones beside which `python -m benchmarks.shapes --convolutions` times them.

Neat is a batch and channels of a multiple of 16, at least 16, and an image with a multiple of 8 places along each axis;
the size of the window, the stride and the dilation stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Convolution:
    """A convolution with as many zeros around the image as keep its size."""

    batch: int
    image: tuple[int, ...]
    inputs: int
    outputs: int
    window: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        size, window = "x".join(map(str, self.image)), "x".join(map(str, self.window))
        more = "".join(f" {k} {n}" for k in ("stride", "dilation", "groups") if (n := getattr(self, k)) > 1)
        return f"{self.batch} x {size} x {self.inputs}, {window} to {self.outputs}{more}"

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(-(-n // self.stride) for n in self.image)

    @property
    def flops(self) -> int:
        """Of each of its three products."""
        inner = math.prod(self.window) * self.inputs // self.groups
        return 2 * self.batch * math.prod(self.places) * self.outputs * inner


SHAPES = [
    Convolution(7, (28, 28), 1, 6, (5, 5)), Convolution(33, (13, 17), 17, 33, (3, 3)),
    Convolution(7, (33, 31), 33, 65, (3, 3)), Convolution(1, (56, 56), 65, 65, (3, 3)),
    Convolution(33, (13, 17), 65, 33, (1, 1)), Convolution(7, (57, 57), 3, 17, (7, 7), stride=2),
    Convolution(7, (31, 31), 33, 65, (3, 3), stride=2), Convolution(7, (31, 31), 17, 33, (3, 3), dilation=2),
    Convolution(33, (301,), 5, 33, (5,)), Convolution(7, (31, 31), 7, 7, (5, 5)),
    Convolution(16, (32, 32), 32, 32, (3, 3), groups=4), Convolution(16, (32, 32), 64, 64, (3, 3), groups=64),
]  # fmt: skip


def neat(shape: Convolution) -> Convolution:
    """The shape with its sizes rounded to what fits vectors and tiles, without groups."""
    batch, inputs, outputs = (max(16, (n + 8) // 16 * 16) for n in (shape.batch, shape.inputs, shape.outputs))
    image = tuple(max(8, (n + 4) // 8 * 8) for n in shape.image)
    return replace(shape, batch=batch, inputs=inputs, outputs=outputs, image=image, groups=1)


def product(kind: str, shape: Convolution) -> tuple[Callable[..., Any], list[tuple[int, ...]]]:
    """One of the three products of a convolution as a function, and the shapes of its arguments."""
    import backlit as bl
    from backlit import ops

    x = (shape.batch, *shape.image, shape.inputs)
    w = (*shape.window, shape.inputs // shape.groups, shape.outputs)
    g = (shape.batch, *shape.places, shape.outputs)

    def conv(x: Any, w: Any) -> Any:
        return ops.conv(
            x, w, stride=shape.stride, dilation=shape.dilation, padding="same", groups=shape.groups
        )  # fmt: skip

    if kind == "forward":
        return lambda x, w: ops.maximum(conv(x, w), 0.0), [x, w]
    by = 0 if kind == "by input" else 1
    return bl.grad(lambda x, w, g: ops.sum(conv(x, w) * g), by), [x, w, g]
