"""How often the first slip is found, and named: sheets worked by an independent hand, measured.

`python -m pytest -m full tests/audit/test_figures.py -s` prints the figures of docs/check.md.
"""

import random
from collections import Counter, defaultdict

import pytest
from audit.author import work

from backlit.audit.check import check_text

SHAPES = [(2, 2, 1), (2, 2, 2), (3, 2, 2), (2, 3, 1), (4, 5, 3)]
ACTIVATIONS = ["sigmoid", "tanh", "relu", "softplus"]
LOSSES = ["half-mse", "mse", "sse", "crossentropy"]
SAME = {  # names for the same slip in the same place
    "sign-flipped": {"sign-flipped", "difference-swapped"},
    "input-left-out": {"input-left-out", "factor-left-out"},
    "half-or-two": {"half-or-two", "sum-or-mean"},
    "step-alone": {"step-alone", "term-left-out"},
}


def cases(count, digits, slips, shapes=SHAPES):
    """So many sheets over all shapes, activations and losses."""
    found, seed = [], 0
    while len(found) < count:
        shape = shapes[seed % len(shapes)]
        activation = ACTIVATIONS[(seed // 2) % 4]
        loss = LOSSES[(seed // 3) % 4]
        sheet = work(seed, shape, activation, loss, digits, slips)
        if sheet is not None:
            found.append(sheet)
        seed += 1
    return found


def measure(sheets):
    """The share of sheets whose first slip is found, and of those found, named first and among the first three."""
    tally = Counter(sheets=len(sheets))
    misses = defaultdict(Counter)
    for sheet in sheets:
        (report,) = check_text(sheet.text).sheets
        wrong = [f for f in report.findings if f.verdict == "slip"]
        places = [f.claim.quantity for f in wrong]
        if not sheet.slips:
            tally["alarms"] += bool(wrong)
            tally["false"] += len(wrong)
            tally["claims"] += len(report.findings)
            continue
        tally["localised"] += places[:1] == [sheet.slips[0][0]]
        tally["all localised"] += {q for q, _ in sheet.slips} <= set(places)
        tally["extra"] += len(set(places) - {q for q, _ in sheet.slips})
        quantity, rule = sheet.slips[0]
        finding = next((f for f in wrong if f.claim.quantity == quantity), None)
        if finding is None:
            continue
        accepted = SAME.get(rule, {rule})
        names = [d.rule for d in finding.diagnoses]
        tied = {d.rule for d in finding.diagnoses if d.close == 0}
        alone = bool(accepted & tied) and len(tied - accepted) == 0
        tally["found"] += 1
        tally["top1"] += bool(names) and names[0] in accepted
        tally["top3"] += bool(accepted & set(names[:3]))
        tally["distinguishable"] += alone or not accepted & set(names)
        tally["distinguishable top1"] += alone and names[0] in accepted
        if not accepted & set(names[:1]):
            misses[rule][names[0] if names else "nothing"] += 1
    return tally, {k: dict(v) for k, v in misses.items()}


def by_chance(sheets, digits):
    """The share of arbitrary wrong numbers for which some slip is named all the same, by one edit or by two."""
    rng = random.Random(digits)
    tally = Counter()
    for sheet in sheets:
        lines = sheet.text.splitlines()
        places = [i for i, line in enumerate(lines) if line.startswith("dE/dw")]
        i = rng.choice(places)
        name, number = lines[i].split(" = ")
        wrong = float(number) * rng.uniform(0.2, 3) + rng.choice([-1, 1]) * rng.uniform(0.01, 0.5)
        lines[i] = f"{name} = {wrong:.{digits}f}"
        lines = [line for line in lines if not line.startswith("dE/dz")]  # so that much stands between the numbers
        (report,) = check_text("\n".join(lines)).sheets
        finding = next((f for f in report.findings if f.claim.quantity == name and f.verdict == "slip"), None)
        if finding is not None:
            tally["numbers"] += 1
            tally["one edit"] += bool(finding.diagnoses) and finding.diagnoses[0].close < 2
            tally["near or two"] += bool(finding.diagnoses) and finding.diagnoses[0].close >= 2
    return tally


def test_a_sample_of_sheets_with_one_slip():
    tally, misses = measure(cases(16, 6, 1, SHAPES[:4]))
    assert tally["localised"] >= 15, (tally, misses)
    assert tally["top3"] >= 14, (tally, misses)


def test_a_sample_of_right_sheets_raises_no_alarm():
    tally, _ = measure([s for d in (3, 5) for s in cases(4, d, 0, SHAPES[:4])])
    assert tally["alarms"] == 0


@pytest.mark.full
@pytest.mark.parametrize("digits", [2, 3, 4, 5, 6, 8])
def test_figures(digits):
    one, misses = measure(cases(120, digits, 1))
    two, _ = measure(cases(40, digits, 2))
    none, _ = measure(cases(60, digits, 0))
    chance = by_chance(cases(60, digits, 0), digits)
    print(f"\n{digits} digits: one slip {dict(one)}, misses {misses}")
    print(f"two slips {dict(two)}, none {dict(none)}, by chance {dict(chance)}", flush=True)
    if digits >= 4:
        assert one["localised"] >= 0.99 * one["sheets"]
        assert one["distinguishable top1"] >= 0.85 * one["distinguishable"]
        assert one["top3"] >= 0.97 * one["found"]
        assert two["all localised"] >= 0.9 * two["sheets"]
    assert none["alarms"] < 0.01 * none["sheets"]
