"""Which slip it is: the mal-rules whose edit reproduces the author's number to its printed digits.

All single edits are tried first, then pairs of the most ordinary ones. What reproduces the number exactly comes
before what explains all but a small rest of the error (a slip and a further small slip); among equals, the more
ordinary first. Where nothing fits, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from backlit.audit.checker import Diagnosis
from backlit.audit.malrules import RULES, MalRule, misreadings
from backlit.audit.printed import Printed, Values
from backlit.audit.scene import Edit, Scene

_PAIRED = 40  # so many of the most ordinary single edits are tried two at a time
_SHOWN = 5
_REST = 0.005  # a near miss explains all but this share of the error


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit, or two, with the value that they give."""

    rules: tuple[MalRule, ...]
    edits: tuple[Edit, ...]
    value: Values

    @property
    def prior(self) -> float:
        return float(np.prod([r.prior for r in self.rules])) * 0.3 ** (len(self.rules) - 1)

    def diagnosis(self, rest: str = "") -> Diagnosis:
        text = " and ".join(e.text for e in self.edits) + rest
        name = "+".join(r.name for r in self.rules)
        value = float(self.value) if self.value.ndim == 0 else float("nan")
        return Diagnosis(name, text, value, all(r.conventional for r in self.rules))


def proposals(scene: Scene) -> Iterator[tuple[MalRule, Edit]]:
    """Every single edit of every rule."""
    for rule in RULES.values():
        for edit in rule.propose(scene):
            yield rule, edit


def candidates(scene: Scene) -> list[Candidate]:
    """Every single edit with the value it gives, most ordinary first; edits that change nothing are left out."""
    right = scene.value(scene.target)
    found: list[Candidate] = []
    for rule, edit in proposals(scene):
        value = scene.result(edit)
        if value.shape != right.shape or not np.all(np.isfinite(value)):
            continue
        if not np.allclose(value, right, rtol=1e-12, atol=0):
            found.append(Candidate((rule,), (edit,), value))
    return sorted(found, key=lambda c: -c.prior)


def diagnose(scene: Scene, claimed: Printed, spread: Values, text: str) -> tuple[Diagnosis, ...]:
    """The slips that give the claimed number; `text` is it as printed, `spread` what rounding leaves open."""
    right = scene.value(scene.target)
    if claimed.value.shape != right.shape:
        return ()
    singles = candidates(scene)
    exact = [c.diagnosis() for c in singles if claimed.stands_for(c.value, spread)]
    exact += _slips_of_the_pen(right, claimed, text)
    if exact:
        return _first(exact)
    near = [c for c in singles if np.all(np.abs(claimed.value - c.value) <= _REST * np.abs(claimed.value - right))]
    if near:
        return _first([c.diagnosis(f", and a further small slip of {_off(c, claimed)}") for c in near])
    return _first([c.diagnosis() for c in _pairs(scene, singles) if claimed.stands_for(c.value, spread)])


def _off(candidate: Candidate, claimed: Printed) -> str:
    return f"{float(np.max(np.abs(claimed.value - candidate.value))):.2g}"


def _first(found: Sequence[Diagnosis]) -> tuple[Diagnosis, ...]:
    """The most ordinary few, each text once."""
    return tuple({d.text: d for d in found}.values())[:_SHOWN]


def _pairs(scene: Scene, singles: Sequence[Candidate]) -> Iterator[Candidate]:
    for a, b in combinations(singles[:_PAIRED], 2):
        if a.edits[0].node is b.edits[0].node:
            continue
        value = scene.result(*a.edits, *b.edits)
        if np.all(np.isfinite(value)):
            yield Candidate(a.rules + b.rules, a.edits + b.edits, value)


def _slips_of_the_pen(right: Values, claimed: Printed, text: str) -> Iterator[Diagnosis]:
    """The right number, written down wrongly."""
    if right.ndim:
        return
    decimals = max(0, round(-np.log10(float(claimed.unit))))
    for extra in (0, 1):
        for other, how in misreadings(f"{float(right):.{decimals + extra}f}"):
            if other.rstrip("0") == text.rstrip("0") or (other == text):
                yield Diagnosis("slip-of-the-pen", f"the right number with {how}", float(right))
                return
