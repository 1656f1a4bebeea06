"""What a graph becomes on a CPU, as methods of the graph: `graph.plan()`, `graph.llvm()`, `graph.assembly()`.

Set on `Graph` from here, because `ir` knows no executor. LLVM is imported when one of them is called.
"""

from __future__ import annotations

from typing import Any

from backlit.ir import Graph


def plan(self: Graph, target: str = "host") -> Any:
    """The kernels that the native executor makes of this graph, in order: print it.

    target: "host", or one of "avx512", "avx2", "sse2", "neon". Raises UnsupportedError for an op that it lacks.
    """
    return _native(target).plan(self)


def llvm(self: Graph, target: str = "host") -> str:
    """The graph's program in LLVM's language, its values named after the graph's."""
    found: str = _native(target).llvm(self)
    return found


def assembly(self: Graph, target: str = "host") -> str:
    """The graph's program in the language of the target's processor."""
    found: str = _native(target).assembly(self)
    return found


def _native(target: str) -> Any:
    from backlit.executors.native import Native

    return Native(target)


def install() -> None:
    """Give `Graph` these methods. Called once, when `backlit.executors` is imported."""
    for method in (plan, llvm, assembly):
        setattr(Graph, method.__name__, method)
