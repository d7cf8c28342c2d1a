"""The connections of the HTTP server: accepted with TLS or without, and ended when they make no progress.

uvicorn's protocol waits for ever for the beginning of a request and for a client to take its answer. Here each
connection knows since when it has waited, a watch looks at all of them, and when too many wait the oldest is closed, so
that a crowd of silent clients cannot keep a good one out.
"""

import asyncio
import contextlib
import errno
import hashlib
import socket
import time
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from node.logs import describe_error, get_logger
from node.receive.tls import ServerTls

_MAXIMUM_WAITING = 128
_WATCH_SECONDS = 0.25


class WatchedProtocol(H11Protocol):
    """One HTTP/1.1 connection that says since when nothing has happened on it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.waiting_since: float | None = None
        self._unsent = 0
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the digest of the client's certificate where requests find it."""
        super().connection_made(transport)
        self.waiting_since = time.monotonic()
        tls = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, "certificate": hashlib.sha256(shown).hexdigest() if shown else ""}

    def handle_events(self) -> None:
        """A request has begun once its headers are there."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self.waiting_since = None

    def on_response_complete(self) -> None:
        """From here on the connection waits for the next request."""
        self.waiting_since = time.monotonic()
        super().on_response_complete()

    def is_stuck(self, now: float, header_seconds: float, answer_seconds: float) -> bool:
        """Whether the request has not begun, or the answer was not taken, for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > answer_seconds:
            return True
        return self.waiting_since is not None and now - self.waiting_since > header_seconds


class WatchedServer(Server):
    """uvicorn, with an accept loop of its own: certificates are read again when they change, and no handshake keeps
    another connection waiting.

    Parameters
    ----------
    config : uvicorn.Config
        With `WatchedProtocol`.
    tls : ServerTls or None
        None: without TLS.
    header_seconds, answer_seconds : float
        Time for handshake and beginning of a request, and for a client to take something of its answer.
    """

    def __init__(self, config: Config, tls: ServerTls | None, header_seconds: float, answer_seconds: float) -> None:
        super().__init__(config)
        self._tls = tls
        self._header_seconds = header_seconds
        self._answer_seconds = answer_seconds
        self._background: set[asyncio.Task[None]] = set()
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}  # oldest first
        self._log = get_logger("web")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept on the sockets given."""
        await self.lifespan.startup()
        self.servers = []
        for listening in sockets or ():
            listening.setblocking(False)
            self._run(self._accept(listening))
        self._run(self._watch())
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, let requests finish for a while, close everything."""
        for task in (*self._background, *self._handshakes):
            task.cancel()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _welcome(self, accepted: socket.socket, peer: str) -> None:
        """Begin with a connection; where too many are in their handshakes, the oldest of those ends."""
        task = asyncio.get_running_loop().create_task(self._begin(accepted, peer))
        self._handshakes[task] = accepted
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))
        if len(self._handshakes) > _MAXIMUM_WAITING:
            with contextlib.suppress(OSError):
                self._handshakes.pop(next(iter(self._handshakes))).shutdown(socket.SHUT_RDWR)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log.error("accept_failed", reason=describe_error(error), errno=error.errno)
                await asyncio.sleep(0.1)  # until something is closed; accepting at once would only spin
                continue
            self._welcome(accepted, str(address[0]))

    async def _begin(self, accepted: socket.socket, peer: str) -> None:
        """Do the handshake, if any, and hand the connection to its protocol."""
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self._tls.context() if self._tls is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._header_seconds if context is not None else None,
            )
        except OSError as error:  # of which ssl.SSLError and TimeoutError are some
            reason = getattr(error, "reason", None) or type(error).__name__
            self._log.warning("tls_failed", peer=peer.removeprefix("::ffff:"), reason=str(reason))
            accepted.close()
            return
        self._give_up_oldest()

    def _make_protocol(self) -> WatchedProtocol:
        return WatchedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )

    def _waiting(self) -> list[WatchedProtocol]:
        """Connections without a request, those that have waited longest first."""
        waiting = [
            connection
            for connection in self.server_state.connections
            if isinstance(connection, WatchedProtocol) and connection.waiting_since is not None
        ]
        return sorted(waiting, key=lambda connection: connection.waiting_since or 0.0)

    def _give_up_oldest(self) -> None:
        if len(self.server_state.connections) > _MAXIMUM_WAITING:
            waiting = self._waiting()
            for connection in waiting[: len(waiting) - _MAXIMUM_WAITING]:
                connection.transport.abort()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, WatchedProtocol) and connection.is_stuck(
                    now, self._header_seconds, self._answer_seconds
                ):
                    connection.transport.abort()
