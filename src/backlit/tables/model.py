"""A table model: a network together with the schema that says what the columns of its table mean, in one file.

model = tables.load("penguins-model/model.backlit")
model.predict(tables.read("new.csv"))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backlit.errors import CheckpointError
from backlit.extras import require
from backlit.tables.schema import Schema, target_column
from backlit.tables.scores import Scores, score_classes, score_quantity
from backlit.tables.target import Array, Classes, Quantity
from backlit.train.saving import load_with_extra, save

if TYPE_CHECKING:
    import polars as pl

    from backlit.nn import Network

_KEY = "table"  # of the entry of the model file
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TableModel:
    """A network for tables.

    net     from the schema's inputs to class logits (rows, k) or a standardised quantity (rows, 1)
    schema  what the columns mean
    about   facts about its making (rows, scores, date ...), plain JSON data
    """

    net: Network
    schema: Schema
    about: dict[str, Any] = field(default_factory=dict)

    def outputs(self, frame: pl.DataFrame) -> Array:
        """What the model says: probabilities (rows, k) of the classes, or amounts (rows,) in the target's own units.

        Raises DataError where a column is absent or a cell is not of its kind.
        """
        x = self.schema.features(frame)
        parts = [np.asarray(self.net(x[i : i + _ROWS_AT_ONCE])) for i in range(0, len(x), _ROWS_AT_ONCE)]
        raw = np.concatenate(parts).astype(np.float64)
        if isinstance(self.schema.target, Quantity):
            return self.schema.target.decode(raw)
        shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One row for each row of the table: `predicted_<target>`, and for classes `probability_<class>` of each."""
        pl = require("polars", "tables")
        target, outputs = self.schema.target, self.outputs(frame)
        if isinstance(target, Quantity):
            return pl.DataFrame({f"predicted_{target.name}": outputs})
        names = [target.values[i] for i in outputs.argmax(axis=1)]
        columns = {f"probability_{value}": outputs[:, i] for i, value in enumerate(target.values)}
        return pl.DataFrame({f"predicted_{target.name}": names, **columns})

    def evaluate(self, frame: pl.DataFrame) -> Scores:
        """How good the predictions for a table with known targets are. Raises DataError where a target is missing."""
        target = self.schema.target
        cells = target_column(frame, target.name)
        if isinstance(target, Classes):
            return score_classes(self.outputs(frame), target.encode(cells), target.values)
        return score_quantity(self.outputs(frame), target.amounts(cells))

    def save(self, path: str | Path) -> None:
        """Write everything into one file, whole or not at all. Raises CheckpointError where it cannot be written.

        It is a model file like any other, with the schema beside the network: `bl.load(path)` gives the network alone.
        """
        save(self.net, path, {_KEY: {"schema": self.schema.config(), "about": self.about}})


def load(path: str | Path) -> TableModel:
    """The model that `TableModel.save` wrote; of a folder, the one in its model.backlit.

    Raises CheckpointError for any other file, saying what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.backlit"
    net, extra = load_with_extra(path)
    match extra.get(_KEY):
        case {"schema": dict(config), "about": dict(about)}:
            pass
        case _:
            raise CheckpointError(
                f"{path} holds a network, but not the columns of a table", fix="give a model that `backlit train` made"
            )
    try:
        schema = Schema.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged: {error.what}") from None
    if (net.input_type.shape, net.output_type.shape) != ((len(schema.inputs),), (schema.target.width,)):
        raise CheckpointError(f"{path} is damaged: its network and its columns do not fit")
    return TableModel(net, schema, about)
