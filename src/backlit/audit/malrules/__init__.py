"""The catalogue of mal-rules: the ways in which backpropagation goes wrong, on paper and in code.

A mal-rule (the word is from Sleeman & Brown, Intelligent Tutoring Systems, 1982) is a rewrite of the graph of a
quantity that gives what someone gets who makes one particular slip. It has a name, a sentence, a prior (how ordinary
the slip is, relative to the others), and says whether it is a convention rather than a mistake. A rule only proposes
edits; whether one reproduces a number is found by running the edited graph (`audit.diagnosis`).
"""

from backlit.audit.malrules import arrays, backward, digits, forward, loss, update
from backlit.audit.malrules.record import RULES, MalRule

__all__ = ["RULES", "MalRule", "arrays", "backward", "digits", "forward", "loss", "update"]
