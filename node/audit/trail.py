"""The trail on disk: one line for each message, in files of a month that are only ever appended to.

A line is ``<sequence number> <SHA-256> <RFC 3339 time> <process> <message>``. The hash is over the hash of the line
before and the rest of this line, also from one file to the next, so that a line that is changed, taken out or put in
is found (`verify`). All processes of a node write to the same files, one at a time (``flock``); a line that a crash cut
off is ended by a newline and shows as damage, and the chain goes on from the last whole line.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from node.audit.events import STUDY, patient
from node.audit.message import AuditEvent, Source, encode_message
from node.logs import describe_error, get_logger

FIRST_HASH = "0" * 64
_LINE = re.compile(rb"^(\d{1,18}) ([0-9a-f]{64}) (\S+) (\S+) (<.*</AuditMessage>)$")
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line of the trail."""

    number: int
    digest: str
    at: str
    process: str
    message: str


@dataclass(frozen=True)
class Damage:
    """A line that is not as it was written, or does not follow the one before."""

    file: str
    line: int
    reason: str


class Trail:
    """Appends audit messages; safe for several processes and threads.

    Parameters
    ----------
    folder : Path
        Made when the first message comes.
    source : Source
        This node.
    process : str
        Name of the process (RFC 5424 APP-NAME), without blanks.
    sync : str
        ``message``: each is on disk before `record` returns. ``none``: the system writes it when it likes.
    find_patient : callable, optional
        The Patient ID of a study, if messages are to name it.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        process: str,
        *,
        sync: Literal["message", "none"] = "message",
        find_patient: Callable[[str], str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._source = source
        self._process = process
        self._sync = sync
        self._find_patient = find_patient
        self._now = now

    def record(self, event: AuditEvent) -> None:
        """Append one message. A disk that is full or away does not stop the node: the log says so."""
        try:
            self._append(self._with_patient(event), self._now())
        except Exception as error:
            get_logger("audit").error("audit_message_lost", what=event.event.meaning, error=describe_error(error))

    def _append(self, event: AuditEvent, at: datetime) -> None:
        message = encode_message(event, self._source, at)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            last = last_line(self._folder)
            number, before = (last.number + 1, last.digest) if last else (1, FIRST_HASH)
            rest = f"{at.astimezone(UTC).isoformat(timespec='milliseconds')} {self._process} {message}"
            line = f"{number} {link(before, number, rest)} {rest}\n".encode()
            newest = max([f"{at.astimezone(UTC):%Y-%m}.log", *(one.name for one in files(self._folder))])
            path = self._folder / newest
            with path.open("ab") as file:
                if file.tell() and not _ends_with_newline(path):
                    line = b"\n" + line
                file.write(line)
                file.flush()
                if self._sync == "message":
                    os.fdatasync(file.fileno())

    def _with_patient(self, event: AuditEvent) -> AuditEvent:
        if self._find_patient is None:
            return event
        studies = [one.identifier for one in event.objects if one.kind == STUDY]
        found = [patient(number) for uid in studies if (number := self._find_patient(uid))]
        return replace(event, objects=(*event.objects, *found))


class NoTrail:
    """The trail of a node that keeps none."""

    def record(self, event: AuditEvent) -> None:
        """Forget it."""


AnyTrail = Trail | NoTrail


def files(folder: Path) -> list[Path]:
    """The files of a trail, oldest first."""
    return sorted(folder.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9].log"))


def link(before: str, number: int, rest: str) -> str:
    """The hash of a line that follows one with the hash `before`."""
    return hashlib.sha256(f"{before} {number} {rest}".encode()).hexdigest()


def last_line(folder: Path) -> Line | None:
    """The last whole line."""
    for path in reversed(files(folder)):
        size = path.stat().st_size
        with path.open("rb") as file:
            reach = _TAIL_BYTES
            while True:
                file.seek(max(size - reach, 0))
                lines = file.read().split(b"\n")
                whole = lines if reach >= size else lines[1:]  # the first may be a part of a line
                found = [line for raw in whole if (line := read_line(raw)) is not None]
                if found:
                    return found[-1]
                if reach >= size:
                    break
                reach *= 4
    return None


def read_line(raw: bytes) -> Line | None:
    """A line of the trail; None for what is none."""
    found = _LINE.match(raw)
    if found is None:
        return None
    number, digest, at, process, message = found.groups()
    text = (part.decode("utf-8", "replace") for part in (digest, at, process, message))
    return Line(int(number), *text)


def lines(folder: Path) -> Iterator[tuple[Path, int, bytes]]:
    """Every line with its file and its number in it, oldest first."""
    for path in files(folder):
        with path.open("rb") as file:
            for position, raw in enumerate(file, start=1):
                yield path, position, raw.rstrip(b"\n")


def verify(folder: Path) -> tuple[int, list[Damage]]:
    """How many lines follow each other as they were written, and what does not.

    Where older files were taken away, the first line that is left is believed.
    """
    before, expected, intact = FIRST_HASH, 1, 0
    damages = []
    for path, position, raw in lines(folder):
        line = read_line(raw)
        if line is None:
            damages.append(Damage(path.name, position, "is no line of the trail (cut off, or written over)"))
            continue
        if intact == 0 and not damages and line.number > 1:
            before, expected, intact = line.digest, line.number + 1, 1
            continue
        rest = raw.split(b" ", 2)[2].decode("utf-8", "replace")
        if line.number != expected:
            damages.append(Damage(path.name, position, f"has number {line.number}, expected {expected}"))
        if line.digest != link(before, line.number, rest):
            damages.append(Damage(path.name, position, "was changed, or the line before it was"))
        else:
            intact += 1
        before, expected = line.digest, line.number + 1
    return intact, damages


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
