"""Optional libraries: imported only where they are used, and missed in one line that says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from backlit.errors import Error


class MissingExtraError(Error, ImportError):
    """A library that backlit does not install by itself is needed here."""


def require(module: str, extra: str) -> Any:
    """The module of an extra of backlit, imported. Raises MissingExtraError, in one line, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # it is there, and lacks something of its own
        raise MissingExtraError(f"{library} is not installed: pip install 'backlit[{extra}]'") from None
