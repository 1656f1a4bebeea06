"""`bl.check`: every claim of every worksheet in a text or a file, with its verdict and, for a slip, its diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backlit.audit.checker import Bench, Checker, Finding, Verdict
from backlit.audit.diagnosis import diagnose
from backlit.audit.printed import printed
from backlit.audit.readings import Readings
from backlit.audit.scene import Scene
from backlit.audit.sheet import Claim, Sheet, is_number, read
from backlit.audit.syntax import MAX_BYTES, Block, WorksheetError, blocks


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
    bench = Bench(sheet)
    checker = Checker(sheet, bench)
    readings = Readings(block, sheet)
    findings: list[Finding] = []
    conventions: set[str] = set()  # under which the author has been found to work
    for place, claim in enumerate(sheet.claims):
        finding = checker.judge(claim, [f for f in findings if f.claim.line == claim.line])
        if finding.verdict is Verdict.SLIP and is_number(claim.part):
            finding = _diagnosed(checker, readings, finding, place, findings, conventions)
        findings.append(finding)
        checker.learn(finding)
    return SheetReport(sheet, tuple(findings))


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
        held = {n: b.value for n, b in checker.beliefs.items()}
        spread = checker.follow(checker.bench.same[claim.target])[1]
        found = list(diagnose(scene_of(checker, claim, held), number, spread, claim.printed))
        if not found or "further small slip" in found[0].text:  # perhaps the author kept more digits than are printed
            exact = diagnose(scene_of(checker, claim, {}), number, np.zeros_like(spread), claim.printed)
            found = [d for d in exact if "further small slip" not in d.text] or found
    return replace(finding, diagnoses=tuple(found))


def scene_of(checker: Checker, claim: Claim, held: dict[Any, Any]) -> Scene:
    """What the mal-rules look at for a claim, from the author's numbers `held` (none: from the true ones)."""
    sheet, same = checker.sheet, checker.bench.same
    target = same[claim.target]
    update = next((u for u in sheet.updates if claim.target in u.after.values()), None)
    return Scene(
        checker.bench,
        target,
        {n: v for n, v in held.items() if n is not target},
        {name: same[node] for name, node in sheet.epochs[claim.epoch].items() if same[node] is not target},
        sheet.trainable,
        update.rate if update else None,
    )
