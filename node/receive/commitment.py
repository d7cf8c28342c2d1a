"""Storage commitment SCP (PS3.4 Annex J): do we still have what a sender asks for, and is it what came?

An N-ACTION is answered 0x0000 once the request is in the database, so that a restart before the report forgets
nothing. Committed is an object whose data set on disk has the SHA-256 that was taken at receipt; it was synced before
it was acknowledged, or is now. The report goes out on the association of the request (`FollowUp`) or on a new one
(`commitment_reporter`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from node.errors import Refused
from node.logs import describe_error, get_logger
from node.receive.admission import is_uid
from node.receive.command import Command
from node.store.catalogue import Quarantined, record_quarantine
from node.store.commitments import CommitmentRequest, HeldObject, held_objects, mark_reported, record_request
from node.store.database import read_transaction, write_transaction
from node.store.digests import matches
from node.store.files import FileStore

STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT = 1
"""Action Type ID, PS3.4 Table J.3-1."""

PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_ARGUMENT = 0x0114
CLASS_INSTANCE_CONFLICT = 0x0119
NO_SUCH_ACTION = 0x0123
NOT_AUTHORIZED = 0x0124

_SAME_ASSOCIATION_SECONDS = 60.0
"""A report that was not taken on the association of its request for this long goes to a new one."""

_ENCODINGS = {"1.2.840.10008.1.2": (True, True), "1.2.840.10008.1.2.2": (False, False)}  # implicit, little endian


@dataclass(frozen=True)
class Report:
    """An N-EVENT-REPORT (PS3.4 Table J.3-3): pairs of class and instance, and Failure Reason of those not committed."""

    transaction_uid: str
    committed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str, int], ...]

    @property
    def event_type(self) -> int:
        """1: all are committed to; 2: failures exist."""
        return 2 if self.failed else 1

    def encode(self, transfer_syntax_uid: str) -> bytes:
        """The event information in this transfer syntax."""
        information = Dataset()
        information.TransactionUID = self.transaction_uid
        if self.committed:
            information.ReferencedSOPSequence = [_reference(*pair) for pair in self.committed]
        if self.failed:
            items = []
            for sop_class_uid, sop_instance_uid, reason in self.failed:
                items.append(_reference(sop_class_uid, sop_instance_uid))
                items[-1].FailureReason = reason
            information.FailedSOPSequence = items
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = _ENCODINGS.get(transfer_syntax_uid, (False, True))
        write_dataset(buffer, information)
        return bytes(buffer.getvalue())


@dataclass(frozen=True)
class ReportWay:
    """How a requester wants its reports: on the association of the request, or on a new one."""

    same_association: bool


Requesters = Callable[[str], ReportWay | None]
"""How the requester of an AE title is told; None: nobody of this AE title may ask."""


class CommitmentScp:
    """Takes requests and makes reports.

    Parameters
    ----------
    engine, files
        Database and file store.
    requesters : callable
        Who may ask, and how they are told.
    wake : callable
        Tells the reporter that a report is due.
    sync : bool
        Sync each object before committing to it: needed where receiving does not.
    """

    def __init__(
        self,
        engine: Engine,
        files: FileStore,
        requesters: Requesters,
        wake: Callable[[], object],
        *,
        sync: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._files = files
        self._requesters = requesters
        self._wake = wake
        self._sync = sync
        self._now = now
        self._log = get_logger("commitment")

    def take(
        self, content: bytes, transfer_syntax_uid: str, command: Command, calling_ae_title: str
    ) -> "FollowUp | None":
        """Keep an N-ACTION request; what is to be reported on its association, if anything.

        Raises
        ------
        Refused
            With the status of the N-ACTION response (PS3.7 10.1.4.1.10).
        """
        if command.action_type != REQUEST_STORAGE_COMMITMENT:
            raise Refused(NO_SUCH_ACTION, "action-type", f"action type {command.action_type} is not served here")
        if command.affected_sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
            raise Refused(NO_SUCH_INSTANCE, "no-such-instance", "not the well-known instance of storage commitment")
        way = self._requesters(calling_ae_title)
        if way is None:
            raise Refused(
                NOT_AUTHORIZED,
                "requester-unknown",
                f"{calling_ae_title!r} is in no entry of commitment.requesters: add one with its host and port",
            )
        transaction_uid, objects = _read_request(content, transfer_syntax_uid)
        now = self._now()
        wait = timedelta(seconds=_SAME_ASSOCIATION_SECONDS if way.same_association else 0)
        try:
            with write_transaction(self._engine) as connection:
                request = record_request(connection, calling_ae_title, transaction_uid, objects, now, now + wait)
        except SQLAlchemyError as error:
            raise Refused(
                PROCESSING_FAILURE, "database-failed", f"the request could not be kept ({describe_error(error)})"
            ) from None
        if way.same_association:
            return FollowUp(self, request)
        self._wake()
        return None

    def make_report(self, request: CommitmentRequest, progress: Callable[[], None] = lambda: None) -> Report:
        """Look at every object, on disk; `progress` is called again and again meanwhile. Raises `SQLAlchemyError`."""
        failed_before = self._files.file_system.failed_syncs
        with read_transaction(self._engine) as connection:
            held = held_objects(connection, [uid for _, uid in request.objects])
        is_durable = self._make_durable() and self._files.file_system.failed_syncs == failed_before
        committed, failed = [], []
        for sop_class_uid, sop_instance_uid in request.objects:
            one = held.get(sop_instance_uid)
            reason = self._failure_reason(sop_class_uid, sop_instance_uid, one, progress)
            if not reason and not is_durable:
                reason = PROCESSING_FAILURE
            if reason:
                failed.append((sop_class_uid, sop_instance_uid, reason))
            else:
                committed.append((sop_class_uid, sop_instance_uid))
        return Report(request.transaction_uid, tuple(committed), tuple(failed))

    def reported(self, request: CommitmentRequest, report: Report, how: str) -> None:
        """The requester took the report."""
        with write_transaction(self._engine) as connection:
            mark_reported(connection, request.request_id, self._now())
        self._log.info(
            "commitment_reported",
            calling_ae_title=request.calling_ae_title,
            transaction=request.transaction_uid,
            committed=len(report.committed),
            failed=len(report.failed),
            how=how,
        )

    def _make_durable(self) -> bool:
        """A row can be seen a moment before it and its file are on disk."""
        if not self._files.file_system.can_sync:
            return True
        try:
            self._files.file_system.sync()
        except OSError as error:
            self._log.error("commitment_not_durable", reason=describe_error(error))
            return False
        return True

    def _failure_reason(
        self, sop_class_uid: str, sop_instance_uid: str, held: HeldObject | None, progress: Callable[[], None]
    ) -> int:
        """0 where the object is committed to (PS3.3 C.14.1.1)."""
        if held is None:
            return NO_SUCH_INSTANCE
        if held.sop_class_uid != sop_class_uid:
            return CLASS_INSTANCE_CONFLICT
        try:
            if self._sync and not self._files.file_system.can_sync:
                self._files.sync([held.path], each=True)
            is_intact = matches(self._files.absolute(held.path), held.digest, progress)
        except (OSError, ValueError) as error:
            self._report_damage(
                sop_instance_uid, f"the file of a stored object cannot be read ({describe_error(error)})"
            )
            return PROCESSING_FAILURE
        if not is_intact:
            self._report_damage(
                sop_instance_uid, "the file of a stored object is not what was received: its digest differs"
            )
            return PROCESSING_FAILURE
        return 0

    def _report_damage(self, sop_instance_uid: str, message: str) -> None:
        """Make a damaged file visible, in the log and in `overread status`; it stays where it is."""
        self._log.error("stored_object_damaged", sop_instance_uid=sop_instance_uid, reason=message)
        item = Quarantined(
            at=self._now(), code="stored-object-damaged", message=message, sop_instance_uid=sop_instance_uid
        )
        with write_transaction(self._engine) as connection:
            record_quarantine(connection, item)


class FollowUp:
    """The report that is owed on the association of its request. One that is not taken there is not forgotten: the
    reporter has it a minute later."""

    def __init__(self, scp: CommitmentScp, request: CommitmentRequest) -> None:
        self._scp = scp
        self._request = request
        self._report: Report | None = None

    def make(self, transfer_syntax_uid: str) -> tuple[int, bytes]:
        """Event type and event information of the report."""
        self._report = self._scp.make_report(self._request)
        return self._report.event_type, self._report.encode(transfer_syntax_uid)

    def answered(self, status: int) -> None:
        """The response to the report came."""
        if status == 0 and self._report is not None:
            self._scp.reported(self._request, self._report, "same-association")


def _read_request(content: bytes, transfer_syntax_uid: str) -> tuple[str, Sequence[tuple[str, str]]]:
    """Transaction UID and objects of the action information (PS3.4 Table J.3-1). Raises `Refused`."""
    is_implicit, is_little_endian = _ENCODINGS.get(transfer_syntax_uid, (False, True))
    try:
        information = read_dataset(BytesIO(content), is_implicit, is_little_endian)
        transaction_uid = str(information.TransactionUID)
        named = [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in information.ReferencedSOPSequence
        ]
    except Exception as error:  # pydicom raises anything for bytes that are no data set
        raise Refused(
            NO_SUCH_ARGUMENT, "not-understood", f"no action information of storage commitment ({type(error).__name__})"
        ) from None
    objects = list(dict.fromkeys(named))  # a whole file is read for each
    if not objects or not all(map(is_uid, (transaction_uid, *(uid for pair in objects for uid in pair)))):
        raise Refused(NO_SUCH_ARGUMENT, "missing-identifier", "a UID of the action information is missing or no UID")
    return transaction_uid, objects


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item
