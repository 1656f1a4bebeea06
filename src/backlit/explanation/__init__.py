"""Showing the work: the chain rule for any element of any argument, in symbols and in numbers.

explainer     explain: from a function and its arguments to a derivation
execution     the run: forward graph and gradient, every value kept, loops written out
quantities    which nodes are quantities; letters and symbols say what they are called
elements      which elements enter an element, op by op
composites    closed forms of softmax and its kin
maker         what a derivation needs, from the gradient backwards, and its numbering; sentences say it in words
web, paths    every way to the loss, and the product along each
matrices, updates, checks, networks, worksheets     the other views, parts and sources of a derivation
expressions, numbers, notation                      formulas: algebra, digits, writing
steps, derivation                                   the data
terminal, markdown, latex, html, records            renderers: they compute nothing
mathml, drawing, sections                           what several renderers share
"""

from backlit.explanation.derivation import Derivation
from backlit.explanation.explainer import explain
from backlit.explanation.steps import Apply, Number, Operand, Rest, Step, Symbol

__all__ = ["Apply", "Derivation", "Number", "Operand", "Rest", "Step", "Symbol", "explain"]
