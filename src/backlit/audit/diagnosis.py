"""Which slip it is: the mal-rules whose edit reproduces the author's number to its printed digits.

All single edits are tried first, then pairs of the most ordinary ones. What gives the number from the numbers on the
paper comes before what gives it only within their rounding, and that before what explains all but a small rest of the
error (a slip and a further small slip); among equals, the more ordinary first. Where nothing fits, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from backlit.audit.checker import Diagnosis
from backlit.audit.malrules import RULES, MalRule
from backlit.audit.malrules.digits import misreadings
from backlit.audit.printed import Printed, Values
from backlit.audit.scene import Edit, Scene
from backlit.tracing import in_place_of

MOST_WORK = 300_000  # operations spent on the single edits of one line: a few hundred edits of a hundred operations
_PAIRED = 30  # so many of the most ordinary single edits are tried two at a time
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

    def diagnosis(self, close: int, rest: str = "") -> Diagnosis:
        text = " and ".join(e.text for e in self.edits) + rest
        name = "+".join(r.name for r in self.rules)
        value = float(self.value) if self.value.ndim == 0 else float("nan")
        return Diagnosis(name, text, value, all(r.conventional for r in self.rules), self.prior, close)


def proposals(scene: Scene) -> list[tuple[MalRule, Edit]]:
    """Every single edit of every rule, and every slip that can be made in several places made in all of them."""
    found: list[tuple[MalRule, Edit]] = []
    with in_place_of(scene.target):  # so that no node looks for the line of Python that made it
        for rule in RULES.values():
            edits = [e for e in rule.propose(scene) if all(a.types == b.types for a, b in e.replacements)]
            alike: dict[str, list[Edit]] = {}
            for e in edits:
                if e.how:
                    alike.setdefault(e.how, []).append(e)
            for how, same in alike.items():
                if len({n for e in same for n in e.nodes}) == len(same) > 1:
                    edits.append(Edit(tuple(r for e in same for r in e.replacements), f"{how}, everywhere"))
            found += [(rule, e) for e in edits]
    return found[: max(100, MOST_WORK // len(scene.cone))]


def candidates(scene: Scene) -> list[Candidate]:
    """Every single edit with the value it gives, most ordinary first; edits that change nothing are left out."""
    right = scene.value(scene.target)
    found: list[Candidate] = []
    for rule, edit in proposals(scene):
        value = scene.result(edit)
        if value.shape == right.shape:
            found.append(Candidate((rule,), (edit,), value))
    if not found:
        return []
    values = np.stack([c.value for c in found])
    same = np.isclose(values, right, rtol=1e-12, atol=0.0).reshape(len(found), -1).all(axis=1)
    keep = np.isfinite(values).reshape(len(found), -1).all(axis=1) & ~same
    return sorted((found[i] for i in np.flatnonzero(keep)), key=lambda c: -c.prior)


def diagnose(scene: Scene, claimed: Printed, spread: Values, text: str = "", pairs: bool = True) -> list[Diagnosis]:
    """The slips that give the claimed number, best first; `text` is it as printed, `spread` what rounding leaves open.

    `close` of a diagnosis is 0 for an exact reproduction, 1 within the rounding, 2 with a further small slip, 3 for two
    slips.
    """
    right = scene.value(scene.target)
    if claimed.value.shape != right.shape:
        return []
    singles = candidates(scene)
    found = _fitting(singles, claimed, 0.0, 0) + list(_slips_of_the_pen(right, claimed, text))
    known = {d.text for d in found}
    found += [d for d in _fitting(singles, claimed, spread, 1) if d.text not in known]
    if found:
        return best_first(found)
    error = np.abs(claimed.value - right)
    near = [c for c in singles if np.all(np.abs(claimed.value - c.value) <= _REST * error)]
    if near:
        return best_first([c.diagnosis(2, f", and a further small slip of {_off(c, claimed)}") for c in near])
    return best_first(_fitting(list(_pairs(scene, singles)), claimed, 0.0, 3)) if pairs else []


def best_first(found: Sequence[Diagnosis]) -> list[Diagnosis]:
    """The closest first, then the most ordinary; each text once."""
    unique = {d.text: d for d in sorted(found, key=lambda d: (d.close, -d.prior))}
    return list(unique.values())


def _fitting(tried: Sequence[Candidate], claimed: Printed, spread: Values | float, close: int) -> list[Diagnosis]:
    if not tried:
        return []
    fits = claimed.stand_for(np.stack([c.value for c in tried]), spread)
    return [c.diagnosis(close) for c, fit in zip(tried, fits, strict=True) if fit]


def _off(candidate: Candidate, claimed: Printed) -> str:
    rest = float(np.max(np.abs(claimed.value - candidate.value)))
    return str(np.format_float_positional(rest, precision=2, fractional=False, trim="-"))


def _pairs(scene: Scene, singles: Sequence[Candidate]) -> Iterator[Candidate]:
    """Two slips at once. Slips with digits are too many to be paired: some two of them give any number."""
    able = [c for c in singles if c.rules[0].name not in ("misread", "rounded-early")]
    for a, b in combinations(able[:_PAIRED], 2):
        if not a.edits[0].nodes & b.edits[0].nodes:
            value = scene.result(*a.edits, *b.edits)
            if value.shape == scene.target.type.shape and np.all(np.isfinite(value)):
                yield Candidate(a.rules + b.rules, a.edits + b.edits, value)


def _slips_of_the_pen(right: Values, claimed: Printed, text: str) -> Iterator[Diagnosis]:
    """The right number, written down wrongly."""
    if right.ndim or not text or not np.isfinite(right):
        return
    decimals = max(0, round(-np.log10(float(claimed.unit))))
    for extra in (0, 1):
        for other, how in misreadings(f"{float(right):.{decimals + extra}f}"):
            if float(other) == float(claimed.value) and how != "the sign":
                said = f"the right number with {how}"
                yield Diagnosis("slip-of-the-pen", said, float(right), False, 0.5, 0)
                return
    digits, own = f"{float(right):.{decimals}f}", f"{float(claimed.value):.{decimals}f}"
    wrong = [i for i, (a, b) in enumerate(zip(digits, own, strict=False)) if a != b]
    if len(digits) == len(own) and len(wrong) == 1 and len(digits.strip("-0.")) > 3:
        i = wrong[0]
        yield Diagnosis("one-digit", f"one digit is wrong: {own[i]} for {digits[i]}", float(right), False, 0.2, 0)
