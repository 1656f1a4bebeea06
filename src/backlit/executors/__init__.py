"""Programs that run graphs. `get(name)` gives one; `api` says what one is."""

from backlit.executors.api import Executor, get

__all__ = ["Executor", "get"]
