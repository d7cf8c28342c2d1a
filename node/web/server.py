"""The HTTP server of the node: builds app, intake and connections from the settings."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine
from starlette.routing import Route
from uvicorn import Config

from node.logs import get_logger
from node.receive.intake import Intake
from node.receive.storage_scp import make_committer
from node.receive.tls import ServerTls
from node.receive.witness import NoWitness, Witness
from node.settings import Settings
from node.store.files import FileStore
from node.web.access import Access
from node.web.app import make_app
from node.web.connections import WatchedProtocol, WatchedServer
from node.web.stow import Limits, StowService
from node.web_settings import WebSettings

_MEGABYTE = 1_000_000
_WRITERS = 32
_BACKLOG = 128


class Guest(Protocol):
    """What another room serves on the same port, through the same reception."""

    def routes(self) -> Sequence[Route]: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class WebServer:
    """Receives objects by STOW-RS; success means that files and rows are durable.

    Parameters
    ----------
    settings : Settings
        `[web]`, and of `[dimse]` what says how objects are stored.
    engine : Engine
        An open database at the newest schema.
    files : FileStore
        Where objects are kept. Its session for temporary files is opened by `start` and closed by `stop`.
    notify : callable
        Called when something was stored: whoever settles studies has something to do.
    witness : Witness, optional
        The audit trail.
    further : sequence of Route
        Pages of other rooms.
    invite : callable, optional
        Makes a guest of what takes objects.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        files: FileStore,
        notify: Callable[[], object],
        *,
        witness: Witness | None = None,
        further: Sequence[Route] = (),
        invite: Callable[[StowService], Guest] | None = None,
    ) -> None:
        web = settings.web
        self._settings = web
        self._files = files
        self._writes_past_cache = settings.dimse.writes_past_cache
        self._log = get_logger("web")
        self._readers = ThreadPoolExecutor(web.maximum_uploads + 4, thread_name_prefix="stow-read")
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="stow-write")
        self._committer = committer = make_committer(settings, engine, files, notify)
        free_disk_bytes = settings.dimse.free_disk_mb * _MEGABYTE
        service = StowService(
            Intake(files, committer, free_disk_bytes=free_disk_bytes),
            Limits(
                maximum_object_bytes=web.maximum_object_mb * _MEGABYTE,
                maximum_parts=web.maximum_parts,
                maximum_uploads=web.maximum_uploads,
                body_timeout_seconds=web.body_timeout_seconds,
                minimum_bytes_per_second=web.minimum_bytes_per_second,
            ),
            Access(web.clients, web.allow_anonymous),
            ae_title=settings.node.ae_title,
            free_disk_bytes=free_disk_bytes,
            readers=self._readers,
            writers=self._writers,
            on_release=lambda uids: committer.release(uids, settings.settle.released_quiet_seconds),
            witness=witness or NoWitness(),
        )
        for name in ("uvicorn.error", "uvicorn.access"):  # its lines would quote requests; ours say what is needed
            logger = logging.getLogger(name)
            logger.handlers = [logging.NullHandler()]
            logger.propagate = False
        self._guest = invite(service) if invite else None
        config = Config(
            make_app(service, [*further, *(self._guest.routes() if self._guest else ())]),
            http=WatchedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=round(web.header_timeout_seconds) or 1,
            timeout_graceful_shutdown=web.stop_seconds,
        )
        self._server = WatchedServer(config, _tls(web), web.header_timeout_seconds, web.body_timeout_seconds)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def bound_port(self) -> int:
        """The TCP port that is listened on, also when the system chose it."""
        if self._socket is None:
            raise RuntimeError("start() comes before bound_port")
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Sweep what a crash left behind, listen and serve. Raises `OSError` when the port is taken."""
        self._socket = _listen(self._settings.host, self._settings.port)
        swept = self._files.open_session(past_cache=self._writes_past_cache)
        if swept:
            self._log.info("temporary_files_swept", files=swept)
        sockets = [self._socket]
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets)), name="web-server", daemon=True
        )
        self._thread.start()
        if self._guest is not None:
            self._guest.start()

    def stop(self) -> None:
        """Accept nobody any more, let requests finish for `web.stop_seconds`, end the rest."""
        self._server.should_exit = True
        if self._guest is not None:
            self._guest.stop()
        if self._thread is not None:
            self._thread.join(self._settings.stop_seconds + 3)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)
        self._committer.close()
        with contextlib.suppress(OSError):
            self._files.close_session()
        self._log.info("stopped_listening")


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _tls(web: WebSettings) -> ServerTls | None:
    """TLS as `[web]` says. Raises `TlsError` when its files cannot be used."""
    if not web.tls_certificate:
        return None
    authorities = Path(web.tls_client_authorities) if web.tls_client_authorities else None
    minimum = ssl.TLSVersion.TLSv1_3 if web.tls_minimum_version == "1.3" else ssl.TLSVersion.TLSv1_2
    return ServerTls(Path(web.tls_certificate), Path(web.tls_key), authorities, minimum)
