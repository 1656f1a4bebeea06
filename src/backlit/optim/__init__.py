"""Optimisers, schedules and clipping: init and update pairs written in ops, so that they compile into the step."""

from backlit.optim.adam import Adam, Adamax, AdamW, NAdam
from backlit.optim.adaptive import Adagrad, RMSProp
from backlit.optim.clipping import clip_by_global_norm, clip_by_norm, clip_by_value, global_norm
from backlit.optim.lion import Lion
from backlit.optim.optimizer import Descent, Optimizer, from_config, get
from backlit.optim.schedules import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Piecewise,
    Schedule,
    StepDecay,
    Warmup,
)
from backlit.optim.sgd import SGD, Momentum, Nesterov
from backlit.optim.wrappers import EMA, Accumulate, LossScale, with_loss_scale

__all__ = [
    "EMA", "SGD", "Accumulate", "Adagrad", "Adam", "AdamW", "Adamax", "Constant", "Cosine", "Descent", "Exponential",
    "Linear", "Lion", "LossScale", "Momentum", "NAdam", "Nesterov", "OneCycle", "Optimizer", "Piecewise", "RMSProp",
    "Schedule", "StepDecay", "Warmup", "clip_by_global_norm", "clip_by_norm", "clip_by_value", "from_config", "get",
    "global_norm", "with_loss_scale",
]  # fmt: skip
