"""Practice sheets and their marking, with submissions as strangers send them."""

import re

import pytest

from backlit.audit import grading
from backlit.audit.check import check_text
from backlit.audit.networks import ACTIVATIONS, LOSSES
from backlit.audit.practice import problems, write
from backlit.errors import SettingError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("sheets")
    write(problems("2-2-1", digits=5, seed=7, count=2), out)
    return out


@pytest.fixture(scope="module")
def key(folder):
    return grading.read_key(folder / "key-01.md")


def right_answers(folder):
    return dict(re.findall(r"^(\S+) = (-?[\d.]+)$", (folder / "key-01.md").read_text(), re.M))


def submit(tmp_path, name, found):
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text("quantity,answer\n" + "".join(f"{q},{a}\n" for q, a in found.items()))
    else:
        path.write_text("| quantity | answer |\n|---|---|\n" + "".join(f"| {q} | {a} |\n" for q, a in found.items()))
    return path


def test_the_same_seed_gives_the_same_sheets(folder, tmp_path):
    write(problems("2-2-1", digits=5, seed=7, count=2), tmp_path)
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 8
    assert all((folder / n).read_bytes() == (tmp_path / n).read_bytes() for n in names)
    assert problems("2-2-1", seed=8)[0].givens != problems("2-2-1", seed=7)[0].givens


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_kind_of_key_is_right(activation, loss):
    (problem,) = problems("2-2-2", activation, loss, seed=3)
    report = check_text(problem.key())
    assert report.ok, report
    assert len(report.sheets[0].findings) == len(problem.asked)


def test_the_problem_does_not_show_its_answers(folder):
    text = (folder / "problem-01.md").read_text()
    gradients = [a for q, a in right_answers(folder).items() if q.startswith("dE")]
    assert gradients
    assert not any(a in text for a in gradients)


def test_common_slips_can_be_told_apart():
    assert min(p.apart for p in problems("2-2-1", digits=6, seed=1, count=3)) > 0.6


def test_settings_that_make_no_sense():
    for arguments in (("2",), ("9-9-9",), ("2-x",), ("2-2-1", "cosine"), ("2-2-1", "tanh", "huber")):
        with pytest.raises(SettingError):
            problems(*arguments)
    with pytest.raises(SettingError):
        problems("2-2-1", digits=99)


def test_right_answers_get_full_marks(folder, key, tmp_path):
    for name in ("a.csv", "a.md"):
        marks = grading.grade(key, submit(tmp_path, name, right_answers(folder)))
        assert not marks.error
        assert marks.marks == key.out_of


def test_follow_through(folder, key, tmp_path):
    found = right_answers(folder)
    import math

    found["z1"] = f"{float(found['z1']) + 0.3:.5f}"
    found["a1"] = f"{1 / (1 + math.exp(-float(found['z1']))):.5f}"
    marks = grading.grade(key, submit(tmp_path, "b.csv", found))
    verdicts = {f.claim.quantity: f.verdict.value for f in marks.report.findings}
    assert (verdicts["z1"], verdicts["a1"]) == ("slip", "follows")
    slips = [f.claim.quantity for f in marks.slips]
    assert marks.marks == key.out_of - sum(key.rubric.marks(f) < 2 for f in marks.slips) * 2 + sum(
        key.rubric.marks(f) for f in marks.slips
    )
    assert slips[0] == "z1"


def test_blank_answers_are_counted(folder, key, tmp_path):
    found = right_answers(folder)
    del found["E"]
    marks = grading.grade(key, submit(tmp_path, "c.csv", found | {"y": ""}))
    assert marks.blanks == 2
    assert marks.marks == key.out_of - 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"z1,__import__('os').system('x')\n", "no number"),
        ("b.csv", b"../../etc/passwd,1\n", "not asked for"),
        ("c.csv", b"z1,1\nz1,2\n", "answered twice"),
        ("d.csv", b"\xff\xfe\x00", "UTF-8"),
        ("e.csv", b"z1\n", "no second column"),
        ("f.csv", b"z1," + b"9" * 200_000, "larger than"),
        ("g.csv", b"z1,1e999\n", "no number"),
        ("h.csv", b"", "no answers"),
        ("i.csv", b'"z1,1\n', "no CSV"),
        ("j.csv", b"z1,nan\n", "no number"),
        ("k.md", b"step E, lr = 1\n```worksheet\nrepeat 10^9\n```\n", "no answers"),
        ("l.csv", b"z1,1\n" + b"q,1\n" * 5000, "answered twice"),
    ],
)
def test_hostile_submissions_are_refused_one_by_one(key, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    assert says in grading.grade(key, path).error


def test_the_class_page_escapes_and_counts(folder, key, tmp_path):
    found = right_answers(folder)
    wrong = found | {"z1": f"{float(found['z1']) + 0.3:.5f}"}
    marked = [grading.mark(key, name, wrong) for name in ("<b>eve</b>", "=cmd()")]
    page = grading.class_page(key, marked, "class")
    assert "<b>eve" not in page
    assert "&lt;b&gt;eve" in page
    assert grading.histogram(marked)[0][1] == 2
    assert "\n'=cmd()," in grading.marks_csv(key, marked)


def test_a_key_that_is_wrong_is_refused(tmp_path):
    path = tmp_path / "key.md"
    path.write_text("```worksheet\ngiven x = 1.5\ny = x^2 = 2.35\n```\n")
    with pytest.raises(ValueError, match="the key itself is wrong"):
        grading.read_key(path)


def test_rubric_of_the_key(tmp_path):
    path = tmp_path / "key.md"
    path.write_text("Rubric: method 2, accuracy 0.5\n\n```worksheet\ngiven x = 1.5\ny = x^2 = 2.25\n```\n")
    key = grading.read_key(path)
    assert key.out_of == 2.5
    assert grading.mark(key, "a", {"y": "2.25"}).marks == 2.5
