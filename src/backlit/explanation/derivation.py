"""A derivation: the numbered steps from the givens to the gradient of one element, and the ways to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backlit.errors import Error
from backlit.explanation.maker import Options
from backlit.explanation.notation import plain
from backlit.explanation.steps import Element, Step, Symbol


@dataclass(frozen=True)
class Derivation:
    """The derivation of d(loss)/d(wrt), for one element `wrt` (for all elements, in the matrix view).

    Printing it shows it in the terminal; `markdown()`, `latex()`, `html()` and `json()` give it as text, `save(path)`
    writes the form that the file's ending names. `expand(n)` is the same derivation with every term of equation n.

    steps      the equations, numbered from 1
    loss, wrt  the symbols of the result and of the element
    name       the element as the user wrote it
    value      the gradient, from the run
    layers     the number of each layer -> its name
    quantities the arrays that the equations are about: key -> what, where in the graph, shape, the line of code
    lit        (quantity, element) of the forward values through which the element reaches the loss
    unfold     the number of an equation that is folded -> the same with (nearly) all its terms
    """

    steps: tuple[Step, ...]
    loss: Symbol
    wrt: Symbol
    name: str
    value: Any
    layers: Mapping[str, str]
    quantities: Mapping[str, Mapping[str, Any]]
    options: Options
    lit: frozenset[tuple[str, Element]]
    unfold: Callable[[int], Step | None] = field(repr=False, compare=False)
    again: Callable[[Options], Derivation] = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        return f"∂{plain(self.loss)}/∂{plain(replace(self.wrt, over=None))}"

    def __getitem__(self, number: int) -> Step:
        """Equation `number`."""
        if not 1 <= number <= len(self.steps):
            raise Error(f"there is no equation {number}", fix=f"they are numbered from 1 to {len(self.steps)}")
        return self.steps[number - 1]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def expand(self, number: int) -> Derivation:
        """The same derivation with every term of equation `number` written out, and followed."""
        step = self[number]
        unfold = self.options.unfold | {(step.quantity, step.element)}
        return self.again(replace(self.options, unfold=unfold))

    def text(self) -> str:
        """As plain text, without colour."""
        from backlit.explanation.terminal import text

        return text(self)

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> Any:
        from backlit.explanation.terminal import rendered

        return rendered(self)

    def markdown(self) -> str:
        """As Markdown, with plain-text formulas in code, readable without any renderer of mathematics."""
        from backlit.explanation.markdown import markdown

        return markdown(self)

    def latex(self) -> str:
        """As a LaTeX document that compiles with amsmath alone."""
        from backlit.explanation.latex import document

        return document(self)

    def html(self) -> str:
        """As one HTML file that needs nothing else."""
        from backlit.explanation.html import page

        return page(self)

    def json(self) -> str:
        """As JSON of the published schema (`backlit.explanation.records.SCHEMA`)."""
        from backlit.explanation.records import dumps

        return dumps(self)

    def save(self, path: str | Path) -> Path:
        """Write the form that the ending names (.html, .md, .tex, .json, .txt). Raises Error for another ending."""
        target = Path(path)
        forms = {".html": self.html, ".md": self.markdown, ".tex": self.latex, ".json": self.json, ".txt": self.text}
        if target.suffix not in forms:
            raise Error(f"{target.name} has no ending that says what to write", fix=f"use one of {', '.join(forms)}")
        content = forms[target.suffix]()  # all of it, before the file is touched
        partial = target.with_name(target.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(target)
        return target

    def _repr_html_(self) -> str:
        from backlit.explanation.html import fragment

        return fragment(self)

    def _repr_markdown_(self) -> str:
        return self.markdown()
