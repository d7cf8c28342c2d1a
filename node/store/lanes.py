"""The lane to which a critical finding raised the work of a study."""

from datetime import timedelta

from sqlalchemy import Connection, func, select, update

from node.store.tables import JobState, Priority, job, study


def raised_lane(connection: Connection, study_instance_uid: str) -> Priority | None:
    """The lane that further jobs of the study are given at least; None when nothing raised it."""
    lane = connection.scalar(select(study.c.lane).where(study.c.study_instance_uid == study_instance_uid))
    return None if lane is None else Priority(lane)


def raise_lane(connection: Connection, study_instance_uid: str, lane: Priority, ageing: timedelta) -> int:
    """All work of the study that waits, and all that is still to come, has at least this lane; how many jobs rose.

    `ageing` is what a lane counts in waiting: a job that rises goes that much forward.
    """
    mine = study.c.study_instance_uid == study_instance_uid
    connection.execute(update(study).where(mine, func.coalesce(study.c.lane, len(Priority)) > lane).values(lane=lane))
    risen = 0
    for lower in (each for each in Priority if each > lane):
        rows = connection.execute(
            select(job.c.id, job.c.claim_order_at).where(
                job.c.study_instance_uid == study_instance_uid,
                job.c.state.in_((JobState.QUEUED, JobState.RUNNING)),
                job.c.priority == lower,
            )
        ).all()
        for row in rows:
            connection.execute(
                update(job)
                .where(job.c.id == row.id)
                .values(priority=lane, claim_order_at=row.claim_order_at - (lower - lane) * ageing)
            )
        risen += len(rows)
    return risen
