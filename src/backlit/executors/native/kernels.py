"""Kernels: what is computed in one go, as data. They can be printed, compared and tested without LLVM.

A `Nest` is a loop nest over `space`: at each point it runs `prologue` over the `reduced` axes, combining values there,
then `epilogue`. With no reduced axes it is a map; with them, a reduction; and a product of matrices is the sum over k
of a times b, so it is a Nest too, one that has a better schedule. Every access is affine in the loop counters.

Records hold no memory: argument k is the k-th pointer that a `Call` passes. Equal records share one function, so a
network of equal layers has the code of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from backlit.executors.native.index import Affine
from backlit.executors.native.winograd import Convolution, convolution
from backlit.ir import Node, Type

Dtype: TypeAlias = np.dtype[Any]

COMBINERS = ("sum", "max", "min")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One value (or store) of a Nest, numbered by its place in prologue + epilogue.

    op is the name of an elementwise op, a combiner, or one of
      load      the element at `place` of argument `argument`
      gather    the same, moved along the leading axes by index values (inputs); `axes` are their (size, stride)
      store     inputs[0] to the element at `place` of `argument`
      index     the number `place` itself
      number    params[0]
    """

    op: str
    inputs: tuple[int, ...]
    dtype: Dtype
    params: tuple[Any, ...] = ()
    argument: int = -1
    place: Affine | None = None
    axes: tuple[tuple[int, int], ...] = ()
    hint: str = field(default="", compare=False)

    @property
    def at(self) -> Affine:
        """The place, of an instruction that has one."""
        assert self.place is not None
        return self.place


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a product is 0 for the zeros around an image, and need not be added: unless low <= step o + r < high.

    o is the counter of the axis `outer` of the result, r that of the reduced axis `inner`.
    """

    outer: int
    inner: int
    step: int
    low: int
    high: int

    def steps(self, extents: tuple[int, ...]) -> int:
        """How many pairs of o and r are within."""
        n = extents[self.inner]
        firsts = (self.step * o for o in range(extents[self.outer]))
        return sum(max(0, min(n, self.high - f) - max(0, self.low - f)) for f in firsts)


@dataclass(frozen=True, slots=True)
class Nest:
    """A loop nest. The axes of an Affine are those of `space`, then those of `reduced`."""

    space: tuple[int, ...]
    reduced: tuple[int, ...]
    prologue: tuple[Instruction, ...]
    epilogue: tuple[Instruction, ...]
    arguments: tuple[Dtype, ...]
    limits: tuple[Limit, ...] = ()  # of a product; what is beyond may be left out, and may be added
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = self.space, self.reduced, self.prologue, self.epilogue, self.arguments, self.limits
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """Worked out once: nests are keys everywhere, and long."""
        return self._hash

    @property
    def points(self) -> int:
        return math.prod(self.space)

    @property
    def steps(self) -> int:
        """How many points are combined for each point of the result."""
        return math.prod(self.reduced)

    @property
    def checks(self) -> int:
        """How many instructions may find an index out of range."""
        return sum(len(i.axes) for i in self.prologue + self.epilogue if i.op == "gather")

    @property
    def flops(self) -> int:
        return _flops(self)

    @property
    def nests(self) -> tuple[Nest, ...]:
        """Itself, as `Rows` has several."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Rows:
    """Nests over the same rows: each of them does its part of one row before any of them goes on to the next.

    The first axes of every nest are those of `space`. The nests number their arguments alike; those that come after
    `arguments` are `slots`, room for what one nest leaves of a row for the next ones and nobody else reads: how many
    elements of which dtype.
    """

    space: tuple[int, ...]
    nests: tuple[Nest, ...]
    arguments: tuple[Dtype, ...]
    slots: tuple[tuple[Dtype, int], ...]

    @property
    def flops(self) -> int:
        return sum(n.flops for n in self.nests)


@lru_cache(maxsize=4096)
def _flops(nest: Nest) -> int:
    inner = nest.points * nest.steps * sum(_cost(i) for i in nest.prologue)
    extents = nest.space + nest.reduced
    for limit in nest.limits:
        inner = inner * limit.steps(extents) // (extents[limit.outer] * extents[limit.inner])
    return inner + nest.points * sum(_cost(i) for i in nest.epilogue)


def _cost(i: Instruction) -> int:
    if i.op in ("load", "store", "number", "index", "gather", "cast", "where"):
        return 0
    return {"exp": 12, "log": 16, "tanh": 20, "sigmoid": 16, "erf": 60, "divide": 4, "sqrt": 4, "threefry2x32": 90}.get(
        i.op, 1
    )


@dataclass(frozen=True, slots=True)
class Winograd(Nest):
    """A convolution of images with windows of 3 x 3 places, whose weights have been transformed (`winograd`).

    It is written as the product that it stands for: two loads, multiplied and summed over the window and the channels.
    But the weights are the 4 x 4 transformed ones, so that load only says where they start and how far apart they lie.
    """

    __hash__ = Nest.__hash__  # or dataclass would make one that works it out again

    @property
    def convolution(self) -> Convolution:
        """Which axes are what."""
        found = convolution(self.space, self.reduced, self.prologue[0].at, self.prologue[1].at)
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Search:
    """argmax or argmin along the middle of three axes."""

    op: str
    shape: tuple[int, int, int]
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class Sort:
    """argsort (stable, nan last) along the middle of three axes, by merging; the third argument is room for it."""

    shape: tuple[int, int, int]
    dtype: Dtype


@dataclass(frozen=True, slots=True)
class RunningSum:
    """The sums of the first 1, 2, 3, ... elements along the middle of three axes."""

    shape: tuple[int, int, int]
    dtype: Dtype
    result: Dtype


@dataclass(frozen=True, slots=True)
class Scatter:
    """Adds rows of updates to rows of the result at checked places; in the order of the updates.

    `axes` are the (size, stride) of the indexed axes, `indices` for each their dtype and their strides in `space`.
    """

    space: tuple[int, ...]
    row: int
    axes: tuple[tuple[int, int], ...]
    indices: tuple[tuple[Dtype, tuple[int, ...]], ...]
    dtype: Dtype

    @property
    def checks(self) -> int:
        return len(self.axes)


@dataclass(frozen=True, slots=True)
class WinogradSum:
    """The gradient of a convolution's 3x3 weights by Winograd's transforms, in parts of what is summed.

    One operand is the image, the other the gradient of the convolution's result, of `size` places. `strides` are those
    of each along the axes of `batch`, then down and right; channels are neighbours. They are cut into `blocks` of so
    many `channels` each. The channels of operand 1 are neighbours in the result as well, whose other strides are those
    of a part, of the window's axes and of the channels of operand 0.
    """

    parts: int
    batch: tuple[int, ...]
    size: tuple[int, int]
    channels: tuple[int, int]
    blocks: tuple[int, int]
    image: int  # which operand it is
    strides: tuple[tuple[int, ...], tuple[int, ...]]
    result: tuple[int, int, int, int]
    dtype: Dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The blocks in parts, which threads share; for each the lines of tiles, tiles in a line, and channels."""
        down, across = self.tiles
        lines = -(-math.prod(self.batch) * down // self.parts)
        return self.parts * math.prod(self.blocks), lines, across, *self.channels

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of 2x2 places down and across; the last ones may be partly outside."""
        down, across = self.size
        return -(-down // 2), -(-across // 2)

    @property
    def flops(self) -> int:
        """Of the sums as they stand, so that they can be compared with those of other kernels."""
        places = math.prod(self.batch) * math.prod(self.size)
        return 2 * 9 * places * math.prod(self.channels) * math.prod(self.blocks)


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory for one value: an argument of the program, or a stretch of its arena."""

    type: Type
    name: str
    kind: str  # "input", "output", "constant", "arena", "part", "slice" (a row that moves with the step of a loop)
    number: int = -1  # of an input, output or constant
    offset: int = -1  # in the arena, or of a part, in bytes
    base: Buffer | None = None  # what it is a part or a slice of

    @property
    def bytes(self) -> int:
        return self.type.size * self.type.dtype.itemsize

    def root(self) -> Buffer:
        return self.base.root() if self.base is not None else self


@dataclass(eq=False, slots=True)
class Call:
    """A kernel applied to memory: for each argument a buffer and an offset in elements.

    `writes` numbers the arguments that are written; `nodes` are what it computes, for the plan and for errors.
    """

    kernel: Any
    arguments: tuple[tuple[Buffer, int], ...]
    writes: tuple[int, ...]
    nodes: tuple[Node, ...]
    checked: tuple[tuple[Node, int, int], ...] = ()  # for each check: node, axis, size of the axis
    label: str = ""
    alone: bool = False  # in writing what it writes, the same each time: a loop may do so once, and keep the memory

    @property
    def note(self) -> str:
        """What is computed, for who reads the program."""
        return f"{self.label} = {', '.join(n.op for n in self.nodes)}"

    def written(self) -> list[Buffer]:
        return [self.arguments[i][0] for i in self.writes]

    def read(self) -> list[Buffer]:
        return [b for i, (b, _) in enumerate(self.arguments) if i not in self.writes]


@dataclass(eq=False, slots=True)
class Loop:
    """Calls repeated for each step of a scan: the carried values move from `new` to `state` after each."""

    length: int | None  # None: given when the program runs
    reverse: bool
    calls: list[Any]
    start: list[Any]  # calls that run once before the first step
    moves: list[Call]  # calls at the end of each step
    nodes: tuple[Node, ...]
    label: str = "scan"
    rows: list[Buffer] = field(default_factory=list)  # slices that move with the steps
    idle: int = 0  # how many of the last calls and moves only serve a next step: the last step leaves them out

    @property
    def body(self) -> tuple[list[Any], list[Any]]:
        """What every step does, and what all but the last one do after that."""
        both = [*self.calls, *self.moves]
        cut = len(both) - self.idle
        return both[:cut], both[cut:]

    @property
    def steps(self) -> str:
        """How many steps there are, in words."""
        return f"{'any number of' if self.length is None else self.length} steps"
