"""Errors, read as the user reads them."""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest

from backlit.errors import Error


@contextmanager
def refuses(kind: type[Error], message: str):
    """Like `pytest.raises(kind, match=message)`, without the quoted source line: a test's own text may stand there."""
    with pytest.raises(kind) as caught:
        yield caught
    text = "\n".join(line for line in str(caught.value).splitlines() if not line.startswith("  at "))
    assert re.search(message, text), f"{message!r} is not in:\n{text}"
