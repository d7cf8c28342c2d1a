"""The trail to a syslog collector: RFC 5424 messages over TLS (RFC 5425, octet counting).

The files of the trail are the queue, and a small file beside them says how far the collector has it, so that nothing is
lost while the collector is away and nothing is kept twice. Syslog acknowledges nothing; therefore each batch is a TLS
session of its own that is ended in order: when the collector ends it as well, it has read everything. A batch that
breaks off is sent again; the sequence number of the trail in PROCID lets a collector see what it has already.
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.audit.trail import Line, files, read_line
from node.audit_settings import AuditSettings
from node.deliver.line import LineLost, Patience, connect
from node.deliver.tls import client_tls
from node.logs import describe_error, get_logger

_CURSOR = "forwarded.json"
_PRIORITY = 10 * 8 + 5
"""Facility 10 (security), severity 5 (notice): PS3.15 A.6."""
_MESSAGE_ID = "DICOM+RFC3881"
_BYTE_ORDER_MARK = "\ufeff"
_BATCH = 200
_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Cursor:
    """How far the collector has the trail: everything before this byte of this file, and all older files."""

    file: str = ""
    offset: int = 0


class Forwarder:
    """Runs beside the lanes of the outbox; `run` works until `stop`. Of several processes one forwards at a time."""

    def __init__(self, folder: Path, settings: AuditSettings, poll_seconds: float) -> None:
        self._folder = folder
        self._settings = settings
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._is_away = False

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            self._stopping.wait(self.step())

    def stop(self) -> None:
        """Send nothing more. Safe from any thread."""
        self._stopping.set()

    def step(self) -> float:
        """Send what the collector does not have; seconds until it is worth looking again."""
        try:
            sent = self._forward()
        except Exception as error:  # also one that nobody foresaw: results are sent all the same
            if not self._is_away:
                get_logger("audit").warning("audit_collector_is_away", error=describe_collector_error(error))
            self._is_away = True
            return self._settings.retry_seconds
        if sent and self._is_away:
            get_logger("audit").info("audit_collector_is_back")
            self._is_away = False
        return 0.0 if sent == _BATCH else self._poll_seconds

    def _forward(self) -> int:
        if not self._folder.is_dir():
            return 0
        with (self._folder / ".forward").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process forwards
                return 0
            pending = []
            reached = read_cursor(self._folder)
            for line, after in lines_after(self._folder, reached):
                reached = after
                if line is not None:
                    pending.append(line)
                if len(pending) == _BATCH:
                    break
            if pending:
                self._send(pending)
                self._keep(reached)
            return len(pending)

    def _send(self, pending: list[Line]) -> None:
        settings = self._settings
        tls = client_tls(settings.collector_tls, settings.collector_host, "audit collector")
        patience = Patience(_TIMEOUT_SECONDS, self._give_up_when_stopping)
        connection = connect(settings.collector_host, settings.collector_port, patience, tls)
        try:
            for line in pending:
                connection.send(frame(line, socket.gethostname()))
            connection.finish()
        finally:
            connection.close()

    def _give_up_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise LineLost("the node stops")

    def _keep(self, cursor: Cursor) -> None:
        partial = self._folder / f"{_CURSOR}.part"
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(vars(cursor)))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._folder / _CURSOR)


def read_cursor(folder: Path) -> Cursor:
    """How far the collector has the trail; the beginning where that is not known."""
    try:
        return Cursor(**json.loads((folder / _CURSOR).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Cursor()


def lines_after(folder: Path, cursor: Cursor) -> Iterator[tuple[Line | None, Cursor]]:
    """Whole lines after the cursor (None for damage), each with the cursor behind it."""
    for path in files(folder):
        if path.name < cursor.file:
            continue
        offset = cursor.offset if path.name == cursor.file else 0
        with path.open("rb") as file:
            file.seek(offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                offset += len(raw)
                yield read_line(raw.rstrip(b"\n")), Cursor(path.name, offset)


def frame(line: Line, host: str) -> bytes:
    """One syslog message (RFC 5424 6) with its length before it (RFC 5425 4.3)."""
    header = f"<{_PRIORITY}>1 {line.at} {host} {line.process} {line.number} {_MESSAGE_ID} - "
    message = f"{header}{_BYTE_ORDER_MARK}{line.message}".encode()
    return f"{len(message)} ".encode("ascii") + message


def describe_collector_error(error: Exception) -> str:
    """What the log says of a collector that cannot be reached."""
    if isinstance(error, LineLost):
        return f"{error}: messages stay in the trail until it is back"
    return describe_error(error)
