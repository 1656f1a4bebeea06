"""Rewrites of loops: scans that run side by side become one, and a loop does only what it must.

    merged     Scans of the same values whose carries go through the same states are one scan with the results of all.
               So a gradient does not run a loop twice: its forward scan is the user's own with further results.
    tidied     A carry that no step changes, and a sequence that is the same at each step, come from outside; what comes
               in twice comes in once; numbers and broadcasts are made inside.
    hoisted    What a step computes from outside values alone is computed once, before the loop.
    batched    A contraction that no later step waits for is done for all steps at once, before or after the loop: of a
               sequence with an outside value, of a result with an outside value, and the sum of one over all steps,
               which is how the gradient of a weight in a loop arises. One large matrix product for many small ones.
               So it is with a sum whose sum over all steps is wanted, as the gradient of a bias in a loop is.
    pruned     A result that nobody uses is not computed, and neither is what only it needs: carries, sequences, values
               from outside.

The rule that holds here: what is left of the carries goes through the same states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backlit.ir import Graph, Node, reachable, rebuilt, substitute
from backlit.ops import reduction
from backlit.ops.contraction import LETTERS, contract, parts_of
from backlit.ops.elementwise import add
from backlit.ops.movement import broadcast_to, reshape
from backlit.ops.record import OPS, Value
from backlit.passes.rewrite import rewrite
from backlit.tracing import Traced, input_node


@dataclass(frozen=True, slots=True)
class Loop:
    """A scan taken apart. The keys are the inputs of its body, the results are nodes of its body."""

    outside: dict[Node, Node]  # -> the value that goes there
    carries: dict[Node, tuple[Node, Node]]  # -> the initial value, and what a step makes of it
    sequences: dict[Node, Node]  # -> the values that go there, step by step
    last: tuple[Node, ...]  # the carries whose last value is a result
    stacked: tuple[Node, ...]  # whose values at all steps are a result
    length: int
    reverse: bool
    name: str
    after: dict[Node, Node] = field(default_factory=dict)  # a result -> the contraction or sum done after the loop

    @property
    def kept(self) -> tuple[Node, ...]:
        """Whose values at all steps are needed after the loop."""
        operands = [i for product in self.after.values() for i in product.inputs if i not in self.outside]
        return tuple(dict.fromkeys([*(y for y in self.stacked if y not in self.after), *operands]))


def _taken_apart(scans: Sequence[Node], values: Sequence[Node], used: dict[Node, set[int]]) -> Loop:
    """The loop of scans of the same values that carry the same states, with all results that are used."""
    params = scans[0].params
    body: Graph = params["body"]
    k, n = params["outside"], params["carry"]
    pairs = [*zip(body.inputs, values, strict=True)]
    stacked: list[Node] = []
    for scan in scans:
        other: Graph = scan.params["body"]
        ys = [other.outputs[i] for i in sorted(used[scan]) if i >= n]
        stacked += substitute(ys, dict(zip(other.inputs, body.inputs, strict=True)))
    return Loop(
        dict(pairs[:k]),
        {i: (v, state) for (i, v), state in zip(pairs[k : k + n], body.outputs[:n], strict=True)},
        dict(pairs[k + n :]),
        tuple(body.inputs[k + i] for i in range(n) if any(i in used[scan] for scan in scans)),
        tuple(stacked),
        params["length"],
        params["reverse"],
        body.name,
    )


def _replaced(loop: Loop, new: dict[Node, Node]) -> Loop:
    """The loop with some nodes of its body replaced. `last` names carries, which stay."""
    n = len(loop.carries)
    found = substitute([*(state for _, state in loop.carries.values()), *loop.stacked], new)
    carries = {i: (init, state) for (i, (init, _)), state in zip(loop.carries.items(), found[:n], strict=True)}
    return replace(loop, carries=carries, stacked=tuple(found[n:]))


# --- the transformations ----------------------------------------------------------------------------------------------


def _tidied(loop: Loop) -> Loop:
    """With values from outside that do not change from step to step, and each value once."""
    new: dict[Node, Node] = {}  # an input of the body -> what stands for it inside
    entry: dict[Node, Node] = {}  # a value from outside -> where it comes in
    sequences: dict[Node, Node] = {}
    moving: dict[Node, Node] = {}  # a sequence -> where it comes in

    def inside(value: Node, place: Node) -> Node:
        """The value as a node of the body, which may come in at `place`."""
        if not _is_rule(value):
            return entry.setdefault(value, place)
        return rebuilt(value, [inside(i, input_node(i.type, place.name or "outside")) for i in value.inputs])

    fixed = {i: init for i, (init, state) in loop.carries.items() if state is i}
    for i, value in (loop.outside | fixed).items():
        new[i] = inside(value, i)
    for i, value in loop.sequences.items():
        element = _element(value)
        if element is not None:
            new[i] = inside(element, i)
        elif moving.setdefault(value, i) is i:
            sequences[i] = value
        else:
            new[i] = moving[value]
    carries = {i: pair for i, pair in loop.carries.items() if i not in fixed}
    outside = {place: value for value, place in entry.items()}
    tidy = replace(loop, outside=outside, carries=carries, sequences=sequences)
    return _replaced(tidy, {i: node for i, node in new.items() if node is not i})


def _is_zero(node: Node) -> bool:
    while node.op in ("broadcast_to", "reshape"):
        node = node.inputs[0]
    return node.op == "constant" and not node.params["value"].any()


def _is_rule(node: Node) -> bool:
    """Whether a value is a number, or made of less than itself: cheaper made again at each step than brought in."""
    if node.op == "reshape":
        node = node.inputs[0]
    return node.op in ("iota", "broadcast_to") or (node.op == "constant" and node.type.size == 1)


def _element(sequence: Node) -> Node | None:
    """The element of a sequence in which all are the same by construction."""
    if sequence.op != "broadcast_to":
        return None
    (source,) = sequence.inputs
    if source.type.ndim == sequence.type.ndim:
        if source.type.shape[0] == sequence.type.shape[0]:
            return None
        source = reshape(Traced(source), source.type.shape[1:]).node
    return broadcast_to(Traced(source), sequence.type.shape[1:]).node  # type: ignore[no-any-return]


def _hoisted(loop: Loop) -> Loop:
    """With everything that depends on outside values alone computed outside. A loop of no steps computes nothing."""
    if loop.length == 0:
        return loop
    fixed = set(loop.outside)
    order = reachable([*(state for _, state in loop.carries.values()), *loop.stacked])
    ends: dict[Node, None] = {}  # the last fixed nodes on each way
    for node in order:
        if node.op != "input" and all(i in fixed for i in node.inputs):
            fixed.add(node)
    for node in order:
        if node not in fixed or _is_rule(node):
            ends |= dict.fromkeys(i for i in node.inputs if i in fixed)
    ends |= dict.fromkeys(node for _, node in loop.carries.values() if node in fixed)
    ends |= dict.fromkeys(node for node in loop.stacked if node in fixed)
    chosen = [node for node in ends if not _is_rule(node) and node.op not in ("input", "constant")]
    if not chosen:
        return loop
    values = substitute(chosen, loop.outside)
    places = [input_node(node.type, node.name or node.op) for node in chosen]
    wider = replace(loop, outside=loop.outside | dict(zip(places, values, strict=True)))
    return _replaced(wider, dict(zip(chosen, places, strict=True)))


def _batched(loop: Loop) -> Loop:
    """With the contractions done at once that need not be done step by step."""
    order = reachable([*(state for _, state in loop.carries.values()), *loop.stacked])
    places: dict[Node, Node] = {}  # a product that can be computed before the loop -> where it comes in
    sequences = dict(loop.sequences)
    for node in order:
        if node.op == "contract" and sorted((i in loop.sequences) - (i in loop.outside) for i in node.inputs) == [
            -1,
            1,
        ]:
            places[node] = input_node(node.type, node.name or "product")
            given = {i: Traced(v) for i, v in loop.sequences.items()}
            sequences[places[node]] = _for_all_steps(node, loop, given, apart=True).node
    loop = _replaced(replace(loop, sequences=sequences), places)

    order = reachable([*(state for _, state in loop.carries.values()), *loop.stacked])
    uses = Counter([*(i for n in order for i in n.inputs), *(s for _, s in loop.carries.values()), *loop.stacked])
    after: dict[Node, Node] = {}
    for i, (_, state) in loop.carries.items():
        if state.op == "add" and i in state.inputs and uses[i] == uses[state] == 1:  # a sum over all steps
            after[i] = next(n for n in state.inputs if n is not i)
    after |= {y: y for y in loop.stacked if uses[y] == 1}
    return replace(loop, after={r: n for r, n in after.items() if _pays(loop, r, n)})


def _pays(loop: Loop, result: Node, node: Node) -> bool:
    """Whether keeping the operands of all steps costs no more than a sum that is read and written, or a result.

    A mere sum costs more than that, for no row of a batch can go on to the next step before all are summed. So its
    operand is kept if that is not more than the loop goes through anyway.
    """
    if node.op not in ("contract", "sum"):
        return False
    outside = [i for i in node.inputs if i in loop.outside]
    extra = sum(i.type.size for i in node.inputs if not (i in outside or i in loop.sequences or i in loop.stacked))
    if node.op == "sum":
        accumulated = result is not node and not outside and not node.params["keepdims"]
        return accumulated and extra <= sum(i.type.size for i in [*loop.sequences, *loop.stacked])
    return (len(outside) == 1) == (result is node) and extra <= 2 * node.type.size


def _for_all_steps(product: Node, loop: Loop, given: Mapping[Node, Value], apart: bool) -> Value:
    """The contraction or sum for all steps: `apart` along a new first axis, or summed."""
    if product.op == "sum":
        return reduction.sum(given[product.inputs[0]], axis=(0, *(a + 1 for a in product.params["axis"])))
    left, right, result = parts_of(product.params["spec"])
    t = next(c for c in LETTERS if c not in product.params["spec"])
    a, b = product.inputs
    terms = [term if i in loop.outside else t + term for term, i in ((left, a), (right, b))]
    values = [Traced(loop.outside[i]) if i in loop.outside else given[i] for i in (a, b)]
    return contract(*values, spec=f"{terms[0]},{terms[1]}->{t + result if apart else result}")


# --- putting it together again ----------------------------------------------------------------------------------------


def _needed(loop: Loop, results: Iterable[Node]) -> set[Node]:
    """The nodes of the body that these results need, directly or by way of the state."""
    needed: set[Node] = set()
    pending = [*results]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += node.inputs
            if node in loop.carries:
                pending.append(loop.carries[node][1])
    return needed


def _scan(loop: Loop) -> tuple[tuple[Node, ...], dict[str, Any]]:
    """The inputs and the params of the scan that the loop is, without anything that the results do not need."""
    ys = [y for y in loop.kept if _without_loop(loop, y) is None]
    needed = _needed(loop, [*(i for i in loop.last if i not in loop.after), *ys])
    outside = [(i, v) for i, v in loop.outside.items() if i in needed]
    carries = [(i, init) for i, (init, _) in loop.carries.items() if i in needed]
    parts = [*outside, *carries, *((i, v) for i, v in loop.sequences.items() if i in needed)]
    states = [loop.carries[i][1] for i, _ in carries]
    return tuple(value for _, value in parts), {
        "body": Graph(tuple(i for i, _ in parts), (*states, *ys), loop.name),
        "carry": len(carries),
        "outside": len(outside),
        "length": loop.length,
        "reverse": loop.reverse,
    }


def _without_loop(loop: Loop, y: Node) -> Value | None:
    """All values of y, if they are there without running the loop."""
    if y in loop.sequences:
        return Traced(loop.sequences[y])
    source = y.inputs[0] if y.op == "broadcast_to" else y
    value = loop.outside.get(source, source if source.op == "constant" else None)
    return None if value is None else broadcast_to(Traced(value), (loop.length, *y.type.shape))


def _run(loop: Loop, initial: Mapping[Node, Node]) -> tuple[dict[Node, Value], dict[Node, Value]]:
    """The values of the results, `last` and `stacked`; `initial` are those of carries that may be none any more."""
    inputs, params = _scan(loop)
    body: Graph = params["body"]
    found: Any = OPS["scan"](*map(Traced, inputs), **params) if body.outputs else ()
    values = found if isinstance(found, tuple) else (found,)
    n = params["carry"]
    stacked = dict(zip(body.outputs[n:], values[n:], strict=True))
    stacked |= {y: _without_loop(loop, y) for y in loop.kept if y not in stacked}
    last = dict(zip(body.inputs[params["outside"] :], values[:n], strict=False))
    for result, product in loop.after.items():
        if result is product:
            stacked[result] = _for_all_steps(product, loop, stacked, apart=True)
        else:
            total = _for_all_steps(product, loop, stacked, apart=False)
            last[result] = total if _is_zero(initial[result]) else add(Traced(initial[result]), total)
    return {i: last[i] if i in last else Traced(initial[i]) for i in loop.last}, stacked


def simplify_loops(graph: Graph) -> Graph:
    """The graph with its loops merged, tidied, hoisted and pruned. Bodies are left to other passes."""
    return _rewrite_loops(graph, _way, lambda loop: _hoisted(_tidied(loop)))


def batch_loops(graph: Graph) -> Graph:
    """The graph with contractions of all steps taken out of its loops. Bodies should have no common subexpressions."""
    return _rewrite_loops(graph, lambda scan: scan, _batched)


def _rewrite_loops(graph: Graph, kind: Callable[[Node], Any], transform: Callable[[Loop], Loop]) -> Graph:
    """The graph with scans of the same kind made one loop, and each loop transformed and pruned."""
    used: dict[Node, set[int]] = {n: {0} if len(n.types) == 1 else set() for n in graph.nodes if n.op == "scan"}
    for node in graph.nodes:
        if node.op == "item" and node.inputs[0] in used:
            used[node.inputs[0]].add(node.params["index"])
    if not used:
        return graph
    groups: dict[Any, list[Node]] = {}
    for scan in used:
        groups.setdefault(kind(scan), []).append(scan)
    group_of = {scan: group for group in groups.values() for scan in group}
    done: dict[Node, tuple[Value | None, ...]] = {}

    def rule(node: Node, old: Node) -> tuple[Value | None, ...] | None:
        if old not in group_of:
            return None
        if old not in done:
            group = group_of[old]
            whole = _taken_apart(group, node.inputs, used)
            loop = transform(whole)
            inputs, params = _scan(loop)
            if len(group) == 1 and inputs == node.inputs and _same(params["body"], node.params["body"]):
                return None
            last, stacked = _run(loop, {i: init for i, (init, _) in whole.carries.items()})
            states, ys = [*whole.carries], iter(loop.stacked)
            for scan in group:
                done[scan] = tuple(
                    None if k not in used[scan] else last[states[k]] if k < len(states) else stacked[next(ys)]
                    for k in range(len(scan.types))
                )
        return done[old]

    return rewrite(graph, rule)


def _same(a: Graph, b: Graph) -> bool:
    """Whether two bodies are the same nodes."""
    return a.inputs == b.inputs and a.outputs == b.outputs


def _way(scan: Node) -> tuple[Any, ...]:
    """Equal for scans of the same values whose carries go through the same states."""
    body: Graph = scan.params["body"]
    others = (scan.params[key] for key in ("carry", "outside", "length", "reverse"))
    return scan.inputs, *others, Graph(body.inputs, body.outputs[: scan.params["carry"]])
