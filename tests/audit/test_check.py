"""The verdicts and the diagnoses: published examples, and each kind of claim."""

import json
import time

import pytest
from audit.sheets import published, sheet

import backlit as bl
from backlit import ops
from backlit.audit import bench as bench_module
from backlit.audit.check import check_text
from backlit.executors.api import get


def findings(body):
    return check_text(sheet(body)).sheets[0].findings


def verdicts(body):
    return [f.verdict.value for f in findings(body)]


@pytest.fixture
def native(monkeypatch):
    """Long loops run compiled."""
    monkeypatch.setattr(bench_module, "get", lambda name: get("native"))


# --- published examples ---------------------------------------------------------------------------------------------


def test_the_most_copied_example_is_right_up_to_its_update_and_then_updates_in_sequence(native):
    (found,) = check_text(published("two-two-two")).sheets
    after = next(i for i, f in enumerate(found.findings) if f.claim.line == 42)
    assert after == 27
    assert all(f.verdict == "right" for f in found.findings[:after])
    error, out_o1, out_o2, last = found.findings[after:]
    assert error.diagnoses[0].rule == "sequential-update"
    assert error.diagnoses[0].conventional
    assert error.diagnoses[0].value == pytest.approx(0.291027924, abs=5e-10)
    assert [out_o1.verdict, out_o2.verdict] == ["follows", "follows"]
    assert last.diagnoses[0].rule == "one-step-fewer"


def test_the_shared_bias_example():
    (found,) = check_text(published("shared-bias")).sheets
    first = found.first_slip
    assert (first.claim.quantity, first.claim.printed) == ("o1", "0.794609")
    assert first.note == "the numbers are put in rightly, and the arithmetic goes wrong"
    assert first.diagnoses[0].rule == "another-bias"
    assert "b1 is used in place of b2" in first.diagnoses[0].text
    assert first.diagnoses[0].value == pytest.approx(0.7946806, abs=1e-6)
    w1 = next(f for f in found.findings if f.claim.quantity == "w1'" and f.claim.printed == "0.249921")
    assert w1.diagnoses[0].rule == "weight-left-out"
    assert "w7 is left out of the path through o2" in w1.diagnoses[0].text
    assert {f.claim.quantity: f.verdict.value for f in found.findings}["O1"] == "follows"


@pytest.mark.parametrize("name", ["one-neuron", "two-two-one"])
def test_no_false_alarm(name):
    report = check_text(published(name))
    assert report.ok
    assert all(f.verdict == "right" for s in report.sheets for f in s.findings)


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_a_wrong_number_is_a_slip_once_and_followed_after():
    body = "given x = 0.3, w = 0.7\nz = w*x = 0.24\na = sigmoid(z) = 0.5597\nb = a^2 = 0.3133"
    assert verdicts(body) == ["slip", "follows", "follows"]


def test_rounding_and_cutting_are_both_right():
    for number in ("0.552", "0.5523", "0.55", "0.55230"):
        assert verdicts(f"given x = 0.21\na = sigmoid(x) = {number}") == ["right"]
    assert verdicts("given x = 0.21\na = sigmoid(x) = 0.5533") == ["slip"]


def test_too_few_digits_to_tell():
    assert verdicts("given x = 0.21\na = sigmoid(x) = 0.7") == ["undecided"]


def test_numbers_put_in_rightly_and_arithmetic_wrong():
    put_in, number = findings("given w = 0.35, x = 0.62, b = 0.5\nz = w*x + b = 0.35*0.62 + 0.5 = 0.771")
    assert put_in.verdict == "right"
    assert number.verdict == "slip"
    assert "put in rightly" in number.note


def test_a_number_put_in_for_another():
    put_in, number = findings("given w = 0.35, x = 0.62, b1 = 0.45, b2 = 0.5\nz = w*x + b2 = 0.35*0.62 + 0.45 = 0.667")
    assert put_in.verdict == "slip"
    assert put_in.note == "0.45 is put in for b2, which is 0.5"
    assert number.verdict == "follows"


def test_terms_may_be_put_in_in_another_order():
    assert verdicts("given w = 0.35, x = 0.62, b = 0.5\nz = w*x + b = 0.5 + 0.62*0.35 = 0.717") == ["right", "right"]


def test_an_expression_that_is_not_equal_is_a_slip():
    assert verdicts("param w = 0.3\ngiven x = 2\nE = (w*x)^2\ndE/dw = 2*w*x = 1.2") == ["slip", "follows"]
    assert verdicts("param w = 0.3\ngiven x = 2\nE = (w*x)^2\ndE/dw = 2*w*x*x = 2.4") == ["right", "right"]


def test_a_wrong_formula_is_diagnosed_too():
    body = "param w = 0.3\ngiven x = 3\nE = (w*x)^2\n"
    formula, _ = findings(body + "dE/dw = w*x*x = 2.7")
    assert formula.diagnoses[0].rule == "half-or-two"
    formula, _ = findings(body + "dE/dw = 2*w*x = 1.8")
    assert "x is left out" in formula.diagnoses[0].text


def test_arrays_are_claims_like_numbers():
    body = "given W = [[0.1, 0.2], [0.3, 0.4]], x = [1, 2]\nz = W @ x = [0.5, 1.1]\ny = tanh(z) = [0.46, 0.80]"
    assert verdicts(body) == ["right", "right"]
    slip = findings(body.replace("W @ x = [0.5, 1.1]", "W @ x = [0.7, 1.0]"))
    assert slip[0].verdict == "slip"
    assert slip[0].diagnoses[0].rule == "transposed"


NET = """
given x1 = 0.5, x2 = -0.4, t = 0.3
param w1 = 0.35, w2 = -0.62, w3 = 0.83, w4 = 0.27, w5 = 0.9, w6 = -0.55, b1 = 0.2, b2 = 0.4
h1 = w1*x1 + w2*x2 + b1
a1 = sigmoid(h1)
h2 = w3*x1 + w4*x2 + b1
a2 = sigmoid(h2)
o = w5*a1 + w6*a2 + b2
y = tanh(o)
E = (y - t)^2/2
"""


@pytest.mark.parametrize(
    ("quantity", "rule", "wrong"),
    [
        ("h1", "bias-left-out", lambda v: v["h1"] - 0.2),
        ("h1", "another-bias", lambda v: v["h1"] + 0.2),
        ("h1", "term-left-out", lambda v: v["h1"] - 0.35 * 0.5),
        ("h1", "another-weight", lambda v: v["h1"] + (0.83 - 0.35) * 0.5),
        ("dE/dw5", "derivative-left-out", lambda v: (v["y"] - 0.3) * v["a1"]),
        ("dE/dw5", "another-derivative", lambda v: (v["y"] - 0.3) * v["y"] * (1 - v["y"]) * v["a1"]),
        ("dE/dw5", "derivative-wrong-point", lambda v: (v["y"] - 0.3) * (1 - v["o"] ** 2) * v["a1"]),
        ("dE/dw5", "half-or-two", lambda v: 2 * (v["y"] - 0.3) * (1 - v["y"] ** 2) * v["a1"]),
        ("dE/dw1", "weight-left-out", lambda v: (v["y"] - 0.3) * (1 - v["y"] ** 2) * v["a1"] * (1 - v["a1"]) * 0.5),
        ("dE/dw1", "another-weight", lambda v: v["d"] * -0.55 * v["a1"] * (1 - v["a1"]) * 0.5),
        ("w5'", "gradient-added", lambda v: 0.9 + 0.5 * v["d"] * v["a1"]),
        ("w5'", "rate-left-out", lambda v: 0.9 - v["d"] * v["a1"]),
        ("w5'", "rate-twice", lambda v: 0.9 - 0.25 * v["d"] * v["a1"]),
        ("w5'", "step-alone", lambda v: -0.5 * v["d"] * v["a1"]),
    ],
)  # fmt: skip
def test_slips_are_named(quantity, rule, wrong):
    import math

    def s(z):
        return 1 / (1 + math.exp(-z))

    v = {"h1": 0.35 * 0.5 + 0.62 * 0.4 + 0.2, "h2": 0.83 * 0.5 - 0.27 * 0.4 + 0.2}
    v |= {"a1": s(v["h1"]), "a2": s(v["h2"])}
    v["o"] = 0.9 * v["a1"] - 0.55 * v["a2"] + 0.4
    v["y"] = math.tanh(v["o"])
    v["d"] = (v["y"] - 0.3) * (1 - v["y"] ** 2)
    body = f"{NET}{quantity} = {wrong(v):.8f}\nstep E, lr = 0.5\n"
    (found,) = findings(body)
    assert found.verdict == "slip"
    assert found.diagnoses[0].rule == rule, found.diagnoses


@pytest.mark.parametrize(
    ("claimed", "rule"), [("0.7175", "slip-of-the-pen"), ("7.715", "slip-of-the-pen"), ("0.7745", "one-digit")]
)
def test_slips_of_the_pen(claimed, rule):
    (found,) = findings(f"given x = 1.1, q = 0.7014\nz = x*q = {claimed}")
    assert found.verdict == "slip"
    assert rule in [d.rule for d in found.diagnoses]


def test_nothing_is_said_where_nothing_fits():
    (found,) = findings(NET + "dE/dw1 = 0.31415926")
    assert found.verdict == "slip"
    assert found.diagnoses == ()


def test_fifty_claims_take_less_than_two_seconds():
    lines = [f"dE/dw{1 + i % 6} = 0.1234{i:02d}" if i % 5 == 0 else "a1 = 0.6512" for i in range(50)]
    began = time.process_time()
    found = findings(NET + "\n".join(lines))
    assert len(found) == 50
    assert time.process_time() - began < 2


# --- forms of the report --------------------------------------------------------------------------------------------


def test_the_report_as_json_has_the_published_form():
    report = json.loads(json.dumps(check_text(published("shared-bias"), "sheet.md").json()))
    assert report["schema"] == 1
    assert report["file"] == "sheet.md"
    (found,) = report["sheets"]
    assert found["first_slip"] == 15
    assert set(found["counts"]) == {"right", "follows", "slip", "undecided"}
    claim = next(c for c in found["claims"] if c["claimed"] == "0.794609")
    assert {"line", "quantity", "claimed", "verdict", "true", "follows", "diagnoses"} <= set(claim)
    assert set(claim["diagnoses"][0]) == {"rule", "text", "value", "conventional"}


def test_a_file_is_checked_by_its_path(tmp_path):
    path = tmp_path / "sheet.md"
    path.write_text(published("one-neuron"), encoding="utf-8")
    assert bl.check(path).ok
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not a text in UTF-8"):
        bl.check(path)


# --- functions ------------------------------------------------------------------------------------------------------


def test_diagnose_on_a_function():
    from backlit import ops

    def loss(w1, w2, b, x, t):
        h = ops.sigmoid(w1 * x + b)
        y = ops.tanh(w2 * h)
        E = (y - t) ** 2 / 2
        return E

    arguments = (0.3, 0.8, 0.1, 0.7, 0.2)
    import math

    h = 1 / (1 + math.exp(-0.31))
    y = math.tanh(0.8 * h)
    found = bl.diagnose(loss, *arguments, quantity="dE/dw2", claimed=f"{(y - 0.2) * h:.6f}")
    assert found[0].rule == "derivative-left-out"
    assert bl.diagnose(loss, *arguments, quantity="dE/dw2", claimed=f"{(y - 0.2) * (1 - y * y) * h:.6f}") == ()
    found = bl.diagnose(loss, *arguments, quantity="h", claimed=f"{1 / (1 + math.exp(-0.21)):.5f}")
    assert found[0].rule == "bias-left-out"
    with pytest.raises(ValueError, match="no quantity"):
        bl.diagnose(loss, *arguments, quantity="dE/dw9", claimed="1")


def test_a_given_of_a_function_can_be_asked_about():
    def f(w, x):
        return ops.sigmoid(w * x)

    assert bl.diagnose(f, 0.45, 0.5, quantity="w", claimed="0.45") == ()
    assert bl.diagnose(f, 0.45, 0.5, quantity="w", claimed="0.54")[0].rule == "slip-of-the-pen"
