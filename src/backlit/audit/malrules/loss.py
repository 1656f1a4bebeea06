"""Slips, and conventions, about the loss: halves and twos, sums and means."""

from __future__ import annotations

from collections.abc import Iterator

from backlit.audit.malrules.record import malrule, node_of, value
from backlit.audit.scene import Edit, Scene, edit
from backlit.ir import Node


def _starts(scene: Scene) -> list[Node]:
    """Where a factor of the loss enters: the quantity itself, or the gradient that its update uses."""
    return [scene.update[2]] if scene.update is not None else [scene.target]


@malrule("half-or-two", "the half, or the two, of the squared error is lost or added", 0.9, conventional=True)
def _half_or_two(scene: Scene) -> Iterator[Edit]:
    if not scene.has_loss:
        return
    half = "half of the error is taken where the sheet takes all of it, or the 2 of its derivative is lost"
    whole = "all of the error is taken where the sheet takes half of it, or the 2 of its derivative is added"
    for node in _starts(scene):
        yield edit(node, node_of(0.5 * value(node)), half)
        yield edit(node, node_of(2.0 * value(node)), whole)


@malrule("sum-or-mean", "a sum is taken for a mean, or a mean for a sum", 0.6, conventional=True)
def _sum_or_mean(scene: Scene) -> Iterator[Edit]:
    if not scene.has_loss:
        return
    for count in sorted({*scene.counts, 2, 3, 4, 5} - {1}):
        for node in _starts(scene):
            more, less = node_of(value(node) * float(count)), node_of(value(node) / float(count))
            if count in scene.counts:  # otherwise nothing is divided by it
                yield edit(node, more, f"the sum over {count} is taken for their mean")
            if count in scene.counts or count in scene.term_counts:
                yield edit(node, less, f"the mean of {count} is taken for their sum")
