"""Names of workers, from which another process of the same machine can tell that a worker is dead."""

import os
import secrets
import socket
from pathlib import Path


def worker_name() -> str:
    """A name that no other worker ever has: machine, process number, and something random."""
    return f"{_machine()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_dead(worker: str) -> bool:
    """Whether the process of this worker ran on this machine and is gone.

    False also when that cannot be known (another machine, or its number was given to another process): then
    the lease decides.
    """
    machine, _, rest = worker.partition(":")
    number, _, _ = rest.partition(":")
    if machine != _machine() or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """Host name and process number space: containers may share the first and not the second."""
    host = socket.gethostname()[:64].replace(":", "-")
    try:
        return f"{host}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return host
