"""What quantities are called: the user's names, and the names of the field for what belongs to a layer.

`p.w1` is w1 where nothing else would then be called so. A layer's weight is W, its bias b, with the layer's number; the
derivative of the loss by a layer's z is delta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import Any

import numpy as np

from backlit.explanation.elements import scopes
from backlit.explanation.execution import Execution
from backlit.explanation.steps import Symbol
from backlit.ir import Node


def derivative(loss: Symbol, by: Symbol) -> Symbol:
    """dL/d(by); the derivative by a layer's z has a letter of its own, delta."""
    if by.layer and by.name == "z":
        return Symbol("delta", by.layer, step=by.step)
    return Symbol(by.name, by.layer, step=by.step, over=loss)


_RESULTS = {"softmax": "p", "logsumexp": "lse", "log_softmax": "logp"}


def _results(run: Execution) -> list[tuple[Node, str]]:
    """The results of composites that are read as one, and the probabilities of a log_softmax: each has a letter."""
    inner = {n for c in run.composites for n in c.inside}
    found = [(c.y, c.kind) for c in run.composites if c.y not in inner]
    return found + [(p, "softmax") for p in run.probabilities.values()]


def _free(name: str, taken: Mapping[Node, str]) -> str:
    """The name, with a number if something else has it."""
    others = set(taken.values())
    return next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in others)


def names_of(run: Execution, loss: str | None, outside: Sequence[tuple[str, Any]]) -> dict[Node, str]:
    """The nodes of a run that have a name of the user's or of the field's, and that name."""
    names = {n: name for n, name in run.names.items() if n in run.values}
    for node in run.graph.nodes:
        if node.op == "constant" and node.type.shape and node.origin is None:
            name = next((name for name, array in outside if np.array_equal(array, run.values[node])), None)
            if name is not None:
                names[node] = name
    if run.loss not in names:
        usual = run.graph.name if run.graph.name.isidentifier() else "f"
        names[run.loss] = loss if loss is not None else usual
    return names | {n: _free(_RESULTS[kind], names) for n, kind in _results(run) if n not in names}


def symbols_of(
    run: Execution,
    cut: set[Node],
    names: Mapping[Node, str],
    forward: set[Node],
    updated: tuple[Node, Node] | None,
) -> tuple[dict[Node, Symbol], dict[str, str]]:
    """The symbols of the quantities `cut`, no two the same, and the number of each layer -> its name."""
    letters = _letters({*names.values()})
    layers = _numbered(cut & forward)
    short = _shortened(names.values())
    symbols: dict[Node, Symbol] = {}
    for node in sorted(cut, key=lambda n: n.serial):
        if node not in names:
            symbol = _symbol(next(letters), node, {}, layers)
        elif node in forward or node.op == "input" or node.origin is not None:
            symbol = _symbol(names[node], node, short, layers)
        else:
            symbol = _update_symbol(names[node], run)
        symbols[node] = replace(symbol, step=run.times.get(node))
    if updated is not None:
        symbols[updated[1]] = replace(symbols[updated[0]], new=True)
    return _distinct(symbols), {number: name for name, number in layers.items()}


def _letters(taken: set[str]) -> Iterator[str]:
    """u1, u2, ...: those that nothing else is called."""
    return (letter for letter in (f"u{i}" for i in count(1)) if letter not in taken)


def _shortened(names: Iterable[str]) -> dict[str, str]:
    """`p.w1` -> `w1`, where nothing else would then be called w1."""
    last = {name: name.split(".")[-1] for name in set(names)}
    count: dict[str, int] = {}
    for short in last.values():
        count[short] = count.get(short, 0) + 1
    return {name: short if count[short] == 1 and short else name for name, short in last.items()}


# what layers call their parameters, and what the field calls them
_FIELD = {"weight": "W", "bias": "b", "recurrent_weight": "U", "recurrent_bias": "c", "scale": "gamma", "shift": "beta"}


def _layer(node: Node) -> str:
    """The layer that a node belongs to, with those around it: `residual_1.dense_1`."""
    return ".".join(s.name for s in scopes(node) if s.kind == "layer")


def _numbered(cut: set[Node]) -> dict[str, str]:
    """The layers that quantities belong to -> their numbers, in the order in which they are applied."""
    found: dict[str, str] = {}
    for node in sorted(cut, key=lambda n: n.serial):
        if node.origin is None and _layer(node):
            found.setdefault(_layer(node), str(len(found) + 1))
    return found


def _symbol(name: str, node: Node, short: Mapping[str, str], layers: Mapping[str, str]) -> Symbol:
    """The symbol of a name; what belongs to a layer carries the layer's number."""
    *path, last = name.split(".")
    layer = _layer(node)
    if node.op == "input":  # params.dense_1.weight belongs to dense_1
        layer = next((".".join(path[i:]) for i in range(len(path)) if ".".join(path[i:]) in layers), "")
    if layer in layers:
        return Symbol(_FIELD.get(last, last), layers[layer])
    return Symbol(short.get(name, name))


def _update_symbol(name: str, run: Execution) -> Symbol:
    """The symbol of a quantity of an optimiser's step: m' is the new value of the m that the state holds."""
    last = name.split(".")[-1]
    held = any(n.op == "input" and run.names.get(n) == last for n in run.graph.inputs)
    return Symbol(re.sub(r"_\d+$", "", last), new=held or re.sub(r"_\d+$", "", last) != last)


def _distinct(symbols: dict[Node, Symbol]) -> dict[Node, Symbol]:
    """No two quantities with the same symbol: later ones are numbered."""
    used: dict[Symbol, int] = {}
    found = {}
    for node, symbol in symbols.items():
        used[symbol] = used.get(symbol, 0) + 1
        if used[symbol] > 1:
            symbol = Symbol(f"{symbol.name}_{used[symbol]}", symbol.layer, step=symbol.step)
        found[node] = symbol
    return found
