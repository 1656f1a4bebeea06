"""Files of models and of training runs: one safetensors file, its description as JSON in the file's header.

The rules that hold here:

- A file is whole or not there. It is written under another name, flushed to the disk, and renamed over the old one; the
  process may die at any moment (between two instructions, or with the power) and the last good file is still there.
- A file is data. Nothing in it is executed, no class is looked up in it except in backlit's own registries, and nothing
  is allocated on its word alone: every size it states is held against what the file holds before it is used.

The format, version 1. The header's `__metadata__` holds "format" = "backlit", "version" and "description", a JSON
object: {"kind": "model" or "checkpoint", "network": the definition of the network, ...}. The tensors are named by what
they are and their path: `params/dense_1.weight`, `state/batchnorm_1.mean`, `optimizer/...`, `history/loss`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backlit.errors import CheckpointError, Error

Array = np.ndarray[Any, np.dtype[Any]]

VERSION = 1
MAX_HEADER = 64 * 2**20
"""The largest header that is read, in bytes."""

_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What a file holds: its description, and the tensors by name."""

    path: Path
    description: Mapping[str, Any]
    tensors: Mapping[str, Array]

    def section(self, name: str) -> dict[str, Array]:
        """The tensors named `name/...`, without that prefix."""
        return {k.removeprefix(f"{name}/"): t for k, t in self.tensors.items() if k.startswith(f"{name}/")}

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """An entry of the description, of this kind. Raises CheckpointError for another kind, or for none."""
        value = self.description.get(key, default)
        if not isinstance(value, kind):
            raise CheckpointError(f"{self.path.name}: the entry {key!r} of its description is {_brief(value)}")
        return value


def write(path: str | Path, description: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Write a file, whole or not at all. An older file of that name is replaced in one step.

    Raises CheckpointError where the directory does not exist, the disk is full, or the path may not be written to.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    metadata = {"format": "backlit", "version": str(VERSION), "description": json.dumps(description, allow_nan=False)}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    arrays = {n: a.reshape(tensors[n].shape) for n, a in arrays.items()}  # ascontiguousarray makes 0-d ones 1-d
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory", fix="give the name of a file, such as model.backlit")
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(arrays, partial, metadata)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_directory(path.parent)
    except Exception as e:
        partial.unlink(missing_ok=True)
        if not isinstance(e, OSError) and type(e).__name__ != "SafetensorError":
            raise
        reason = getattr(e, "strerror", None) or str(e)
        raise CheckpointError(
            f"{path} could not be written: {reason}", fix="the file that was there before, if any, is untouched"
        ) from None


def _sync_directory(directory: Path) -> None:
    """Make a rename durable. Windows cannot open directories, and needs no such step."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | Path) -> Contents:
    """The contents of a file that `write` made. Raises CheckpointError, saying what is wrong with it, for any other."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header, offset = _header(path, file.read(8), file, size)
            description, entries = _checked(path, header, size - offset)
            tensors = {name: _tensor(file, offset, *entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a directory", fix="give the file in it") from None
    except OSError as e:
        raise CheckpointError(f"{path} could not be read: {e.strerror}") from None
    return Contents(path, description, tensors)


_FOREIGN = {
    b"PK\x03\x04": "a zip archive (perhaps of PyTorch or Keras)",
    b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle",
    b"\x89HDF": "an HDF5 file (perhaps of Keras)",
    b"\x93NUM": "a NumPy file",
    b"PAR1": "a Parquet file",
}  # fmt: skip


def _header(path: Path, start: bytes, file: Any, size: int) -> tuple[Mapping[str, Any], int]:
    """The JSON of the header, and where the tensors begin."""
    if len(start) < 8:
        raise CheckpointError(f"{path} is no backlit file: it has {size} bytes", fix="it may have been cut short")
    (length,) = struct.unpack("<Q", start)
    text = file.read(length if length <= MAX_HEADER else 1)
    if not text.startswith(b"{"):  # only then: the length of a header may begin like a file of another kind
        for magic, what in _FOREIGN.items():
            if start.startswith(magic):
                raise CheckpointError(
                    f"{path} is {what}, not a backlit file",
                    fix="backlit reads only files that it wrote itself; it never unpickles",
                )
    if length > MAX_HEADER or start[:1] == b"{":
        raise CheckpointError(f"{path} is no backlit file: it does not start with a header of sensible length")
    if 8 + length > size:
        raise CheckpointError(f"{path} is cut short: its header has {length} bytes and the file {size} in all")
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is no backlit file, or is damaged: its header is not JSON") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no backlit file: its header is no JSON object")
    return header, 8 + length


_Entry = tuple[np.dtype[Any], tuple[int, ...], int, int]


def _checked(path: Path, header: Mapping[str, Any], room: int) -> tuple[Mapping[str, Any], dict[str, _Entry]]:
    """The description, and dtype, shape, begin and end of every tensor, held against each other and the file's size."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != "backlit":
        raise CheckpointError(
            f"{path} was not written by backlit", fix="it may be a safetensors file of another library"
        )
    if metadata.get("version") != str(VERSION):
        raise CheckpointError(
            f"{path} has version {_brief(metadata.get('version'))} of the format; this backlit reads version {VERSION}",
            fix="install the version of backlit that wrote it, or a newer one",
        )
    try:
        description = json.loads(metadata["description"], parse_constant=_refuse_constant)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged: its description is not JSON") from None
    if not isinstance(description, dict):
        raise CheckpointError(f"{path} is damaged: its description is no JSON object")
    entries = {name: _entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: (item[1][2], item[1][3])):
        if begin != at:
            raise CheckpointError(f"{path} is damaged: the tensor {_brief(name)} does not follow the one before it")
        at = end
    if at > room:
        raise CheckpointError(f"{path} is cut short: its tensors have {at} bytes, {room} of which are there")
    if at < room:
        raise CheckpointError(f"{path} is damaged: {room - at} bytes follow its last tensor")
    return description, entries


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _entry(path: Path, name: str, entry: Any) -> _Entry:
    wrong = CheckpointError(f"{path} is damaged: the entry of the tensor {_brief(name)} is {_brief(entry)}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2 or len(shape) > 32:
        raise wrong
    if any(type(n) is not int or n < 0 for n in (*shape, *offsets)) or str(entry["dtype"]) not in _DTYPES:
        raise wrong
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise wrong
    return dtype, tuple(shape), offsets[0], offsets[1]


def _tensor(file: Any, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], begin: int, end: int) -> Array:
    file.seek(offset + begin)
    return np.frombuffer(bytearray(file.read(end - begin)), dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def guarded(path: Path, what: str, error: Exception) -> CheckpointError:
    """The error of a file whose parts do not fit together, told about the file."""
    reason = error.what if isinstance(error, Error) else f"{type(error).__name__}: {error}"
    return CheckpointError(f"{path} cannot be used: {what}: {reason}")
