"""`backlit demo`: a network learns to read handwritten digits, in seconds, from data that comes with backlit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from backlit.cli.console import say

if TYPE_CHECKING:
    from backlit.data import Images
    from backlit.tables.scores import ClassScores

commands = typer.Typer()

BAR = 0.97
"""The test accuracy below which the demo counts as failed."""


@commands.command(epilog="Example:\n\n  backlit demo --out digits --epochs 60 --seed 1")
def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("backlit-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Times that all training images are seen.")] = 25,
    seed: Annotated[int, typer.Option(help="Of the hold-out, the weights and the shuffling.")] = 0,
    executor: Annotated[str, typer.Option(help="What runs the training.")] = "auto",
) -> None:
    """Train a network to read handwritten digits, test it, and write the model, a picture and a report."""
    import shutil

    import backlit as bl
    from backlit import data, nn, optim
    from backlit.cli import reports
    from backlit.tables.scores import score_classes

    digits = data.digits()
    pixels = digits.images.reshape(-1, 64)
    train, test = data.stratified_split(digits.labels, test=0.2, seed=seed)
    say(f"[bold]{len(pixels):,} handwritten digits[/] of 8 x 8 pixels: {len(train):,} to learn, {len(test)} held out")

    hidden = [nn.Dense(units, activation="relu", weight_init="he_normal") for units in (128, 64)]
    net = bl.Network([*hidden, nn.Dense(10)], input_shape=(64,), seed=seed)
    trainer = bl.Trainer(net, "crossentropy", optim.Adam(3e-3), metrics=["accuracy"], executor=executor)
    began = time.perf_counter()
    history = trainer.fit(
        pixels[train],
        digits.labels[train],
        epochs=epochs,
        batch_size=64,
        validation=(pixels[test], digits.labels[test]),
        seed=seed,
    )
    seconds = time.perf_counter() - began
    logits = trainer.predict(pixels[test]).astype(np.float64)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    scores = score_classes(chances, digits.labels[test], digits.class_names)

    out.mkdir(parents=True, exist_ok=True)
    trainer.save(out / "model.backlit")
    shutil.copyfile(data.penguins(), out / "penguins.csv")
    written = ["model.backlit", "penguins.csv", *reports.write_history(out, history)]
    written += _draw_mistakes(out, digits, test, logits)
    report = _report(digits, net, history, scores, seconds, written)
    (out / "report.md").write_text(report, encoding="utf-8")

    say(f"trained  {history.epochs} epochs in {seconds:.1f} s")
    say(f"test     [bold green]{scores.accuracy:.1%}[/] right of {len(test)} digits that it never saw")
    say(f"written  {out}/: {', '.join([*written, 'report.md'])}")
    say(
        f"\n[bold]next[/]\n"
        f"  a table of yours, or this one:  backlit train {out}/penguins.csv --target species\n"
        f'  the network from Python:        net = backlit.load("{out}/model.backlit"); print(net.summary())\n'
        f"  more to run and to read:        the folder examples/, and docs/start.md"
    )
    if scores.accuracy < BAR:
        say(f"[red]error:[/] {scores.accuracy:.1%} is below {BAR:.0%}: more --epochs may be needed")
        raise typer.Exit(1)


def _draw_mistakes(out: Path, digits: Images, test: Any, logits: Any) -> list[str]:
    """mistakes.png: the first dozen test images that were read wrongly."""
    from backlit.extras import MissingExtraError, require

    read = logits.argmax(axis=1)
    wrong = np.flatnonzero(read != digits.labels[test])[:12]
    if not len(wrong):
        return []
    try:
        figures = require("matplotlib.figure", "plot")
    except MissingExtraError:
        return []  # said already, for the learning curve
    figure = figures.Figure(figsize=(1.3 * len(wrong), 1.7), layout="constrained")
    for ax, i in zip(figure.subplots(1, len(wrong), squeeze=False).flat, wrong, strict=True):
        ax.imshow(digits.images[test[i]], cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{digits.labels[test[i]]} read as {read[i]}", fontsize=8)
        ax.set_axis_off()
    figure.savefig(out / "mistakes.png", dpi=150)
    return ["mistakes.png"]


def _report(digits: Images, net: Any, history: Any, scores: ClassScores, seconds: float, written: list[str]) -> str:
    from backlit.cli import reports

    pictures = [f"![{n.removesuffix('.png').replace('-', ' ')}]({n})" for n in written if n.endswith(".png")]
    return (
        "\n\n".join(
            [
                "# Handwritten digits",
                digits.description,
                f"A network of {sum(v.size for v in net.params.values()):,} parameters, trained for {history.epochs} "
                f"epochs in {seconds:.1f} s. The test rows were not trained on; the validation curves are theirs.",
                "```\n" + str(net.summary()).strip("\n") + "\n```",
                f"## Test, {scores.rows} digits",
                reports.scores_markdown(scores),
                *pictures,
            ]
        )
        + "\n"
    )
