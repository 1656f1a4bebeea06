"""The table of a network: each layer with the shape of its result, its parameters and its multiply-adds.

Nothing is worked out by formula: the network is traced on one example, shapes are those of the trace, and multiply-adds
are counted in the trace's contractions (matrix products, convolutions, attention), each under the layer in whose scope
it stands. A contraction of axes i, j, k costs i · j · k multiply-adds; inside a loop it costs that at every step.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.ir import Graph, Node
from backlit.nn.layer import Context, Value, Values
from backlit.ops.contraction import parts_of
from backlit.tracing import trace_function

if TYPE_CHECKING:
    from rich.table import Table

    from backlit.nn.network import Network


@dataclass(frozen=True, slots=True)
class Row:
    """One layer: path, kind, shape of its result (one example), parameters and multiply-adds, inner layers included."""

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int

    @property
    def depth(self) -> int:
        return self.path.count(".")


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows of a network's table, outer layers before those inside them, and the totals."""

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    bytes: int

    def __str__(self) -> str:
        from rich.console import Console

        return self.text(Console().width)

    __repr__ = __str__

    def text(self, width: int = 100) -> str:
        """The table as plain text of at most this width."""
        from rich.console import Console

        console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False, padding=(0, 0, 0, 1))
        table.add_column("layer", footer=f"total, {_size(self.bytes)}", overflow="fold")
        table.add_column("output", overflow="fold")
        table.add_column("parameters", footer=f"{self.parameters:,}", justify="right", no_wrap=True)
        table.add_column("multiply-adds", footer=f"{self.multiply_adds:,}", justify="right", no_wrap=True)
        table.add_row("input", _sizes(self.input_shape), "", "")
        for row in self.rows:
            name = row.path.rpartition(".")[2]
            if not name.startswith(row.kind.lower()):  # it has a name of its own
                name = f"{name} ({row.kind})"
            numbers = f"{row.parameters:,}", f"{row.multiply_adds:,}"
            table.add_row("  " * row.depth + name, _sizes(row.shape), *numbers, style="dim" if row.depth else "")
        return table


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "1"


def _size(count: int) -> str:
    """Bytes in a readable unit."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def summarise(net: Network) -> Summary:
    """The table of a network."""
    contexts: list[Context] = []

    def forward(params: Values, state: Values, x: Value) -> Value:
        contexts.append(Context(state))
        return net.layer.apply(params, x, contexts[0])

    x = np.zeros((1, *net.input_type.shape), net.input_type.dtype)
    graph = trace_function(forward, dict(net.params), dict(net.state), x).graph
    costs = multiply_adds(graph)
    rows = []
    for visit in contexts[0].visits():
        inside = [v.size for k, v in net.params.items() if k.startswith(f"{visit.path}.")]
        cost = sum(n for path, n in costs.items() if f"{path}.".startswith(f"{visit.path}."))
        assert visit.result is not None  # set when the layer was applied
        rows.append(Row(visit.path, type(visit.layer).__name__, visit.result.shape[1:], sum(inside), cost))
    count = sum(v.size for v in net.params.values())
    size = sum(v.nbytes for v in net.params.values())
    return Summary(tuple(rows), net.input_type.shape, count, sum(costs.values()), size)


def multiply_adds(graph: Graph) -> Counter[str]:
    """The multiply-adds of a graph's contractions, by the path of the layer in whose scope each stands."""
    found: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "contract":
            found[_layer_path(node)] += _cost(node)
        for value in node.params.values():
            if isinstance(value, Graph):
                for path, cost in multiply_adds(value).items():
                    found[path] += cost * int(node.params.get("length", 1))
    return found


def _layer_path(node: Node) -> str:
    scopes: Any = node.scope.path() if node.scope is not None else ()
    return ".".join(s.name for s in scopes if s.kind == "layer")


def _cost(node: Node) -> int:
    left, right, _ = parts_of(node.params["spec"])
    sizes: dict[str, int] = {}
    for letters, value in zip((left, right), node.inputs, strict=True):
        sizes |= dict(zip(letters, value.type.shape, strict=True))
    return math.prod(sizes.values())
