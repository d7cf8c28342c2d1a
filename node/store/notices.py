"""Notices of critical results: every statement that changes one, each with its line of history.

Functions take a connection of `write_transaction`; times are arguments. A change names the state that it was decided
on, so that of two processes only one makes it.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from node.errors import Permanent
from node.store.results import NewResult
from node.store.tables import NoticeState
from node.store.tables import notice as notice_table
from node.store.tables import notice_event as event_table

_REFERENCE_BYTES = 6


class NoticeEvent(StrEnum):
    """Steps in the life of a notice."""

    RAISED = "RAISED"
    TOLD = "TOLD"
    NOT_TOLD = "NOT_TOLD"
    ESCALATED = "ESCALATED"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    UNANSWERED = "UNANSWERED"
    WITHDRAWN = "WITHDRAWN"


@dataclass(frozen=True)
class Notice:
    """A row of `notice`."""

    notice_id: int
    reference: str
    result_id: int
    study_instance_uid: str
    model: str
    findings: tuple[str, ...]
    state: NoticeState
    raised_at: datetime
    step: int
    tries: int
    told_at: datetime | None
    due_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None


@dataclass(frozen=True)
class NoticeLine:
    """A row of `notice_event`."""

    at: datetime
    event: NoticeEvent
    recipient: str | None
    message: str | None


def follow_result(
    connection: Connection, result_id: int, new: NewResult, findings: Sequence[str], now: datetime
) -> Notice | None:
    """T4: raise a notice for these critical findings, unless one for the same of this study and model is there already.

    Open notices for other findings are withdrawn: this result replaces the one that they are about.
    """
    named = sorted(set(findings))
    mine = (notice_table.c.study_instance_uid == new.study_instance_uid, notice_table.c.model == new.model)
    rows = connection.execute(select(notice_table).where(*mine, notice_table.c.state != NoticeState.WITHDRAWN)).all()
    raised = None
    for known in map(_notice, rows):
        if named and list(known.findings) == named:
            raised = known
            connection.execute(
                update(notice_table).where(notice_table.c.id == known.notice_id).values(result_id=result_id)
            )
        elif known.state is NoticeState.OPEN:
            reason = f"result {result_id} replaces result {known.result_id} and says something else"
            change_notice(connection, known, NoticeEvent.WITHDRAWN, now, message=reason, state=NoticeState.WITHDRAWN)
    if not named or raised is not None:
        return raised
    return _raise(connection, result_id, new, named, now)


def change_notice(
    connection: Connection,
    known: Notice,
    event: NoticeEvent | None,
    now: datetime,
    *,
    recipient: str | None = None,
    message: str | None = None,
    **values: Any,
) -> bool:
    """Change a notice that is still as it was when it was read, and note the step if it is one; False if it is not."""
    if values.get("state", NoticeState.OPEN) is not NoticeState.OPEN:
        values["due_at"] = None
    changed = connection.execute(
        update(notice_table)
        .where(
            notice_table.c.id == known.notice_id,
            notice_table.c.state == known.state,
            notice_table.c.step == known.step,
            notice_table.c.tries == known.tries,
        )
        .values(**values)
    )
    if changed.rowcount == 1 and event is not None:
        connection.execute(
            insert(event_table).values(
                notice_id=known.notice_id, at=now, event=event, recipient=recipient, message=message
            )
        )
    return changed.rowcount == 1


def acknowledge_notice(connection: Connection, reference: str, who: str, now: datetime) -> tuple[Notice, bool]:
    """Somebody knows: nobody else is told. The notice, and whether this was the first time.

    Raises
    ------
    Permanent
        There is no such notice.
    """
    known = get_notice(connection, reference)
    if known.state is NoticeState.ACKNOWLEDGED:
        return known, False
    values: dict[str, Any] = {"state": NoticeState.ACKNOWLEDGED, "acknowledged_at": now, "acknowledged_by": who[:128]}
    first = change_notice(connection, known, NoticeEvent.ACKNOWLEDGED, now, recipient=who[:128], **values)
    return get_notice(connection, reference), first


def claim_notices(connection: Connection, now: datetime, until: datetime, limit: int) -> list[Notice]:
    """Notices that are due, each given to one caller: others see them again at `until`."""
    due = connection.scalars(
        select(notice_table.c.id)
        .where(notice_table.c.due_at <= now)
        .order_by(notice_table.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    rows = connection.execute(
        update(notice_table).where(notice_table.c.id.in_(due)).values(due_at=until).returning(notice_table)
    ).all()
    return sorted(map(_notice, rows), key=lambda one: one.notice_id)


def next_notice_at(connection: Connection) -> datetime | None:
    """When the next notice is due."""
    return connection.scalar(select(func.min(notice_table.c.due_at)))


def get_notice(connection: Connection, reference: str) -> Notice:
    """The notice of this reference, or `Permanent`."""
    row = connection.execute(
        select(notice_table).where(notice_table.c.reference == reference.strip().upper())
    ).one_or_none()
    if row is None:
        raise Permanent(f"there is no notice {reference!r}: see `overread notices list`")
    return _notice(row)


def list_notices(connection: Connection, state: NoticeState | None = None, limit: int = 100) -> list[Notice]:
    """Notices, newest first."""
    statement = select(notice_table).order_by(notice_table.c.id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(notice_table.c.state == state)
    return [_notice(row) for row in connection.execute(statement)]


def notice_counts(connection: Connection) -> dict[NoticeState, int]:
    """How many notices are in each state; none are left out."""
    rows = connection.execute(select(notice_table.c.state, func.count()).group_by(notice_table.c.state))
    found = {NoticeState(state): number for state, number in rows}
    return {state: found.get(state, 0) for state in NoticeState}


def notice_history(connection: Connection, notice_id: int) -> list[NoticeLine]:
    """All steps of a notice, oldest first."""
    rows = connection.execute(
        select(event_table).where(event_table.c.notice_id == notice_id).order_by(event_table.c.id)
    )
    return [NoticeLine(row.at, NoticeEvent(row.event), row.recipient, row.message) for row in rows]


def _raise(connection: Connection, result_id: int, new: NewResult, findings: list[str], now: datetime) -> Notice:
    row = connection.execute(
        insert(notice_table)
        .values(
            reference=secrets.token_hex(_REFERENCE_BYTES).upper(),
            result_id=result_id,
            study_instance_uid=new.study_instance_uid,
            model=new.model,
            findings=findings,
            state=NoticeState.OPEN,
            raised_at=now,
            step=0,
            tries=0,
            due_at=now,
        )
        .returning(notice_table)
    ).one()
    made = _notice(row)
    connection.execute(insert(event_table).values(notice_id=made.notice_id, at=now, event=NoticeEvent.RAISED))
    return made


def _notice(row: Row[Any]) -> Notice:
    values = dict(row._mapping)
    values["notice_id"] = values.pop("id")
    values["state"] = NoticeState(values["state"])
    values["findings"] = tuple(values["findings"])
    return Notice(**values)
