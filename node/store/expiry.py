"""Instances whose files were deleted when nothing needed them any more: what is remembered of them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select, true

from node.store.catalogue import hold_study
from node.store.database import insert_on_conflict
from node.store.tables import (
    DecisionOutcome,
    JobState,
    SeriesState,
    decision,
    delivery,
    expired_instance,
    instance,
    job,
    quarantine,
    series,
    study,
)


@dataclass(frozen=True)
class Expired:
    """Deleted images of a study that have not come again, and when the last one went."""

    instances: int = 0
    last_at: datetime | None = None


def expired_of_study(connection: Connection, study_instance_uid: str) -> Expired:
    """What was deleted of a study and is not here again."""
    number, last_at = connection.execute(
        select(func.count(), func.max(expired_instance.c.expired_at))
        .select_from(expired_instance.join(series))
        .outerjoin(instance, instance.c.sop_instance_uid == expired_instance.c.sop_instance_uid)
        .where(series.c.study_instance_uid == study_instance_uid, instance.c.sop_instance_uid.is_(None))
    ).one()
    return Expired(number, last_at)


@dataclass(frozen=True)
class StudyHoldings:
    """What is stored of a study that may be deleted: its images, since when nothing happened, and what wants it.

    `routes` are those that wanted it when it settled; `open_jobs` counts unfinished jobs and deliveries that are not
    yet known to be kept, of all studies of the same patient, which may compare with it.
    """

    study_instance_uid: str
    images: int
    size_bytes: int
    idle_since: datetime
    routes: tuple[str, ...]
    open_jobs: int


def settled_studies(
    connection: Connection, idle_before: datetime, study_instance_uid: str | None = None
) -> list[StudyHoldings]:
    """Studies with images here of which none is being received and none came since then, the oldest first.

    With `study_instance_uid` only this one is looked at.
    """
    receiving = select(series.c.study_instance_uid).where(series.c.state == SeriesState.RECEIVING)
    asked = true() if study_instance_uid is None else study.c.study_instance_uid == study_instance_uid
    rows = connection.execute(
        select(
            study.c.study_instance_uid,
            study.c.patient_key,
            study.c.last_received_at,
            func.count().label("images"),
            func.sum(instance.c.size_bytes).label("size_bytes"),
        )
        .select_from(study.join(series).join(instance))
        .where(asked, study.c.last_received_at < idle_before, study.c.study_instance_uid.not_in(receiving))
        .group_by(study.c.study_instance_uid, study.c.patient_key, study.c.last_received_at)
        .order_by(study.c.last_received_at, study.c.study_instance_uid)
    ).all()
    return [
        StudyHoldings(
            study_instance_uid=row.study_instance_uid,
            images=row.images,
            size_bytes=int(row.size_bytes),
            idle_since=max(row.last_received_at, _last_job_at(connection, row.study_instance_uid) or row[2]),
            routes=_wanted_by(connection, row.study_instance_uid),
            open_jobs=_open_jobs(connection, row.study_instance_uid, row.patient_key),
        )
        for row in rows
    ]


def expire_study(connection: Connection, held: StudyHoldings, now: datetime) -> list[str] | None:
    """Forget the images of a study and remember which there were; the paths of their files.

    None, and no change, when anything came or is wanted of it meanwhile.
    """
    mine = series.c.study_instance_uid == held.study_instance_uid
    hold_study(connection, held.study_instance_uid)
    if settled_studies(connection, now, held.study_instance_uid) != [held]:
        return None
    rows = connection.execute(
        select(instance.c.sop_instance_uid, instance.c.series_instance_uid, instance.c.path)
        .select_from(instance.join(series))
        .where(mine)
    ).all()
    for row in rows:
        upsert = insert_on_conflict(connection, expired_instance).values(
            sop_instance_uid=row.sop_instance_uid, series_instance_uid=row.series_instance_uid, expired_at=now
        )
        connection.execute(upsert.on_conflict_do_update(index_elements=["sop_instance_uid"], set_={"expired_at": now}))
    own_series = select(series.c.series_instance_uid).where(mine)
    connection.execute(delete(instance).where(instance.c.series_instance_uid.in_(own_series)))
    return [row.path for row in rows]


def expire_quarantine(connection: Connection, before: datetime) -> list[str]:
    """Forget what was set aside before then; the paths of its files."""
    rows = connection.execute(select(quarantine.c.id, quarantine.c.path).where(quarantine.c.at < before)).all()
    connection.execute(delete(quarantine).where(quarantine.c.at < before))
    return [row.path for row in rows if row.path]


def quarantine_before(connection: Connection, before: datetime) -> int:
    """How much was set aside before then."""
    return connection.scalar(select(func.count()).select_from(quarantine).where(quarantine.c.at < before)) or 0


def known_paths(connection: Connection, series_instance_uid: str) -> set[str]:
    """The files of a series that the catalogue knows."""
    return set(connection.scalars(select(instance.c.path).where(instance.c.series_instance_uid == series_instance_uid)))


def _last_job_at(connection: Connection, study_instance_uid: str) -> datetime | None:
    return connection.scalar(select(func.max(job.c.updated_at)).where(job.c.study_instance_uid == study_instance_uid))


def _wanted_by(connection: Connection, study_instance_uid: str) -> tuple[str, ...]:
    rows = connection.scalars(
        select(decision.c.route)
        .where(
            decision.c.study_instance_uid == study_instance_uid,
            decision.c.outcome != DecisionOutcome.NOT_WANTED,
        )
        .distinct()
    )
    return tuple(sorted(rows))


def _open_jobs(connection: Connection, study_instance_uid: str, patient_key: str | None) -> int:
    own = select(study.c.study_instance_uid).where(
        study.c.patient_key == patient_key if patient_key else study.c.study_instance_uid == study_instance_uid
    )
    unfinished = job.c.state.in_((JobState.QUEUED, JobState.RUNNING))
    unconfirmed = delivery.c.check_after.is_not(None)
    return (
        connection.scalar(
            select(func.count())
            .select_from(job.outerjoin(delivery, delivery.c.job_id == job.c.id))
            .where(job.c.study_instance_uid.in_(own), unfinished | unconfirmed)
        )
        or 0
    )
