"""`bl.check`: every claim of every worksheet in a text or a file, with its verdict and, for a slip, its diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from backlit.audit.checker import Belief, Checker, Diagnosis, Finding, Verdict, bench_of
from backlit.audit.diagnosis import diagnose
from backlit.audit.printed import Printed, printed
from backlit.audit.readings import Readings
from backlit.audit.scene import Scene
from backlit.audit.sheet import Claim, Sheet, is_number, read
from backlit.audit.syntax import MAX_BYTES, Block, WorksheetError, blocks
from backlit.ir import Node

MAX_WORK = 3_000_000  # operations done to check one sheet; one of 50 claims takes a twentieth
MAX_SEARCH = 1_000_000  # of them, before no more reasons are looked for
MAX_DIAGNOSED = 25  # slips of one sheet whose reason is looked for
SHOWN = 5


@dataclass(frozen=True, slots=True)
class SheetReport:
    """What was found in one worksheet."""

    sheet: Sheet
    findings: tuple[Finding, ...]

    @property
    def first_slip(self) -> Finding | None:
        """The first claim at which a new mistake is made."""
        return next((f for f in self.findings if f.verdict is Verdict.SLIP), None)

    def count(self, verdict: Verdict) -> int:
        """How many claims have this verdict."""
        return sum(f.verdict is verdict for f in self.findings)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a file or text. Prints as a marker would write it; see `audit.reports` for other forms."""

    file: str
    sheets: tuple[SheetReport, ...]

    @property
    def ok(self) -> bool:
        """Whether no worksheet has a slip."""
        return all(s.first_slip is None for s in self.sheets)

    def json(self) -> dict[str, Any]:
        """The report as plain data, in the published form (schema 1)."""
        from backlit.audit.reports import as_json

        return as_json(self)

    def __str__(self) -> str:
        from backlit.audit.reports import as_text

        return as_text(self)


def check(source: str | Path) -> Report:
    """Check the worksheets of a Markdown file, or of a text (a string with a line break in it).

    Raises WorksheetError, with line and column, where one cannot be read; OSError where the file cannot.
    """
    if isinstance(source, str) and "\n" in source:
        return check_text(source, "text")
    path = Path(source)
    if path.stat().st_size > MAX_BYTES:
        raise WorksheetError(f"{path}: larger than {MAX_BYTES:,} bytes", fix="split it into several files")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise WorksheetError(f"{path}: not a text in UTF-8 (byte {e.start})") from None
    return check_text(text, str(path))


def check_text(text: str, name: str = "text") -> Report:
    """Check the worksheets of a text. `name` is what the report calls it."""
    found = blocks(text)
    if not found:
        raise WorksheetError(f"{name}: there is no worksheet", fix="put it into a fenced block: ```worksheet ... ```")
    return Report(name, tuple(check_block(b) for b in found))


def check_block(block: Block) -> SheetReport:
    """Check one worksheet: all verdicts in order, each slip with its diagnoses."""
    sheet = read(block)
    bench = bench_of(sheet)
    checker = Checker(sheet, bench)
    readings = Readings(block, sheet)
    findings: list[Finding] = []
    conventions: set[str] = set()  # under which the author has been found to work
    for place, claim in enumerate(sheet.claims):
        if bench.work > MAX_WORK:
            what = "the sheet takes too long to check"
            raise WorksheetError(what, claim.line, claim.column, fix="split it into several sheets")
        finding = checker.judge(claim, same_line(findings, claim))
        if finding.verdict is Verdict.SLIP and is_number(claim.part):
            finding = _diagnosed(checker, readings, finding, place, findings, conventions)
        elif finding.verdict is Verdict.SLIP and not finding.note:
            finding = _formula_diagnosed(checker, finding, findings)
        findings.append(finding)
        checker.learn(finding)
    return SheetReport(sheet, tuple(agreeing(findings)))


def same_line(findings: Sequence[Finding], claim: Claim) -> list[Finding]:
    """The findings on the line of a claim, which are the last."""
    return [*takewhile(lambda f: f.claim.line == claim.line, reversed(findings))][::-1]


def _diagnosed(
    checker: Checker,
    readings: Readings,
    finding: Finding,
    place: int,
    earlier: Sequence[Finding],
    conventions: set[str],
) -> Finding:
    claim = finding.claim
    number = printed(claim.part)
    found = list(readings.explain(place, number, conventions))
    known = [d for d in found if d.rule in conventions]
    if known:  # not a new mistake: the author goes on as before
        return replace(finding, verdict=Verdict.FOLLOWS, diagnoses=tuple(known))
    conventions.update(d.rule for d in found if d.conventional)
    if not found:
        found = _slips(checker, finding, number, earlier)
    return replace(finding, diagnoses=tuple(found))


def _formula_diagnosed(checker: Checker, finding: Finding, earlier: Sequence[Finding]) -> Finding:
    """A formula that is not equal to its quantity: which slip makes it what it is, to ten digits."""
    claim = finding.claim
    assert claim.part_node is not None
    value = checker.bench.value(checker.bench.same[claim.part_node])
    if not np.all(np.isfinite(value)):
        return finding
    number = Printed(value, 1e-10 * np.maximum(np.abs(value), 1e-10))
    found = diagnose(scene_of(checker, claim, {}, earlier), number, np.zeros_like(value))
    return replace(finding, diagnoses=tuple(d for d in found if d.close < 2))


def _slips(checker: Checker, finding: Finding, number: Printed, earlier: Sequence[Finding]) -> list[Diagnosis]:
    """The slips that give the number of a claim."""
    claim = finding.claim
    if (
        checker.bench.work > MAX_SEARCH
        or sum(bool(f.diagnoses) or f.verdict is Verdict.SLIP for f in earlier) >= MAX_DIAGNOSED
    ):
        return []
    beliefs = checker.beliefs
    spread = checker.follow(checker.bench.same[claim.target])[1]
    found = diagnose(scene_of(checker, claim, beliefs, earlier), number, spread, claim.printed)
    wrong = {n: b for n, b in beliefs.items() if not b.right}
    for other in [wrong, {}] if wrong else [wrong]:  # perhaps the author kept more digits than are printed
        if found and found[0].close < 2:
            break
        scene = scene_of(checker, claim, other, earlier)
        exact = diagnose(scene, number, np.zeros_like(spread), claim.printed, pairs=False)
        found = [d for d in exact if d.close < 2] or found
    return found


def agreeing(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the diagnoses of each slip ordered by how many other slips of the sheet they explain too."""
    seen: dict[str, int] = {}
    for finding in findings:
        for rule in {d.rule for d in finding.diagnoses}:
            seen[rule] = seen.get(rule, 0) + 1

    def ranked(found: Sequence[Diagnosis]) -> tuple[Diagnosis, ...]:
        return tuple(sorted(found, key=lambda d: (d.close, -seen[d.rule], -d.prior)))[:SHOWN]

    return [replace(f, diagnoses=ranked(f.diagnoses)) for f in findings]


def scene_of(checker: Checker, claim: Claim, held: Mapping[Node, Belief], earlier: Sequence[Finding]) -> Scene:
    """What the mal-rules look at for a claim, from the author's numbers `held` (none: from the true ones)."""
    sheet, same = checker.sheet, checker.bench.same
    target = same[claim.target]
    names = {name: same[node] for name, node in sheet.epochs[claim.epoch].items() if same[node] is not target}
    for f in earlier:
        if f.claim.epoch == claim.epoch and same[f.claim.target] is not target:
            names.setdefault(f.claim.quantity, same[f.claim.target])
    names.setdefault(claim.quantity, target)
    losses = frozenset(same[u.loss] for u in sheet.updates if u.loss in same)
    return Scene(
        checker.bench,
        (target,),
        {n: b.value for n, b in held.items() if n is not target},
        names,
        sheet.trainable,
        losses,
    )
