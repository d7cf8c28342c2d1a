"""Intake of one object: fragments become a temporary file and a digest, then a header, then a commit.

Memory stays bounded whatever the size: fragments are views of the connection's buffer, and are copied to the file, of
which at most `node.store.temporary.STAGE_BYTES` are in memory, when it fills.
"""

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from node.errors import Refused
from node.receive.admission import NOT_UNDERSTOOD, OUT_OF_RESOURCES, UNRECOGNIZED_OPERATION, check_header, is_uid
from node.receive.beginnings import Beginnings
from node.receive.command import Command, CommandField
from node.receive.committer import Committer
from node.receive.header import HeaderError, InstanceHeader, read_data_set
from node.receive.part10 import write_file_meta
from node.store.catalogue import Quarantined, ReceivedInstance
from node.store.files import FileStore
from node.store.patients import PatientKeys
from node.store.tables.columns import EncodedJson
from node.store.temporary import TemporaryFile

_LONGEST_REPORT_BYTES = 1 << 24
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Sender:
    """Who sends, and whom they called."""

    calling_ae_title: str
    called_ae_title: str


ReportTaker = Callable[[bytes, str], int]
"""Takes the event information of a storage commitment report in a transfer syntax; the status to answer."""


def refuse_report(content: bytes, transfer_syntax_uid: str) -> int:
    """Of a receiver that nobody's reports are for: no such event type (PS3.7 C.5.10)."""
    return 0x0113


class FollowUp(Protocol):
    """A report that is owed on the association of its request."""

    def make(self, transfer_syntax_uid: str) -> tuple[int, bytes]:
        """Event type and encoded event information."""
        ...

    def answered(self, status: int) -> None:
        """The response to the report came."""
        ...


RequestTaker = Callable[[bytes, str, Command, str], FollowUp | None]
"""Takes the action information of a storage commitment request in a transfer syntax, its command and who sent it.
Raises `Refused`."""


def refuse_request(
    content: bytes, transfer_syntax_uid: str, command: Command, calling_ae_title: str
) -> FollowUp | None:
    """Of a receiver that commits to nothing."""
    raise Refused(UNRECOGNIZED_OPERATION, "no-storage-commitment", "storage commitment is not served here")


class Intake:
    """Receives objects of any number of associations.

    Parameters
    ----------
    files, committer
        Where objects go.
    free_disk_bytes : int
        Below this much room objects are refused with 0xA700.
    """

    def __init__(
        self,
        files: FileStore,
        committer: Committer,
        *,
        free_disk_bytes: int,
        take_report: ReportTaker = refuse_report,
        take_request: RequestTaker = refuse_request,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.files = files
        self.committer = committer
        self._free_disk_bytes = free_disk_bytes
        self.take_report = take_report
        self.take_request = take_request
        self.patients = PatientKeys(files.data_dir)
        self.now = now

    def begin(
        self, command: Command, transfer_syntax_uid: str, sender: Sender, beginnings: Beginnings
    ) -> "IncomingObject | IncomingReport":
        """A data set is about to arrive, after others whose `beginnings` were read."""
        if command.field == CommandField.N_EVENT_REPORT_RQ:
            return IncomingReport(command, transfer_syntax_uid, self.take_report)
        if command.field == CommandField.N_ACTION_RQ:
            return IncomingRequest(command, transfer_syntax_uid, self.take_request, sender)
        return self.begin_object(command, transfer_syntax_uid, sender, beginnings=beginnings)

    def begin_object(
        self,
        command: Command,
        transfer_syntax_uid: str,
        sender: Sender,
        study_instance_uid: str = "",
        beginnings: Beginnings | None = None,
    ) -> "IncomingObject":
        """An object is about to arrive, of this study if one is given. Problems with room are kept until it is
        complete: its data must be read anyway."""
        incoming = IncomingObject(
            self, command, transfer_syntax_uid, sender, study_instance_uid, beginnings or Beginnings()
        )
        try:
            has_room = self.files.free_bytes() >= self._free_disk_bytes
        except OSError as error:
            incoming.refuse(Refused(OUT_OF_RESOURCES, "disk-failed", f"data_dir is not there ({error.strerror})"))
        else:
            if not has_room:
                incoming.refuse(
                    Refused(OUT_OF_RESOURCES, "disk-full", "there is less room in data_dir than dimse.free_disk_mb")
                )
        return incoming


class IncomingReport:
    """An N-EVENT-REPORT while its event information arrives; used like `IncomingObject`."""

    def __init__(self, command: Command, transfer_syntax_uid: str, take_report: ReportTaker) -> None:
        self.command = command
        self.size_bytes = 0
        self._transfer_syntax_uid = transfer_syntax_uid
        self._take_report = take_report
        self._refusal: Refused | None = None
        self._content = bytearray()

    def refuse(self, refusal: Refused) -> None:
        """Answer this when the report is complete."""
        self._refusal = self._refusal or refusal
        self._content.clear()

    def add(self, fragment: memoryview) -> None:
        """Take a fragment."""
        self.size_bytes += len(fragment)
        if self.size_bytes > _LONGEST_REPORT_BYTES:
            self.refuse(Refused(OUT_OF_RESOURCES, "report-too-long", f"over {_LONGEST_REPORT_BYTES} bytes"))
        if self._refusal is None:
            self._content += fragment

    def flush(self) -> None:
        """Nothing to do: `add` copies."""

    def complete(self) -> None:
        """Hand the report over. Raises `Refused` with the status to answer."""
        if self._refusal is not None:
            raise self._refusal
        status = self._take_report(bytes(self._content), self._transfer_syntax_uid)
        if status:
            raise Refused(status, "report-not-taken", "the storage commitment report could not be used")

    def discard(self) -> None:
        """Forget the report."""
        self._content.clear()


class IncomingRequest(IncomingReport):
    """An N-ACTION while its action information arrives; `follow_up` is what is owed after its response, if anything."""

    def __init__(self, command: Command, transfer_syntax_uid: str, take_request: RequestTaker, sender: Sender) -> None:
        super().__init__(command, transfer_syntax_uid, self._take)
        self.follow_up: FollowUp | None = None
        self._take_request = take_request
        self._calling_ae_title = sender.calling_ae_title

    def _take(self, content: bytes, transfer_syntax_uid: str) -> int:
        self.follow_up = self._take_request(content, transfer_syntax_uid, self.command, self._calling_ae_title)
        return 0


class IncomingObject:
    """One C-STORE request while its data set arrives. Use: `add` and `flush` repeatedly, then `complete` or
    `discard`."""

    def __init__(
        self,
        intake: Intake,
        command: Command,
        transfer_syntax_uid: str,
        sender: Sender,
        study_instance_uid: str,
        beginnings: Beginnings,
    ) -> None:
        self.command = command
        self.size_bytes = 0
        self.study_instance_uid = ""
        self.series_instance_uid = ""
        self._intake = intake
        self._transfer_syntax_uid = transfer_syntax_uid
        self._sender = sender
        self._beginnings = beginnings
        self._study_instance_uid = study_instance_uid
        self._refusal: Refused | None = None
        self._file: TemporaryFile | None = None
        self._is_prepared = False
        self._failed_before = intake.files.file_system.failed_syncs
        self._file_meta = write_file_meta(
            command.affected_sop_class_uid,
            command.affected_sop_instance_uid,
            transfer_syntax_uid,
            sender.calling_ae_title,
        )
        self._fragments: list[memoryview] = []  # added and not written yet
        self._data_set_offset = 0  # in the file, from where the offsets of the header count
        self._header: InstanceHeader | None = None  # once it was found in the first fragment

    def refuse(self, refusal: Refused) -> None:
        """Answer this when the object is complete, and keep nothing of it."""
        self._refusal = self._refusal or refusal
        self.discard()

    def add(self, fragment: memoryview) -> None:
        """Take a fragment; the view must hold until `flush` or `complete`."""
        self.size_bytes += len(fragment)
        if self._refusal is None:
            self._fragments.append(fragment)

    def flush(self) -> None:
        """Copy what was added, so that its views may become void. A failing disk is answered at the end."""
        if self._refusal is not None:
            return
        fragments, self._fragments = self._fragments, []
        try:
            file = self._file or self._begin_file(fragments)
            for fragment in fragments:
                file.write(fragment)
        except OSError as error:
            self.refuse(Refused(OUT_OF_RESOURCES, "disk-failed", f"writing failed ({error.strerror})"))

    def prepare(self) -> None:
        """All has come: write what is left, and read the header. What is wrong is told by `complete`."""
        self.flush()
        if self._refusal is not None or self._is_prepared:
            return
        if self._file is None:
            raise RuntimeError("flush() leaves a file or a refusal")
        refusal = None
        try:
            if self._intake.committer.is_idle:
                self._file.begin()
            try:
                self._header = self._read_header(self._file)
            except Refused as found:
                refusal = found
            self._file.finish()
            self._file.close()
        except OSError as error:
            self.refuse(Refused(OUT_OF_RESOURCES, "disk-failed", f"storing failed ({error.strerror})"))
            return
        self._is_prepared = True
        if refusal is not None:
            self._set_aside(self._file, refusal)

    def complete(self) -> None:
        """The data set is complete: make it durable. Raises `Refused` with the status to answer."""
        try:
            self._complete()
        except OSError as error:
            self.discard()
            raise Refused(OUT_OF_RESOURCES, "disk-failed", f"storing failed ({error.strerror})") from None

    def _complete(self) -> None:
        with self._intake.committer.expect() as expected:
            self.prepare()
            if self._refusal is not None:
                raise self._refusal
            file, header = self._file, self._header
            if file is None or header is None:
                raise RuntimeError("prepare() leaves a file and a header, or a refusal")
            instance = self._instance(header, file.digest.hexdigest())
            self._file = None  # the committer uses it up
            self._intake.committer.commit(instance, file.path, self._failed_before, expected)
        self.study_instance_uid = header.study_instance_uid
        self.series_instance_uid = header.series_instance_uid

    def discard(self) -> None:
        """Forget the object and its file; what still comes of it is passed over, and never stored as the whole."""
        self._refusal = self._refusal or Refused(OUT_OF_RESOURCES, "discarded", "the object was given up")
        self._fragments = []
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def _begin_file(self, fragments: Sequence[memoryview]) -> TemporaryFile:
        if fragments:
            self._header = self._beginnings.read(fragments[0], self._transfer_syntax_uid)
        file = self._file = self._intake.files.new_temporary(self._file_meta)
        if self._header is None:
            file.keep_in_cache()  # the whole is read for its header
        return file

    def _read_header(self, file: TemporaryFile) -> InstanceHeader:
        header, self._data_set_offset = self._header, len(self._file_meta)
        if header is None or (header.pixel_offset or 0) + (header.pixel_length or 0) > self.size_bytes:
            header, self._data_set_offset = self._read_whole(file), 0
        check_header(self.command, header, self._study_instance_uid)
        return header

    def _read_whole(self, file: TemporaryFile) -> InstanceHeader:
        try:
            if file.is_in_memory:
                return read_data_set(file.content, self._transfer_syntax_uid, len(self._file_meta))
            file.finish()
            _read_back(file.descriptor)
            with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as mapped:
                return read_data_set(mapped, self._transfer_syntax_uid, len(self._file_meta))
        except HeaderError as error:
            raise Refused(NOT_UNDERSTOOD, error.code, str(error)) from None

    def _instance(self, header: InstanceHeader, digest: str) -> ReceivedInstance:
        return ReceivedInstance(
            sop_instance_uid=header.sop_instance_uid,
            sop_class_uid=header.sop_class_uid,
            series_instance_uid=header.series_instance_uid,
            study_instance_uid=header.study_instance_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            path="",
            size_bytes=len(self._file_meta) + self.size_bytes,
            digest=digest,
            received_at=self._intake.now(),
            calling_ae_title=self._sender.calling_ae_title,
            called_ae_title=self._sender.called_ae_title,
            series_header=header.series_header,
            geometry=None if header.geometry is None else EncodedJson(header.geometry),
            pixel_offset=None if header.pixel_offset is None else self._data_set_offset + header.pixel_offset,
            pixel_length=header.pixel_length,
            patient_key=self._intake.patients.key_of(header.patient_id, header.issuer_of_patient_id),
            study_date_time=header.study_date_time or None,
        )

    def _set_aside(self, file: TemporaryFile, refusal: Refused) -> None:
        self._refusal, self._file = refusal, None
        announced = self.command.affected_sop_instance_uid
        uid = announced if is_uid(announced) else ""
        self._intake.committer.set_aside(
            file.path,
            Quarantined(
                at=self._intake.now(),
                code=refusal.code,
                message=str(refusal),
                sop_instance_uid=uid or None,
                calling_ae_title=self._sender.calling_ae_title,
            ),
            uid or "no-uid",
        )


def _read_back(descriptor: int) -> None:
    """Read a file once. Raises `OSError` where the disk does not give it back: a mapping would end the process."""
    at = 0
    while count := len(os.pread(descriptor, _READ_BYTES, at)):
        at += count
