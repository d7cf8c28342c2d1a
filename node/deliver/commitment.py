"""Storage commitment SCU (PS3.4 Annex J): will the archive keep what it took?

The report comes as N-EVENT-REPORT on the same association or later on one that the archive opens to our listener;
`CommitmentReports` takes it either way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom import Dataset
from sqlalchemy import Connection, Engine

from dicom_sr.identity import derived_uid
from node.deliver.association import associate, describe
from node.deliver.confirmation import judge_report
from node.deliver.data_set import IMPLICIT_VR_LITTLE_ENDIAN, decode, encode_implicit
from node.deliver.line import Check, Patience
from node.deliver.upper_layer import propose
from node.deliver.verdict import apply_verdict
from node.errors import OverreadError, Permanent, Transient
from node.logs import get_logger
from node.settings import Destination, Settings
from node.store.database import write_transaction
from node.store.deliveries import AcceptedObject, Delivery, deliveries_with_object, delivery_of_transaction
from node.store.tables import DeliveryState

STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_STORAGE_COMMITMENT = 1


class MalformedReport(OverreadError):
    """What the archive reported is not event information of storage commitment."""


@dataclass(frozen=True)
class CommitmentReport:
    """An N-EVENT-REPORT (PS3.4 Table J.3-3): UIDs committed to, and Failure Reason (0008,1197) of the others."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]


def request_commitment(
    destination: Destination,
    calling_ae_title: str,
    transaction_uid: str,
    objects: Sequence[AcceptedObject],
    timeout_seconds: float,
    check: Check,
) -> CommitmentReport | None:
    """N-ACTION, and the report if it comes within `report_wait_seconds` on the same association.

    Raises
    ------
    Transient
        Not reached, or the request failed in a way that may pass.
    Permanent
        The archive has no storage commitment.
    """
    context = (STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)
    information = encode_implicit(_action_information(transaction_uid, objects))
    patience = Patience(timeout_seconds, check)
    with associate(destination, calling_ae_title, propose([context]), patience) as association:
        if association.refused:
            raise Permanent(
                f"{describe(destination)} has no storage commitment: enable it there for {calling_ae_title!r}, "
                'or set confirm = "find" for this destination'
            )
        status, reports = association.action(
            *context, STORAGE_COMMITMENT_INSTANCE, REQUEST_STORAGE_COMMITMENT, information
        )
        if status != 0:
            raise Transient(f"{describe(destination)} answered 0x{status:04X} to the request for storage commitment")
        if not reports and destination.report_wait_seconds:
            late = association.wait_for_report(destination.report_wait_seconds, check)
            reports = [late] if late is not None else []
    read = [read_report(content, IMPLICIT_VR_LITTLE_ENDIAN) for content in reports]
    return next((report for report in read if report.transaction_uid == transaction_uid), None)


def read_report(content: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """The event information of a report; raises `MalformedReport`."""
    try:
        report = decode(content, transfer_syntax_uid)
        return CommitmentReport(
            transaction_uid=str(report.TransactionUID),
            committed=tuple(str(item.ReferencedSOPInstanceUID) for item in report.get("ReferencedSOPSequence") or ()),
            failed={
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0)
                for item in report.get("FailedSOPSequence") or ()
            },
        )
    except Exception as error:  # pydicom raises anything for bytes that are no data set
        raise MalformedReport(f"not a storage commitment report ({type(error).__name__})") from None


class CommitmentReports:
    """Takes the reports that archives send to our listener."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    def __call__(self, content: bytes, transfer_syntax_uid: str) -> int:
        """Record a report; the status to answer (PS3.7 10.1.1.1.8)."""
        log = get_logger("deliver")
        try:
            report = read_report(content, transfer_syntax_uid)
        except MalformedReport as error:
            log.warning("commitment_report_refused", reason=str(error))
            return 0x0110
        if not record_report(self._engine, self._settings, report, datetime.now(UTC)):
            log.info("commitment_report_of_no_use", transaction=report.transaction_uid)
        return 0x0000


def record_report(engine: Engine, settings: Settings, report: CommitmentReport, now: datetime) -> bool:
    """Apply a report to the delivery that asked for it; False when none waits for it any more."""
    with write_transaction(engine) as connection:
        delivery = delivery_of_transaction(connection, report.transaction_uid) or _asked_earlier(connection, report)
        if delivery is None or delivery.state is not DeliveryState.DELIVERED:
            return False
        destination = settings.destination(delivery.destination)
        first_wait = destination.confirm_after_seconds if isinstance(destination, Destination) else 10.0
        verdict = judge_report(delivery, report.committed, report.failed, first_wait)
        return apply_verdict(connection, settings.deliver, delivery, verdict, now)


def transaction_uid(delivery: Delivery, check_number: int) -> str:
    """Transaction UID of the request that follows `check_number` others since the delivery: always the same one."""
    return derived_uid("commitment", str(delivery.job_id), delivery.delivered_at.isoformat(), str(check_number))


def _asked_earlier(connection: Connection, report: CommitmentReport) -> Delivery | None:
    """The delivery whose request is so long ago that another has followed: an archive may take hours to report."""
    for uid in (*report.committed, *report.failed):
        for delivery in deliveries_with_object(connection, uid):
            if report.transaction_uid in (transaction_uid(delivery, number) for number in range(delivery.checks + 1)):
                return delivery
    return None


def _action_information(transaction_uid: str, objects: Sequence[AcceptedObject]) -> Dataset:
    """PS3.4 Table J.3-1."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    items = []
    for one in objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        items.append(item)
    information.ReferencedSOPSequence = items
    return information
