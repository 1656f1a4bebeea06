"""What an executor is: something that turns a graph into a function of arrays.

    compile(graph, donate=...)                       -> run(*inputs) -> outputs
    compile_loop(step, carry=..., rows=...)          -> run(carry, data, row_index) -> carry, per-step outputs
    supports(op)                                     -> bool

`compile_loop` runs many training steps in one call. A step graph takes the carried state (parameters, optimiser state,
counters), then one minibatch of each data set; it gives the new state, then whatever is watched (loss, metrics,
statistics). The rows of the minibatches are gathered inside, from whole data sets, by index.

An executor that lacks an op says so by name; nothing falls back in silence. All executors pass the same tests.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np

from backlit.errors import Error, ShapeError, UnsupportedError
from backlit.ir import Graph, Type
from backlit.tracing import refuse_leaks

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Run: TypeAlias = Callable[..., list[Array]]


class RunLoop(Protocol):
    """What `compile_loop` gives."""

    def __call__(
        self, carry: Sequence[Array], data: Sequence[Array], row_index: Array, /, *, donate: bool = False
    ) -> tuple[list[Array], list[Array]]: ...


_KNOWN = {
    "reference": "backlit.executors.reference:Reference",
    "native": "backlit.executors.native:Native",
    "xla": "backlit.executors.xla:XLA",
}


class Processes:
    """The processes that run one program together, as one of them sees it. Here there is only this one.

    Programs, states and the order of minibatches are the same in all of them; each reads its own rows of a minibatch.
    """

    id = 0
    count = 1

    def part(self, batch: int) -> slice:
        """Which of the rows of a minibatch of this size are this process's."""
        return slice(0, batch)

    def whole(self, part: Array, batch: int) -> Array:
        """(steps, batch, ...) of (steps, rows, ...): the rows of all processes, from those of each."""
        return part

    def collected(self, value: Array) -> Array:
        """(processes, ...): what each of them gives here. All have to ask."""
        return value[None]


class Executor(ABC):
    """Runs graphs. Implementations are stateless apart from caches."""

    name: str

    @property
    def processes(self) -> Processes:
        """The processes that run its loops together."""
        return _ALONE

    @property
    def needs_loss_scale(self) -> bool:
        """Whether gradients may vanish or overflow in the numbers that it computes with: training scales the loss."""
        return False

    @abstractmethod
    def compile(self, graph: Graph, donate: Sequence[int] = ()) -> Run:
        """A function from the graph's inputs to the list of its outputs.

        `donate` numbers inputs whose memory the function may overwrite. Raises UnsupportedError for an op it lacks; the
        function raises DonationError where one that it overwrites shares memory with another argument.
        """

    @abstractmethod
    def compile_loop(self, step: Graph, carry: int, rows: int) -> RunLoop:
        """A function that runs `step` once for each row of `row_index`.

        step        a graph of `carry` state inputs and `rows` minibatch inputs; its first `carry` outputs are the new
                    state, of the same types
        run         (carry, data, row_index, donate) -> (carry, watched): `data` holds `rows` arrays whose rows are
                    examples, `row_index` (steps, batch) integers says which rows make each minibatch, `watched` are the
                    other outputs of step, one row a step. Of several processes each gives `row_index` the columns of
                    its `processes.part(batch)`, and its own `data` to which they refer

        Nothing that is given is changed; where the step gives its carry back as it is, so may the call. An array that
        cannot be written to (`flags.writeable` is False) must not change by other ways either while it lives: an
        executor may keep a copy where it computes, and use that in the next call. All others are read anew in each
        call.

        With `donate` the carry is given away: use what the call gives back from then on, not what it was given. An
        executor that computes in the caller's memory updates these very arrays and gives them back, so no state is
        copied; they have to be writeable, C-contiguous and aligned, and to share no memory with one another, `data` or
        `row_index`, else it raises DonationError before anything runs. KeyboardInterrupt then leaves in them the state
        after a whole number of steps, IndexingError a state of no use. An executor that computes elsewhere leaves them
        as they are.
        """

    def copies(self, arrays: Sequence[Array]) -> list[Array]:
        """Copies of arrays, such as a first carry, where the programs of this executor work on them best."""
        return [np.array(a) for a in arrays]

    @abstractmethod
    def supports(self, op: str) -> bool:
        """Whether the executor can run the op of this name."""

    def refuse_unsupported(self, graph: Graph) -> None:
        """Raise UnsupportedError naming the first op of the graph (or of a loop's body) that the executor lacks."""
        refuse_leaks(graph)
        for node in graph.nodes:
            if node.op not in ("input", "constant", "item") and not self.supports(node.op):
                raise UnsupportedError(
                    f"the executor {self.name!r} does not run this op",
                    op=node.op,
                    inputs=[i.type for i in node.inputs],
                    site=node.site,
                    fix='use executor="reference"',
                )
            for value in node.params.values():
                if isinstance(value, Graph):
                    self.refuse_unsupported(value)


_ALONE = Processes()


def check_step(step: Graph, carry: int, rows: int) -> None:
    """Raise ShapeError unless `step` can be a step of a loop."""
    if len(step.inputs) != carry + rows or len(step.outputs) < carry:
        raise ShapeError(f"a step with {carry} carried values and {rows} minibatches has {len(step.inputs)} inputs")
    for old, new in zip(step.inputs[:carry], step.outputs, strict=False):
        if old.type != new.type:
            raise ShapeError(f"the carried value {old.name} is {old.type} before the step and {new.type} after it")


def check_arguments(inputs: Sequence[Any], arrays: Sequence[Array]) -> None:
    """Raise ShapeError unless the arrays have the types of the graph's input nodes."""
    if len(arrays) != len(inputs):
        raise ShapeError(f"{len(arrays)} arguments for {len(inputs)} inputs")
    for node, array in zip(inputs, arrays, strict=True):
        if array.dtype != node.type.dtype or array.shape != node.type.shape:
            raise ShapeError(f"the argument {node.name} is {Type(array.dtype, array.shape)}, not {node.type}")


@cache
def get(name: str = "auto") -> Executor:
    """The executor of a name; "auto" is the fastest one that this machine has. Raises Error for an unknown name."""
    chosen = _best() if name == "auto" else name
    if chosen not in _KNOWN:
        raise Error(f"there is no executor {name!r}", fix=f"use one of auto, {', '.join(_KNOWN)}")
    module, cls = _KNOWN[chosen].split(":")
    return getattr(importlib.import_module(module), cls)()  # type: ignore[no-any-return]


def _best() -> str:
    """Machine code where this machine's processor is known, else the reference."""
    try:
        from backlit.executors.native.target import host

        host()
    except (Error, ImportError):
        return "reference"
    return "native"
