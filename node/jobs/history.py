"""What operators read of jobs: counts, lists, the history of one, the last errors. Reads only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from node.jobs.job import Job, to_job
from node.jobs.state import JobEvent
from node.store.tables import JobKind, JobState
from node.store.tables import job as job_table
from node.store.tables import job_event as event_table

_FAILURES = (JobEvent.RETRY, JobEvent.FAIL, JobEvent.RESCUE, JobEvent.EXHAUST)


@dataclass(frozen=True)
class JobHistoryLine:
    """A transition. `attempt` and `worker` are those that it ended or began; `message` is an error or a
    reason."""

    job_id: int
    at: datetime
    event: JobEvent
    from_state: JobState | None
    to_state: JobState
    attempt: int
    worker: str | None
    message: str | None


def job_counts(connection: Connection) -> dict[tuple[JobKind, JobState], int]:
    """How many jobs there are of each kind in each state; none are left out."""
    counts = {(kind, state): 0 for kind in JobKind for state in JobState}
    statement = select(job_table.c.kind, job_table.c.state, func.count()).group_by(job_table.c.kind, job_table.c.state)
    for kind, state, number in connection.execute(statement):
        counts[JobKind(kind), JobState(state)] = number
    return counts


def oldest_waiting(connection: Connection, kind: JobKind) -> datetime | None:
    """When the job was made that has been queued longest; None when none waits."""
    return connection.scalar(
        select(func.min(job_table.c.created_at)).where(job_table.c.kind == kind, job_table.c.state == JobState.QUEUED)
    )


def list_jobs(
    connection: Connection,
    *,
    kind: JobKind | None = None,
    state: JobState | None = None,
    study_instance_uid: str | None = None,
    limit: int = 100,
) -> list[Job]:
    """Jobs that fit all conditions given, newest first."""
    statement = select(job_table).order_by(job_table.c.id.desc()).limit(limit)
    for column, wanted in (("kind", kind), ("state", state), ("study_instance_uid", study_instance_uid)):
        if wanted is not None:
            statement = statement.where(job_table.c[column] == wanted)
    return [to_job(row) for row in connection.execute(statement)]


def deliveries_of_result(connection: Connection, result_id: int) -> list[Job]:
    """The jobs that bring a result to its destinations, in the order in which they were made."""
    statement = select(job_table).where(job_table.c.result_id == result_id).order_by(job_table.c.id)
    return [to_job(row) for row in connection.execute(statement)]


def job_history(connection: Connection, job_id: int) -> list[JobHistoryLine]:
    """All transitions of a job, oldest first."""
    rows = connection.execute(select(event_table).where(event_table.c.job_id == job_id).order_by(event_table.c.id))
    return [_line(row) for row in rows]


def last_failures(connection: Connection, limit: int = 20) -> list[JobHistoryLine]:
    """The newest failed attempts, newest first."""
    rows = connection.execute(
        select(event_table).where(event_table.c.event.in_(_FAILURES)).order_by(event_table.c.id.desc()).limit(limit)
    )
    return [_line(row) for row in rows]


def last_reservations(connection: Connection, limit: int = 20) -> list[JobHistoryLine]:
    """The newest jobs that succeeded with a reservation, newest first."""
    rows = connection.execute(
        select(event_table)
        .where(event_table.c.event == JobEvent.SUCCEED, event_table.c.message.is_not(None))
        .order_by(event_table.c.id.desc())
        .limit(limit)
    )
    return [_line(row) for row in rows]


def _line(row: Row[Any]) -> JobHistoryLine:
    values = dict(row._mapping)
    del values["id"]
    values["event"] = JobEvent(values["event"])
    values["from_state"] = JobState(values["from_state"]) if values["from_state"] else None
    values["to_state"] = JobState(values["to_state"])
    return JobHistoryLine(**values)
