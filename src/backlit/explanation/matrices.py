"""The matrix view: the same derivation with whole arrays, their shapes, and products with transposes where they belong.

Every step is one array. Small arrays are printed in full and each line is true as it stands; of a large array the
shape is told, and of the wanted gradient the element in question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backlit.explanation.elements import opaque
from backlit.explanation.execution import Execution
from backlit.explanation.expressions import apply, bracket, is_number, negative, product, total
from backlit.explanation.maker import Draft, Maker, Options
from backlit.explanation.quantities import Quantities, Quantity
from backlit.explanation.steps import Apply, Element, Expression, Number, Operand, operands
from backlit.ir import Node
from backlit.ops.contraction import parts_of
from backlit.ops.record import OPS


@dataclass
class Matrices:
    """Reads the whole arrays of a run."""

    maker: Maker
    user: Node | None = None  # whose inputs are being read

    def at(self, node: Node, spread: bool = False, of: Node | None = None) -> Expression:
        """A node, in terms of quantities; `spread` where a single number may stand for an array of equal ones."""
        quantities = self.maker.quantities
        found = quantities.of.get(node) or quantities.gradient_at(node, self.user, of)
        return self.definition(node, spread) if found is None else whole(self.maker, found)

    def definition(self, node: Node, spread: bool = False) -> Expression:
        """The same, looking into a quantity."""
        before, self.user = self.user, node
        try:
            return self._definition(node, spread)
        finally:
            self.user = before

    def _definition(self, node: Node, spread: bool) -> Expression:
        run = self.maker.run
        values = run.values[node]
        if node in self.maker.quantities.fixed or node.op == "constant" or opaque(node):
            first = values.flat[0] if values.size else 0.0
            if not values.ndim or (spread and np.all(values == first)):
                return Number(np.asarray(first).item())
            return Number(values)
        x = node.inputs
        composite = next((c for c in run.composites if c.y is node and node in run.closed), None)
        if composite is not None and composite.kind != "logsumexp" and composite.axis == node.type.ndim - 1:
            return Apply(composite.kind, (self.at(composite.x),))
        closed = self._closed(node)
        if closed is not None:
            return closed
        match node.op:
            case "contract":
                return self._contract(node)
            case "sum" | "max" | "min":
                params = (("axis", node.params["axis"]), ("keepdims", node.params["keepdims"]))
                return Apply(f"{node.op}_of", (self.at(x[0]),), params=params)
            case "multiply" if x[0].type.shape and x[1].type.shape:
                return hadamard([self.at(i, spread=True) for i in x])
            case "permute_dims" if node.params["axes"] == (1, 0):
                return Apply("transpose", (self.at(x[0]),))
            case "stop_gradient":
                return self.at(x[0])
            case "reshape" | "broadcast_to" if node.type == x[0].type:
                return self.at(x[0])
            case "reshape" | "broadcast_to":
                while node.op == x[0].op == "reshape" and x[0] not in self.maker.quantities.of:
                    x = x[0].inputs
                return Apply(node.op, (self.at(x[0]),), params=(("shape", node.params["shape"]),))
            case "where" if self._zero(x[2]):
                return hadamard([self.at(x[1], spread=True), bracket(self.at(x[0]))])
            case "cast":
                inner = self.at(x[0])
                return bracket(inner) if x[0].type.dtype.kind == "b" else inner
        if node.op in OPS and OPS[node.op].family == "elementwise":
            found = apply(node.op, [self.at(i, spread=True) for i in x], tuple(sorted(node.params.items())))
            alone = isinstance(found, Number) and not np.ndim(found.value) and node.type.shape and not spread
            return Apply("broadcast_to", (found,), params=(("shape", node.type.shape),)) if alone else found
        return Apply(node.op, tuple(self.at(i) for i in x), params=tuple(sorted(node.params.items())))

    def _closed(self, node: Node) -> Expression | None:
        """The gradient through a softmax: P (G - row sums of G P); through its logarithm: H - P (row sums of H)."""
        run = self.maker.run
        if node not in run.closed or node.origin is None:
            return None
        for c in run.composites:
            outer = run.arriving.get(c.y)
            if outer is None or c.axis != c.y.type.ndim - 1:
                continue
            if c.kind == "softmax" and node is run.arriving.get(c.centre):
                p, g = self.at(c.y), self.at(outer, of=c.y)
                return hadamard([p, total([g, negative(Apply("row_sums", (hadamard([g, p]),)))])])
            if c.kind == "log_softmax" and outer in node.inputs and run.arriving.get(c.centre) in node.inputs:
                p, h = self.at(run.probabilities[c.y]), self.at(outer, of=c.y)
                return total([h, negative(hadamard([p, Apply("row_sums", (h,))]))])
        return None

    def _zero(self, node: Node) -> bool:
        return node in self.maker.quantities.fixed and not np.any(self.maker.run.values[node])

    def _contract(self, node: Node) -> Expression:
        a, b = (self.at(i) for i in node.inputs)
        left, right, result = parts_of(node.params["spec"])
        generic = Apply("contract", (a, b), params=(("spec", node.params["spec"]),))
        inner = "".join(c for c in left if c in right and c not in result)
        if len(left) <= 2 and len(right) <= 2 and len(inner) <= 1 and len(result) == len(left + right) - 2 * len(inner):
            if not inner:
                return (
                    Apply("outer", (a, b)) if (len(left), len(right)) == (1, 1) and result == left + right else generic
                )
            if result != (left + right).replace(inner, ""):  # the product the other way round, where it fits
                left, right, a, b = right, left, b, a
            if result == (left + right).replace(inner, ""):
                a = a if left[-1] == inner else Apply("transpose", (a,))
                b = b if right[0] == inner else Apply("transpose", (b,))
                return Apply("matmul", (a, b))
        return generic


def whole(maker: Maker, q: Quantity) -> Operand:
    """All of a quantity as an operand."""
    values = maker.run.values[q.node]
    value = values if values.ndim else values.item()
    return Operand(q.symbol, value, q.key, maker.run.numbers[q.node])


def hadamard(factors: list[Expression]) -> Expression:
    """The product element by element."""
    flat = [f for f in factors if not is_number(f, 1.0)]
    flat = [a for f in flat for a in (f.args if isinstance(f, Apply) and f.op == "hadamard" else (f,))]
    if len(flat) == 1:
        return flat[0]
    if any(isinstance(f, Number) and not isinstance(f.value, np.ndarray) for f in flat):
        return product(flat)
    return Apply("hadamard", tuple(flat))


def derived(
    run: Execution, quantities: Quantities, leaf: Node, element: Element | None, options: Options
) -> tuple[list[Draft], Maker]:
    """The drafts of the matrix view, and their maker."""
    maker = Maker(run, quantities, options)
    found: dict[str, Draft] = {}
    waiting = [quantities.of[run.loss]]
    if leaf in quantities.gradients:
        waiting.insert(0, quantities.gradients[leaf])
    while waiting:
        q = waiting.pop(0)
        if q.key in found:
            continue
        values = run.values[q.node]
        draft = Draft(q, (), None, values if values.ndim else values.item(), _kind(q, leaf))
        if q.kind != "input" and q.node.op != "constant" and not opaque(q.node):
            draft.expression = _expression(maker, q)
            waiting += [quantities.by_key[o.quantity] for o in operands(draft.expression)]
        else:
            draft.kind = "given"
        if draft.kind not in ("given", "loss"):
            size = "×".join(map(str, values.shape)) or "one number"
            draft.note = f"Shape {size}: {_said(q)}" if values.ndim else ""
        found[q.key] = draft
    for draft in found.values():
        if draft.quantity.forward is not None and draft.quantity.forward is not leaf:
            maker.marked[draft.quantity.forward] = np.ones(draft.quantity.forward.type.shape, bool)
    number = run.numbers

    def order(d: Draft) -> tuple[int, int]:
        q = d.quantity
        rank = {"given": 0, "forward": 1, "loss": 2}.get(d.kind, 3)
        owner = q.forward or q.node.origin or q.node
        return rank, number[q.node] if rank < 3 else -number[owner]

    drafts = sorted(found.values(), key=order)
    maker.drafts = {(d.quantity.key, ()): d for d in drafts}
    if element is not None and leaf in quantities.gradients and leaf.type.shape:
        target = quantities.gradients[leaf]
        value = run.values[target.node][element].item()
        one = Draft(target, element, maker.expression(target, element), value, "gradient")
        one.note = "One element of it, as a sum of products."
        drafts.append(one)
        maker.drafts[one.place] = one
    elif leaf not in quantities.gradients:
        drafts.append(maker.nothing(leaf, element or ()))
    return drafts, maker


def _kind(q: Quantity, leaf: Node) -> str:
    match q.kind:
        case "input":
            return "given"
        case "loss":
            return "loss"
        case "forward":
            return "forward"
    return "gradient" if q.forward is leaf else "backward"


def _said(q: Quantity) -> str:
    what = "the gradient has the shape of what it is taken by." if q.kind == "gradient" else "one row an example."
    return what if q.kind == "gradient" or len(q.node.type.shape) == 2 else "all of it at once."


def _expression(maker: Maker, q: Quantity) -> Expression:
    if q.forward is not None:
        alias = None if q.node in maker.quantities.fixed else maker.quantities.passed_on(q.forward, q.node)
        if alias is not None:
            return whole(maker, alias)
    return Matrices(maker).definition(q.node)
