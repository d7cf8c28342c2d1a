"""Keeps the node's processes alive: starts them, restarts what died, ends them all in time.

Each child is `overread listen|work|deliver` with the same configuration. A child notices by the end of its life line (a
pipe on standard input) that the supervisor is gone, even when it was killed, and stops like on SIGTERM.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from node.logs import get_logger

STOP_SECONDS = 9.0
"""Time the children have to stop before they are killed."""

LONGEST_RESTART_SECONDS = 30.0
CALM_SECONDS = 60.0
"""A child that lived this long starts again without waiting."""


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = field(default=0)


class Supervisor:
    """Runs one process per command until it is told to stop.

    Parameters
    ----------
    commands : mapping of str to sequence of str
        Name of each process and its command line.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._children = [_Child(name, command) for name, command in commands.items()]
        self._clock = clock
        self._stop = threading.Event()
        self._log = get_logger("supervisor")

    def stop(self, *_signal: object) -> None:
        """Ask `run` to end; safe in a signal handler."""
        self._stop.set()

    def run(self) -> int:
        """Start everything, keep it alive, and return 0 after a clean stop or 1 if a child had to be killed."""
        try:
            while not self._stop.wait(0.2):
                for child in self._children:
                    self._keep_alive(child)
        finally:
            clean = self._end_all()
        return 0 if clean else 1

    def _keep_alive(self, child: _Child) -> None:
        now = self._clock()
        if child.process is None:
            if now >= child.restart_at:
                child.process = subprocess.Popen(child.command, stdin=subprocess.PIPE, start_new_session=True)
                child.started_at = now
                self._log.info("process_started", process=child.name, pid=child.process.pid)
            return
        code = child.process.poll()
        if code is None:
            return
        child.failures = 0 if now - child.started_at > CALM_SECONDS else child.failures + 1
        wait = min(LONGEST_RESTART_SECONDS, 0.25 * 2**child.failures)
        child.restart_at = now + wait
        child.process = None
        self._log.error("process_ended", process=child.name, exit_code=code, restart_in_seconds=wait)

    def _end_all(self) -> bool:
        running = [child for child in self._children if child.process and child.process.poll() is None]
        for child in running:
            if child.process:
                child.process.terminate()
        deadline = self._clock() + STOP_SECONDS
        clean = True
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline - self._clock()))
            except subprocess.TimeoutExpired:
                clean = False
                child.process.kill()
                child.process.wait()
                self._log.error("process_killed", process=child.name, after_seconds=STOP_SECONDS)
        self._log.info("stopped", clean=clean)
        return clean


def child_command(role: str, *arguments: str) -> list[str]:
    """Command line of one role of this program, run by the same interpreter, with a life line."""
    return [sys.executable, "-m", "node", role, *arguments, "--life-line"]


def watch_life_line(stop: Callable[[], None]) -> None:
    """Call `stop` when standard input ends, that is, when the supervisor is gone. Returns at once."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop()

    threading.Thread(target=watch, name="life-line", daemon=True).start()


def on_stop_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT; for the main thread. Returns at once.

    It is called in a thread of its own: a handler of a signal may interrupt whoever holds a lock that `stop` needs.
    """
    asked: SimpleQueue[None] = SimpleQueue()  # made for handlers of signals

    def watch() -> None:
        while True:
            asked.get()
            stop()

    threading.Thread(target=watch, name="stop-signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.put(None))
