"""backlit trains neural networks by backpropagation and shows its work."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from backlit import ops
from backlit.compilation import compile
from backlit.gradcheck import check_grads
from backlit.tracing import trace
from backlit.transforms import grad, hvp, jvp, value_and_grad, vjp

if TYPE_CHECKING:
    from backlit import data, distributed, executors, nn, optim, tables, train
    from backlit.audit.check import check
    from backlit.audit.functions import diagnose
    from backlit.audit.gradients import check_gradient
    from backlit.explanation import explain
    from backlit.nn import Network
    from backlit.train import Trainer, load, save

__version__ = "0.1.0"

__all__ = [
    "Network", "Trainer", "check", "check_gradient", "check_grads", "compile", "data", "diagnose", "distributed",
    "executors", "explain", "grad", "hvp", "jvp", "load", "nn", "ops", "optim", "save", "tables", "trace", "train",
    "value_and_grad", "vjp",
]  # fmt: skip

# What is imported when it is first asked for, so that `import backlit` stays quick: a module, or a name of one.
_LATER = {
    "check": "backlit.audit.check", "check_gradient": "backlit.audit.gradients", "diagnose": "backlit.audit.functions",
    "Network": "backlit.nn", "Trainer": "backlit.train", "data": "backlit.data", "distributed": "backlit.distributed",
    "executors": "backlit.executors", "explain": "backlit.explanation",
    "load": "backlit.train", "nn": "backlit.nn", "optim": "backlit.optim", "save": "backlit.train",
    "tables": "backlit.tables", "train": "backlit.train",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'backlit' has no attribute {name!r}")
    module = import_module(_LATER[name])
    return getattr(module, name, module)
