"""Making a derivation: what is needed for the gradient of one element, found from the gradient backwards.

The backward pass is made first, from the wanted gradient towards the loss, because it says what is needed: each
gradient is read from the reverse-mode graph in terms of the gradients after it and of forward values. Then the
forward values are made that these use, the loss among them. So a derivation holds what it uses and nothing else, and
costs the same for a network of a hundred parameters as for one of a million.

Where a sum is folded, only what is shown is followed further; more than `depth` folds from the wanted gradient, only
the largest term is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from backlit.explanation.elements import Reader, opaque
from backlit.explanation.execution import Execution
from backlit.explanation.expressions import ONE, ZERO, is_number, linear_parts, product, substituted, value_of
from backlit.explanation.numbers import fitted, show
from backlit.explanation.quantities import Quantities, Quantity
from backlit.explanation.sentences import sentence
from backlit.explanation.steps import Apply, Element, Expression, Number, Operand, Rest, Step, operands, parts, rests
from backlit.ir import Node

LARGEST = 24  # numbers in an array that is printed
MANY = 100  # steps of one way to the loss, and as many beside it


@dataclass(frozen=True, slots=True)
class Options:
    """How much is shown.

    view     "deltas", "paths" or "matrix"
    terms    how many terms of a long sum are written out
    depth    through how many folded sums all that is shown is followed
    digits   how many significant digits are printed
    unfold   (quantity, element) of equations that are shown with all their terms
    """

    view: str = "deltas"
    terms: int = 6
    depth: int = 1
    digits: int = 6
    unfold: frozenset[tuple[str, Element]] = frozenset()


@dataclass
class Draft:
    """A step before it has its number."""

    quantity: Quantity
    element: Element
    expression: Expression | None
    value: Any
    kind: str
    chain: Expression | None = None
    note: str = ""

    @property
    def place(self) -> tuple[str, Element]:
        return self.quantity.key, self.element


@dataclass
class Maker:
    """Makes the drafts of a derivation from a run."""

    run: Execution
    quantities: Quantities
    options: Options
    drafts: dict[tuple[str, Element], Draft] = field(default_factory=dict)
    marked: dict[Node, Any] = field(default_factory=dict)

    # --- reading ---

    def operand(self, q: Quantity, element: Element) -> Operand:
        """An element of a quantity as an operand."""
        value = self.run.values[q.node][element].item()
        return Operand(q.symbol.at(self.shown_index(q, element)), value, q.key, self.run.numbers[q.node], element)

    def shown_index(self, q: Quantity, element: Element) -> Element:
        """The index that is written: computed values leave out axes of size 1."""
        owner = q.forward or q.node
        if owner.op in ("input", "constant"):
            return element
        return tuple(i for i, n in zip(element, owner.type.shape, strict=True) if n > 1)

    def reader(self, q: Quantity, all_terms: bool = False) -> Reader:
        """Reads what a quantity is made of."""

        def leaf(node: Node, element: Element, user: Node | None, of: Node | None) -> Expression | None:
            found = self.quantities.of.get(node)
            if found is None and q.kind == "update":
                found = self.quantities.gradient_of_parameter(node)
            elif found is None:
                found = self.quantities.gradient_at(node, user, of)
            return None if found is None else self.operand(found, element)

        terms = 10**9 if all_terms else self.options.terms
        return Reader(self.run.values, leaf, terms, self.run.closed, self.marked)

    def expression(self, q: Quantity, element: Element, all_terms: bool = False) -> Expression | None:
        """What an element of a quantity equals; None for what is given."""
        node = q.node
        if node.op == "input" or (node.op == "constant") or (q.kind != "gradient" and opaque(node)):
            return None
        reader = self.reader(q, all_terms or (q.key, element) in self.options.unfold)
        if q.kind == "gradient":
            assert q.forward is not None
            alias = None if node in self.quantities.fixed else self.quantities.passed_on(q.forward, node)
            if alias is not None:
                return self.operand(alias, element)
        return reader.definition(node, element)

    # --- following ---

    def follow_back(self, q: Quantity, element: Element) -> None:
        """The gradient by one element, and the gradients that it is made of.

        First the largest term of each sum, all the way to the loss, so that one way is always whole; then the others,
        nearest first, as far as a reader can be expected to follow.
        """
        way, start = [(q, element)], len(self.drafts)
        while way and len(self.drafts) - start < MANY:
            found = self.step_back(*way.pop())
            way = [(self.quantities.by_key[o.quantity], o.element) for o in found[:1]]
        waiting, seen, most = [(q, element, 0)], {(q.key, element)}, len(self.drafts) + MANY
        while waiting and len(self.drafts) < most:
            q, element, level = waiting.pop(0)
            found = self.step_back(q, element)
            level += any(rests(self.drafts[q.key, element].expression))
            for o in found if level <= self.options.depth else found[:1]:
                if (o.quantity, o.element) not in seen:
                    seen.add((o.quantity, o.element))
                    waiting.append((self.quantities.by_key[o.quantity], o.element, level))

    def step_back(self, q: Quantity, element: Element) -> list[Operand]:
        """Make one step of the backward pass, if it is not there; the gradients that it uses, the largest first."""
        draft = self.drafts.get((q.key, element))
        if draft is None:
            draft = self.add(q, element, "backward")
            draft.chain = self.chain(q, element, draft.expression)
            if q.forward is not None:
                self.marked.setdefault(q.forward, np.zeros(q.forward.type.shape, bool))[element] = True
        return self.by_size(draft.expression, self.gradients_in(draft.expression))

    def follow_forward(self, waiting: list[tuple[Quantity, Element]]) -> None:
        """Forward values, and those that they are made of."""
        while waiting:
            q, element = waiting.pop(0)
            if (q.key, element) in self.drafts:
                continue
            kind = "given" if q.kind == "input" else "loss" if q.kind == "loss" else "forward"
            draft = self.add(q, element, kind)
            if draft.expression is None:
                draft.kind = "given"
            folded = any(rests(draft.expression)) or len(self.drafts) > 3 * MANY
            for o in operands(draft.expression):
                inner = self.quantities.by_key[o.quantity]
                if inner.kind != "input" and folded and not self.is_marked(inner, o.element):
                    continue
                waiting.append((inner, o.element))

    def is_marked(self, q: Quantity, element: Element) -> bool:
        marks = self.marked.get(q.node)
        return marks is not None and bool(marks[element])

    def add(self, q: Quantity, element: Element, kind: str) -> Draft:
        value = self.run.values[q.node][element].item()
        draft = Draft(q, element, self.expression(q, element), value, kind)
        self.drafts[q.key, element] = draft
        return draft

    def gradients_in(self, e: Expression | None) -> list[Operand]:
        """The gradients (and helpers) that an expression uses, each once."""
        found = {(o.quantity, o.element): o for o in operands(e) if self.backward(o)}
        return list(found.values())

    def backward(self, o: Operand) -> bool:
        return self.quantities.by_key[o.quantity].kind in ("gradient", "helper")

    def by_size(self, e: Expression | None, found: list[Operand]) -> list[Operand]:
        """These operands of an expression, those first that it owes most to."""
        if e is None or len(found) < 2:
            return found
        parts, _ = linear_parts(e, lambda o: o in found)
        sizes = {o: abs(o.value * value_of(f)) for o, f in parts}
        return sorted(found, key=lambda o: -sizes.get(o, 0.0) if sizes.get(o, 0.0) == sizes.get(o, 0.0) else 0.0)

    def chain(self, q: Quantity, element: Element, e: Expression | None) -> Expression | None:
        """The chain rule that an equation of the backward pass carries out, in derivatives only."""
        if e is None or q.kind != "gradient":
            return None
        parts, left = linear_parts(e, lambda o: self.quantities.by_key[o.quantity].kind == "gradient")
        if not 0 < len(parts) <= 3 or any(rests(e)) or not is_number(left, 0.0):
            return None  # too long to be of use
        if any(self.quantities.by_key[o.quantity].kind == "helper" for o in operands(e)):
            return None
        terms: list[Expression] = [product([o, self.local(q, element, o, value_of(f))]) for o, f in parts]
        return Apply("sum", tuple(terms)) if len(terms) > 1 else terms[0]

    def local(self, q: Quantity, element: Element, after: Operand, value: Any) -> Operand:
        """d(after)/d(q) as a symbol: after is the quantity whose gradient the operand is."""
        outer = self.quantities.by_key[after.quantity]
        assert outer.forward is not None
        assert q.forward is not None
        above, below = self.quantities.of[outer.forward], self.quantities.of[q.forward]
        over = above.symbol.at(self.shown_index(above, after.element))
        symbol = replace(below.symbol.at(self.shown_index(below, element)), over=over)
        return Operand(symbol, float(value), f"{above.key}/{below.key}", -1, (*after.element, *element))

    def nothing(self, leaf: Node, element: Element) -> Draft:
        """The gradient by what the loss does not depend on, or is."""
        own = self.quantities.of[leaf].symbol
        symbol = replace(own, over=self.quantities.of[self.run.loss].symbol)
        itself = leaf is self.run.loss
        note = "It is the loss itself." if itself else "It does not enter the loss."
        e, value = (ONE, 1.0) if itself else (ZERO, 0.0)
        return Draft(Quantity("nothing", "gradient", symbol, leaf), element, e, value, "gradient", None, note)

    # --- numbering ---

    def ordered(self) -> Iterator[Draft]:
        """Givens, forward values, the loss, then gradients from the loss on."""
        number = self.run.numbers

        def key(d: Draft) -> tuple[Any, ...]:
            q = d.quantity
            match d.kind:
                case "given":
                    return 0, number[q.node], d.element
                case "forward":
                    return 1, number[q.node], d.element
                case "loss":
                    return (2,)
            owner = q.forward or q.node.origin or q.node
            return 3, -number[owner], q.kind == "gradient", d.element

        return iter(sorted(self.drafts.values(), key=key))


def numbered(drafts: list[Draft], maker: Maker) -> list[Step]:
    """The steps: numbers given to the equations, texts to the numbers, and a sentence to each."""
    places: dict[tuple[str, Element], int] = {}
    for i, d in enumerate(drafts, 1):
        places.setdefault(d.place, i)
    rough = maker.run.rough
    steps = []
    for i, d in enumerate(drafts, 1):
        e, text = d.expression, show(d.value, maker.options.digits) if _fits(d.value) else _size(d.value)
        shown = e is not None and _fits(d.value) and all(_fits(p.value) for p in parts(e) if not isinstance(p, Apply))
        if e is not None and shown:
            e, text = fitted(e, d.value, 2 if d.quantity.key == "difference" else maker.options.digits, rough)
        if e is not None:
            e = _referred(e, places)
        chain = _referred(d.chain, places) if d.chain is not None else None
        known = d.quantity.key in maker.quantities.by_key or d.quantity.key == "nothing"
        array = isinstance(d.value, np.ndarray)
        symbol = d.quantity.symbol
        if known and not array:
            symbol = symbol.at(maker.shown_index(d.quantity, d.element))
        step = Step(
            number=i,
            kind=d.kind,
            symbol=symbol,
            quantity=d.quantity.key,
            value=d.value,
            text=text,
            expression=e,
            chain=chain,
            node=maker.run.numbers.get(d.quantity.node, -1),
            element=d.element,
            shape=d.value.shape if array else (),
            complete=shown if e is not None else _fits(d.value),
        )
        steps.append(replace(step, sentence=d.note or sentence(step, d.quantity, maker.run)))
    return steps


def _size(value: Any) -> str:
    """What is told of an array that is too large to be printed."""
    return f"⟨{'×'.join(map(str, value.shape))}⟩"


def _fits(value: Any) -> bool:
    """Whether a number, or all of an array, is printed."""
    return not isinstance(value, np.ndarray) or value.size <= LARGEST


def _referred(e: Expression, places: dict[tuple[str, Element], int]) -> Expression:
    """The expression with every operand told which equation gives it."""

    def refer(leaf: Operand | Number | Rest) -> Operand | Number | Rest:
        return replace(leaf, step=places.get((leaf.quantity, leaf.element), 0)) if isinstance(leaf, Operand) else leaf

    return substituted(e, refer)
