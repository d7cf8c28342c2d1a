"""The listening socket: accepts, limits, hands each connection to a thread of its own, and stops in bounded
time.

Connections that have not asked for an association yet are not counted against the associations: when too many
wait, the oldest is closed to make room, so that a crowd of silent clients cannot keep a good one out. No name
is ever looked up.
"""

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.logs import describe_error, get_logger
from node.receive.admission import AdmissionRules, Admitted, Occupancy, PeerIdentity, Rejected, admit
from node.receive.association import Association, Limits
from node.receive.intake import Intake
from node.receive.pdu import AssociateRequest
from node.receive.register import Register
from node.receive.tls import ServerTls, certificate_digest
from node.receive.witness import Witness

_BACKLOG = 128
_MAXIMUM_WAITING = 128


@dataclass(frozen=True)
class Door:
    """An address to listen on, with TLS or without. Port 0 lets the system choose."""

    host: str
    port: int
    tls: ServerTls | None = None


@dataclass(eq=False)
class _Connection:
    """An open connection: its socket, the peer's address, whether it was admitted as an association, whether that
    has ended, or whether it was closed to make room."""

    socket: socket.socket
    peer: str
    thread: threading.Thread | None = None
    is_association: bool = False
    has_ended: bool = False
    is_given_up: bool = False


class Listener:
    """Listens on one or more doors.

    Parameters
    ----------
    doors
        Where to listen.
    share_port : bool
        Let other processes listen on the same port (SO_REUSEPORT).
    rules, limits, intake
        Who may associate, what an association may do, where objects go.
    on_release : callable
        Told which series an association had sent once it was released.
    register : Register
        Knows the associations of other listener processes of this node.
    witness : Witness
        Told of every association what it stored, and of every peer why it was turned away.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        share_port: bool,
        rules: AdmissionRules,
        limits: Limits,
        intake: Intake,
        on_release: Callable[[list[str]], None],
        register: Register,
        witness: Witness,
    ) -> None:
        self._register = register
        self._witness = witness
        self._doors = doors
        self._share_port = share_port
        self._rules = rules
        self._limits = limits
        self._intake = intake
        self._on_release = on_release
        self._lock = threading.Lock()
        self._connections: dict[int, _Connection] = {}  # by a serial number, oldest first
        self._serial = 0
        self._stopping_at: float | None = None
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._log = get_logger("receive")

    @property
    def bound_ports(self) -> list[int]:
        """The TCP port of each door, also where the system chose it."""
        return [int(listening.getsockname()[1]) for listening in self._sockets]

    def start(self) -> None:
        """Listen and accept. Raises `OSError` when an address is taken or not ours."""
        try:
            for door in self._doors:
                self._sockets.append(self._listen(door))
        except OSError:
            self._close_all()
            raise
        for door, listening in zip(self._doors, self._sockets, strict=True):
            thread = threading.Thread(
                target=self._accept_all, args=(door, listening), name="receive-accept", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout: float) -> None:
        """Stop accepting, let open associations finish for `timeout` seconds, then abort them."""
        deadline = time.monotonic() + timeout
        self._stopping_at = deadline
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for thread in self._threads:
            thread.join(timeout=2)
        for connection in self._open():
            if connection.thread is not None:
                connection.thread.join(timeout=max(0.0, deadline + 1.0 - time.monotonic()))
        for connection in self._open():  # whoever is stuck in a system call: cut the line
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for connection in self._open():
            if connection.thread is not None:
                connection.thread.join(timeout=1)
        self._close_all()

    def _listen(self, door: Door) -> socket.socket:
        listening = socket.socket(socket.AF_INET6 if ":" in door.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._share_port and hasattr(socket, "SO_REUSEPORT"):
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((door.host, door.port))
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening

    def _close_all(self) -> None:
        for listening in self._sockets:
            listening.close()

    def _open(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections.values())

    def _accept_all(self, door: Door, listening: socket.socket) -> None:
        while self._stopping_at is None:
            try:
                accepted, address = listening.accept()
            except OSError as error:
                if self._stopping_at is not None:
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log.error("accept_failed", reason=describe_error(error), errno=error.errno)
                    time.sleep(0.1)  # until something is closed; accepting at once would only spin
                continue
            peer = str(address[0]).removeprefix("::ffff:")  # IPv4 on a socket for both
            if self._rules.may_connect(peer):
                self._take_connection(accepted, peer, door)
            else:
                reason = "no entry of dimse.peers has this address"
                self._log.warning("connection_refused", peer=peer, reason=reason)
                accepted.close()
                self._witness.turned_away("", peer, reason)

    def _take_connection(self, accepted: socket.socket, peer: str, door: Door) -> None:
        connection = _Connection(accepted, peer)
        with self._lock:
            self._serial += 1
            serial = self._serial
            self._connections[serial] = connection
        self._give_up_oldest()
        connection.thread = threading.Thread(
            target=self._serve, args=(serial, connection, door), name=f"association-{serial}", daemon=True
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

    def _serve(self, serial: int, connection: _Connection, door: Door) -> None:
        try:
            if door.tls is None or self._secure(connection, door.tls):
                Association(
                    connection.socket,
                    connection.peer,
                    self._limits,
                    self._intake,
                    admit=lambda request: self._admit(request, connection),
                    leave=lambda: self._leave(connection),
                    on_release=self._on_release,
                    stopping_at=lambda: self._stopping_at,
                    witness=self._witness,
                ).run()
        finally:
            with self._lock:
                self._connections.pop(serial, None)

    def _secure(self, connection: _Connection, tls: ServerTls) -> bool:
        """Do the TLS handshake, in the thread of the connection: a slow one keeps nobody else waiting."""
        try:
            connection.socket = tls.secure(connection.socket, self._limits.acse_timeout_seconds)
        except OSError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            self._log.warning("tls_failed", peer=connection.peer, reason=str(reason))
            connection.socket.close()
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):  # no mere probe of the port
                self._witness.turned_away("", connection.peer, f"TLS failed: {reason}")
            return False
        return True

    def _admit(self, request: AssociateRequest, connection: _Connection) -> Admitted | Rejected:
        identity = PeerIdentity(connection.peer, certificate_digest(connection.socket))
        with self._lock, self._register.counted() as associations:
            associations.update(self._peers())
            occupancy = Occupancy(associations.total(), associations[connection.peer])
            answer = admit(request, self._rules, occupancy, identity)
            connection.is_association = isinstance(answer, Admitted)
            self._register.write(self._peers())
        return answer

    def _leave(self, connection: _Connection) -> None:
        """Give the place of an association back; nothing for a connection that never was one."""
        with self._lock:
            connection.has_ended = True
            if not connection.is_association:
                return
            try:
                self._register.update(self._peers())
            except OSError as error:
                self._log.error("register_failed", reason=describe_error(error))

    def _peers(self) -> list[str]:
        """Addresses of the associations that are open here."""
        return [
            connection.peer
            for connection in self._connections.values()
            if connection.is_association and not connection.has_ended
        ]
