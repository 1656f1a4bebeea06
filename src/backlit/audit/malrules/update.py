"""Slips in the update w' = w - lr * gradient."""

from __future__ import annotations

from collections.abc import Iterator

from backlit.audit.malrules.record import malrule, node_of, value
from backlit.audit.scene import Edit, Scene, edit


@malrule("gradient-added", "the gradient is added where it should be subtracted", 0.9)
def _gradient_added(scene: Scene) -> Iterator[Edit]:
    if scene.update is not None:
        node, w, g = scene.update
        yield edit(node, node_of(value(w) + scene.rate * value(g)), "the gradient is added, so the step goes uphill")


@malrule("rate-left-out", "the learning rate is left out", 0.8)
def _rate_left_out(scene: Scene) -> Iterator[Edit]:
    if scene.update is not None:
        node, w, g = scene.update
        yield edit(node, node_of(value(w) - value(g)), "the learning rate is left out")


@malrule("rate-twice", "the learning rate is applied twice", 0.5)
def _rate_twice(scene: Scene) -> Iterator[Edit]:
    if scene.update is not None and scene.rate is not None:
        node, w, g = scene.update
        yield edit(node, node_of(value(w) - scene.rate**2 * value(g)), "the learning rate is applied twice")


@malrule("step-alone", "the change of the weight is given in place of the new weight", 0.5)
def _step_alone(scene: Scene) -> Iterator[Edit]:
    if scene.update is not None and scene.rate is not None:
        node, w, g = scene.update
        yield edit(node, node_of(-scene.rate * value(g)), "the change of the weight is given, not the new weight")
        yield edit(node, node_of(scene.rate * value(g)), "lr times the gradient is given, not the new weight")
        yield edit(node, w, "the weight is not changed at all")


@malrule("gradient-of-another", "the gradient of another weight is used in the update", 0.6)
def _gradient_of_another(scene: Scene) -> Iterator[Edit]:
    if scene.update is not None:
        node, w, _ = scene.update
        for name, g in scene.gradients.items():
            if g.type == w.type:
                text = f"the gradient by {name} is used in place of that by {scene.label(w)}"
                yield edit(node, node_of(value(w) - scene.rate * value(g)), text)
