"""How long a nest takes: an estimate in cycles, by one model whatever the method, so that ways can be compared.

The processor is a nominal one, as kernels are the same for all: it multiplies and adds a vector of a line in a cycle.
Products from the caches take as long by about a fifth, and ratios of two ways are right by about a tenth; what waits
for memory takes longer.
"""

from __future__ import annotations

import math
from functools import lru_cache

from backlit.executors.native.dots import Dots
from backlit.executors.native.kernels import Nest
from backlit.executors.native.method import method
from backlit.executors.native.schedule import nest_cycles
from backlit.executors.native.target import Target
from backlit.executors.native.tiling import Tiling, crowded, pieces
from backlit.executors.native.vectors import LINE, filled, in_line

NOMINAL = Target("nominal", "", "", "", LINE, 32, True)
_STEP = 0.3  # cycles of a tile's step besides its multiply-adds
_TILE = 10.0  # cycles of a tile besides its steps,
_RESULT = 2.0  # and of each of its vectors
_APART = 2.5  # cycles of a number that is stored, or read then, alone


@lru_cache(4096)
def cycles(nest: Nest) -> float:
    """Of all the nest, on one thread. Products of groups are not known."""
    plan = method(nest, NOMINAL)
    if not isinstance(plan, Tiling | Dots):
        return nest_cycles(nest, plan.vector, plan.lanes)
    apart = sum(i.place.strides[plan.vector] not in (0, 1) for i in nest.epilogue if i.place is not None)
    return (_of_tiles(nest, plan) if isinstance(plan, Tiling) else plan.cycles) + _APART * apart * nest.points


def _of_tiles(nest: Nest, cut: Tiling) -> float:
    """The tiles of a product. A vector takes as long as it is wide, or as half of a line."""
    a, itemsize = nest.prologue[cut.a].at, nest.prologue[3].dtype.itemsize
    extent, step = (nest.space[cut.cut], abs(a.strides[cut.cut]) * itemsize) if cut.cut >= 0 else (1, 0)
    fixed, vectors = math.prod(nest.space[x] for x in cut.whole), -(-nest.space[cut.columns] // cut.lanes)
    size = max(0.5, cut.lanes / in_line(itemsize))
    total = 0.0
    for n, v in pieces(vectors, cut.vectors):
        for m, rows in pieces(extent, cut.rows):
            tile = rows * fixed
            each = max(tile * v * size, 4.0) + _STEP + crowded(rows, step)
            total += n * m * (nest.steps * each + _RESULT * tile * v + _TILE)
    if size == 1:
        total -= (vectors - filled(nest.space[cut.columns], cut.lanes)) * extent * fixed * nest.steps
    if cut.part:
        total += nest.steps * vectors
    return total * math.prod(nest.space[x] for x in cut.loops)
