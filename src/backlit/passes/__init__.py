"""Functions from graphs to graphs of the same meaning; `simplify` applies them all."""

from backlit.passes.pipeline import simplify

__all__ = ["simplify"]
