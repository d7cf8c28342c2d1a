"""Ending a process by a signal."""

import subprocess
import sys

WAITS = """\
import os, signal, sys, threading
from node.supervisor import on_stop_signals

asked = threading.Event()
on_stop_signals(asked.set)
with asked._cond:  # as the main thread holds it for moments of every `wait`
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(0 if asked.wait(60) else 1)
"""


def test_a_signal_stops_whoever_it_interrupts() -> None:
    """The handler runs between two steps of the main thread, which may hold the lock of the very event it waits for."""
    assert subprocess.run([sys.executable, "-c", WAITS], timeout=300, check=False).returncode == 0
