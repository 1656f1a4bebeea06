"""What a mal-rule is, and the registry of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from backlit.audit.scene import Edit, Scene
from backlit.ir import Node
from backlit.tracing import Traced, lift

Value: TypeAlias = Any
Propose: TypeAlias = Callable[[Scene], Iterator[Edit]]


@dataclass(frozen=True, slots=True)
class MalRule:
    """One kind of slip. `propose` gives the edits that commit it, anywhere in a scene."""

    name: str
    sentence: str
    prior: float
    propose: Propose
    conventional: bool = False


RULES: dict[str, MalRule] = {}
"""Every mal-rule by its name."""


def malrule(name: str, sentence: str, prior: float, conventional: bool = False) -> Callable[[Propose], Propose]:
    """Register a generator of edits as a mal-rule."""

    def register(propose: Propose) -> Propose:
        RULES[name] = MalRule(name, sentence, prior, propose, conventional)
        return propose

    return register


def value(node: Node) -> Value:
    """A node as a value that ops take."""
    return Traced(node)


def node_of(found: Value) -> Node:
    """The node of a value that ops gave."""
    return lift(found).node
