"""`compile`: a function traced once for each combination of argument types, and run by an executor from then on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import update_wrapper
from typing import Any

from backlit.executors.api import Executor, Run, get
from backlit.ir import Graph
from backlit.pytree import Structure, as_array, flatten, signature, unflatten
from backlit.tracing import argument_tree, inline, is_traced, needs_enclosing, trace_function

_Key = tuple[Hashable, ...]  # of the arguments' structure, and of each array's dtype and shape


class Compiled:
    """A function with the signature of the one it was made from. Made by `compile`."""

    def __init__(self, function: Callable[..., Any], executor: Executor) -> None:
        self.function, self.executor = function, executor
        self._runs: dict[_Key, tuple[Graph, Run, Structure]] = {}
        update_wrapper(self, function, updated=())  # not the attributes of a function that is compiled itself

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves: list[Any] = []
        structure = signature((args, kwargs), leaves)
        if is_traced(*leaves):  # inside another trace: become part of it
            return self.function(*args, **kwargs)
        try:
            arrays = [as_array(leaf) for leaf in leaves]
        except TypeError:
            names = flatten(argument_tree(self.function, args, kwargs))[1]
            arrays = [as_array(leaf, name) for leaf, name in zip(leaves, names, strict=True)]
        key = structure, tuple([(a.dtype, a.shape) for a in arrays])
        found = self._runs.get(key)
        if found is None:
            trace = trace_function(self.function, *args, **kwargs)
            if needs_enclosing(trace.graph):
                return unflatten(trace.result, inline(trace.graph, arrays))
            found = self._runs[key] = trace.graph, self.executor.compile(trace.graph), trace.result
        _, run, result = found
        return unflatten(result, run(*arrays))

    @property
    def graphs(self) -> list[Graph]:
        """The graphs that were compiled so far, one for each combination of argument types."""
        return [graph for graph, _, _ in self._runs.values()]


def compile(function: Callable[..., Any], executor: str | Executor = "auto") -> Compiled:
    """The function, traced once for each combination of argument types and run by `executor`.

    What the function reads from outside itself is fixed at the first call with those types; side effects happen only
    then. Works as a decorator. Raises Error for an unknown executor, UnsupportedError where the executor lacks an op.
    """
    return Compiled(function, get(executor) if isinstance(executor, str) else executor)
