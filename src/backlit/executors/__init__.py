"""Programs that run graphs. `get(name)` gives one; `api` says what one is."""

import importlib
from typing import TYPE_CHECKING, Any

from backlit.executors.api import Executor, get
from backlit.executors.inspection import install

if TYPE_CHECKING:
    from backlit.executors.native import Native
    from backlit.executors.xla import XLA

install()

__all__ = ["XLA", "Executor", "Native", "get"]


def __getattr__(name: str) -> Any:
    if name not in ("Native", "XLA"):  # which need LLVM and JAX, imported when they are asked for
        raise AttributeError(f"module 'backlit.executors' has no attribute {name!r}")
    return getattr(importlib.import_module(f"backlit.executors.{name.lower()}"), name)
