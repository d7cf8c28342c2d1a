"""One STOW-RS request: the bytes of its body in, durable objects and their outcomes out.

Each part is a DICOM file (PS3.10). Its beginning says what the command of a C-STORE would say; its data set goes the
same way as one that came by C-STORE, bit for bit. While an object becomes durable the next one is read already, so that
the objects of one request share syncs and commits.

Works in threads: `feed` and `finish` block on the disk.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from node.errors import OverreadError, Refused
from node.logs import describe_error
from node.receive.admission import (
    NOT_UNDERSTOOD,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    is_supported,
    is_uid,
)
from node.receive.command import Command, CommandField
from node.receive.header import read_identity
from node.receive.intake import IncomingObject, Intake, Sender
from node.receive.multipart import MultipartError, MultipartParser, PartBegins, PartData, PartEnds
from node.receive.walk import WalkError, read_file_meta
from node.store.catalogue import Quarantined
from node.store.temporary import TemporaryFile
from node.web.media import parse_media_type
from node.web.store_response import Outcome

LONGEST_FILE_META_BYTES = 65536
PROCESSING_FAILURE = 0x0110
_UNDER_WAY = 32  # objects of one request that become durable at once
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010


class RequestRefused(OverreadError):
    """The request as a whole cannot be served: HTTP status, code in kebab case, sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class FileMeta:
    """What a file is, and where its data set begins in it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


def read_beginning(beginning: bytes) -> FileMeta:
    """What a DICOM file that begins like this is. Many files of the world have been given other UIDs in their data set
    only: what that says counts, and File Meta Information where it says nothing.

    Raises
    ------
    Refused
        0xC000 when there is no File Meta Information or neither names an object.
    """
    if bytes(beginning[128:132]) != b"DICM":
        raise Refused(NOT_UNDERSTOOD, "not-dicom", "no DICOM file: the prefix DICM is missing after the preamble")
    try:
        values, offset = read_file_meta(beginning, 132)
    except WalkError as error:
        raise Refused(NOT_UNDERSTOOD, error.code, f"File Meta Information: {error}") from None
    sop_class_uid, sop_instance_uid, transfer_syntax_uid = (
        values.get(tag, b"").decode("ascii", "replace").strip("\0 ")
        for tag in (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX)
    )
    found = read_identity(memoryview(beginning)[offset:], transfer_syntax_uid)
    if all(map(is_uid, found)):
        sop_class_uid, sop_instance_uid = found
    if not (is_uid(sop_class_uid) and is_uid(sop_instance_uid) and is_uid(transfer_syntax_uid)):
        raise Refused(
            NOT_UNDERSTOOD,
            "missing-identifier",
            "SOP Class UID, SOP Instance UID or Transfer Syntax UID is missing or no UID",
        )
    return FileMeta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, offset)


class Reception:
    """Takes the body of one request. Use: `feed` repeatedly, then `finish`; or `abandon`.

    Parameters
    ----------
    intake, sender
        Where objects go, and who sends them.
    parser : MultipartParser
        For the boundary of this request.
    executor : Executor
        Makes objects durable, several at once.
    maximum_object_bytes : int
        Longest part.
    study_instance_uid : str
        The study that all objects must be of; empty for any.
    log
        Bound to the request.
    """

    def __init__(
        self,
        intake: Intake,
        sender: Sender,
        parser: MultipartParser,
        executor: Executor,
        *,
        maximum_object_bytes: int,
        study_instance_uid: str,
        log: Any,
    ) -> None:
        self._intake = intake
        self._sender = sender
        self._parser = parser
        self._executor = executor
        self._maximum_object_bytes = maximum_object_bytes
        self._study_instance_uid = study_instance_uid
        self._log = log
        self._part: _Part | None = None
        self._futures: list[Future[Outcome]] = []
        self._feeding = threading.Lock()

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the body; waits while too many objects are on their way.

        Raises
        ------
        RequestRefused
            The body is malformed (400), a part is no `application/dicom` (415), there are too many parts or too long
            a one (413). Objects that were complete before stay stored.
        """
        with self._feeding:
            try:
                for event in self._parser.feed(chunk):
                    match event:
                        case PartBegins(headers):
                            self._begin(headers)
                        case PartData(data):
                            self._add(data)
                        case PartEnds():
                            self._end()
            except MultipartError as error:
                raise _refused(error) from None
            if self._part is not None:
                self._part.flush()

    def finish(self) -> list[Outcome]:
        """The body is complete: wait until every object is durable or refused. Raises `RequestRefused`."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _refused(error) from None
        if not self._futures:
            raise RequestRefused(400, "no-objects", "the body has no parts: one for each DICOM file is expected")
        return [future.result() for future in self._futures]

    def abandon(self) -> list[Outcome]:
        """The request ends here: forget what is not complete, wait for the rest, which stays stored."""
        with self._feeding:  # a request that is ended by force leaves its thread at work
            if self._part is not None:
                self._part.discard()
                self._part = None
        return [future.result() for future in self._futures]

    def _begin(self, headers: Mapping[str, str]) -> None:
        number = len(self._futures) + 1
        content_type = parse_media_type(headers.get("content-type", "application/dicom"))
        if content_type is None or content_type.name != "application/dicom":
            raise RequestRefused(
                415, "part-media-type", f"part {number} is not application/dicom: send each object as one DICOM file"
            )
        if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit"):
            raise RequestRefused(
                415, "part-encoding", f"part {number} has a Content-Transfer-Encoding: only binary is taken"
            )
        self._part = _Part(self._intake, self._sender, self._study_instance_uid)

    def _add(self, data: memoryview) -> None:
        if self._part is None:
            raise RuntimeError("the parser gives data within a part only")
        if self._part.size_bytes + len(data) > self._maximum_object_bytes:
            raise RequestRefused(
                413, "object-too-large", f"part {len(self._futures) + 1} is longer than web.maximum_object_mb"
            )
        self._part.add(data)

    def _end(self) -> None:
        part, self._part = self._part, None
        if part is None:
            raise RuntimeError("the parser ends a part that began")
        part.prepare()  # what waits for its turn below holds no memory
        if len(self._futures) >= _UNDER_WAY:
            self._futures[-_UNDER_WAY].result()
        self._futures.append(self._executor.submit(self._complete, part))

    def _complete(self, part: "_Part") -> Outcome:
        try:
            return part.complete()
        except Refused as refusal:
            self._log.warning(
                "object_refused",
                status=f"{refusal.status:04X}",
                code=refusal.code,
                reason=str(refusal),
                sop_class_uid=part.sop_class_uid or "(no UID)",
                sop_instance_uid=part.sop_instance_uid or "(no UID)",
            )
            return Outcome(part.sop_class_uid, part.sop_instance_uid, status=refusal.status, code=refusal.code)
        except Exception as error:
            # A fault of ours must not cost the other objects of the request: the line says which class it was.
            self._log.error("object_failed", reason=describe_error(error), sop_instance_uid=part.sop_instance_uid)
            return Outcome(part.sop_class_uid, part.sop_instance_uid, status=PROCESSING_FAILURE, code="failed")
        finally:
            part.discard()  # nothing is left of one that is stored or set aside


class _Part:
    """One part while it arrives: first its File Meta Information, then an `IncomingObject`; or, where no object can be
    made of it, a file for quarantine."""

    def __init__(self, intake: Intake, sender: Sender, study_instance_uid: str) -> None:
        self.size_bytes = 0
        self.sop_class_uid = ""
        self.sop_instance_uid = ""
        self._intake = intake
        self._sender = sender
        self._study_instance_uid = study_instance_uid
        self._beginning = bytearray()
        self._target: IncomingObject | _Unreadable | None = None

    def add(self, data: memoryview) -> None:
        """Take a piece; the view must hold until `flush`."""
        self.size_bytes += len(data)
        if self._target is not None:
            self._target.add(data)
            return
        self._beginning += data
        if len(self._beginning) >= LONGEST_FILE_META_BYTES:
            self._choose_target()

    def flush(self) -> None:
        if self._target is not None:
            self._target.flush()

    def prepare(self) -> None:
        """All has come: what is long is on its way to the disk when this returns, and no longer in memory."""
        if self._target is not None:
            self._target.prepare()

    def complete(self) -> Outcome:
        """Make the object durable. Raises `Refused`."""
        if self._target is None:
            self._choose_target()
        target = self._target
        if isinstance(target, IncomingObject):
            target.complete()
            return Outcome(
                self.sop_class_uid,
                self.sop_instance_uid,
                target.series_instance_uid,
                self.size_bytes,
                study_instance_uid=target.study_instance_uid,
            )
        if target is None:
            raise RuntimeError("a part that is complete has a target")
        raise target.set_aside()

    def discard(self) -> None:
        if self._target is not None:
            self._target.discard()

    def _choose_target(self) -> None:
        beginning, self._beginning = bytes(self._beginning), bytearray()
        try:
            meta = read_beginning(beginning)
        except Refused as refusal:
            self._target = _Unreadable(self._intake, self._sender, refusal)
            self._target.add(memoryview(beginning))
            return
        self.sop_class_uid, self.sop_instance_uid = meta.sop_class_uid, meta.sop_instance_uid
        command = Command(CommandField.C_STORE_RQ, 0, meta.sop_class_uid, meta.sop_instance_uid, has_data_set=True)
        target = self._intake.begin_object(command, meta.transfer_syntax_uid, self._sender, self._study_instance_uid)
        if not is_supported(meta.sop_class_uid):
            target.refuse(
                Refused(
                    SOP_CLASS_NOT_SUPPORTED, "sop-class-not-supported", "no storage SOP class: it is not taken here"
                )
            )
        self._target = target
        target.add(memoryview(beginning)[meta.data_set_offset :])


class _Unreadable:
    """A part of which no object can be made: kept as it came, with the reason."""

    def __init__(self, intake: Intake, sender: Sender, refusal: Refused) -> None:
        self._intake = intake
        self._sender = sender
        self._refusal = refusal
        self._file: TemporaryFile | None = None
        try:
            self._file = intake.files.new_temporary()
        except OSError as error:
            self._fail(error)

    def add(self, data: memoryview) -> None:
        try:
            if self._file is not None:
                self._file.write(data)
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        """Nothing to do: `add` copies."""

    def prepare(self) -> None:
        try:
            if self._file is not None:
                self._file.finish()
                self._file.close()
        except OSError as error:
            self._fail(error)

    def set_aside(self) -> Refused:
        """Put the file into quarantine; what the part is refused with."""
        self.prepare()
        file, self._file = self._file, None
        if file is not None:
            item = Quarantined(
                at=self._intake.now(),
                code=self._refusal.code,
                message=str(self._refusal),
                calling_ae_title=self._sender.calling_ae_title,
            )
            self._intake.committer.set_aside(file.path, item, "no-uid")
        return self._refusal

    def discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def _fail(self, error: OSError) -> None:
        self.discard()
        self._refusal = Refused(OUT_OF_RESOURCES, "disk-failed", f"writing failed ({error.strerror})")


def _refused(error: MultipartError) -> RequestRefused:
    return RequestRefused(413 if error.code == "too-many-parts" else 400, error.code, str(error))
