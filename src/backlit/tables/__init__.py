"""Tables of numbers, categories and dates as inputs of a network. Needs the extra `tables` (polars)."""

from backlit.tables.reading import read
from backlit.tables.schema import Fitted, Schema, fit, target_column
from backlit.tables.target import Classes, Quantity

__all__ = ["Classes", "Fitted", "Quantity", "Schema", "fit", "read", "target_column"]
