"""What a compiled program sends between devices, read from its text (XLA's HLO).

Counted are the collectives of one training step: those of the body of the loop whose number of turns is an argument,
and of the loops in it as often as they turn. A device's share of a collective over n devices, in a ring, with S the
bytes of the whole value:

    all-reduce            2 (n - 1) / n · S        sent by each device
    all-gather            (n - 1) / n · S          S is what is there afterwards
    reduce-scatter        (n - 1) / n · S          S is what was there before
    all-to-all            (n - 1) / n · S
    collective-permute    S
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "f8e4m3fn": 1, "f8e5m2": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:to_apply|calls|branch_computations|true_computation|false_computation)=\{?([%\w.\-, ]+)")
_BEGIN = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclass(frozen=True)
class Collective:
    """A collective of a step: the bytes of the whole value, over groups of so many devices, so many times."""

    kind: str
    bytes: float
    group: int
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, in a ring."""
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0 if n > 1 else 0.0}
        return self.times * self.bytes * share.get(self.kind, (n - 1) / n)


def collectives(text: str, devices: int) -> list[Collective]:
    """The collectives of one step of a program: of the whole program, where it has no loop of unknown length."""
    bodies, entry = _computations(text)
    steps = [body for body in _reached(bodies, entry) if (found := _unknown_loop(bodies[body])) and found in bodies]
    start = _unknown_loop(bodies[steps[0]]) if steps else entry
    return list(_collectives(bodies, start or entry, devices))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by name, and the name of the first that runs."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if (found := _BEGIN.match(line)) is not None:
            name = found[2]
            bodies[name] = []
            entry = name if found[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _while(line: str) -> tuple[str, int | None] | None:
    """The body of a loop and how often it turns, None where that is not known."""
    if " while(" not in line or (body := re.search(r"\bbody=%?([\w.\-]+)", line)) is None:
        return None
    count = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    return body[1], int(count[1]) if count else None


def _unknown_loop(lines: list[str]) -> str | None:
    found = [w[0] for line in lines if (w := _while(line)) is not None and w[1] is None]
    return found[0] if found else None


def _called(line: str) -> list[str]:
    if " while(" in line or _COLLECTIVE.search(line):  # what a reduction applies to two numbers sends nothing
        return []
    return [n.strip().lstrip("%") for names in _CALLED.findall(line) for n in names.split(",") if n.strip()]


def _reached(bodies: dict[str, list[str]], start: str) -> Iterator[str]:
    """A computation and those that it calls, loops of known length included."""
    yield start
    for line in bodies[start]:
        for name in _called(line):
            if name in bodies:
                yield from _reached(bodies, name)


def _collectives(bodies: dict[str, list[str]], name: str, devices: int) -> Iterator[Collective]:
    for line in bodies[name]:
        if (loop := _while(line)) is not None:
            for inner in _collectives(bodies, loop[0], devices):
                yield replace(inner, times=inner.times * (loop[1] or 1))
        elif (found := _COLLECTIVE.search(line)) is not None:
            yield _collective(line, found, devices)
        else:
            for called in _called(line):
                if called in bodies:
                    yield from _collectives(bodies, called, devices)


def _collective(line: str, found: re.Match[str], devices: int) -> Collective:
    kind, group = found[1], _group(line, devices)
    sizes = [
        BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _SHAPE.findall(line[line.index("=") : found.start()])
        if dtype in BYTES
    ]
    if found[2] and kind != "all-reduce":  # what was given, then what comes of it; a permutation adds two marks
        sizes = sizes[len(sizes) // 2 :] if kind != "collective-permute" else sizes[1:2]
    whole = sum(sizes) * (group if kind == "reduce-scatter" else 1)
    return Collective(kind, whole, group)


def _group(line: str, devices: int) -> int:
    """How many devices take part in a group: XLA writes groups in three ways."""
    if (listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line)) is not None:
        return listed[1].count(",") + 1
    if (shaped := re.search(r"replica_groups=\[(\d+),(\d+)\]", line)) is not None:
        return int(shaped[2])
    if (mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)) is not None:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    return devices
