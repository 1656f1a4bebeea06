"""Marking submissions against a key, with credit for what follows from an earlier slip.

A submission is data from a stranger: a short table of quantities and numbers (CSV or Markdown). Nothing in it is
evaluated, no path is taken from it, and one that cannot be read is said so and does not stop the others.

Each number earns a method mark and an accuracy mark if it is right; method and follow-through if it follows from the
student's own earlier number; the method mark alone if only the digits went wrong (transposed, misread, rounded early).
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from backlit.audit.check import SheetReport, check_text
from backlit.audit.checker import Finding, Verdict
from backlit.audit.sheet import is_number, read
from backlit.audit.syntax import MAX_BYTES, WorksheetError, blocks
from backlit.errors import DataError

MAX_SUBMISSION = 100_000  # bytes
MAX_ROWS = 1_000
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,2})?")
_DIGITS = {"slip-of-the-pen", "one-digit", "misread", "rounded-early"}


@dataclass(frozen=True, slots=True)
class Rubric:
    """The marks for one number."""

    method: float = 1.0
    accuracy: float = 1.0
    follow_through: float = 1.0

    def marks(self, finding: Finding) -> float:
        """What a number earns."""
        best = finding.diagnoses[0] if finding.diagnoses else None
        match finding.verdict:
            case Verdict.RIGHT:
                return self.method + self.accuracy
            case Verdict.FOLLOWS:
                return self.method + self.follow_through
            case Verdict.UNDECIDED:
                return self.method
            case _:
                return self.method if best is not None and (best.rule in _DIGITS or best.conventional) else 0.0


@dataclass(frozen=True, slots=True)
class Key:
    """A key: its worksheet's text, the quantities asked for in order, and the rubric."""

    lines: tuple[str, ...]
    asked: tuple[tuple[int, str], ...]
    rubric: Rubric

    @property
    def out_of(self) -> float:
        return len(self.asked) * (self.rubric.method + self.rubric.accuracy)


@dataclass(frozen=True, slots=True)
class Marks:
    """One submission marked. `error` says why it could not be, if it could not."""

    name: str
    marks: float = 0.0
    blanks: int = 0
    report: SheetReport | None = None
    error: str = ""

    @property
    def slips(self) -> list[Finding]:
        return [] if self.report is None else [f for f in self.report.findings if f.verdict is Verdict.SLIP]


def read_key(path: Path) -> Key:
    """The key in a file: its first worksheet. Raises WorksheetError where it is none, or has slips itself."""
    text = _text(path, MAX_BYTES)
    found = blocks(text)
    if len(found) != 1:
        raise WorksheetError(f"{path.name}: a key has one worksheet, and this has {len(found)}")
    sheet = read(found[0])
    checked = check_text(text, path.name).sheets[0]
    if checked.first_slip is not None:
        claim = checked.first_slip.claim
        raise WorksheetError(f"{path.name}: the key itself is wrong: {claim.quantity} = {claim.printed}", claim.line)
    asked: dict[int, str] = {c.line - sheet.line: c.quantity for c in sheet.claims if is_number(c.part)}
    if not asked:
        raise WorksheetError(f"{path.name}: the key asks for nothing: it makes no claims")
    quantities = list(asked.values())
    if len(set(quantities)) < len(quantities):
        twice = next(q for q in quantities if quantities.count(q) > 1)
        raise WorksheetError(f"{path.name}: {twice} is asked for twice", fix="a key asks for each quantity once")
    said = {m[1]: float(m[2]) for m in re.finditer(r"(method|accuracy|follow-through)\s+(\d{1,3}(?:\.\d+)?)", text)}
    rubric = Rubric(said.get("method", 1.0), said.get("accuracy", 1.0), said.get("follow-through", 1.0))
    return Key(sheet.text, tuple(asked.items()), rubric)


def grade(key: Key, path: Path) -> Marks:
    """Mark one submission; what is wrong with it, if it cannot be marked, is part of the result."""
    try:
        return mark(key, path.stem, answers(_text(path, MAX_SUBMISSION), path.suffix.lower()))
    except (DataError, WorksheetError) as e:
        return Marks(path.stem, error=e.what)
    except OSError as e:
        return Marks(path.stem, error=e.strerror or "cannot be read")


def answers(text: str, kind: str) -> dict[str, str]:
    """The answers of a submission by quantity, as printed; blank ones are left out. Raises DataError."""
    rows = _markdown(text) if kind in (".md", ".markdown", ".txt") else _csv(text)
    found: dict[str, str] = {}
    for number, (quantity, answer) in enumerate(rows, 1):
        if number > MAX_ROWS:
            raise DataError(f"there are more than {MAX_ROWS} answers")
        name = _plain(quantity)
        if name.lower() in ("quantity", "") or set(name) <= set("-:"):
            continue
        value = answer.strip().replace("−", "-").replace("–", "-")
        if re.fullmatch(r"[+-]?\d*,\d+", value):
            value = value.replace(",", ".")
        if not value:
            continue
        if _NUMBER.fullmatch(value) is None:
            raise DataError(f"the answer {value[:40]!r} to {name[:40]!r} is no number")
        if name in found:
            raise DataError(f"{name[:40]!r} is answered twice")
        found[name] = value.lstrip("+")
    if not found:
        raise DataError("there are no answers in it")
    return found


def mark(key: Key, name: str, found: Mapping[str, str]) -> Marks:
    """Mark answers against a key."""
    wanted = {_plain(q): q for _, q in key.asked}
    unknown = [q for q in found if q not in wanted]
    if unknown:
        raise DataError(f"{unknown[0][:40]!r} was not asked for")
    given = {wanted[q]: a for q, a in found.items()}
    asked = dict(key.asked)
    lines = []
    for number, line in enumerate(key.lines):
        if number not in asked:
            lines.append(line)
            continue
        parts = [p.strip() for p in line.split("#")[0].split("=")]
        kept = [parts[0], *(p for p in parts[1:-1] if re.search(r"[^\W\d_e]", p))]  # numbers put in are the key's own
        answer = given.get(asked[number])
        kept += [] if answer is None else [answer]
        lines.append(" = ".join(kept) if len(kept) > 1 else "")
    report = check_text("```worksheet\n" + "\n".join(lines) + "\n```\n", name).sheets[0]
    numbers = [f for f in report.findings if is_number(f.claim.part)]
    total = sum(key.rubric.marks(f) for f in numbers)
    return Marks(name, total, len(asked) - len(numbers), report)


def marks_csv(key: Key, marked: Sequence[Marks]) -> str:
    """The marks as CSV: name, marks, out of, right, follows, slips, blank, first slip, reason, error."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "marks", "out_of", "right", "follows", "slips", "blank", "first_slip", "reason", "error"])
    for m in marked:
        counts = ["", "", "", ""]
        if m.report is not None:
            tally = [m.report.count(v) for v in (Verdict.RIGHT, Verdict.FOLLOWS, Verdict.SLIP)]
            counts = [str(n) for n in (*tally, m.blanks)]
        first = m.slips[0] if m.slips else None
        reason = first.diagnoses[0].rule if first and first.diagnoses else ("unknown" if first else "")
        row = [
            m.name,
            f"{m.marks:g}",
            f"{key.out_of:g}",
            *counts,
            first.claim.quantity if first else "",
            reason,
            m.error,
        ]
        writer.writerow([_harmless(cell) for cell in row])
    return out.getvalue()


def histogram(marked: Sequence[Marks]) -> list[tuple[str, int]]:
    """How many submissions made each slip, most frequent first."""
    tally: Counter[str] = Counter()
    for m in marked:
        tally.update({f.diagnoses[0].rule if f.diagnoses else "unknown" for f in m.slips})
    return sorted(tally.items(), key=lambda item: (-item[1], item[0]))


_STYLE = """
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }
table { border-collapse: collapse; }
td, th { padding: 0.2rem 0.8rem; text-align: left; border-bottom: 1px solid #8884; }
.bar { background: #cf222e; height: 1rem; display: inline-block; } td.n { text-align: right; }
"""


def class_page(key: Key, marked: Sequence[Marks], title: str) -> str:
    """The class as one HTML page: a histogram of the slips, and every submission with its first slip."""
    bars = histogram(marked)
    most = max((n for _, n in bars), default=1)
    rows = [
        f'<tr><td>{escape(rule)}</td><td class="n">{n}</td><td><span class="bar" style="width:{20 * n / most:.2f}rem">'
        "</span></td></tr>"
        for rule, n in bars
    ]
    people = []
    for m in sorted(marked, key=lambda m: m.name):
        first = m.slips[0] if m.slips else None
        said = m.error
        if first is not None:
            why = first.diagnoses[0].text if first.diagnoses else "no slip that is known gives this number"
            said = f"{first.claim.quantity} = {first.claim.printed}: {why}"
        score = "" if m.error else f"{m.marks:g} / {key.out_of:g}"
        people.append(f'<tr><td>{escape(m.name)}</td><td class="n">{score}</td><td>{escape(said)}</td></tr>')
    done = [m.marks for m in marked if not m.error]
    mean = f"{sum(done) / len(done):.1f} of {key.out_of:g} marks on average" if done else "none could be marked"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1><p>{len(marked)} submissions, {mean}.</p>"
        f"<h2>Slips</h2><table><tr><th>slip</th><th>submissions</th><th></th></tr>{''.join(rows)}</table>"
        f"<h2>Submissions</h2><table><tr><th>name</th><th>marks</th><th>first slip</th></tr>{''.join(people)}</table>"
        "</body></html>\n"
    )


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"it is larger than {limit:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(f"it is not a text in UTF-8 (byte {e.start})") from None


def _csv(text: str) -> list[tuple[str, str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as e:
        raise DataError(f"it is no CSV: {e}") from None
    if any(len(row) < 2 for row in rows):
        raise DataError("a row has no second column", fix="each row is quantity,answer")
    return [(row[0], row[1]) for row in rows]


def _markdown(text: str) -> list[tuple[str, str]]:
    rows = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if line.strip().startswith("|") and len(cells) >= 2:
            rows.append((cells[0], cells[1]))
    return rows


def _plain(quantity: str) -> str:
    return re.sub(r"[\s`]", "", quantity).replace("∂", "d").replace("′", "'")


def _harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
