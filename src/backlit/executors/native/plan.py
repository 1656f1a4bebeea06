"""From a graph to a program: the kernels in order, and the memory that each works on.

A program is a list of calls and loops. `plan` makes it for a graph; `Plan` holds it, says what it costs, and prints
as a table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from backlit.executors.native import index as ix
from backlit.executors.native import memory, runs
from backlit.executors.native.body import NeedsMemory
from backlit.executors.native.destination import destinations
from backlit.executors.native.donation import reuse
from backlit.executors.native.fusion import Fusion
from backlit.executors.native.kernels import Buffer, Call, Loop, Nest, Rows
from backlit.executors.native.lowering import Lowering
from backlit.executors.native.trail import Trail, trails
from backlit.ir import Graph, Node, Type
from backlit.once import once

_NUMBERLESS = ("input", "constant", "item")


@dataclass(eq=False)
class Plan:
    """A program and its memory. `constants` are arrays that it reads besides its inputs."""

    graph: Graph
    steps: list[Any]
    constants: list[np.ndarray[Any, np.dtype[Any]]]
    arena: int  # bytes
    taken: dict[int, int]  # results that lie in the memory of an input: their numbers
    text: str = ""  # as a table

    def __post_init__(self) -> None:
        """Of equal kernels one is kept, so that they are quickly compared from here on."""
        for call in self.calls():
            call.kernel = _one(call.kernel)

    def __str__(self) -> str:
        return self.text

    def calls(self) -> list[Call]:
        """All calls, those of loops once."""
        return [call for call, _ in counted(self.steps)]

    @once
    def flops(self) -> int:
        return total(self.steps, lambda c: getattr(c.kernel, "flops", 0))

    @once
    def bytes(self) -> int:
        """Bytes that the kernels read and write."""
        return total(self.steps, traffic)

    @property
    def seconds(self) -> float:
        """About how long one run (one step of a loop) takes on one thread."""
        return self.flops / 80e9 + self.bytes / 20e9 + 1e-7 * len(self.calls())


@lru_cache(maxsize=4096)
def _one(kernel: Any) -> Any:
    """The first kernel that was equal to this one."""
    return kernel


def counted(steps: Sequence[Any], times: int = 1) -> Iterator[tuple[Call, int]]:
    """Each call once, and how often it runs; a loop of any number of steps counts as one step."""
    for step in steps:
        if isinstance(step, Call):
            yield step, times
        else:
            yield from counted(step.start, times)
            every, others = step.body
            length = step.length or 1
            yield from counted(every, times * length)
            yield from counted(others, times * (length - 1))


def total(steps: Sequence[Any], cost: Callable[[Call], int]) -> int:
    """What all calls cost, those of a loop as often as it runs."""
    return sum(times * cost(call) for call, times in counted(steps))


def traffic(call: Call) -> int:
    """Bytes that a call reads and writes, each element of an argument counted once."""
    kernel, total = call.kernel, 0
    reach = _reach(kernel) if isinstance(kernel, Nest | Rows) else None
    for k, (buffer, _) in enumerate(call.arguments):
        size = buffer.type.size
        total += (size if reach is None else min(size, reach[k])) * buffer.type.dtype.itemsize
    return total


@lru_cache(maxsize=4096)
def _reach(kernel: Nest | Rows) -> list[int]:
    """How many elements of each argument a kernel may touch."""
    found = [0] * max(len(n.arguments) for n in kernel.nests)
    for nest in kernel.nests:
        extents = nest.space + nest.reduced
        for i in nest.prologue + nest.epilogue:
            if i.argument >= 0 and i.place is not None:
                points = math.prod(n for n, s in zip(extents, i.place.strides, strict=True) if s)
                found[i.argument] = max(found[i.argument], points)
    return found


class Planner:
    """Collects the buffers and constants of one program.

    Without `sources` nothing is named after the variables of the user's source, which need not be read then. Without
    `winograd` that method is not used.
    """

    def __init__(self, sources: bool = True, winograd: bool = True) -> None:
        self.sources, self.winograd = sources, winograd
        self.constants: list[np.ndarray[Any, np.dtype[Any]]] = []
        self._constants: dict[int, Buffer] = {}
        self._trails: dict[Node, dict[int, Trail]] = {}  # of the states of a loop

    def arena(self, type: Type, name: str) -> Buffer:
        return Buffer(type, name, "arena")

    def constant(self, node: Node) -> Buffer:
        value = node.params["value"]
        found = self._constants.get(id(value))
        if found is None:
            found = Buffer(node.type, node.name or "constant", "constant", len(self.constants))
            self.constants.append(np.ascontiguousarray(value))
            self._constants[id(value)] = found
        return found

    def steps(
        self, graph: Graph, inputs: Sequence[Buffer], outputs: Sequence[Buffer], fixed: Sequence[Buffer] = ()
    ) -> list[Any]:
        """The calls that compute a graph from the memory of its inputs into that of its outputs.

        Of a loop's body the `fixed` inputs are the same at each step.
        """
        forced: frozenset[Node] = frozenset()
        while True:
            try:
                return self._steps(graph, inputs, outputs, forced, fixed)
            except NeedsMemory as need:
                if need.nodes <= forced:
                    raise AssertionError(f"{need} has no memory although it should") from None
                forced |= need.nodes

    def _steps(
        self, graph: Graph, inputs: Sequence[Buffer], outputs: Sequence[Buffer], forced: frozenset[Node],
        fixed: Sequence[Buffer],
    ) -> list[Any]:  # fmt: skip
        fusion = Fusion(graph, forced)
        names = graph.names(self.sources)
        buffers: dict[Any, Buffer] = dict(zip(graph.inputs, inputs, strict=True))
        wanted: dict[Any, Buffer] = {}
        copies: list[tuple[Node, Buffer]] = []
        for output, buffer in zip(graph.outputs, outputs, strict=True):
            key = _key(output)
            if buffer in (wanted.get(key), buffers.get(output)):
                continue  # it is there already
            if key in wanted or output.op in ("input", "constant"):
                copies.append((output, buffer))
            else:
                wanted[key] = buffer
        elsewhere = destinations(fusion)
        for node in graph.nodes:
            if node.op == "constant":
                buffers[node] = self.constant(node)
            elif node in fusion.stored and node not in elsewhere:
                if len(node.types) == 1 and node.op != "scan":
                    buffers[node] = wanted.get(node) or self.arena(node.type, names[node])
                else:
                    keys = _results(node)
                    there = {i: wanted[key] for i, key in enumerate(keys) if key in wanted}
                    if node.op == "scan":
                        self._trails[node] = trails(node, set(there), self.arena, names[node])
                        for k, trail in self._trails[node].items():
                            there |= {k: trail.last, **trail.kept}
                    for i, (key, t) in enumerate(zip(keys, node.types, strict=True)):
                        buffers[key] = there.get(i) or self.arena(t, f"{names[node]}[{i}]")
        lowering = Lowering(fusion, names, buffers, elsewhere, self.arena, self.winograd, fixed)
        steps: list[Any] = []
        missing: set[Node] = set()
        lowering.now = -1
        for node, buffer in copies:  # what comes in may be overwritten later, where its new value lies
            if node.op in ("input", "constant"):
                steps += [c for c in [lowering.copy(node, buffer, (node,))] if c is not None]
        for group in fusion.groups:
            lowering.now = fusion.position[group]
            try:
                if group.kind == "scan":
                    steps += self._scan(group.roots[0], lowering, names)
                else:
                    steps += lowering.calls(group)
            except NeedsMemory as need:
                missing |= need.nodes
        if missing:
            raise NeedsMemory(*missing)
        lowering.now = len(fusion.groups)
        for node, buffer in copies:
            if node.op not in ("input", "constant"):
                steps += [c for c in [lowering.copy(node, buffer, (node,))] if c is not None]
        return steps

    def _scan(self, node: Node, lowering: Lowering, names: Mapping[Node, str]) -> list[Any]:
        """A loop. The carry lies in the memory of the final carry; each step's new carry is moved there at its end.

        Where the carries of all steps are kept, that is where they lie (`Trail`).
        """
        p = node.params
        body: Graph = p["body"]
        outside, carry = p["outside"], p["carry"]
        results = [lowering.buffers[key] for key in _results(node)]
        given = [lowering.plain(i) for i in node.inputs[:outside]]
        trails = self._trails[node]
        first = [trails[k].first if k in trails else results[k] for k in range(carry)]
        start = [
            lowering.copy(i, b, (node,)) for i, b in zip(node.inputs[outside : outside + carry], first, strict=True)
        ]
        rows = [
            self.row(lowering.plain(x), i)
            for x, i in zip(node.inputs[outside + carry :], body.inputs[outside + carry :], strict=True)
        ]
        states, fresh = results[:carry], [self.arena(b.type, f"new {b.name}") for b in results[:carry]]
        ys = {k: self.row(results[k], body.outputs[k]) for k in range(carry, len(results))}
        for k, trail in trails.items():
            states[k], fresh[k] = self.row(trail.before, body.outputs[k]), self.row(trail.after, body.outputs[k])
            ys |= {i: states[k] if stack is trail.before else fresh[k] for i, stack in trail.kept.items()}
        calls = self.steps(body, [*given, *states, *rows], [*fresh, *ys.values()], given)
        once = unchanging(calls, given)
        calls = [c for c in calls if c not in once]
        start += once
        apart = [(f, s) for k, (f, s) in enumerate(zip(fresh, states, strict=True)) if k not in trails]
        placed = reuse(calls, apart)
        moves = [m for f, s in apart if f not in placed and (m := move(f, s, (node,))) is not None]
        read = {u.params["index"] for u in lowering.fusion.users.get(node, []) if u.op == "item"}
        unread = [k for k in range(carry) if len(node.types) > 1 and k not in read]
        passing = [fresh[k] if k in trails else states[k] for k in unread if fresh[k] not in ys.values()]
        moving = [b for b in dict.fromkeys([*rows, *ys.values(), *states, *fresh]) if b.kind == "slice"]
        return [
            Loop(
                p["length"], p["reverse"], calls, [c for c in start if c], moves, (node,), names[node], moving,
                idle([*calls, *moves], passing),
            )
        ]  # fmt: skip

    def row(self, whole: Buffer, element: Node) -> Buffer:
        return Buffer(element.type, f"{whole.name}[t]", "slice", base=whole)


def unchanging(calls: Sequence[Any], outside: Sequence[Buffer]) -> list[Call]:
    """Of a loop's calls those that do the same at each step: they need only what is given from outside.

    What goes around a value is among them if it is more than the value: its memory then serves nothing else.
    """
    known, found = set(outside), []
    writers = Counter(b for c in calls if isinstance(c, Call) for b in c.written())
    for call in calls:
        if not isinstance(call, Call) or call.checked:
            continue
        written = call.written()
        mine = all(b.kind == "arena" and (writers[b] == 1 or call.alone) for b in written)
        if mine and all(b in known or b.kind == "constant" or b in written for b, _ in call.arguments):
            known.update(b for b in written if writers[b] == 1)
            found.append(call)
    return found


def idle(calls: Sequence[Any], passing: Sequence[Buffer]) -> int:
    """How many of a loop's last calls only write state that nobody reads after the loop, as the last gradient by h."""
    count = 0
    for call in reversed(calls):
        if not isinstance(call, Call) or call.checked or not set(passing).issuperset(call.written()):
            break
        count += 1
    return count


def move(source: Buffer, target: Buffer, nodes: tuple[Node, ...]) -> Call | None:
    """One buffer copied to another of its type."""
    from backlit.executors.native.kernels import Instruction

    n = source.type.size
    if n == 0:
        return None
    dtype, place = source.type.dtype, ix.counter(0, 1) if n > 1 else ix.zero(0)
    code = (
        Instruction("load", (), dtype, argument=1, place=place),
        Instruction("store", (0,), dtype, argument=0, place=place),
    )
    kernel = Nest((n,) if n > 1 else (), (), (), code, (dtype, dtype))
    return Call(kernel, ((target, 0), (source, 0)), (0,), nodes, (), "move")


def _key(node: Node) -> Any:
    return (node.inputs[0], node.params["index"]) if node.op == "item" else node


def _results(node: Node) -> list[Any]:
    """The keys of a node's results."""
    return [(node, i) for i in range(len(node.types))] if len(node.types) > 1 else [node]


def plan(graph: Graph, donate: Sequence[int] = (), sources: bool = True, winograd: bool = True) -> Plan:
    """The program of a graph whose inputs and outputs are separate arrays; `donate` numbers inputs to overwrite."""
    planner = Planner(sources, winograd)
    names = graph.names(sources)
    inputs = [Buffer(n.type, names[n], "input", k) for k, n in enumerate(graph.inputs)]
    outputs = [Buffer(n.type, f"result {k}", "output", k) for k, n in enumerate(graph.outputs)]
    steps = planner.steps(graph, inputs, outputs)
    alike: dict[Type, list[Buffer]] = {}
    for k in donate:
        alike.setdefault(inputs[k].type, []).append(inputs[k])
    pairs = ((output, old) for output in outputs for old in alike.get(output.type, ()))
    taken = {o.number: i.number for o, i in reuse(steps, pairs).items()}
    steps = runs.joined(steps, (call for call, _ in counted(steps)))
    return Plan(graph, steps, planner.constants, memory.place(steps), taken)


def plan_loop(step: Graph, carry: int, shared: int, sources: bool = True, winograd: bool = True) -> Plan:
    """A program that runs `step` any number of times.

    The inputs of `step` are the carried values, `shared` values that stay, and values that come row by row from arrays
    with one more axis. Its outputs are the new carried values and those that are kept, row by row. In the program's
    table the inputs are the shared arrays and the arrays of rows, the outputs the carried values (which hold the old
    ones when it starts) and the arrays of kept rows.
    """
    planner = Planner(sources, winograd)
    names = step.names(sources)
    given = step.inputs[carry:]
    types = [Type(n.type.dtype, n.type.shape if k < shared else (1, *n.type.shape)) for k, n in enumerate(given)]
    inputs = [Buffer(t, names[n], "input", k) for k, (t, n) in enumerate(zip(types, given, strict=True))]
    states = [Buffer(n.type, names[n], "output", k) for k, n in enumerate(step.inputs[:carry])]
    kept = [
        Buffer(Type(n.type.dtype, (1, *n.type.shape)), f"kept {names[n]}", "output", carry + k)
        for k, n in enumerate(step.outputs[carry:])
    ]
    changing = [k for k in range(carry) if step.outputs[k] is not step.inputs[k]]
    old = [states[k] for k in changing]
    fresh = [planner.arena(s.type, f"new {s.name}") for s in old]
    rows = [planner.row(b, n) for b, n in zip(inputs[shared:], given[shared:], strict=True)]
    targets = [planner.row(b, n) for b, n in zip(kept, step.outputs[carry:], strict=True)]
    wanted = Graph(step.inputs, (*(step.outputs[k] for k in changing), *step.outputs[carry:]), step.name)
    calls = planner.steps(wanted, [*states, *inputs[:shared], *rows], [*fresh, *targets])
    once = unchanging(calls, [*inputs[:shared], *(states[k] for k in range(carry) if k not in changing)])
    calls = [c for c in calls if c not in once]
    placed = reuse(calls, list(zip(fresh, old, strict=True)))
    moves = [m for f, s in zip(fresh, old, strict=True) if f not in placed and (m := move(f, s, ())) is not None]
    loop = Loop(None, False, calls, list(once), moves, (), "steps", rows + targets)
    outputs = tuple(step.inputs[:carry]) + tuple(step.outputs[carry:])
    shape = Graph(tuple(given), outputs, step.name)
    steps = runs.joined([loop], (call for call, _ in counted([loop])))
    return Plan(shape, steps, planner.constants, memory.place(steps), {})
