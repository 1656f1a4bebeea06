"""The handle to a runner's process: start it, give it turns, end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]

THROTTLES = ("BACKLIT_THREADS", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "XLA_FLAGS", "TORCH", "ONEDNN_", "DNNL_")
"""Variables that choose threads or kernels for a library: all run as they come, on all processors."""


class RunnerError(Exception):
    """A runner ended instead of answering."""


class Process:
    """A runner of one workload. It has trained one epoch when the constructor returns: see `first` and `losses`.

    Raises RunnerError, with the last line that it wrote, where it ends before that.
    """

    def __init__(self, runner: str, workload: str, givens: Path, cache: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(THROTTLES)}
        own = {"JAX_PLATFORMS": "cpu", "BACKLIT_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache / "torch")}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", runner, workload, str(givens)],
            cwd=ROOT, env=kept | own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
        )  # fmt: skip
        answer = self._answer()
        self.first: float = answer["seconds"]
        self.losses: list[float] = answer["losses"]

    def turn(self, seconds: float) -> dict[str, Any]:
        """Let it train for about so long. Gives the seconds of its fastest epoch, and its peak memory in bytes."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended: its answer, which is missing, says so
            print(seconds, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        said = [text.strip() for text in self._errors if text.strip()]
        self.close()
        raise RunnerError(said[-1] if said else f"it ended with the code {code}")

    def close(self) -> None:
        """End it, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
