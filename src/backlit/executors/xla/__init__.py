"""The executor "xla": GPU, TPU and many devices, through JAX (`pip install 'backlit[xla]'`)."""

from backlit.extras import require

require("jax", "xla")

from backlit.executors.xla.executor import XLA  # noqa: E402  # only where JAX is there

__all__ = ["XLA"]
