"""What was compiled before, on disk.

The cache is a folder of the user's own (`$BACKLIT_CACHE`, else `$XDG_CACHE_HOME/backlit`, else `~/.cache/backlit`; an
empty `BACKLIT_CACHE` switches it off). A file is named by the hash of all that decides its content. It is written
beside its place and moved there at once, so that other processes see a whole file or none; it is read only if it and
the folder belong to this user and nobody else may write there, and if its checksum holds. Anything else counts as "not
cached": the cache can slow nothing down but compilation.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

_KEPT = 512  # files; the oldest go first


def folder() -> Path | None:
    """Where files are kept; None where the cache is off or the place is not this user's alone."""
    chosen = os.environ.get("BACKLIT_CACHE")
    if chosen == "":
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        usual = base if base.is_absolute() else Path("~/.cache")  # as the XDG specification has it
        place = (Path(chosen) if chosen else usual / "backlit").expanduser() / "native"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place if _is_ours(place.stat()) else None
    except (OSError, RuntimeError):
        return None


def _is_ours(found: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read(key: str) -> bytes | None:
    """What was written under this key; None if there is nothing that can be trusted."""
    place = folder()
    if place is None:
        return None
    try:
        with open(place / f"{key}.o", "rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            checksum, content = file.read(32), file.read()
    except OSError:
        return None
    return content if hashlib.sha256(content).digest() == checksum else None


def write(key: str, content: bytes) -> None:
    """Keep the content under this key, if there is a place for it."""
    place = folder()
    if place is None:
        return
    try:
        handle, name = tempfile.mkstemp(dir=place, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(name, place / f"{key}.o")
        except BaseException:  # a full disk, an interrupt
            Path(name).unlink(missing_ok=True)
            raise
        _trim(place)
    except OSError:  # a read-only one
        return


def _trim(place: Path) -> None:
    files = []
    for path in place.iterdir():  # those of processes that ended while they wrote, too
        try:
            files.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # another process has trimmed it
            continue
    for _, old in sorted(files)[: max(0, len(files) - _KEPT)]:
        old.unlink(missing_ok=True)
