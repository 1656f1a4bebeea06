"""Settings that must stand before JAX is imported: it runs on the CPU, which it sees as eight devices.

The tests run most functions once, so compiling matters more than running. What backlit compiles is kept in a folder of
this run, which the workers of pytest-xdist share: never in the user's, where an earlier run's programs may lie.

A shell that starts a job in the background lets it ignore Ctrl-C, and tests of interrupts would wait for ever.
"""

import os
import signal
import tempfile

from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="backlit-tests-")
    os.environ["BACKLIT_CACHE"] = _cache.name

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
