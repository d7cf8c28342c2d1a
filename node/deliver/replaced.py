"""The earlier results that a destination may have of what is sent to it."""

from sqlalchemy import Connection, exists, select

from node.deliver.transport import Parcel
from node.jobs.job import Job
from node.jobs.queue import get_job
from node.jobs.state import JobEvent
from node.store.tables import ResultState, delivery, job, job_event, result


def replaced_deliveries(connection: Connection, parcel: Parcel) -> list[Job]:
    """The deliveries to the same destination of results that this one replaces, the last first.

    They are those that were begun: one whose answer was lost may have arrived, or may still arrive. Behind the
    last that is known to have arrived there are none, because that one has replaced what was before it.
    """
    begun = exists().where(job_event.c.job_id == job.c.id, job_event.c.event == JobEvent.CLAIM)
    rows = connection.execute(
        select(job.c.id, delivery.c.delivered_at)
        .join(result, result.c.id == job.c.result_id)
        .outerjoin(delivery, delivery.c.job_id == job.c.id)
        .where(
            result.c.study_instance_uid == parcel.result.study_instance_uid,
            result.c.model == parcel.result.model,
            result.c.state == ResultState.SUPERSEDED,
            job.c.destination == parcel.job.destination,
            job.c.id < parcel.job.job_id,
            begun,
        )
        .order_by(job.c.id.desc())
    ).all()
    found = []
    for row in rows:
        found.append(get_job(connection, row.id))
        if row.delivered_at is not None:
            break
    return found
