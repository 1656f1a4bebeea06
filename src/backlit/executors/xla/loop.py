"""Many training steps in one program: a loop whose number of steps is an argument.

A program has room for `span` steps: rows that say which examples make each minibatch, and a place for what each step
watches. It runs as many of them as it is told to, so one compilation serves every number of steps; more steps than
there is room for take several runs, with nothing copied back in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from backlit.errors import IndexingError
from backlit.executors.api import Array
from backlit.executors.xla.lowering import Lowering, indexing
from backlit.executors.xla.residence import Residents, placed
from backlit.ir import Graph, Node

ROOM = 2**24
"""Bytes of rows and watched values that a program has room for, at most; a single step may take more."""

STEPS = 1024
"""Steps that a program has room for, at most: starting it then costs less than 0.1 microseconds a step."""


class Loop:
    """`compile_loop` of one step. `programs` holds what was compiled so far, by the lengths of the data sets.

    places   the sharding of each carried value
    whole    the sharding of a copy on every device
    split    the sharding of a minibatch of so many examples
    """

    def __init__(
        self,
        step: Graph,
        places: Sequence[NamedSharding],
        whole: NamedSharding,
        split: Callable[[int], NamedSharding],
        compute: str | None,
        residents: Residents,
    ) -> None:
        self.step, self.places, self.whole, self.split = step, places, whole, split
        self.compute, self.residents = compute, residents
        self.carry = len(places)
        self.checks = list(indexing(step))
        self.programs: dict[tuple[tuple[int, ...], ...], jax.stages.Compiled] = {}

    def __call__(
        self, state: Sequence[Array], data: Sequence[Array], row_index: Array, *, donate: bool = False
    ) -> tuple[list[Array], list[Array]]:
        refuse_rows(data, row_index)
        steps, batch = row_index.shape
        span = self.span(batch)
        with jax.enable_x64():
            on_device = self.residents
            now = [on_device.given_away(np.asarray(s), p) for s, p in zip(state, self.places, strict=True)]
            parts, oks = [], []
            for start in range(0, max(steps, 1), span):
                count = min(span, steps - start)
                fed = self.fed(data, row_index[start : start + count], span)
                now, watched, ok = self.program(*fed)(now, *fed, placed(np.asarray(count, np.int32), self.whole))
                parts.append((count, watched))
                oks.append(ok)
            refuse_unsound(self.checks, np.all([np.asarray(ok) for ok in oks], axis=0))
            columns = zip(*([np.asarray(w)[:count] for w in watched] for count, watched in parts), strict=True)
            return [on_device.fetched(s) for s in now], [np.concatenate(column) for column in columns]

    def fed(self, data: Sequence[Array], row_index: Array, span: int) -> tuple[list[Any], Any]:
        """The data sets, and the rows of these steps with room for `span` of them, on the devices."""
        rows = np.zeros((span, row_index.shape[1]), np.int64)
        rows[: len(row_index)] = row_index
        return [self.residents.shared(np.asarray(d), self.whole) for d in data], jax.device_put(rows, self.whole)

    def minibatch(self, data: Any, rows: Any, t: Any) -> Any:
        """The minibatch of step t of what `fed` gave."""
        chosen = rows[t]
        return _constrained(data.at[chosen].get(mode="promise_in_bounds"), self.split(len(chosen)))

    def span(self, batch: int) -> int:
        """How many steps a program has room for."""
        watched = sum(o.type.size * o.type.dtype.itemsize for o in self.step.outputs[self.carry :])
        most = ROOM // max(1, 8 * batch + watched)
        return min(STEPS, 2 ** int(math.log2(most)) if most else 1)

    def program(self, data: Sequence[Any], rows: Any) -> jax.stages.Compiled:
        """The compiled loop over data sets and rows like these."""
        key = rows.shape, *(d.shape for d in data)
        if key not in self.programs:
            carried = self.step.inputs[: self.carry]
            state = [_like(n.type.shape, n.type.dtype, p) for n, p in zip(carried, self.places, strict=True)]
            count = _like((), np.int32, self.whole)
            with jax.enable_x64():
                results = list(self.places), self.whole, self.whole
                made = jax.jit(self._run, donate_argnums=(0,), out_shardings=results)
                self.programs[key] = made.lower(state, data, rows, count).compile()
        return self.programs[key]

    def _run(self, state: Any, data: Any, rows: Any, count: Any) -> Any:
        outputs = self.step.outputs[self.carry :]
        room = [jnp.zeros((len(rows), *o.type.shape), o.type.dtype) for o in outputs]

        def once(t: Any, now: Any) -> Any:
            held, watched, sound = now
            lowering = Lowering(self.compute)
            results = lowering.run(self.step, [*held, *(self.minibatch(d, rows, t) for d in data)])
            new = [_constrained(r, p) for r, p in zip(results[: self.carry], self.places, strict=True)]
            watched = [w.at[t].set(r) for w, r in zip(watched, results[self.carry :], strict=True)]
            return new, watched, [was & ok for was, (_, ok) in zip(sound, lowering.sound, strict=True)]

        return lax.fori_loop(jnp.int32(0), count, once, (list(state), room, [jnp.asarray(True)] * len(self.checks)))


def _like(shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # type: ignore[no-untyped-call]


def _constrained(value: Any, sharding: NamedSharding) -> Any:
    return lax.with_sharding_constraint(value, sharding)  # type: ignore[no-untyped-call]


def refuse_unsound(checks: Sequence[Node], sound: Sequence[Any]) -> None:
    """Raise IndexingError at the first op whose indices were out of range."""
    for node, ok in zip(checks, sound, strict=True):
        if not bool(ok):
            raise IndexingError(
                "an index is out of range", op=node.op, inputs=[i.type for i in node.inputs], site=node.site
            )


def refuse_rows(data: Sequence[Array], row_index: Array) -> None:
    """Raise IndexingError where a row index is outside of a data set."""
    for d in data:
        if row_index.size and not 0 <= row_index.min() <= row_index.max() < len(d):
            raise IndexingError(f"a row index is out of range: there are {len(d)} rows")
