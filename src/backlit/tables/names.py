"""Names that are not there: which ones could have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "age"?`, or the list of what there is."""
    names = list(known)
    lower = {n.lower(): n for n in reversed(names)}
    found = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    if found:
        return f"did you mean {' or '.join(repr(n) for n in found)}?"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"there are: {shown}"
