"""The earlier results that a destination may have of what is sent to it."""

from collections.abc import Sequence

from sqlalchemy import Connection, Engine, exists, select

from node.deliver.transport import Parcel
from node.jobs.job import Job
from node.jobs.queue import get_job
from node.jobs.state import JobEvent
from node.store.database import read_transaction
from node.store.results import get_result
from node.store.tables import ResultState, delivery, job, job_event, result


def replaced_parcels(engine: Engine, parcel: Parcel) -> list[Parcel]:
    """What the same destination was sent, or may have been, of the results that this one replaces, the last first."""
    with read_transaction(engine) as connection:
        jobs = _replaced_deliveries(connection, parcel)
        return [Parcel(job, get_result(connection, job.result_id or 0), parcel.data_dir) for job in jobs]


def reservation(unread: Sequence[Parcel]) -> str | None:
    """What the destination is not told of the earlier results that could not be read; None when all could be."""
    if not unread:
        return None
    which = ", ".join(str(one.result.result_id) for one in unread)
    return f"the Observations of result {which} stay as they are: its files are not here any more"


def _replaced_deliveries(connection: Connection, parcel: Parcel) -> list[Job]:
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
