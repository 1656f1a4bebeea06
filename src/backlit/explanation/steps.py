"""What a derivation is made of: frozen data, produced once, from the run of one graph.

A `Step` is one numbered equation in three forms: symbols, the same with numbers put in, and the value. The first two
are one tree (`Expression`) whose leaves are operands: each knows its symbol, its number, how that number is printed
in this step, and which element of which node of the graph it is. Renderers read this data and compute nothing.

The rule that holds here: every number is an element of a node of the graph that ran, a number that stands in the graph
itself, or the sum (or maximum) of such elements that a fold hides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

Element: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Symbol:
    """The name of a quantity, as data; how it looks is the renderer's business.

    name    as the field or the user writes it: `z`, `net_o1`
    layer   which layer it belongs to, as its number among the layers: `1`
    index   which element
    step    which step of a loop, None outside of loops
    over    the quantity whose derivative by this one is meant: the symbol is then d(over)/d(this)
    new     the value after an update: w'
    """

    name: str
    layer: str = ""
    index: Element = ()
    step: int | None = None
    over: Symbol | None = None
    new: bool = False

    def at(self, index: Element) -> Symbol:
        return replace(self, index=index)


@dataclass(frozen=True, slots=True)
class Operand:
    """One number of the run where it stands in an equation.

    quantity    the key of what it is an element of (see `Derivation.quantities`)
    node        the number of the node in the graph's own listing; -1 where no node holds it (a product along a path)
    text        the number as this step prints it
    step        the equation that gives it, 0 where none does
    """

    symbol: Symbol
    value: Any = field(compare=False)  # follows from the rest
    quantity: str
    node: int = -1
    element: Element = ()
    text: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A number (in the matrix view, perhaps an array of them) that stands in the formula itself."""

    value: Any
    text: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Number):
            return NotImplemented
        return type(self.value) is type(other.value) and bool(np.array_equal(self.value, other.value))

    def __hash__(self) -> int:
        return hash(np.asarray(self.value).tobytes())


@dataclass(frozen=True, slots=True)
class Rest:
    """What a fold hides: how many, and what they come to. `what` is "terms", "elements", "paths" or "rounding"."""

    count: int
    value: float
    what: str = "terms"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation on expressions.

    `op` is the name of an op of the graph, or "sum", "product", "max", "min" (of any number of arguments, the first
    three perhaps with a `rest` that is folded away), or "bracket": 1 where the condition holds, else 0.
    """

    op: str
    args: tuple[Expression, ...]
    rest: Rest | None = None
    params: tuple[tuple[str, Any], ...] = ()


Expression: TypeAlias = Operand | Number | Apply

KINDS = ("given", "forward", "loss", "backward", "local", "path", "gradient", "update", "check")


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered equation.

    kind        one of KINDS
    symbol      what it gives
    chain       the chain rule in derivatives only, for a step of the backward pass; None where it would say nothing new
    expression  what it equals; None for a given
    value       the number, from the run; `text` is how it is printed
    sentence    one plain sentence
    node, element  the element of the graph that it is
    shape       the shape where a step gives a whole array, else ()
    complete    False where arrays are too large to be printed: then there are symbols and shapes, and no numbers
    """

    number: int
    kind: str
    symbol: Symbol
    quantity: str
    value: Any
    text: str
    expression: Expression | None = None
    chain: Expression | None = None
    sentence: str = ""
    node: int = -1
    element: Element = ()
    shape: tuple[int, ...] = ()
    complete: bool = True

    @property
    def uses(self) -> tuple[int, ...]:
        """The equations it uses."""
        found = {o.step for o in operands(self.expression) if o.step}
        return tuple(sorted(found))

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What stands in the equation, each once, from left to right."""
        found = {(o.quantity, o.element): o for o in operands(self.expression)}
        return tuple(found.values())

    @property
    def folded(self) -> int:
        """How many terms are not shown."""
        return sum(r.count for r in rests(self.expression) if r.what != "rounding")

    @property
    def symbolic(self) -> str:
        """The equation in symbols, as plain text."""
        from backlit.explanation.notation import TEXT, write

        return write(self.expression, TEXT, numbers=False) if self.expression else ""

    @property
    def substituted(self) -> str:
        """The equation with numbers put in, as plain text."""
        from backlit.explanation.notation import TEXT, write

        return write(self.expression, TEXT, numbers=True) if self.expression and self.complete else ""

    @property
    def shows_numbers(self) -> bool:
        """Whether putting the numbers in says more than the symbols do."""
        return self.complete and self.substituted != self.symbolic

    @property
    def shows_value(self) -> bool:
        """Whether the value says more than the line before it."""
        return bool(self.text) and (self.expression is None or not self.complete or self.substituted != self.text)


def parts(expression: Expression | None) -> Iterator[Expression]:
    """The expression and everything in it, from left to right."""
    stack = [expression] if expression is not None else []
    while stack:
        found = stack.pop()
        yield found
        if isinstance(found, Apply):
            stack.extend(reversed(found.args))


def operands(expression: Expression | None) -> Iterator[Operand]:
    """The operands of an expression, from left to right, repeated as they stand."""
    return (p for p in parts(expression) if isinstance(p, Operand))


def rests(expression: Expression | None) -> Iterator[Rest]:
    """The folded parts of an expression."""
    return (p.rest for p in parts(expression) if isinstance(p, Apply) and p.rest is not None)
