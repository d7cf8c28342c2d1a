"""Results whose files may be deleted: those that have arrived everywhere they go, and that nothing may want again."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select, true, update

from node.store.tables import DeliveryState, JobKind, JobState, NoticeState, ResultState, delivery, job, notice, result

FORM_INDEX = "objects.json"
"""Which objects another form of a result has; in a folder of its own in that of the result, and kept when the objects
are deleted: a later report refers to them."""


@dataclass(frozen=True)
class FinishedResult:
    """A result all of whose deliveries have ended, since when, and the route whose job made it."""

    result_id: int
    folder: str
    route: str | None
    ended_at: datetime


def finished_results(
    connection: Connection, ended_before: datetime, result_id: int | None = None
) -> list[FinishedResult]:
    """Results with their files here whose deliveries ended before then, the oldest first.

    Not those that went nowhere and hold (their files are the only ones), of which a delivery failed (it waits for an
    operator), is not known to be kept where that is asked, or was lost; whose study has open jobs, or whose notice
    waits for somebody. With `result_id` only this one is looked at.
    """
    last = func.max(job.c.updated_at, type_=job.c.updated_at.type).label("last_job_at")
    confirmed = func.max(delivery.c.confirmed_at, type_=job.c.updated_at.type).label("confirmed_at")
    asked = true() if result_id is None else result.c.id == result_id
    rows = connection.execute(
        select(result.c.id, result.c.folder, result.c.job_id, result.c.created_at, last, confirmed)
        .select_from(
            result.outerjoin(job, job.c.result_id == result.c.id).outerjoin(delivery, delivery.c.job_id == job.c.id)
        )
        .where(asked, result.c.expired_at.is_(None), result.c.state != ResultState.HELD, ~_is_wanted())
        .where(or_(result.c.state != ResultState.CURRENT, _was_sent()))
        .group_by(result.c.id, result.c.folder, result.c.job_id, result.c.created_at)
        .order_by(result.c.id)
    ).all()
    found = []
    for row in rows:
        ended_at = max(moment for moment in (row.created_at, row.last_job_at, row.confirmed_at) if moment is not None)
        if ended_at < ended_before:
            route = connection.scalar(select(job.c.route).where(job.c.id == row.job_id))
            found.append(FinishedResult(row.id, row.folder, route, ended_at))
    return found


def expire_result(connection: Connection, finished: FinishedResult, now: datetime) -> bool:
    """Note that the files of a result go; False, and no change, when anything came to want them meanwhile."""
    if finished_results(connection, now, finished.result_id) != [finished]:
        return False
    mine = and_(result.c.id == finished.result_id, result.c.expired_at.is_(None))
    return connection.execute(update(result).where(mine).values(expired_at=now)).rowcount == 1


def expired_folders(connection: Connection) -> list[str]:
    """The folders of all results whose files were to be deleted."""
    return list(connection.scalars(select(result.c.folder).where(result.c.expired_at.is_not(None))))


def _was_sent() -> ColumnElement[bool]:
    return exists().where(job.c.result_id == result.c.id, job.c.state == JobState.SUCCEEDED).correlate(result)


def _is_wanted() -> ColumnElement[bool]:
    """Whether a delivery, a job of the study or a notice may want the files."""
    other = job.alias("other")
    open_delivery = (
        exists()
        .where(
            other.c.result_id == result.c.id,
            other.c.kind == JobKind.DELIVER,
            or_(
                other.c.state == JobState.FAILED,
                exists()
                .where(
                    delivery.c.job_id == other.c.id,
                    or_(delivery.c.check_after.is_not(None), delivery.c.state == DeliveryState.LOST),
                )
                .correlate(other),
            ),
        )
        .correlate(result)
    )
    at_work = job.alias("at_work")
    open_job = (
        exists()
        .where(
            at_work.c.study_instance_uid == result.c.study_instance_uid,
            at_work.c.state.in_((JobState.QUEUED, JobState.RUNNING)),
        )
        .correlate(result)
    )
    waits = exists().where(notice.c.result_id == result.c.id, notice.c.state == NoticeState.OPEN).correlate(result)
    return or_(open_delivery, open_job, waits)
