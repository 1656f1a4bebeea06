"""Run workloads for backlit and its peers, in processes of their own, in turn; the best of several rounds counts.

    python -m benchmarks [--workload NAME ...] [--peers NAME ...] [--rounds N] [--seconds S] [--json FILE]

Peers are installed with `pip install -e '.[bench]'`; `--python` names another interpreter that has them. backlit's time
contains the gathering of shuffled rows from a data set; the peers use one fixed batch. Ratios are to the fastest peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from typing import Any

from benchmarks.workloads import WORKLOADS

RUNNERS = {
    "backlit": ("run_backlit", []),
    "torch": ("run_torch", ["eager"]),
    "torch-compiled": ("run_torch", ["compiled"]),
    "jax": ("run_jax", ["jit"]),
    "jax-scan": ("run_jax", ["scan"]),
    "sklearn": ("run_sklearn", []),
}


def measure(who: str, workload: str, seconds: float, python: str) -> dict[str, float] | None:
    """One round of one participant; None where it cannot take part."""
    module, more = RUNNERS[who]
    command = [
        python if who != "backlit" else sys.executable,
        "-m",
        f"benchmarks.{module}",
        workload,
        str(seconds),
        *more,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"  {who}: {said}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(lines[-1])
    return found


def better(old: dict[str, float] | None, new: dict[str, float] | None) -> dict[str, float] | None:
    """The smaller of each number."""
    if old is None or new is None:
        return old or new
    return {k: min(v, new[k]) for k, v in old.items()}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results in Markdown."""
    people = [p for p in RUNNERS if any(p in row for row in results.values())]
    head = ["workload", *(f"{p}, us" for p in people), "ratio", "wanted", "first call, ms", "memory, MB"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for name, row in results.items():
        times = [f"{row[p]['us']:.{2 if row[p]['us'] < 10 else 0}f}" if p in row else "" for p in people]
        own, ratio = row.get("backlit"), ratio_of(row)
        last = ["" if ratio is None else f"{ratio:.2f}x", f"{WORKLOADS[name].bar}x"]
        last += [f"{own['first_ms']:.0f}", f"{own['memory_mb']:.0f}"] if own else ["", ""]
        lines.append("| " + " | ".join([name, *times, *last]) + " |")
    return "\n".join(lines)


def ratio_of(row: dict[str, Any]) -> float | None:
    """How many times faster backlit is than the fastest peer."""
    peers = [v["us"] for p, v in row.items() if p != "backlit"]
    return min(peers) / row["backlit"]["us"] if peers and "backlit" in row else None


def picture(results: dict[str, dict[str, Any]], path: str) -> None:
    """A bar for each workload: how many times faster than the fastest peer."""
    import matplotlib.pyplot as plt

    found = {name: ratio_of(row) for name, row in results.items()}
    ratios = {name: r for name, r in found.items() if r is not None}
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(ratios) + 1))
    axes.barh(list(ratios), list(ratios.values()), color="#4063d8")
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="times as fast as the fastest of PyTorch, JAX and scikit-learn")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="*", choices=[r for r in RUNNERS if r != "backlit"], default=list(RUNNERS)[1:])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--json")
    parser.add_argument("--picture")
    chosen = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for name in chosen.workload:
        row: dict[str, Any] = {}
        for _ in range(chosen.rounds):
            for who in ["backlit", *chosen.peers]:
                found = better(row.get(who), measure(who, name, chosen.seconds, chosen.python))
                if found is not None:
                    row[who] = found
        results[name] = row
        print(f"{name}: " + ", ".join(f"{p} {v['us']:.2f} us" for p, v in row.items()), file=sys.stderr)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(table(results))
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(results, file, indent=1)
    if chosen.picture:
        picture(results, chosen.picture)


if __name__ == "__main__":
    main()
