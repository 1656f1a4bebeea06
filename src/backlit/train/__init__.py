"""Training: the trainer, its history, callbacks, and files of models and runs."""

from backlit.train.callbacks import (
    BestWeights,
    Callback,
    Checkpoint,
    EarlyStopping,
    Epoch,
    LambdaCallback,
    Log,
    ReduceOnPlateau,
)
from backlit.train.finder import RateSearch
from backlit.train.history import History
from backlit.train.saving import load, save
from backlit.train.trainer import Trainer

__all__ = [
    "BestWeights", "Callback", "Checkpoint", "EarlyStopping", "Epoch", "History", "LambdaCallback", "Log", "RateSearch",
    "ReduceOnPlateau", "Trainer", "load", "save",
]  # fmt: skip
