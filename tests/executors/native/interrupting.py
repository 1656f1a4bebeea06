"""Ctrl-C while something runs."""

import os
import signal
import threading
import time

import pytest


def delay(run, after):
    """Seconds from the signal, sent `after` so many seconds, until `run` ends by KeyboardInterrupt."""
    sent: list[float] = []

    def send():
        time.sleep(after)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run()
    late = time.perf_counter() - sent[0]
    sender.join()
    return late
