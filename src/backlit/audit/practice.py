"""Practice problems: small networks with nice numbers, chosen so that common slips can be told apart.

A slip that gives the right number to the printed digits teaches nothing, and two slips that give the same number cannot
be told apart in an answer. So of several random networks that one is taken whose slips, as the catalogue has them, give
the most different printed numbers. The same seed gives the same sheets.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backlit.audit.check import scene_of
from backlit.audit.checker import Checker, bench_of
from backlit.audit.diagnosis import candidates
from backlit.audit.networks import Layout, layout, sizes
from backlit.audit.sheet import Sheet, read
from backlit.audit.syntax import blocks
from backlit.errors import SettingError

TRIES = 4  # networks drawn for each problem
COMMON = 0.6  # the prior from which a slip counts as common
RUBRIC = "Rubric: method 1, accuracy 1, follow-through 1"


@dataclass(frozen=True, slots=True)
class Problem:
    """One practice problem. `asked` are the quantities, `answers` their numbers as printed; `apart` is the share of the
    common slips that show at those digits and can be told from each other.
    """

    number: int
    givens: tuple[str, ...]
    definitions: tuple[str, ...]
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    rate: str
    apart: float

    def key(self) -> str:
        """The key: a worksheet whose claims are the answers."""
        claims = [f"{q} = {a}" for q, a in zip(self.asked, self.answers, strict=True)]
        body = "\n".join([*self.givens, *self.definitions, *claims, f"step E, lr = {self.rate}"])
        return f"# Problem {self.number}: key\n\n{RUBRIC}\n\n```worksheet\n{body}\n```\n"

    def sheet(self) -> str:
        """The problem as it is handed out."""
        body = "\n".join([*self.givens, *self.definitions])
        digits = len(self.answers[0].partition(".")[2])
        wanted = ", ".join(self.asked)
        return (
            f"# Problem {self.number}\n\nA network with these numbers and formulas:\n\n```\n{body}\n```\n\n"
            f"Compute, to {digits} decimals: {wanted}.\n\n"
            f"A prime means the value after one step of gradient descent on E with a learning rate of {self.rate}; "
            "all gradients are taken at the old weights.\n"
        )

    def answer_table(self) -> str:
        """The answer sheet in Markdown."""
        rows = "\n".join(f"| {q} |  |" for q in self.asked)
        return f"# Problem {self.number}: answers\n\n| quantity | answer |\n| --- | --- |\n{rows}\n"

    def answer_csv(self) -> str:
        """The answer sheet as CSV."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([("quantity", "answer"), *((q, "") for q in self.asked)])
        return out.getvalue()


def problems(
    shape: str, activation: str = "sigmoid", loss: str = "half-mse", digits: int = 4, seed: int = 0, count: int = 1
) -> list[Problem]:
    """So many problems of one kind. Raises SettingError for a kind that does not exist."""
    if not 2 <= digits <= 10:
        raise SettingError(f"{digits} digits cannot be asked for", fix="from 2 to 10")
    if not 1 <= count <= 500:
        raise SettingError(f"{count} problems cannot be made at once", fix="from 1 to 500")
    layers = sizes(shape)
    plan = layout(layers, activation, loss)
    made = []
    for number in range(1, count + 1):
        rng = random.Random(f"{shape} {activation} {loss} {digits} {seed} {number}")
        drawn = [_draw(number, plan, layers, loss, digits, rng) for _ in range(TRIES)]
        made.append(max(drawn, key=lambda p: p.apart))
    return made


def write(made: Sequence[Problem], folder: Path) -> list[Path]:
    """Write problems, answer sheets and keys into a folder; gives the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    width = max(2, len(str(len(made))))
    written: list[Path] = []
    for p in made:
        n = f"{p.number:0{width}d}"
        for name, text in (
            (f"problem-{n}.md", p.sheet()),
            (f"answers-{n}.md", p.answer_table()),
            (f"answers-{n}.csv", p.answer_csv()),
            (f"key-{n}.md", p.key()),
        ):
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    return written


def _draw(number: int, plan: Layout, layers: Sequence[int], loss: str, digits: int, rng: random.Random) -> Problem:
    def nice(many: int, low: int, high: int) -> list[str]:
        """Different multiples of 0.05."""
        pool = [k for k in range(low, high + 1) if k]
        picked = rng.sample(pool, many) if many <= len(pool) else rng.choices(pool, k=many)
        return [f"{k / 20:g}" for k in picked]

    weights = [w for layer in plan.weights for unit in layer for w in unit]
    biases = [b for layer in plan.biases for b in layer]
    several = len(plan.targets) > 1
    if loss == "crossentropy" and several:
        hot = rng.randrange(len(plan.targets))
        targets = ["1" if i == hot else "0" for i in range(len(plan.targets))]
    else:
        targets = nice(len(plan.targets), 1, 19)

    def said(word: str, names: Sequence[str], numbers: Sequence[str]) -> str:
        return f"{word} " + ", ".join(f"{n} = {v}" for n, v in zip(names, numbers, strict=True))

    givens = (
        said("given", plan.inputs[0], nice(layers[0], -20, 20)),
        said("given", plan.targets, targets),
        said("param", weights, nice(len(weights), -19, 19)),
        said("param", biases, nice(len(biases), -10, 10)),
    )
    rate = rng.choice(["0.1", "0.2", "0.5"])
    firsts = [rng.choice(rng.choice(layer)) for layer in plan.weights]
    asked = [line.split(" = ")[0] for line in plan.definitions]
    asked += [f"dE/d{w}" for w in reversed(firsts)] + [f"{w}'" for w in reversed(firsts)]
    body = "\n".join([*givens, *plan.definitions, *(f"{q} = 0" for q in asked), f"step E, lr = {rate}"])
    sheet = read(blocks(f"```worksheet\n{body}\n```\n")[0])
    checker = Checker(sheet, bench_of(sheet))
    answers = []
    for claim in sheet.claims:
        answers.append(f"{float(checker.bench.value(checker.bench.same[claim.target])):.{digits}f}")
    return Problem(
        number, givens, plan.definitions, tuple(asked), tuple(answers), rate, _apart(sheet, checker, answers, digits)
    )


def _apart(sheet: Sheet, checker: Checker, answers: Sequence[str], digits: int) -> float:
    """The share of the common slips in the gradients that show, and that no slip of another rule hides."""
    shown = told = 0
    for claim, right in zip(sheet.claims, answers, strict=True):
        if not claim.quantity.startswith("dE/"):
            continue
        rules: dict[str, set[str]] = {}
        for c in candidates(scene_of(checker, claim, {}, ())):
            if c.rules[0].prior >= COMMON and not c.rules[0].conventional:
                shown += 1
                rules.setdefault(f"{float(c.value):.{digits}f}", set()).add(c.rules[0].name)
        told += sum(len(names) == 1 for number, names in rules.items() if number != right)
    return told / shown if shown else 0.0
