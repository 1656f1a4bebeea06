"""A compiled program as data: all that is needed to run it, without the graph's plan, and as bytes for the cache.

As bytes it is a header in JSON, the constants that the compiler made, then the object files:

    length of the header (8 bytes, little-endian), header, constants one after the other, object files

Constants that the graph holds are not written again but found in it by number, as are the places in the user's code
that errors name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backlit.executors.api import Array
from backlit.executors.native import jit, threads
from backlit.executors.native.clock import Clock
from backlit.executors.native.digest import everything
from backlit.executors.native.plan import Plan
from backlit.executors.native.program import Program
from backlit.executors.native.target import Target
from backlit.ir import Graph, Type
from backlit.sites import Site

_MOST = 1 << 22  # bytes of constants in a file
_PART = 1000  # lines of code that are compiled in one go, beside others
_BRIEF = 1 << 12  # operations of a small program up to which its loops are worth writing out


@dataclass(frozen=True)
class Check:
    """What a failed check of an index means: the op that indexes, the types of its inputs, its place, and the axis."""

    op: str
    inputs: tuple[Type, ...]
    site: Site | None
    axis: int
    size: int


@dataclass(frozen=True, eq=False)
class Artifact:
    """A program for one target. Runs as `step` of the object code, see `program`.

    objects    object files, which call one another
    constants  the arrays that it reads besides inputs and outputs
    arena      bytes of intermediate values
    shares     into how many parts its kernels are cut
    taken      results that lie in the memory of an input: their numbers
    checks     what each failed check means
    seconds    about how long a run (a step of a loop) takes on one thread
    """

    objects: tuple[bytes, ...]
    constants: tuple[Array, ...]
    arena: int
    shares: int
    taken: dict[int, int]
    checks: tuple[Check, ...]
    seconds: float

    @classmethod
    def of(cls, plan: Plan, target: Target, shares: int, clock: Clock | None = None) -> Artifact:
        """Compile a plan; with a clock, for this process only."""
        program = Program(plan, target, shares, clock)
        if program.small:
            code = [jit.object_code(program.text, target, True, inline=True, unroll=plan.flops <= _BRIEF)]
        else:
            code = jit.object_codes(program.parts(_PART), target, threads.available())
        checks = tuple(
            Check(node.op, tuple(i.type for i in node.inputs), node.site, axis, size)
            for node, axis, size in program.checks
        )
        return cls(tuple(code), tuple(plan.constants), plan.arena, shares, plan.taken, checks, plan.seconds)

    def pack(self, graph: Graph) -> bytes | None:
        """As bytes that are read together with an equal graph; None if they would be too many."""
        nodes = list(everything(graph))
        held = {id(n.params["value"]): k for k, n in enumerate(nodes) if n.op == "constant"}
        sites = {n.site: k for k, n in reversed(list(enumerate(nodes)))}
        own = [c for c in self.constants if id(c) not in held]
        if sum(c.nbytes for c in own) > _MOST:
            return None
        header = {
            "objects": [len(o) for o in self.objects],
            "arena": self.arena,
            "shares": self.shares,
            "seconds": self.seconds,
            "taken": list(self.taken.items()),
            "constants": [held.get(id(c), [c.dtype.str, c.shape]) for c in self.constants],
            "checks": [
                [c.op, [[t.dtype.str, t.shape] for t in c.inputs], sites.get(c.site, -1), c.axis, c.size]
                for c in self.checks
            ],
        }
        text = json.dumps(header).encode()
        return b"".join([len(text).to_bytes(8, "little"), text, *(c.tobytes() for c in own), *self.objects])

    @classmethod
    def unpack(cls, content: bytes, graph: Graph) -> Artifact:
        """What `pack` has written for an equal graph."""
        end = 8 + int.from_bytes(content[:8], "little")
        header: dict[str, Any] = json.loads(content[8:end])
        nodes = list(everything(graph))
        constants: list[Array] = []
        for found in header["constants"]:
            if isinstance(found, int):
                constants.append(nodes[found].params["value"])
                continue
            dtype, count = np.dtype(found[0]), math.prod(found[1])
            constants.append(np.frombuffer(content, dtype, count, end).reshape(found[1]).copy())
            end += count * dtype.itemsize
        checks = [
            Check(op, tuple(_type(t) for t in inputs), nodes[at].site if at >= 0 else None, axis, size)
            for op, inputs, at, axis, size in header["checks"]
        ]
        objects = []
        for size in header["objects"]:
            objects.append(content[end : end + size])
            end += size
        return cls(
            tuple(objects), tuple(constants), header["arena"], header["shares"], dict(header["taken"]), tuple(checks),
            header["seconds"],
        )  # fmt: skip


def _type(found: Sequence[Any]) -> Type:
    return Type(np.dtype(found[0]), tuple(found[1]))
