"""The chain rule written out: every path from a parameter to the loss, the product along it, and the sum over all.

A path goes from quantity to quantity; its factors are the local derivatives, each read from the reverse-mode graph as
the factor that the gradient arriving from above is multiplied by. The largest paths are found first (best-first
search, with the largest product that can still follow as the bound), so the few that are shown are the few that
matter; the count and the sum of all others are exact.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from backlit.errors import GradientError
from backlit.explanation.expressions import is_number, linear_parts, value_of
from backlit.explanation.steps import Element, Expression, Operand

Place: TypeAlias = tuple[str, Element]
END: Place = ("", ())  # the loss


@dataclass(frozen=True, slots=True)
class Edge:
    """One local derivative: d(end)/d(start). `operand` is the gradient by the end, None where that is the loss."""

    end: Place
    factor: Expression
    value: float
    operand: Operand | None


@dataclass(frozen=True, slots=True)
class Path:
    """A way to the loss, and the product along it."""

    edges: tuple[Edge, ...]
    value: float


@dataclass
class Web:
    """All ways from one gradient to the loss: place -> the edges that leave it."""

    start: Place
    edges: dict[Place, list[Edge]] = field(default_factory=dict)

    def order(self) -> list[Place]:
        """Every place after those that it leads to."""
        found: list[Place] = []
        seen: set[Place] = set()
        stack: list[tuple[Place, bool]] = [(self.start, False)]
        while stack:
            place, done = stack.pop()
            if done:
                found.append(place)
            elif place not in seen:
                seen.add(place)
                stack.append((place, True))
                stack.extend((e.end, False) for e in self.edges.get(place, ()) if e.end not in seen)
        return found

    def count(self) -> int:
        """How many paths there are."""
        ways = {END: 1}
        for place in self.order():
            if place != END:
                ways[place] = sum(ways[e.end] for e in self.edges[place])
        return ways[self.start]

    def largest(self, many: int) -> list[Path]:
        """The paths of the largest products, largest first."""
        best = {END: 1.0}
        for place in self.order():
            if place != END:
                best[place] = max((abs(e.value) * best[e.end] for e in self.edges[place]), default=0.0)
        tie = count()
        heap: list[tuple[float, int, float, Place, tuple[Edge, ...]]] = [
            (-best[self.start], next(tie), 1.0, self.start, ())
        ]
        found: list[Path] = []
        while heap and len(found) < many:
            _, _, value, place, edges = heapq.heappop(heap)
            if place == END:
                found.append(Path(edges, value))
                continue
            for e in self.edges[place]:
                reached = value * e.value
                bound = abs(reached) * best[e.end]
                heapq.heappush(heap, (-bound if bound == bound else -math.inf, next(tie), reached, e.end, (*edges, e)))
        return found


def web(
    start: Place, expression: Callable[[Place], Expression | None], gradient: Callable[[Operand], bool], most: int
) -> Web:
    """All ways from the gradient at `start`. Raises GradientError where they lead through more than `most` numbers."""
    found = Web(start)
    waiting = [start]
    while waiting:
        place = waiting.pop()
        if place in found.edges:
            continue
        if len(found.edges) >= most:
            raise GradientError(
                f"the paths lead through more than {most} numbers",
                fix='view="deltas" goes layer by layer instead, view="matrix" array by array',
            )
        edges = []
        e = expression(place)
        if e is not None:
            parts, left = linear_parts(e, gradient)
            edges = [Edge((o.quantity, o.element), f, float(value_of(f)), o) for o, f in parts]
            if not is_number(left, 0.0) or not parts:
                edges.append(Edge(END, left, float(value_of(left)), None))
            if len(edges) > most:
                raise GradientError(f"there are more than {most} ways from one number")
        found.edges[place] = edges
        waiting.extend(e.end for e in edges if e.end != END)
    return found
