"""Reports of a check: for a terminal, as JSON, and as an HTML page. They show what was found and compute nothing."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.text import Text

from backlit.audit.check import Report, SheetReport
from backlit.audit.checker import Finding, Verdict
from backlit.audit.printed import Values

_STYLES = {Verdict.RIGHT: "green", Verdict.FOLLOWS: "yellow", Verdict.SLIP: "bold red", Verdict.UNDECIDED: "dim"}
_MARKS = {Verdict.RIGHT: "✓", Verdict.FOLLOWS: "↳", Verdict.SLIP: "✗", Verdict.UNDECIDED: "?"}


def as_json(report: Report) -> dict[str, Any]:
    """The report in the published form, schema 1."""
    return {"schema": 1, "file": report.file, "sheets": [_sheet_json(s) for s in report.sheets]}


def _sheet_json(sheet: SheetReport) -> dict[str, Any]:
    first = sheet.first_slip
    return {
        "line": sheet.sheet.line,
        "first_slip": first.claim.line if first else None,
        "counts": {v.value: sheet.count(v) for v in Verdict},
        "claims": [_claim_json(f) for f in sheet.findings],
    }


def _claim_json(finding: Finding) -> dict[str, Any]:
    return {
        "line": finding.claim.line,
        "column": finding.claim.column,
        "quantity": finding.claim.quantity,
        "claimed": finding.claim.printed,
        "verdict": finding.verdict.value,
        "true": finding.true.tolist(),
        "follows": finding.follows.tolist(),
        "note": finding.note,
        "diagnoses": [
            {"rule": d.rule, "text": d.text, "value": d.value, "conventional": d.conventional}
            for d in finding.diagnoses
        ],
    }


def shown(value: Values) -> str:
    """A value for a reader, to nine significant digits."""
    return f"{float(value):.9g}" if value.ndim == 0 else str([shown(v) for v in value]).replace("'", "")


def as_text(report: Report) -> str:
    """The report as plain text."""
    out = io.StringIO()
    write(report, Console(file=out, width=100, color_system=None))
    return out.getvalue().rstrip("\n")


def write(report: Report, console: Console) -> None:
    """The report on a console: what is right first, then the first slip and its reason, then what follows from it."""
    for number, sheet in enumerate(report.sheets):
        if number:
            console.print()
        _write_sheet(report.file, sheet, console)


def _write_sheet(file: str, sheet: SheetReport, console: Console) -> None:
    right, total = sheet.count(Verdict.RIGHT), len(sheet.findings)
    console.print(Text(f"{file}, worksheet at line {sheet.sheet.line}", style="bold"))
    if not total:
        console.print("  It makes no claims: there is nothing to check.")
        return
    first = sheet.first_slip
    if first is None and right == total:
        console.print(
            Text("  ✓ " + (f"All {total} claims are right." if total > 1 else "The claim is right."), style="green")
        )
        return
    console.print(Text(f"  ✓ {right} of {total} claims are right.", style="green"))
    if first is not None:
        before = sum(f.verdict is Verdict.RIGHT for f in sheet.findings[: sheet.findings.index(first)])
        if before:
            console.print(Text(f"    The first {before} lead up to line {first.claim.line} without a mistake."))
        console.print(Text("  The first slip:", style="bold"))
        _write_finding(first, console)
    rest = [f for f in sheet.findings if f.verdict is not Verdict.RIGHT and f is not first]
    if rest:
        console.print(Text("  After that:" if first is not None else "  Also:", style="bold"))
        for finding in rest:
            _write_finding(finding, console)


def _write_finding(finding: Finding, console: Console) -> None:
    claim, style = finding.claim, _STYLES[finding.verdict]
    head = Text(f"  {_MARKS[finding.verdict]} line {claim.line}  ", style=style)
    head.append(f"{claim.quantity} = {claim.printed}", style="default")
    console.print(head, soft_wrap=True)
    for line in sentences(finding):
        console.print(Text("      " + line), soft_wrap=True)


def sentences(finding: Finding) -> list[str]:
    """What there is to say about a claim that is not simply right."""
    follows, true = shown(finding.follows), shown(finding.true)
    if finding.verdict is Verdict.FOLLOWS:
        if finding.diagnoses:
            return [f"follows from the convention above ({finding.diagnoses[0].rule}); otherwise it is {true}"]
        return [f"follows from the numbers above; the true value is {true}"]
    if finding.verdict is Verdict.UNDECIDED:
        return [f"too few digits to tell; the true value is {true}"]
    lines = [f"it should be {true}"] if follows == true else [f"it should be {follows} here (the true value is {true})"]
    if finding.note:
        lines.append(finding.note)
    for i, d in enumerate(finding.diagnoses):
        lead = "" if i == 0 else "or: "
        said = d.text if d.text.startswith(("this is", "the right number")) else f"{claimed(finding)} {d.text}"
        lines.append(lead + said + (" (a convention, not a mistake)" if d.conventional else ""))
    if not finding.diagnoses and not finding.note:
        lines.append("no single slip that is known gives this number")
    return lines


def claimed(finding: Finding) -> str:
    """`0.794609 is what you get when`, for a sentence."""
    return f"{finding.claim.printed} is what you get when"
