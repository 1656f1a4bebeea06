"""Conventions and slips that concern every step of a sheet: found by reading the sheet again under each of them.

An author who changes the output layer first and passes the gradient of the hidden layer back through the changed
weights makes no slip on any line, but every number below the step is another. So each reading of `step` is carried out
as a whole, and one that gives the author's number explains it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from backlit.audit.bench import Bench
from backlit.audit.checker import Diagnosis
from backlit.audit.descent import Reading
from backlit.audit.printed import Printed, Values
from backlit.audit.sheet import Sheet, read
from backlit.audit.syntax import Block, WorksheetError


@dataclass(frozen=True, slots=True)
class Alternative:
    """A reading with its name, a sentence and whether it is a convention."""

    rule: str
    reading: Reading
    text: str
    conventional: bool

    @property
    def sentence(self) -> str:
        """What is done, without the lead that a report gives it."""
        return self.text.removeprefix("this is ").removeprefix("what ").removesuffix(" gives")


ALTERNATIVES = (
    Alternative(
        "sequential-update",
        Reading(sequential=True),
        "this is what sequential updating gives: the gradient is passed back through weights already changed",
        True,
    ),
    Alternative("one-step-fewer", Reading(more_steps=-1), "this is the value one step earlier", False),
    Alternative("one-step-more", Reading(more_steps=1), "this is the value one step later", False),
    Alternative("bias-trained", Reading(bias="trained"), "this is what training the biases too gives", True),
    Alternative("bias-held", Reading(bias="held"), "this is what holding the biases fixed gives", True),
    Alternative("gradient-added", Reading(uphill=True), "this is what adding the gradient gives: uphill", False),
    Alternative("rate-left-out", Reading(rate_power=0), "this is what leaving the learning rate out gives", False),
    Alternative("rate-twice", Reading(rate_power=2), "this is what applying the learning rate twice gives", False),
    Alternative(
        "sequential-update+one-step-fewer",
        Reading(sequential=True, more_steps=-1),
        "this is what sequential updating gives one step earlier",
        False,
    ),
)


class Readings:
    """The values of a sheet's claims under every reading, computed when they are first asked for."""

    def __init__(self, block: Block, sheet: Sheet) -> None:
        self.block, self.sheet = block, sheet
        self.bench = cache(self._bench)
        self.value = cache(self._value)

    def _bench(self, reading: Reading) -> tuple[Sheet, Bench] | None:
        try:
            sheet = read(self.block, reading)
        except WorksheetError:  # the reading does not fit this sheet
            return None
        return sheet, Bench(sheet.inputs, [c.target for c in sheet.claims])

    def _value(self, reading: Reading, place: int) -> Values | None:
        found = self.bench(reading)
        if found is None:
            return None
        sheet, bench = found
        return bench.value(bench.same[sheet.claims[place].target])

    def explain(self, place: int, claimed: Printed, known: Collection[str]) -> Iterator[Diagnosis]:
        """The readings that give the claimed number at a claim; those `known` from the sheet so far are tried first."""
        claim = self.sheet.claims[place]
        if claim.epoch == 0 and not claim.quantity.endswith("'"):
            return
        seen = [self.value(Reading(), place)]
        for alternative in sorted(ALTERNATIVES, key=lambda a: a.rule not in known):
            value = self.value(alternative.reading, place)
            if value is None or any(np.array_equal(value, other) for other in seen if other is not None):
                continue  # it changes nothing here, or no more than a simpler one
            seen.append(value)
            if claimed.stands_for(value):
                number = float(value) if value.ndim == 0 else float("nan")
                yield Diagnosis(alternative.rule, alternative.text, number, alternative.conventional)
                if alternative.rule in known:
                    return
