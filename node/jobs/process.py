"""Names of workers, from which another process of the same machine can tell that a worker is dead."""

import os
import secrets
import socket
from pathlib import Path


def worker_name() -> str:
    """A name that no other worker ever has: machine, process number, something random, and the process number of what
    started it, which is the node's supervisor.
    """
    return f"{_machine()}:{os.getpid()}:{secrets.token_hex(4)}:{os.getppid()}"


def is_dead(worker: str) -> bool:
    """Whether the process of this worker ran on this machine and is gone.

    False also when that cannot be known (another machine, or its number was given to another process): then
    the lease decides.
    """
    machine, number, *_ = *worker.split(":"), ""
    return machine == _machine() and _is_gone(number)


def is_dead_with_its_node(worker: str) -> bool:
    """Of a worker that is dead or does not report any more: whether its whole node is gone, as far as can be known.

    That is so when what started the worker is gone as well. On another machine (or before this one was started anew) a
    supervisor would have started a worker again, which would have rescued the job long before its lease ran out.
    """
    machine, _, _, supervisor, *_ = *worker.split(":"), "", "", ""
    return machine != _machine() or _is_gone(supervisor)


def _is_gone(number: str) -> bool:
    """Whether no process of this number runs (one that ended and that nobody has taken notice of does not); not known
    of what is no number, or of process 0.
    """
    if not number.isdecimal() or number == "0":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in "ZX"


def _machine() -> str:
    """Host name, process number space (containers may share the first and not the second), and start of the system."""
    host = socket.gethostname()[:64].replace(":", "-")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{host}/{Path('/proc/self/ns/pid').stat().st_ino}/{boot}"
    except OSError:
        return host
