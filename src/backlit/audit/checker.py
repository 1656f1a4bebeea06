"""The verdict on every claim of a worksheet: right, follows, slip or undecided.

Hand arithmetic works with the numbers on the paper. So a claim is compared with two values: the true one, and that
which follows from the author's own numbers above it, right or wrong: the graph is cut at every quantity that the
author has given a number for, and evaluated from there (`Bench`). A number on the paper is known only to its printed
digits; what that leaves open in the result is found by moving each number to the end of its range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np

from backlit.audit.bench import Bench
from backlit.audit.printed import Printed, Values, printed, unit_of
from backlit.audit.sheet import Claim, Sheet, is_number
from backlit.audit.syntax import Array, Binary, Call, Derivative, Expr, Name, Number, Unary
from backlit.ir import Node


class Verdict(StrEnum):
    """What is said of a claim."""

    RIGHT = "right"
    FOLLOWS = "follows"
    SLIP = "slip"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A slip that gives the author's number: the rule's name, a sentence, the value it gives, and whether it is a
    convention rather than a mistake. `prior` and `close` rank it (see `diagnosis`): how ordinary the slip is, and how
    closely it reproduces the number.
    """

    rule: str
    text: str
    value: float
    conventional: bool = False
    prior: float = field(default=1.0, repr=False, compare=False)
    close: int = field(default=0, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim with its verdict, the true value, and the value that follows from the author's own numbers above."""

    claim: Claim
    verdict: Verdict
    true: Values
    follows: Values
    note: str = ""
    diagnoses: tuple[Diagnosis, ...] = ()


@dataclass(frozen=True, slots=True)
class Belief:
    """The author's number for a quantity: the value on the paper, and how far the author's own value may be from it."""

    value: Values
    spread: Values
    right: bool


@dataclass
class Checker:
    """Goes through the claims of a sheet in order, keeping what the author has written so far."""

    sheet: Sheet
    bench: Bench
    beliefs: dict[Node, Belief] = field(default_factory=dict)

    def follow(self, target: Node) -> tuple[Values, Values, bool]:
        """The value that follows from the author's numbers, how far it is open, and whether all of them are right."""
        edge, through_loop = self.bench.frontier(target, self.beliefs)
        if through_loop:  # thousands of steps: nobody does them by hand from rounded numbers, only from wrong ones
            edge = [n for n in edge if not self.beliefs[n].right]
        held = {n: self.beliefs[n].value for n in edge}
        value = self.bench.value(target, held)
        spread = np.zeros_like(value)
        for node in edge:
            belief = self.beliefs[node]
            if np.any(belief.spread) and not through_loop:
                spread = spread + np.abs(self.bench.value(target, held | {node: belief.value + belief.spread}) - value)
        return value, spread, all(self.beliefs[n].right for n in edge)

    def judge(self, claim: Claim, earlier: Sequence[Finding]) -> Finding:
        """The verdict on one claim; `earlier` are the findings on the same line."""
        target = self.bench.same[claim.target]
        true = self.bench.value(target, {})
        value, spread, sound = self.follow(target)
        finding = Finding(claim, Verdict.SLIP, true, value)
        if is_number(claim.part):
            return self.judge_number(finding, value, spread, sound, earlier)
        return self.judge_expression(finding, value, spread, sound)

    def judge_number(
        self, finding: Finding, value: Values, spread: Values, sound: bool, earlier: Sequence[Finding]
    ) -> Finding:
        number = printed(finding.claim.part)
        if number.stands_for(finding.true):
            return replace(finding, verdict=Verdict.RIGHT)
        if number.stands_for(value, spread + number.hand_rounding):
            return replace(finding, verdict=Verdict.RIGHT if sound else Verdict.FOLLOWS)
        for previous in reversed(earlier):  # the author's own expression on this line
            node = previous.claim.part_node
            if node is None:
                continue
            own, open_to, _ = self.follow(self.bench.same[node])
            if number.stands_for(own, open_to):
                right = previous.verdict is Verdict.RIGHT
                return replace(finding, verdict=Verdict.RIGHT if right else Verdict.FOLLOWS, follows=own)
        if number.few_digits and number.hides(value) and number.stands_for(value, spread + number.unit):
            return replace(finding, verdict=Verdict.UNDECIDED, note="too few digits to tell")
        put_in = [e for e in earlier if e.verdict is Verdict.RIGHT and only_numbers(e.claim.part)]
        note = "the numbers are put in rightly, and the arithmetic goes wrong" if put_in else ""
        return replace(finding, note=note)

    def judge_expression(self, finding: Finding, value: Values, spread: Values, sound: bool) -> Finding:
        claim = finding.claim
        assert claim.part_node is not None
        own, own_spread, _ = self.follow(self.bench.same[claim.part_node])
        if claim.formula is not None and claim.part is not claim.formula:
            pairs = aligned(claim.formula, claim.part, lambda pair: self.put_in(pair, claim) in (None, True))
            if pairs is not None:
                return self.judge_operands(finding, pairs)
        truly = self.bench.value(self.bench.same[claim.part_node], {})
        if truly.shape == finding.true.shape and np.allclose(truly, finding.true, rtol=1e-9, atol=1e-12):
            return replace(finding, verdict=Verdict.RIGHT)
        open_to = own_spread + self.rounding(claim.part, own)
        for close_to, verdict in ((finding.true, Verdict.RIGHT), (value, Verdict.RIGHT if sound else Verdict.FOLLOWS)):
            if own.shape == close_to.shape and np.all(np.abs(own - close_to) <= spread + open_to):
                return replace(finding, verdict=verdict)
        return finding

    def put_in(self, pair: Pair, claim: Claim) -> bool | None:
        """Whether a number put in is right for its quantity; None where it is the author's own wrong number."""
        node = self.bench.same.get(self.node_of(pair[0], claim))  # type: ignore[arg-type]
        number = printed(pair[1])
        if node is None or number.stands_for(self.bench.value(node)):
            return True
        belief = self.beliefs.get(node)
        if belief is not None and number.stands_for(belief.value, belief.spread):
            return True if belief.right else None
        return False

    def judge_operands(self, finding: Finding, pairs: Sequence[Pair]) -> Finding:
        """The numbers put in, one by one, against the quantities that they stand for."""
        verdicts = [self.put_in(pair, finding.claim) for pair in pairs]
        if False in verdicts:
            name, part = pairs[verdicts.index(False)]
            node = self.bench.same[self.node_of(name, finding.claim)]  # type: ignore[index]
            belief = self.beliefs.get(node)
            value = np.round(self.bench.value(node) if belief is None else belief.value, 10)
            text = getattr(part, "text", "the array")
            return replace(finding, note=f"{text} is put in for {name.name}, which is {value}")
        return replace(finding, verdict=Verdict.FOLLOWS if None in verdicts else Verdict.RIGHT)

    def node_of(self, name: Name | Derivative, claim: Claim) -> Node | None:
        if isinstance(name, Name):
            return self.sheet.epochs[claim.epoch].get(name.name)
        return next((c.target for c in self.sheet.claims if c.quantity == name.name and c.epoch == claim.epoch), None)

    def rounding(self, part: Expr, value: Values) -> Values:
        """What the rounding of the numbers put in leaves open, relative to the longest of them."""
        units = [unit_of(n.text) / max(abs(n.value), 1e-300) for n in numbers_in(part) if "." in n.text]
        long = [u for u in units if u < 1e-2]
        return np.abs(value) * (sum(long) / 2 if long else 0.0)

    def learn(self, finding: Finding) -> None:
        """Remember the author's number for the lines below."""
        claim = finding.claim
        if not is_number(claim.part):
            return
        number: Printed = printed(claim.part)
        if number.value.shape != finding.true.shape:
            return
        right = finding.verdict in (Verdict.RIGHT, Verdict.UNDECIDED)
        spread = np.abs(number.value - finding.true) if right else number.unit / 2
        self.beliefs[self.bench.same[claim.target]] = Belief(number.value, spread, right)


def numbers_in(expr: Expr) -> list[Number]:
    """The printed numbers of an expression, from left to right."""
    match expr:
        case Number():
            return [expr]
        case Unary(operand=operand):
            return numbers_in(operand)
        case Binary(left=left, right=right):
            return numbers_in(left) + numbers_in(right)
        case Array(items=parts) | Call(arguments=parts):
            return [n for p in parts for n in numbers_in(p)]
        case _:
            return []


def only_numbers(expr: Expr) -> bool:
    """Whether an expression is numbers put into a formula: no names, and more than a number alone."""

    def plain(e: Expr) -> bool:
        match e:
            case Number():
                return True
            case Unary(operand=operand):
                return plain(operand)
            case Binary(left=left, right=right):
                return plain(left) and plain(right)
            case Array(items=parts) | Call(arguments=parts):
                return all(map(plain, parts))
            case _:
                return False

    return not is_number(expr) and plain(expr)


Pair: TypeAlias = tuple[Name | Derivative, Expr]


def aligned(formula: Expr, part: Expr, fits: Callable[[Pair], bool]) -> list[Pair] | None:
    """The quantities of the formula paired with the numbers put in for them, or None where the two differ in shape.

    Terms and factors may stand in either order: that in which more numbers fit their quantities is meant.
    """
    match formula, part:
        case ((Name() | Derivative()), _) if is_number(part):
            return [(formula, part)]
        case ((Name() | Derivative() | Number()), _) if formula == replace(part, column=formula.column):
            return []
        case Number(), Number() if formula.value == part.value:
            return []
        case Unary(operand=a), Unary(operand=b):
            return aligned(a, b, fits)
        case Unary(operand=a), Number(text=text):  # -x with x = 0.5 is printed as the number -0.5
            return aligned(a, Number(text[1:] if text[0] == "-" else f"-{text}"), fits)
        case Binary(op=p, left=a, right=b), Binary(op=q, left=c, right=d) if p == q:
            ways: list[list[Pair]] = []
            for left, right in [(c, d), (d, c)] if p in "+*" else [(c, d)]:
                first = aligned(a, left, fits)
                second = None if first is None else aligned(b, right, fits)
                if first is not None and second is not None:
                    ways.append(first + second)
            return min(ways, key=lambda pairs: sum(not fits(pair) for pair in pairs), default=None)
        case (Call(arguments=xs), Call(arguments=ys)) | (Array(items=xs), Array(items=ys)):
            if getattr(formula, "function", "") != getattr(part, "function", "") or len(xs) != len(ys):
                return None
            found: list[Pair] = []
            for x, y in zip(xs, ys, strict=True):
                inner = aligned(x, y, fits)
                if inner is None:
                    return None
                found += inner
            return found
        case _:
            return None


def bench_of(sheet: Sheet) -> Bench:
    """The numbers of a sheet: of its quantities, of what its claims are about, and of their parts."""
    wanted = [c.target for c in sheet.claims] + [c.part_node for c in sheet.claims if c.part_node is not None]
    return Bench(sheet.inputs, [*wanted, *(node for names in sheet.epochs for node in names.values())])
