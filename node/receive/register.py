"""How many associations are open in the whole node, when several listener processes share its port.

Each process keeps the addresses of its peers in a file of its own, which it holds locked as long as it lives: the
system gives the lock up when the process dies, however it dies, and what it held is counted no more. Whoever counts or
changes anything holds the lock of the folder meanwhile, so that two processes cannot both give the last place away.
"""

import contextlib
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from node.logs import describe_error, get_logger

if sys.platform != "win32":
    import fcntl

_PATIENCE_SECONDS = 1.0
_SUFFIX = ".peers"


class Register(Protocol):
    """What the listener asks when it admits somebody."""

    def open(self) -> None:
        """Begin to be counted."""
        ...

    def close(self) -> None:
        """No longer be counted."""
        ...

    def counted(self) -> contextlib.AbstractContextManager[Counter[str]]:
        """The associations of all other processes by address of the peer; nobody else is admitted meanwhile."""
        ...

    def write(self, peers: Sequence[str]) -> None:
        """Our own associations, by address; within `counted`."""
        ...

    def update(self, peers: Sequence[str]) -> None:
        """The same where fewer are left, outside of `counted`: the others need not be counted for that."""
        ...


class OneProcess:
    """The register of a listener that is alone."""

    def open(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Nobody."""
        yield Counter()

    def write(self, peers: Sequence[str]) -> None:
        """Nobody reads it."""

    def update(self, peers: Sequence[str]) -> None:
        """Nobody reads it."""


class SharedRegister:
    """The register of several listeners with the same folder; used by one thread of each at a time.

    Parameters
    ----------
    folder : Path
        Made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._descriptor = -1
        self._gate = -1
        self._log = get_logger("receive")

    def open(self) -> None:
        """Begin to be counted. Raises `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._gate = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self.counted():
            self._descriptor = os.open(self._own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """No longer be counted."""
        for descriptor in (self._descriptor, self._gate):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._gate = -1
        self._own.unlink(missing_ok=True)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """See `Register`. Where the lock cannot be had, the others are not counted, and the log says so: better too
        many associations than none."""
        is_locked = self._lock()
        try:
            yield self._count_others() if is_locked else Counter()
        finally:
            if is_locked:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    def write(self, peers: Sequence[str]) -> None:
        """See `Register`. A full disk keeps nobody out: then the others count too few."""
        if self._descriptor < 0:
            return
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, "\n".join(peers).encode(), 0)
        except OSError as error:
            self._log.error("associations_not_counted", reason=describe_error(error))

    def update(self, peers: Sequence[str]) -> None:
        """See `Register`."""
        is_locked = self._lock()
        try:
            self.write(peers)
        finally:
            if is_locked:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._gate >= 0:
            try:
                fcntl.flock(self._gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._log.error("associations_not_counted", reason="another listener process holds the register")
                    return False
                time.sleep(0.002)
            else:
                return True
        return False

    def _count_others(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path != self._own:
                found.update(_read_if_alive(path))
        return found


def _read_if_alive(path: Path) -> list[str]:
    """The peers of a process; the file of one that is gone is removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 1 << 20).decode("ascii", "replace").split()
    else:
        path.unlink(missing_ok=True)
        return []
    finally:
        os.close(descriptor)


def make_register(processes: int, folder: Path) -> Register:
    """The register for so many listener processes."""
    return SharedRegister(folder) if processes > 1 and sys.platform != "win32" else OneProcess()
