"""A TCP connection towards an archive on which no wait is without end."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[], None]
"""Called again and again while waiting; raises to give up, e.g. because the process is asked to stop."""

_SLICE_SECONDS = 0.25  # between two calls of a check


class LineLost(Exception):
    """The connection cannot be made or is gone; the message says how, without naming the peer."""


def nothing_to_check() -> None:
    """The check of those who wait as long as the timeout says."""


@dataclass(frozen=True)
class Patience:
    """How long a wait without any progress lasts at most, in seconds, and what may end it earlier."""

    timeout_seconds: float
    check: Check = nothing_to_check


class Line:
    """A connected socket. Every call raises `LineLost` when the peer hangs up or makes no progress in time.

    Nagle's algorithm is off, and acknowledgements are not delayed: dcmtk answers in two small writes with
    Nagle on, and its second would wait 40 ms for our acknowledgement of the first.
    """

    def __init__(self, connection: socket.socket, patience: Patience) -> None:
        self._socket = connection
        self._patience = patience
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_SLICE_SECONDS)

    def send(self, content: bytes | bytearray | memoryview) -> None:
        """Send everything; the timeout starts again whenever the peer takes something."""
        left = memoryview(content)
        deadline = self._deadline()
        while left:
            try:
                sent = self._socket.send(left)
            except TimeoutError:
                self._wait_on(deadline, "took nothing")
            except OSError as error:
                raise LineLost(f"the connection was lost ({error.strerror or type(error).__name__})") from None
            else:
                left = left[sent:]
                deadline = self._deadline()

    def receive(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        received = bytearray()
        deadline = self._deadline()
        while len(received) < count:
            self._acknowledge_at_once()
            try:
                piece = self._socket.recv(count - len(received))
            except TimeoutError:
                self._wait_on(deadline, "answered nothing")
                continue
            except OSError as error:
                raise LineLost(f"the connection was lost ({error.strerror or type(error).__name__})") from None
            if not piece:
                raise LineLost("the peer closed the connection")
            received += piece
            deadline = self._deadline()
        return bytes(received)

    def shorten(self, timeout_seconds: float) -> None:
        """From now on wait at most this long."""
        self._patience = Patience(min(timeout_seconds, self._patience.timeout_seconds))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _deadline(self) -> float:
        return time.monotonic() + self._patience.timeout_seconds

    def _wait_on(self, deadline: float, what: str) -> None:
        self._patience.check()
        if time.monotonic() >= deadline:
            raise LineLost(f"the peer {what} for {self._patience.timeout_seconds:g} s")

    def _acknowledge_at_once(self) -> None:
        """Linux forgets this option by itself, so that it is set before each read."""
        if hasattr(socket, "TCP_QUICKACK"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def connect(host: str, port: int, patience: Patience) -> Line:
    """A connection to the first address of `host` that takes one."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LineLost(f"the host name cannot be resolved ({error.strerror or type(error).__name__})") from None
    problem = "no address"
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            problem = _connected_or_why_not(connection, address, patience)
            if not problem:
                return Line(connection, patience)
        except BaseException:
            connection.close()
            raise
        connection.close()
    raise LineLost(f"no connection: {problem}")


def _connected_or_why_not(connection: socket.socket, address: tuple[object, ...], patience: Patience) -> str:
    """Connect without blocking for longer than a slice; empty when it succeeded."""
    connection.setblocking(False)
    deadline = time.monotonic() + patience.timeout_seconds
    connection.connect_ex(address)
    while time.monotonic() < deadline:
        if select.select([], [connection], [], _SLICE_SECONDS)[1]:
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return os.strerror(code) if code else ""
        patience.check()
    return f"no answer for {patience.timeout_seconds:g} s"
