"""Settings that must stand before JAX is imported: it runs on the CPU, which it sees as eight devices.

The tests run most functions once, so compiling matters more than running.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
