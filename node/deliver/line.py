"""A TCP connection towards an archive on which no wait is without end."""

import contextlib
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from node.deliver.tls import ClientTls, describe_tls_error

Check = Callable[[], None]
"""Called again and again while waiting; raises to give up, e.g. because the process is asked to stop."""

_SLICE_SECONDS = 0.25  # between two calls of a check


class LineLost(Exception):
    """The connection cannot be made or is gone; the message says how, without naming the peer."""


class TlsFailed(LineLost):
    """The connection is there, and cannot be secured; the message says what to do."""


def nothing_to_check() -> None:
    """The check of those who wait as long as the timeout says."""


@dataclass(frozen=True)
class Patience:
    """How long a wait without any progress lasts at most, in seconds, and what may end it earlier.

    `bytes_per_second` is the most that is sent; 0 is no limit.
    """

    timeout_seconds: float
    check: Check = nothing_to_check
    bytes_per_second: int = 0


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
        rate = self._patience.bytes_per_second
        while left:
            started = time.monotonic()
            try:
                sent = self._socket.send(left[: max(rate // 8, 1024)] if rate else left)
            except TimeoutError:
                self._wait_on(deadline, "took nothing")
            except OSError as error:
                raise _lost(error) from None
            else:
                left = left[sent:]
                if rate:
                    self._wait_until(started + sent / rate)
                deadline = self._deadline()

    def answer_by(self, times: float = 2) -> float:
        """The moment by which an answer that is waited for from now on has come whole (`time.monotonic`).

        So many times the timeout: one that comes byte by byte, each in time, would have no end.
        """
        return time.monotonic() + times * self._patience.timeout_seconds

    def receive(self, count: int, by: float = math.inf) -> bytes:
        """Exactly `count` bytes, and not after the moment `by`."""
        received = bytearray()
        deadline = self._deadline()
        while len(received) < count:
            if time.monotonic() > by:
                raise LineLost("the peer answered too slowly")
            self._acknowledge_at_once()
            try:
                piece = self._socket.recv(count - len(received))
            except TimeoutError:
                self._wait_on(deadline, "answered nothing")
                continue
            except OSError as error:
                raise _lost(error) from None
            if not piece:
                raise LineLost("the peer closed the connection")
            received += piece
            deadline = self._deadline()
        return bytes(received)

    def shorten(self, timeout_seconds: float, check: Check = nothing_to_check) -> None:
        """From now on wait at most this long, and for no other check than this one."""
        self._patience = Patience(min(timeout_seconds, self._patience.timeout_seconds), check)

    def finish(self) -> None:
        """End a TLS session and wait until the peer has ended it too: then it has read everything."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return
        deadline = self._deadline()
        while True:
            try:
                self._socket.unwrap()
                return
            except TimeoutError:
                self._wait_on(deadline, "did not end the connection")
            except ssl.SSLEOFError:  # it closed without a last word, after it had read ours
                return
            except OSError as error:
                raise _lost(error) from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _wait_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            self._patience.check()
            time.sleep(min(left, _SLICE_SECONDS))

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


def connect(host: str, port: int, patience: Patience, tls: ClientTls | None = None) -> Line:
    """A connection to the first address of `host` that takes one, secured if `tls` is given."""
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
                return Line(_secured(connection, tls, patience) if tls else connection, patience)
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


def _secured(connection: socket.socket, tls: ClientTls, patience: Patience) -> ssl.SSLSocket:
    """The connection after the TLS handshake. It is closed by the caller when that fails."""
    connection.settimeout(_SLICE_SECONDS)
    secured = tls.context.wrap_socket(connection, server_hostname=tls.server_name, do_handshake_on_connect=False)
    deadline = time.monotonic() + patience.timeout_seconds
    try:
        while True:
            try:
                secured.do_handshake()
                return secured
            except TimeoutError:
                patience.check()
                if time.monotonic() >= deadline:
                    raise TlsFailed(f"no TLS handshake within {patience.timeout_seconds:g} s") from None
    except OSError as error:
        secured.close()
        raise _lost(error) from None
    except BaseException:
        secured.close()
        raise


def _lost(error: OSError) -> LineLost:
    if isinstance(error, ssl.SSLError):
        return TlsFailed(describe_tls_error(error))
    return LineLost(f"the connection was lost ({error.strerror or type(error).__name__})")
