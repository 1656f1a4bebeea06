"""The garbage collector, kept from looking in vain.

Tracing and compiling make many small objects that all stay, and no cycles. Python's collector counts what is made and
then looks through everything that the process holds, which may take longer than the work itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected inside, in whatever thread."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
