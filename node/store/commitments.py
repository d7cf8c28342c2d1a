"""Requests for storage commitment by others (PS3.4 Annex J): kept from N-ACTION until the report is taken.

Every function takes an open `Connection` and leaves committing to its caller; times are arguments. A request is claimed
by moving `report_after`: whoever dies over it leaves it to be claimed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from node.store.database import insert_on_conflict
from node.store.tables import CommitmentState, commitment_request, instance

KEPT_DAYS = 30
"""Requests that are done are forgotten after this."""

_CHUNK = 500  # values in one IN list: below the limit of every database


@dataclass(frozen=True)
class CommitmentRequest:
    """A row of `commitment_request`; `objects` are pairs of SOP Class UID and SOP Instance UID."""

    request_id: int
    calling_ae_title: str
    transaction_uid: str
    requested_at: datetime
    objects: tuple[tuple[str, str], ...]
    state: CommitmentState
    attempts: int
    last_error: str | None


@dataclass(frozen=True)
class HeldObject:
    """What is known of a stored object when somebody asks whether it is still what it was."""

    sop_class_uid: str
    path: str
    digest: str


def record_request(
    connection: Connection,
    calling_ae_title: str,
    transaction_uid: str,
    objects: Sequence[tuple[str, str]],
    now: datetime,
    report_after: datetime,
) -> CommitmentRequest:
    """Keep a request. The same transaction again is the same request, and is reported again."""
    done = (CommitmentState.REPORTED, CommitmentState.ABANDONED)
    connection.execute(
        delete(commitment_request).where(
            commitment_request.c.state.in_(done),
            commitment_request.c.requested_at < now - timedelta(days=KEPT_DAYS),
        )
    )
    values: dict[str, Any] = {
        "requested_at": now,
        "objects": [list(pair) for pair in objects],
        "state": CommitmentState.PENDING,
        "attempts": 0,
        "report_after": report_after,
        "reported_at": None,
        "last_error": None,
    }
    upsert = insert_on_conflict(connection, commitment_request).values(
        calling_ae_title=calling_ae_title, transaction_uid=transaction_uid, **values
    )
    upsert = upsert.on_conflict_do_update(index_elements=["calling_ae_title", "transaction_uid"], set_=values)
    row = connection.execute(upsert.returning(*commitment_request.c)).one()
    return _request(row)


def claim_requests(connection: Connection, now: datetime, until: datetime, limit: int) -> list[CommitmentRequest]:
    """The requests whose report is due, longest waiting first; nobody else gets them before `until`."""
    due = (
        select(commitment_request.c.id)
        .where(commitment_request.c.report_after <= now)
        .order_by(commitment_request.c.report_after, commitment_request.c.id)
        .limit(limit)
    )
    rows = connection.execute(
        update(commitment_request)
        .where(commitment_request.c.id.in_(due), commitment_request.c.report_after <= now)
        .values(report_after=until)
        .returning(*commitment_request.c)
    ).all()
    return sorted((_request(row) for row in rows), key=lambda request: request.request_id)


def keep_claim(connection: Connection, request_id: int, until: datetime) -> None:
    """Nobody else gets a claimed request before `until`: making its report takes longer than was thought."""
    mine = (commitment_request.c.id == request_id, commitment_request.c.state == CommitmentState.PENDING)
    connection.execute(update(commitment_request).where(*mine).values(report_after=until))


def next_report_at(connection: Connection) -> datetime | None:
    """When the next report is due; None when none is owed."""
    return connection.scalar(select(func.min(commitment_request.c.report_after)))


def mark_reported(connection: Connection, request_id: int, now: datetime) -> None:
    """The requester took the report."""
    _finish(connection, request_id, state=CommitmentState.REPORTED, report_after=None, reported_at=now, last_error=None)


def mark_unreported(connection: Connection, request_id: int, report_after: datetime | None, error: str) -> None:
    """The report could not be handed over: try again at `report_after`, or (None) never."""
    state = CommitmentState.ABANDONED if report_after is None else CommitmentState.PENDING
    _finish(
        connection,
        request_id,
        state=state,
        report_after=report_after,
        attempts=commitment_request.c.attempts + 1,
        last_error=error,
    )


def unreported(connection: Connection, limit: int = 10) -> list[CommitmentRequest]:
    """Requests whose report could not be handed over so far, or was given up, newest first."""
    rows = connection.execute(
        select(commitment_request)
        .where(commitment_request.c.attempts > 0, commitment_request.c.state != CommitmentState.REPORTED)
        .order_by(commitment_request.c.id.desc())
        .limit(limit)
    )
    return [_request(row) for row in rows]


def held_objects(connection: Connection, sop_instance_uids: Sequence[str]) -> dict[str, HeldObject]:
    """Those of the objects that are stored, by SOP Instance UID."""
    found: dict[str, HeldObject] = {}
    columns = (instance.c.sop_instance_uid, instance.c.sop_class_uid, instance.c.path, instance.c.digest)
    for first in range(0, len(sop_instance_uids), _CHUNK):
        uids = sop_instance_uids[first : first + _CHUNK]
        for row in connection.execute(select(*columns).where(instance.c.sop_instance_uid.in_(uids))):
            found[row.sop_instance_uid] = HeldObject(row.sop_class_uid, row.path, row.digest)
    return found


def _finish(connection: Connection, request_id: int, **values: Any) -> None:
    connection.execute(update(commitment_request).where(commitment_request.c.id == request_id).values(**values))


def _request(row: Any) -> CommitmentRequest:
    return CommitmentRequest(
        request_id=row.id,
        calling_ae_title=row.calling_ae_title,
        transaction_uid=row.transaction_uid,
        requested_at=row.requested_at,
        objects=tuple((pair[0], pair[1]) for pair in row.objects),
        state=CommitmentState(row.state),
        attempts=row.attempts,
        last_error=row.last_error,
    )
