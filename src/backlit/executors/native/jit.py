"""From LLVM's language to machine code in memory, with a cache of object files on disk.

The cache is a folder of the user's own (`$BACKLIT_CACHE`, else `$XDG_CACHE_HOME/backlit`, else `~/.cache/backlit`; an
empty `BACKLIT_CACHE` switches it off). A file is named by the hash of all that decides its content: the text, the
processor, the versions of LLVM and of backlit. It is written beside its place and moved there at once, so that other
processes see a whole file or none; it is read only if it and the folder belong to this user and nobody else may write
there, and if its checksum holds. Anything else counts as "not cached": the cache can slow nothing down but compilation.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from backlit.executors.native.target import Target

_KEPT = 512  # files; the oldest go first
_lock = threading.Lock()  # LLVM's global state is entered by one thread at a time


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


class Code:
    """Machine code in memory. The code lives as long as this object."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def function(self, name: str, *arguments: Any) -> Any:
        """A function of the code, callable from Python; the interpreter lock is released while it runs."""
        with _lock:
            address = self._engine.get_function_address(name)
        return ctypes.CFUNCTYPE(None, *arguments)(address)


def _machine(target: Target, jit: bool = True) -> Any:
    options: dict[str, Any] = {"reloc": "default", "codemodel": "jitdefault"} if jit else {"reloc": "pic"}
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=2, jit=jit, **options
    )


def compile_text(text: str, target: Target) -> Code:
    """The text as machine code for this process, from the cache where it has been compiled before."""
    _initialize()
    key = hashlib.sha256(
        "\0".join([text, str(target), str(llvm.llvm_version_info), llvmlite.__version__, version("backlit")]).encode()
    ).hexdigest()
    found = _read(key)
    with _lock:
        machine = _machine(target)
        if found is None:
            module = llvm.parse_assembly(text)
            found = machine.emit_object(module)
            fresh = True
        else:
            fresh = False
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(f'target triple = "{target.triple}"'), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(found))
        engine.finalize_object()
    if fresh:
        _write(key, found)
    return Code(engine)


def assembly(text: str, target: Target) -> str:
    """The text as assembly for any target; nothing runs."""
    _initialize()
    with _lock:
        return str(_machine(target, jit=False).emit_assembly(llvm.parse_assembly(text)))


def object_code(text: str, target: Target) -> bytes:
    """The text as an object file for any target; nothing runs."""
    _initialize()
    with _lock:
        return bytes(_machine(target, jit=False).emit_object(llvm.parse_assembly(text)))


# --- the cache on disk ------------------------------------------------------------------------------------------------


def folder() -> Path | None:
    """Where object files are kept; None where the cache is off or the place is not this user's alone."""
    chosen = os.environ.get("BACKLIT_CACHE")
    if chosen == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        place = Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "backlit"
        place = place / "native"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place if _is_ours(place.stat()) else None
    except (OSError, RuntimeError):
        return None


def _is_ours(found: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(key: str) -> bytes | None:
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


def _write(key: str, content: bytes) -> None:
    place = folder()
    if place is None:
        return
    try:
        handle, name = tempfile.mkstemp(dir=place, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(name, place / f"{key}.o")
        _trim(place)
    except OSError:  # a full or read-only disk
        return


def _trim(place: Path) -> None:
    files = sorted(place.glob("*.o"), key=lambda p: p.stat().st_mtime)
    for old in files[: max(0, len(files) - _KEPT)]:
        old.unlink(missing_ok=True)
