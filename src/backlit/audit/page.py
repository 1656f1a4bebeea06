"""The report of a check as one HTML page that needs nothing else: the sheet as it was written, marked line by line.

Everything from the sheet is escaped: it may come from strangers.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from backlit.audit.check import Report, SheetReport
from backlit.audit.checker import Finding, Verdict
from backlit.audit.reports import MARKS, sentences, summary

_STYLE = """
:root { color-scheme: light dark; --right: #1a7f37; --follows: #9a6700; --slip: #cf222e; --undecided: #6e7781; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.sheet { font-family: ui-monospace, monospace; font-size: 0.9rem; overflow-x: auto; padding: 0; list-style: none; }
.sheet li { white-space: pre; display: grid; grid-template-columns: 3rem 1.5rem 1fr; }
.sheet .n { color: var(--undecided); text-align: right; padding-right: 0.7rem; user-select: none; }
.note { white-space: normal; font-family: system-ui, sans-serif; grid-column: 3; margin: 0 0 0.5rem; max-width: 50rem; }
.right { color: var(--right); } .follows { color: var(--follows); }
.slip { color: var(--slip); font-weight: 600; } .undecided { color: var(--undecided); }
p.note { font-weight: 400; }
"""
_WORST = (Verdict.SLIP, Verdict.FOLLOWS, Verdict.UNDECIDED, Verdict.RIGHT)


def as_html(reports: Iterable[Report]) -> str:
    """The page for the reports of one or more files."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Worksheets checked</title>',
        f"<style>{_STYLE}</style></head><body>",
    ]
    for report in reports:
        parts.append(f"<h1>{escape(report.file)}</h1>")
        parts += [_sheet(s) for s in report.sheets]
    return "\n".join([*parts, "</body></html>", ""])


def _sheet(sheet: SheetReport) -> str:
    by_line: dict[int, list[Finding]] = {}
    for finding in sheet.findings:
        by_line.setdefault(finding.claim.line, []).append(finding)
    rows = []
    for number, text in enumerate(sheet.sheet.text, sheet.sheet.line):
        found = by_line.get(number, [])
        worst = next((v for v in _WORST if any(f.verdict is v for f in found)), None)
        kind = worst.value if worst else ""
        mark = f'<span class="{kind}" title="{kind}">{MARKS[worst]}</span>' if worst else "<span></span>"
        rows.append(f'<li><span class="n">{number}</span>{mark}<span>{escape(text) or "&nbsp;"}</span>')
        for f in found:
            if f.verdict is not Verdict.RIGHT:
                said = "<br>".join(escape(s) for s in sentences(f))
                claim = f"{escape(f.claim.quantity)} = {escape(f.claim.printed)}"
                rows.append(f'<p class="note {f.verdict.value}"><code>{claim}</code>: {said}</p>')
        rows.append("</li>")
    said = "".join(f"<p>{escape(line)}</p>" for line in summary(sheet))
    body = "\n".join(rows)
    return f'<section><h2>Worksheet at line {sheet.sheet.line}</h2>{said}<ol class="sheet">\n{body}\n</ol></section>'
