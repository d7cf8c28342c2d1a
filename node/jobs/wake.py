"""Whoever makes work wakes whoever does it; polling is only the safety net.

Each listener binds a datagram socket of its own in a folder that all processes of the node share; a notice
is one datagram to each socket of a topic. Nothing depends on its arrival. Where such sockets are
impossible, `wait` only waits. Machines that share the folder do not wake each other: their sockets have other names,
and what one machine makes another finds when it looks anyway.
"""

import hashlib
import os
import secrets
import select
import socket
import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

_LONGEST_PATH = 103  # bytes; sun_path holds 104 (macOS) or 108 (Linux) with the zero at its end
_NAME_ROOM = 32  # bytes that the name of a socket needs, with the slash before it


class Topic(StrEnum):
    """What there is to do."""

    SETTLE = "settle"
    INFER = "infer"
    DELIVER = "deliver"


def socket_folder(folder: Path) -> Path:
    """`folder`, or a short stand-in for it in the folder for temporary files where its path is too long for
    a socket.

    All processes that give the same folder get the same answer.
    """
    absolute = folder.resolve()
    if len(os.fsencode(absolute)) + _NAME_ROOM <= _LONGEST_PATH:
        return absolute
    digest = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"overread-{digest}"


def remove_socket_folder(folder: Path) -> None:
    """Take away the stand-in of `folder`, if it has one, when the node has stopped; one still in use stays."""
    stand_in = socket_folder(folder)
    if stand_in != folder.resolve():
        with suppress(OSError):
            stand_in.rmdir()


class Wake:
    """Sends notices to the listeners of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = socket_folder(folder)

    def notify(self, topic: Topic) -> int:
        """Wake everybody who listens for `topic`; how many were reached. Sockets that nobody holds are
        removed."""
        if not hasattr(socket, "AF_UNIX"):
            return 0
        reached = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for path in self._folder.glob(f"{topic}-{_machine()}-*.sock"):
                reached += _send(sender, path)
        return reached

    def is_heard(self, topic: Topic) -> bool:
        """Whether anybody on this machine listens for `topic`; nobody is woken."""
        return any(_is_held(path) for path in self._folder.glob(f"{topic}-{_machine()}-*.sock"))


class WakeListener:
    """Waits for notices of one topic. Use as a context, or `close`."""

    def __init__(self, folder: Path, topic: Topic) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._path = socket_folder(folder) / f"{topic}-{_machine()}-{os.getpid()}-{secrets.token_hex(2)}.sock"
        self._socket = _bind(self._path)

    @property
    def hears(self) -> bool:
        """Whether notices can arrive; otherwise `wait` only waits."""
        return self._socket is not None

    def wait(self, timeout: float) -> bool:
        """Wait for a notice or `interrupt`, at most `timeout` seconds; whether one came."""
        sockets = [self._inside, *([self._socket] if self._socket else [])]
        ready, _, _ = select.select(sockets, [], [], max(timeout, 0))
        for one in ready:
            _drain(one)
        return bool(ready)

    def interrupt(self) -> None:
        """End a `wait` from another thread or a signal handler; if none is going on, the next one ends at
        once."""
        with suppress(BlockingIOError):  # so many are waiting already that `wait` will end
            self._outside.send(b"!")

    def close(self) -> None:
        """Stop listening."""
        self._inside.close()
        self._outside.close()
        if self._socket is not None:
            self._socket.close()
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "WakeListener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _machine() -> str:
    """What tells this machine's sockets from those of others, also after it was started anew."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _bind(path: Path) -> socket.socket | None:
    if not hasattr(socket, "AF_UNIX"):
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)
    return listener


def _is_held(path: Path) -> bool:
    """Whether a process has this socket open; one that was killed leaves its name behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
    return True


def _send(sender: socket.socket, path: Path) -> int:
    try:
        sender.sendto(b"!", str(path))
    except BlockingIOError:
        return 1  # its buffer is full of notices
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return 0
    except OSError:
        return 0
    return 1


def _drain(one: socket.socket) -> None:
    with suppress(BlockingIOError):
        while one.recv(4096):
            pass
