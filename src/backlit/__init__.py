"""backlit trains neural networks by backpropagation and shows its work."""

from backlit import ops
from backlit.compilation import compile
from backlit.gradcheck import check_grads
from backlit.tracing import trace
from backlit.transforms import grad, hvp, jvp, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = ["check_grads", "compile", "grad", "hvp", "jvp", "ops", "trace", "value_and_grad", "vjp"]
