"""The chain rule by paths: the product along each way to the loss as equations, and their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backlit.errors import GradientError
from backlit.explanation.expressions import product, substituted, total
from backlit.explanation.maker import Draft, Maker
from backlit.explanation.notation import plain
from backlit.explanation.quantities import Quantity
from backlit.explanation.steps import Element, Expression, Number, Operand, Rest, Symbol
from backlit.explanation.web import END, Path, web


def drafts(maker: Maker, target: Quantity, element: Element, most: int, required: bool) -> list[Draft]:
    """The product along each path, and their sum; where they are `required`, with the local derivatives before."""
    q = maker.quantities

    def whole(place: tuple[str, Element]) -> Expression | None:
        e = maker.expression(q.by_key[place[0]], place[1], all_terms=True)
        return None if e is None else substituted(e, without_helpers)

    def without_helpers(leaf: Operand | Number | Rest) -> Any:
        if isinstance(leaf, Operand) and q.by_key[leaf.quantity].kind == "helper":
            return whole((leaf.quantity, leaf.element))
        return leaf

    start = (target.key, element)
    try:
        found = web(start, whole, lambda o: q.by_key[o.quantity].kind == "gradient", most)
    except GradientError:
        if required:
            raise
        return []
    many, shown = found.count(), maker.options.terms
    if not required and (many > shown or many == 0):
        return []
    largest = found.largest(many if many <= shown + 1 else shown)
    value = maker.run.values[target.node][element].item()
    if not largest:
        return []
    if many == 1 and len(largest[0].edges) < 2 and not required:
        return []  # the equation of the gradient says it all
    drafts: list[Draft] = []
    locally: dict[tuple[str, Element], Draft] = {}
    products: list[Expression] = []
    for number, path in enumerate(largest, 1):
        locals_, steps = _along(maker, target, element, path)
        if required:
            for s in steps:
                locally.setdefault(s.place, s)
            expression: Expression = product(list(locals_))
        else:
            expression = product([e.factor for e in reversed(path.edges)])
        label = target.symbol.at(element) if many == 1 else replace(Symbol(f"path{number}"), over=None)
        draft = Draft(
            Quantity(f"path{number}", "path", label, target.node),
            element,
            expression,
            value if many == 1 else path.value,
            "gradient" if many == 1 and required else "path",
            product(list(locals_)) if not required else None,
            _route(maker, target, element, path),
        )
        drafts.append(draft)
        products.append(Operand(label, path.value, f"path{number}", -1, element))
    if many > 1:
        hidden = value - sum(p.value for p in largest)
        rest = Rest(many - len(largest), hidden, "paths") if many > len(largest) else None
        note = (
            f"The sum over all {many} paths."
            if rest is None
            else f"The sum over all {many} paths, the largest written out."
        )
        drafts.append(
            Draft(target, element, total(products, rest), value, "gradient" if required else "path", None, note)
        )
    return [*locally.values(), *drafts]


def _along(maker: Maker, target: Quantity, element: Element, path: Path) -> tuple[list[Operand], list[Draft]]:
    """The local derivatives along a path, from the loss down, as operands and as steps."""
    q = maker.quantities
    symbols: list[Operand] = []
    drafts: list[Draft] = []
    place = (target.key, element)
    for edge in path.edges:
        own = q.by_key[place[0]]
        if edge.operand is None:
            o = maker.operand(own, place[1]) if edge.end == END else None
            assert o is not None
            symbol = own.symbol.at(maker.shown_index(own, place[1]))
            if symbol.name == "delta":
                symbol = replace(symbol, name="z", over=q.of[maker.run.loss].symbol)
            local = Operand(symbol, edge.value, f"local/{own.key}", -1, place[1])
        else:
            local = maker.local(own, place[1], edge.operand, edge.value)
        symbols.append(local)
        step = Draft(
            Quantity(local.quantity, "local", local.symbol, own.node), local.element, edge.factor, edge.value, "local"
        )
        step.note = "A local derivative: all else is held fixed."
        drafts.append(step)
        place = edge.end
    return symbols[::-1], drafts[::-1]


def _route(maker: Maker, target: Quantity, element: Element, path: Path) -> str:
    """The path in words."""
    q = maker.quantities
    names = []
    for key, e in [(target.key, element), *(edge.end for edge in path.edges)]:
        if key:
            g = q.by_key[key]
            assert g.forward is not None
            own = q.of[g.forward]
            names.append(plain(own.symbol.at(maker.shown_index(own, e))))
    names.append(plain(q.of[maker.run.loss].symbol))
    return "Along " + " → ".join(names) + "."
