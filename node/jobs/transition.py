"""How a job comes into being and changes state: by the table in `state`, with a line of history each time."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, update

from node.jobs.job import Job, LeaseLost, to_job
from node.jobs.state import JobEvent, next_state
from node.store.tables import JobState, Priority
from node.store.tables import job as job_table
from node.store.tables import job_event as event_table

AGEING_PER_LANE = timedelta(hours=1)


def claim_order_at(priority: Priority, now: datetime, *, speculative: bool = False) -> datetime:
    """Jobs are claimed in the order of this time: a lane down counts like `AGEING_PER_LANE` of waiting less.

    A STAT job goes before everything that has waited less than that, and no steady stream of STAT jobs can
    starve a routine job for longer. What nobody waits for yet comes after all lanes.
    """
    return now + (priority + (len(Priority) if speculative else 0)) * AGEING_PER_LANE


def insert_job(connection: Connection, now: datetime, priority: Priority, **columns: Any) -> Job:
    row = connection.execute(
        insert(job_table)
        .values(
            state=next_state(None, JobEvent.ENQUEUE),
            priority=priority,
            claim_order_at=claim_order_at(priority, now, speculative=bool(columns.get("speculative"))),
            run_after=now,
            attempt=0,
            cancel_requested=False,
            created_at=now,
            updated_at=now,
            **columns,
        )
        .returning(job_table)
    ).one()
    job = to_job(row)
    record_event(connection, job, JobEvent.ENQUEUE, None, now)
    return job


def change_job(
    connection: Connection, job: Job, event: JobEvent, now: datetime, message: str | None, **columns: Any
) -> Job:
    """The one way in which an existing job changes state, apart from `claim`: one row or `LeaseLost`."""
    row = connection.execute(
        update(job_table)
        .where(
            job_table.c.id == job.job_id,
            job_table.c.state == job.state,
            job_table.c.attempt == job.attempt,
            job_table.c.worker.is_not_distinct_from(job.worker),
        )
        .values(state=next_state(job.state, event), updated_at=now, **columns)
        .returning(job_table)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"job {job.job_id} attempt {job.attempt} changed meanwhile")
    changed = to_job(row)
    connection.execute(
        insert(event_table).values(
            job_id=job.job_id,
            at=now,
            event=event,
            from_state=job.state,
            to_state=changed.state,
            attempt=job.attempt,
            worker=job.worker,
            message=message,
        )
    )
    return changed


def record_event(connection: Connection, job: Job, event: JobEvent, from_state: JobState | None, now: datetime) -> None:
    connection.execute(
        insert(event_table).values(
            job_id=job.job_id,
            at=now,
            event=event,
            from_state=from_state,
            to_state=job.state,
            attempt=job.attempt,
            worker=job.worker,
        )
    )
