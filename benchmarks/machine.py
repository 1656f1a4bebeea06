"""What the figures were measured on, and how much memory a process takes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from datetime import datetime
from pathlib import Path

LIBRARIES = ("backlit", "numpy", "llvmlite", "torch", "jax", "jaxlib", "optax", "scikit-learn")


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """Processor, system, date and versions, as JSON can hold them."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := installed(name))},
    }


def installed(library: str) -> str | None:
    """The version of a library, None where it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return name[1] if name else platform.machine()


def peak_memory() -> int:
    """The most bytes that this process ever had in memory."""
    try:
        status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had before the exec
        return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
    except (OSError, TypeError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
