"""The network as a picture: the values from the inputs (top) to the loss (bottom), the path lit from behind.

Every box is one number of the run; a line says that one enters the other. What the wanted gradient passes through
glows. Boxes that do not fit are counted, not drawn. Links and highlights need no script.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from backlit.explanation.derivation import Derivation
from backlit.explanation.notation import plain
from backlit.explanation.steps import Element, Operand, Step

_ACROSS, _LINES = 6, 2  # boxes in a line, lines in a row
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _NEAR = 84, 38, 10, 40, 8

Place = tuple[str, Element]


@dataclass
class _Box:
    place: Place
    name: str
    text: str
    step: int
    lit: bool
    row: int = 0
    x: float = 0
    y: float = 0


def drawing(d: Derivation) -> str:
    """An SVG picture; empty where there is nothing to draw."""
    steps = [s for s in d.steps if s.kind in ("forward", "loss")]
    boxes, edges = _graph(d, steps)
    if not edges:
        return ""
    rows, hidden = _laid_out(boxes, edges)
    width = min(_ACROSS, max(len(row) for row in rows)) * (_WIDTH + _GAP_X) + _GAP_X
    y, ends = 4, []
    for row in rows:
        for first in range(0, len(row), _ACROSS):
            line = row[first : first + _ACROSS]
            left = (width - len(line) * (_WIDTH + _GAP_X) + _GAP_X) / 2
            for k, place in enumerate(line):
                boxes[place].x, boxes[place].y = left + k * (_WIDTH + _GAP_X), y
            y += _HEIGHT + _NEAR
        ends.append(y - _NEAR)
        y += _GAP_Y - _NEAR
    height = y - _GAP_Y + _NEAR + 8
    shown = {place for row in rows for place in row}
    lines, glow = [], []
    backward = _backward(d)
    for a, b in edges:
        if a in shown and b in shown:
            lines.append(_line(boxes[a], boxes[b], backward.get(a, 0)))
            if boxes[a].lit and boxes[b].lit:
                glow.append(_curve(boxes[a], boxes[b]))
    notes = [
        f'<text class="more" x="{width / 2:.0f}" y="{ends[i] + 14}">and {n} more</text>' for i, n in hidden.items() if n
    ]
    halos = [
        f'<rect x="{b.x - 3:.0f}" y="{b.y - 3}" width="{_WIDTH + 6}" height="{_HEIGHT + 6}" rx="10"/>'
        for b in boxes.values()
        if b.lit and b.place in shown
    ]
    title = f"The values from the inputs to {plain(d.loss)}; the way of {d.title} is lit."
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" style="max-width:{width}px">'
        '<defs><filter id="blur" x="-20%" y="-20%" width="140%" height="140%">'
        '<feGaussianBlur stdDeviation="4"/></filter></defs>'
        f'<g class="glow" filter="url(#blur)">{"".join(f"<path d={chr(34)}{p}{chr(34)}/>" for p in glow)}'
        f"{''.join(halos)}</g>"
        f'<g class="edges">{"".join(lines)}</g>'
        f'<g class="boxes">{"".join(_box(boxes[p], backward.get(p, 0)) for row in rows for p in row)}</g>'
        f"{''.join(notes)}</svg>"
    )


def _backward(d: Derivation) -> dict[Place, int]:
    """Forward value -> the equation of the gradient by it."""
    return {
        ("n" + s.quantity[1:], s.element): s.number
        for s in d.steps
        if s.quantity.startswith("g") and s.kind in ("backward", "gradient")
    }


def _graph(d: Derivation, steps: list[Step]) -> tuple[dict[Place, _Box], list[tuple[Place, Place]]]:
    """The values of the forward pass and what enters what."""
    boxes: dict[Place, _Box] = {}
    edges: dict[tuple[Place, Place], None] = {}
    layered = bool(d.layers)

    def add(name: str, place: Place, text: str, step: int) -> None:
        if place not in boxes or step:
            boxes[place] = _Box(place, name, text, step, place in d.lit)

    texts = {(s.quantity, s.element): s for s in d.steps}
    for s in steps:
        here = (s.quantity, s.element)
        add(plain(s.symbol), here, s.text, s.number)
        for o in s.operands:
            place = (o.quantity, o.element)
            if layered and _parameter(d, o) and place not in d.lit:
                continue  # of all weights, the one in question
            given = texts.get(place)
            add(plain(o.symbol), place, given.text if given else o.text, o.step)
            edges[place, here] = None
    return boxes, list(edges)


def _parameter(d: Derivation, o: Operand) -> bool:
    return bool(o.symbol.layer) and d.quantities.get(o.quantity, {}).get("kind") == "input"


def _laid_out(boxes: dict[Place, _Box], edges: list[tuple[Place, Place]]) -> tuple[list[list[Place]], dict[int, int]]:
    """The boxes in rows, each below all that enters it, and how many of each row are left out."""
    before: dict[Place, list[Place]] = {p: [] for p in boxes}
    after: dict[Place, list[Place]] = {p: [] for p in boxes}
    for a, b in edges:
        before[b].append(a)
        after[a].append(b)
    waiting = {p: len(before[p]) for p in boxes}
    ready = [p for p in boxes if not waiting[p]]
    while ready:
        place = ready.pop()
        for b in after[place]:
            boxes[b].row = max(boxes[b].row, boxes[place].row + 1)
            waiting[b] -= 1
            if not waiting[b]:
                ready.append(b)
    for place, box in boxes.items():  # what is given stands just above where it is first used
        if not before[place] and after[place]:
            box.row = min(boxes[b].row for b in after[place]) - 1
    rows: list[list[Place]] = [[] for _ in range(max((b.row for b in boxes.values()), default=0) + 1)]
    for place, box in boxes.items():
        rows[box.row].append(place)
    hidden: dict[int, int] = {}
    for i, row in enumerate(rows):
        kept = sorted(row, key=lambda p: (not boxes[p].lit, not boxes[p].step, boxes[p].step))[: _ACROSS * _LINES]
        hidden[i] = len(row) - len(kept)
        rows[i] = sorted(kept, key=lambda p: (boxes[p].step, boxes[p].name))
    return rows, hidden


def _curve(a: _Box, b: _Box) -> str:
    x0, y0, x1, y1 = a.x + _WIDTH / 2, a.y + _HEIGHT, b.x + _WIDTH / 2, b.y
    if b.row - a.row <= 1 and y1 - y0 < 60:
        middle = (y0 + y1) / 2
        return f"M{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + 40:.0f} {x1:.0f} {y1 - 40:.0f} {x1:.0f} {y1:.0f}"


def _marks(*steps: int) -> str:
    return " ".join(f"s{n}" for n in steps if n)


def _line(a: _Box, b: _Box, backward: int) -> str:
    """An edge: it belongs to the equation that uses it, and to that of the gradient that comes back along it."""
    kind = "lit " if a.lit and b.lit else ""
    return f'<path class="{kind}{_marks(b.step, backward)}" d="{_curve(a, b)}"/>'


def _box(b: _Box, backward: int) -> str:
    kind = ("lit " if b.lit else "") + _marks(b.step, backward)
    middle = b.x + _WIDTH / 2
    name = b.name if len(b.name) <= 13 else b.name[:12] + "…"
    text = b.text if len(b.text) <= 12 else b.text[:11] + "…"
    content = (
        f'<rect x="{b.x:.0f}" y="{b.y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
        f'<text x="{middle:.0f}" y="{b.y + 16}" class="name">{escape(name)}</text>'
        f'<text x="{middle:.0f}" y="{b.y + 30}" class="value">{escape(text)}</text>'
    )
    full = f"<title>{escape(b.name)} = {escape(b.text)}</title>"
    if b.step:
        return f'<a href="#e{b.step}" class="{kind}">{full}{content}</a>'
    return f'<g class="{kind}">{full}{content}</g>'
