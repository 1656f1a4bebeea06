"""Whether two runners did the same work: from the same weights and batches their losses are the same, step by step.

Rounding differs, and training amplifies it, so the first steps are compared closely and the mean of the first epoch
loosely. A runner that gives no losses of single steps is held to the mean alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEPS = 8
STEP_TOLERANCE = 1e-4
"""The first losses may differ by this, relative to their size."""

MEAN_TOLERANCE = 5e-3
"""So may the mean over the first epoch."""


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """How the losses of a first epoch disagree, in words; empty where they agree."""
    if len(theirs) > 1:
        for t, (a, b) in enumerate(zip(ours[:STEPS], theirs[:STEPS], strict=True), 1):
            if not close(a, b, STEP_TOLERANCE):
                return f"its loss at step {t} is {b:.6g}, and backlit's {a:.6g}"
    a, b = float(np.mean(ours)), float(np.mean(theirs))
    return "" if close(a, b, MEAN_TOLERANCE) else f"its mean loss is {b:.6g}, and backlit's {a:.6g}"


def close(a: float, b: float, tolerance: float) -> bool:
    return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))  # false for nan
