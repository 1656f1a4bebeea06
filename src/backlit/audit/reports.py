"""Reports of a check, for a terminal and as JSON. They show what was found and compute nothing."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from backlit.audit.check import Report, SheetReport
from backlit.audit.checker import Finding, Verdict
from backlit.audit.printed import Values

_STYLES = {Verdict.RIGHT: "green", Verdict.FOLLOWS: "yellow", Verdict.SLIP: "bold red", Verdict.UNDECIDED: "dim"}
MARKS = {Verdict.RIGHT: "✓", Verdict.FOLLOWS: "↳", Verdict.SLIP: "✗", Verdict.UNDECIDED: "?"}


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
        "true": finite(finding.true.tolist()),
        "follows": finite(finding.follows.tolist()),
        "note": finding.note,
        "diagnoses": [
            {"rule": d.rule, "text": d.text, "value": finite(d.value), "conventional": d.conventional}
            for d in finding.diagnoses
        ],
    }


def finite(value: Any) -> Any:
    """A number, or nested lists of numbers, with null for what JSON has no number for."""
    if isinstance(value, list):
        return [finite(v) for v in value]
    return value if math.isfinite(value) else None


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


def summary(sheet: SheetReport) -> list[str]:
    """What is right, in a sentence or two."""
    right, total = sheet.count(Verdict.RIGHT), len(sheet.findings)
    if not total:
        return ["It makes no claims: there is nothing to check."]
    if right == total:
        return [f"All {total} claims are right." if total > 1 else "Its one claim is right."]
    lines = [f"{right} of {total} claims are right."]
    first = sheet.first_slip
    if first is not None:
        before = [f.verdict for f in sheet.findings[: sheet.findings.index(first)]]
        if len(before) > 1 and all(v is Verdict.RIGHT for v in before):
            lines.append(f"Everything before line {first.claim.line} is without a mistake.")
        others = sheet.count(Verdict.FOLLOWS)
        if others:
            lines.append(
                f"{others} more follow{'s' if others == 1 else ''} rightly from a number that was wrong before."
            )
    return lines


def _write_sheet(file: str, sheet: SheetReport, console: Console) -> None:
    console.print(Text(f"{file}, worksheet at line {sheet.sheet.line}", style="bold"), soft_wrap=True)
    for k, line in enumerate(summary(sheet)):
        if k == 0 and sheet.findings:
            console.print(Padding(Text("✓ " + line, style="green"), (0, 0, 0, 2), expand=False))
        else:
            console.print(Padding(Text(line), (0, 0, 0, 4), expand=False))
    first = sheet.first_slip
    if first is not None:
        console.print(Text("  The first slip:", style="bold"))
        _write_finding(first, console)
    rest = [f for f in sheet.findings if f.verdict is not Verdict.RIGHT and f is not first]
    if rest:
        console.print(Text("  After that:" if first is not None else "  Also:", style="bold"))
        for finding in rest:
            _write_finding(finding, console)


def _write_finding(finding: Finding, console: Console) -> None:
    claim, style = finding.claim, _STYLES[finding.verdict]
    head = Text(f"{MARKS[finding.verdict]} line {claim.line}  ", style=style)
    head.append(f"{claim.quantity} = {claim.printed}", style="default")
    console.print(Padding(head, (0, 0, 0, 2), expand=False))
    for line in sentences(finding):
        console.print(Padding(Text(line), (0, 0, 0, 6), expand=False))


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
