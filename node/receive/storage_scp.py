"""The Storage SCP of the node: builds listener, intake and committer from the settings."""

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from node.logs import describe_error, get_logger
from node.receive.admission import AdmissionRules, AllowedPeer, RequiredUser
from node.receive.association import Limits
from node.receive.committer import Committer
from node.receive.intake import Intake, ReportTaker, RequestTaker, refuse_report, refuse_request
from node.receive.listener import Door, Listener
from node.receive.register import make_register
from node.receive.tls import ServerTls
from node.receive.witness import NoWitness, Witness
from node.settings import DimseSettings, Peer, Settings
from node.store.files import FileStore

_MEGABYTE = 1_000_000


class StorageScp:
    """Receives objects by C-STORE and answers C-ECHO; success means that file and row are durable.

    Parameters
    ----------
    settings : Settings
        `[dimse]`, `[settle]` and `node.ae_title` are used.
    engine : Engine
        An open database at the newest schema.
    files : FileStore
        Where objects are kept. Its session for temporary files is opened by `start` and closed by `stop`.
    notify : callable
        Called when something was stored or released: whoever settles studies has something to do.
    take_report : callable
        Takes storage commitment reports of archives that results were sent to.
    take_request : callable
        Takes storage commitment requests of those who sent to us.
    witness : Witness, optional
        The audit trail.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        files: FileStore,
        notify: Callable[[], object],
        *,
        take_report: ReportTaker = refuse_report,
        take_request: RequestTaker = refuse_request,
        witness: Witness | None = None,
    ) -> None:
        dimse = settings.dimse
        self._files = files
        self._stop_seconds = dimse.stop_seconds
        self._writes_past_cache = dimse.writes_past_cache
        self._log = get_logger("receive")
        self._committer = committer = make_committer(settings, engine, files, notify)
        self._register = make_register(dimse.processes, settings.wake_folder / "associations")
        self._listener = Listener(
            _doors(dimse),
            share_port=dimse.processes > 1,
            rules=AdmissionRules(
                ae_title=settings.node.ae_title,
                require_called_ae_title=dimse.require_called_ae_title,
                allowed_calling_ae_titles=frozenset(dimse.allowed_calling_ae_titles),
                maximum_associations=dimse.maximum_associations,
                maximum_associations_per_peer=dimse.maximum_associations_per_peer,
                peers=tuple(_allowed_peer(peer) for peer in dimse.peers),
            ),
            limits=Limits(
                maximum_pdu_bytes=dimse.maximum_pdu_bytes,
                maximum_object_bytes=dimse.maximum_object_mb * _MEGABYTE,
                network_timeout_seconds=dimse.network_timeout_seconds,
                acse_timeout_seconds=dimse.acse_timeout_seconds,
                minimum_bytes_per_second=dimse.minimum_bytes_per_second,
            ),
            intake=Intake(
                files,
                committer,
                free_disk_bytes=dimse.free_disk_mb * _MEGABYTE,
                take_report=take_report,
                take_request=take_request,
            ),
            on_release=lambda uids: committer.release(uids, settings.settle.released_quiet_seconds),
            register=self._register,
            witness=witness or NoWitness(),
        )

    @property
    def bound_port(self) -> int:
        """The TCP port that is listened on, also when the system chose it."""
        return self._listener.bound_ports[0]

    @property
    def bound_tls_port(self) -> int | None:
        """The TCP port for TLS; None without one."""
        return self._listener.bound_ports[1] if len(self._listener.bound_ports) > 1 else None

    def start(self) -> None:
        """Sweep what a crash left behind and listen. Raises `OSError` when the port is taken."""
        swept = self._files.open_session(past_cache=self._writes_past_cache)
        try:
            self._register.open()
            self._listener.start()
        except OSError:
            self._register.close()
            self._files.close_session()
            raise
        if swept:
            self._log.info("temporary_files_swept", files=swept)

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, let open associations finish for `timeout` seconds (default
        `dimse.stop_seconds`), abort the rest. Returns within about two seconds after that."""
        self._listener.stop(self._stop_seconds if timeout is None else timeout)
        self._register.close()
        self._committer.close()
        with contextlib.suppress(OSError):
            self._files.close_session()
        self._log.info("stopped_listening")


def make_committer(settings: Settings, engine: Engine, files: FileStore, notify: Callable[[], object]) -> Committer:
    """What makes objects durable as `[dimse]` says, whichever way they come in."""
    return Committer(
        engine, files, notify, durability=settings.dimse.durability, quiet_seconds=settings.settle.quiet_seconds
    )


def _allowed_peer(peer: Peer) -> AllowedPeer:
    file = peer.password_file

    def read_password() -> str:
        """Read each time, so that it can be renewed without a restart; empty, which nobody has, when it cannot be."""
        try:
            return file.read_text(encoding="utf-8").strip() if file else ""
        except (OSError, UnicodeDecodeError) as error:
            get_logger("receive").error("password_unusable", ae_title=peer.ae_title, reason=describe_error(error))
            return ""

    user = RequiredUser(peer.user, read_password if file else None) if peer.user else None
    return AllowedPeer(peer.ae_title, peer.addresses, frozenset(peer.certificates), user)


def _doors(dimse: DimseSettings) -> list[Door]:
    """The plain port and, if configured, the one for TLS. Raises `TlsError` when its files cannot be used."""
    doors = [Door(dimse.host, dimse.port)]
    if dimse.tls_certificate:
        authorities = Path(dimse.tls_client_authorities) if dimse.tls_client_authorities else None
        minimum = ssl.TLSVersion.TLSv1_3 if dimse.tls_minimum_version == "1.3" else ssl.TLSVersion.TLSv1_2
        tls = ServerTls(Path(dimse.tls_certificate), Path(dimse.tls_key), authorities, minimum)
        doors.append(Door(dimse.host, dimse.tls_port, tls))
    return doors
