"""Tables of numbers, categories and dates, and networks that learn from them. Needs the extra `tables` (polars).

trained = tables.train(tables.read("penguins.csv"), "species")
trained.model.save("penguins.backlit")
tables.load("penguins.backlit").predict(tables.read("new.csv"))
"""

from backlit.tables.model import TableModel, load
from backlit.tables.reading import read
from backlit.tables.schema import Fitted, Schema, fit, target_column
from backlit.tables.scores import ClassScores, QuantityScores
from backlit.tables.target import Classes, Quantity
from backlit.tables.training import Trained, train

__all__ = [
    "ClassScores", "Classes", "Fitted", "Quantity", "QuantityScores", "Schema", "TableModel", "Trained", "fit", "load",
    "read", "target_column", "train",
]  # fmt: skip
