"""What machine code is made for: a triple, a processor, and the few facts that schedules depend on.

A target is data. The generator never asks the machine it runs on, so code for another target can be made (and read)
anywhere; `host()` describes the machine at hand, `KNOWN` a few by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from backlit.errors import Error
from backlit.executors.native.errand import undisturbed


@dataclass(frozen=True)
class Target:
    """A processor: LLVM's triple, CPU name and features; bytes in a vector register, and how many there are."""

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    fused: bool  # has fused multiply-add; without it LLVM would call a function for each
    half: bool = True  # converts float16 by itself

    def lanes(self, itemsize: int) -> int:
        """How many elements of this many bytes fill a vector."""
        return max(1, self.vector_bytes // itemsize)

    @property
    def is_host(self) -> bool:
        """Whether code for this target runs here."""
        return self.triple.split("-")[0] == _machine()[0].split("-")[0]


def _x86(name: str, cpu: str, features: str, triple: str) -> Target:
    vector_bytes, registers, fused = {"avx512": (64, 32, True), "avx2": (32, 16, True), "sse2": (16, 16, False)}[name]
    return Target(name, triple, cpu, features, vector_bytes, registers, fused, half=fused)


@cache
def _machine() -> tuple[str, str, Any]:
    """Triple, name and features of the processor at hand."""
    return undisturbed(lambda: (llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features()))


@cache
def host() -> Target:
    """The machine that runs this. Raises Error on a processor for which there is no description."""
    triple, cpu, found = _machine()
    features: str = found.flatten()
    if triple.startswith("x86_64"):
        if all(found.get(f) for f in ("avx512f", "avx512vl", "avx512bw", "avx512dq", "fma")):
            return _x86("avx512", cpu, features, triple)
        return _x86("avx2" if found.get("avx2") and found.get("fma") else "sse2", cpu, features, triple)
    if triple.startswith(("aarch64", "arm64")):
        return Target("neon", triple, cpu, features, 16, 32, True)
    raise Error(f"the native executor does not know the processor {triple!r}", fix='use executor="reference"')


@cache
def known(name: str) -> Target:
    """A target by name: "host", "avx512", "avx2", "sse2", "neon". Raises Error for an unknown name."""
    x86, arm = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
    if name == "host":
        return host()
    if _machine()[0].startswith("x86_64"):
        x86 = _machine()[0]
    if name == "avx512":
        return _x86(name, "x86-64-v4", "", x86)
    if name == "avx2":
        return _x86(name, "x86-64-v3", "", x86)
    if name == "sse2":
        return _x86(name, "x86-64", "", x86)
    if name == "neon":
        return Target("neon", arm, "generic", "+neon", 16, 32, True)
    raise Error(f"there is no native target {name!r}", fix="use one of host, avx512, avx2, sse2, neon")
