"""The listening socket: accepts, limits, hands each connection to a thread of its own, and stops in bounded
time.

Connections that have not asked for an association yet are not counted against the associations: when too many
wait, the oldest is closed to make room, so that a crowd of silent clients cannot keep a good one out. No name
is ever looked up.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from node.logs import describe_error, get_logger
from node.receive.admission import AdmissionRules, Admitted, Occupancy, Rejected, admit
from node.receive.association import Association, Limits
from node.receive.intake import Intake
from node.receive.pdu import AssociateRequest

_BACKLOG = 128
_MAXIMUM_WAITING = 128


@dataclass(eq=False)
class _Connection:
    """An open connection: its socket, the peer's address, whether it is an association by now, or
    was closed to make room."""

    socket: socket.socket
    peer: str
    thread: threading.Thread | None = None
    is_association: bool = False
    is_given_up: bool = False


class Listener:
    """Listens on one address.

    Parameters
    ----------
    host, port
        Where to listen; port 0 lets the system choose, see `bound_port`.
    share_port : bool
        Let other processes listen on the same port (SO_REUSEPORT).
    rules, limits, intake
        Who may associate, what an association may do, where objects go.
    on_release : callable
        Told which series an association had sent once it was released.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        share_port: bool,
        rules: AdmissionRules,
        limits: Limits,
        intake: Intake,
        on_release: Callable[[list[str]], None],
    ) -> None:
        self._address = (host, port)
        self._share_port = share_port
        self._rules = rules
        self._limits = limits
        self._intake = intake
        self._on_release = on_release
        self._lock = threading.Lock()
        self._connections: dict[int, _Connection] = {}  # by a serial number, oldest first
        self._serial = 0
        self._stopping_at: float | None = None
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._log = get_logger("receive")

    @property
    def bound_port(self) -> int:
        if self._socket is None:
            raise RuntimeError("start() comes before bound_port")
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen and accept. Raises `OSError` when the address is taken or not ours."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._share_port and hasattr(socket, "SO_REUSEPORT"):
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(self._address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        self._thread = threading.Thread(target=self._accept_all, name="receive-accept", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop accepting, let open associations finish for `timeout` seconds, then abort them."""
        if self._socket is None or self._thread is None:
            return
        deadline = time.monotonic() + timeout
        self._stopping_at = deadline
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(timeout=2)
        for connection in self._open():
            if connection.thread is not None:
                connection.thread.join(timeout=max(0.0, deadline + 1.0 - time.monotonic()))
        for connection in self._open():  # whoever is stuck in a system call: cut the line
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for connection in self._open():
            if connection.thread is not None:
                connection.thread.join(timeout=1)
        self._socket.close()

    def _open(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections.values())

    def _accept_all(self) -> None:
        assert self._socket is not None
        while self._stopping_at is None:
            try:
                accepted, address = self._socket.accept()
            except OSError as error:
                if self._stopping_at is not None:
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log.error("accept_failed", reason=describe_error(error), errno=error.errno)
                    time.sleep(0.1)  # until something is closed; accepting at once would only spin
                continue
            self._admit_connection(accepted, str(address[0]))

    def _admit_connection(self, accepted: socket.socket, peer: str) -> None:
        connection = _Connection(accepted, peer)
        with self._lock:
            self._serial += 1
            serial = self._serial
            self._connections[serial] = connection
        self._give_up_oldest()
        connection.thread = threading.Thread(
            target=self._serve, args=(serial, connection), name=f"association-{serial}", daemon=True
        )
        try:
            connection.thread.start()
        except RuntimeError:  # the system has no thread to spare
            with self._lock:
                del self._connections[serial]
            accepted.close()
            self._log.error("accept_failed", reason="no thread could be started", errno=errno.EAGAIN)

    def _give_up_oldest(self) -> None:
        """Close the connection that has waited longest where too many have not asked for an association."""
        with self._lock:
            waiting = [
                other for other in self._connections.values() if not other.is_association and not other.is_given_up
            ]
            if len(waiting) <= _MAXIMUM_WAITING:
                return
            waiting[0].is_given_up = True
        with contextlib.suppress(OSError):
            waiting[0].socket.shutdown(socket.SHUT_RDWR)

    def _serve(self, serial: int, connection: _Connection) -> None:
        try:
            Association(
                connection.socket,
                connection.peer,
                self._limits,
                self._intake,
                admit=lambda request: self._admit(request, connection),
                on_release=self._on_release,
                stopping_at=lambda: self._stopping_at,
            ).run()
        finally:
            with self._lock:
                self._connections.pop(serial, None)

    def _admit(self, request: AssociateRequest, connection: _Connection) -> Admitted | Rejected:
        with self._lock:
            others = [other for other in self._connections.values() if other.is_association]
            occupancy = Occupancy(len(others), sum(other.peer == connection.peer for other in others))
            answer = admit(request, self._rules, occupancy)
            connection.is_association = isinstance(answer, Admitted)
        return answer
