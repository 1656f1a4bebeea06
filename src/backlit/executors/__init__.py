"""Programs that run graphs. `get(name)` gives one; `api` says what one is."""

from typing import TYPE_CHECKING, Any

from backlit.executors.api import Executor, get
from backlit.executors.inspection import install

if TYPE_CHECKING:
    from backlit.executors.xla import XLA

install()

__all__ = ["XLA", "Executor", "get"]


def __getattr__(name: str) -> Any:
    if name != "XLA":  # which needs JAX, and is imported when it is asked for
        raise AttributeError(f"module 'backlit.executors' has no attribute {name!r}")
    from backlit.executors.xla import XLA

    return XLA
