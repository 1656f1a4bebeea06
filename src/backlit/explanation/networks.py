"""A network and its loss as a function of named arguments, in the notation of the field: W, b, z, a, y-hat, L."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backlit import ops
from backlit.errors import GradientError
from backlit.tracing import Traced

Function = Callable[..., Any]


def function_of(
    net: Any, arguments: tuple[Any, ...], loss: Any, training: bool, key: Any, mask: Any
) -> tuple[Function, tuple[Any, ...]]:
    """The loss of a network for (x, y) as a function of (params, state, x, y), and these arguments.

    A single example gets a batch axis. Raises GradientError where x, y or the loss is missing.
    """
    from backlit.nn import losses

    if len(arguments) != 2:
        raise GradientError(
            "a network is explained for inputs x and targets y", fix="bl.explain(net, x, y, loss=..., wrt=...)"
        )
    if loss is None:
        raise GradientError("the loss is not given", fix=f"pass loss= one of {', '.join(losses.LOSSES)}, or a function")
    x, y = (np.asarray(a) for a in arguments)
    if x.ndim == len(net.input_type.shape):
        x, y = x[None], y[None]
    x = net._converted(x)
    if y.dtype.kind == "f":
        y = y.astype(net.dtype)
    chosen = losses.get(loss)
    chosen.check(np.broadcast_to(np.zeros((), net.output_type.dtype), (len(x), *net.output_type.shape)), y)

    def network(params: Mapping[str, Any], state: Mapping[str, Any], x: Any, y: Any) -> Any:
        predicted, _ = net.forward(params, state, x, training=training, key=key, mask=mask)
        if isinstance(predicted, Traced) and _called(predicted) == "a":
            predicted = ops.named(predicted, "yhat")
        return ops.named(chosen(predicted, y), "L")

    return network, (dict(net.params), dict(net.state), x, y)


def _called(value: Traced) -> str | None:
    """The name that the code gave a value."""
    node = value.node
    return node.name or (node.site.target() if node.site is not None else None)
