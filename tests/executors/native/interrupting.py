"""Ctrl-C while something runs."""

import dis
import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest

_HANDLED = {dis.opmap[o] for o in ("RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD") if o in dis.opmap}


def delay(run, after, told=None):
    """Seconds from the signal, sent `after` so many seconds, until `run` ends by KeyboardInterrupt.

    The system tells the main thread of it, or the thread that sends it, which is `told` if it is "another".
    """
    sent: list[float] = []

    def send():
        time.sleep(after)
        sent.append(time.perf_counter())
        if told == "another":
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run()
    late = time.perf_counter() - sent[0]
    sender.join()
    return late


def everywhere(run):
    """Call `run` with an interrupt at its first, second, ... point at which Python may handle a signal.

    Those are after calls, at jumps back and where functions begin. Gives the number of the point after each call that
    was interrupted, until there is one that has no such point.
    """
    number = 0
    while _interrupted(run, number):
        number += 1
        yield number


def _interrupted(run, number):
    """Whether the call of `run` has so many points, at the last of which it is interrupted."""
    left, before = number, {}

    def trace(frame, event, _):
        nonlocal left
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            last, now = before.get(frame), frame.f_code.co_code[frame.f_lasti]
            before[frame] = now
            if last in _HANDLED:
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
        return trace

    gc.disable()  # what others have left is not taken apart within
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt):
            run()
    finally:
        sys.settrace(None)
        gc.enable()
    return left < 0
