"""What the worker that holds a job does with it, and what becomes of a job whose worker is gone.

A finish names worker and attempt, and changes one row or none. Functions take a connection of `write_transaction`;
times are arguments.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from node.jobs.job import HeartbeatReply, Job, LeaseLost, to_job
from node.jobs.state import JobEvent
from node.jobs.transition import change_job
from node.store.catalogue import hold_study
from node.store.decisions import Decision, record_for_model
from node.store.tables import DecisionOutcome, JobKind, JobState
from node.store.tables import job as job_table
from node.store.tables import job_event as event_table

_FINISHING = frozenset({JobEvent.SUCCEED, JobEvent.RETRY, JobEvent.FAIL, JobEvent.RELEASE, JobEvent.CANCEL})
_NO_LEASE: dict[str, Any] = {"worker": None, "lease_expires_at": None, "cancel_requested": False}


def heartbeat(connection: Connection, job: Job, lease_seconds: float, now: datetime) -> HeartbeatReply:
    """Prolong the lease of the attempt that `job` names."""
    cancel_requested = connection.execute(
        update(job_table)
        .where(_held_by_worker_of(job))
        .values(lease_expires_at=now + timedelta(seconds=lease_seconds))
        .returning(job_table.c.cancel_requested)
    ).scalar_one_or_none()
    if cancel_requested is None:
        return HeartbeatReply.LOST
    return HeartbeatReply.CANCEL if cancel_requested else HeartbeatReply.HELD


def held(connection: Connection, job: Job) -> Job:
    """The job as it is now, locked until the end of the transaction, if `job` still names its attempt.

    Its study is held first, as by all that decides on a study: none of them waits for another in a circle.

    Raises
    ------
    LeaseLost
        If the job was taken from its worker.
    """
    hold_study(connection, job.study_instance_uid)
    row = connection.execute(select(job_table).where(_held_by_worker_of(job)).with_for_update()).one_or_none()
    if row is None:
        raise LeaseLost(f"job {job.job_id} attempt {job.attempt} is not held by {job.worker} any more")
    return to_job(row)


def finish(
    connection: Connection,
    job: Job,
    event: JobEvent,
    now: datetime,
    message: str | None = None,
    run_after: datetime | None = None,
    code: str = "cannot-run",
) -> Job:
    """End the attempt that `job` names: SUCCEED, RETRY (not before `run_after`), FAIL (because of `code`), RELEASE or
    CANCEL.

    What would queue the job again cancels it instead when somebody asked for that meanwhile; an inference of which the
    request to cancel was taken back meanwhile is released. (A delivery cancels itself when its result is outdated.)

    Raises
    ------
    LeaseLost
        If the job was taken from its worker; nothing is changed.
    """
    if event not in _FINISHING:
        raise ValueError(f"a worker cannot finish a job with {event}")
    now_held = held(connection, job)
    if now_held.cancel_requested and event in (JobEvent.RETRY, JobEvent.RELEASE):
        event = JobEvent.CANCEL
    elif event is JobEvent.CANCEL and job.kind is JobKind.INFER and not now_held.cancel_requested:
        event = JobEvent.RELEASE
    changes: dict[str, Any] = {"last_error": message}
    if event is JobEvent.RETRY:
        changes["run_after"] = run_after or now
    elif event is JobEvent.RELEASE:
        changes = {"run_after": now, "attempt": job.attempt - 1}
    finished = change_job(connection, now_held, event, now, message, **_NO_LEASE, **changes)
    _record_not_analysed(connection, finished, code, message, now)
    return finished


def rescue(
    connection: Connection,
    now: datetime,
    is_dead: Callable[[str], bool] = lambda worker: False,
    is_dead_with_its_node: Callable[[str], bool] = lambda worker: False,
) -> list[Job]:
    """T6: take from their workers the jobs whose lease ran out, or whose worker `is_dead`; the jobs as they are then.

    Where the whole node of the worker died the attempt is given back, as often as the job has attempts: it may be what
    takes the node down.
    """
    in_order = (job_table.c.study_instance_uid, job_table.c.id)  # of several that rescue none waits for another
    rows = connection.execute(select(job_table).where(job_table.c.state == JobState.RUNNING).order_by(*in_order)).all()
    rescued = []
    for job in map(to_job, rows):
        if _has_lost_worker(job, now, is_dead):
            with suppress(LeaseLost):  # somebody else was faster
                now_held = held(connection, job)
                if _has_lost_worker(now_held, now, is_dead):
                    rescued.append(_rescue(connection, now_held, now, is_dead_with_its_node(str(job.worker))))
    return rescued


def _held_by_worker_of(job: Job) -> ColumnElement[bool]:
    return and_(
        job_table.c.id == job.job_id,
        job_table.c.state == JobState.RUNNING,
        job_table.c.worker == job.worker,
        job_table.c.attempt == job.attempt,
    )


def _record_not_analysed(connection: Connection, job: Job, code: str, message: str | None, now: datetime) -> None:
    """Why a study that was wanted is not analysed, where its job has failed; early work is tried again anyway."""
    if job.refusal_code is not None:
        return
    if job.kind is JobKind.INFER and job.state is JobState.FAILED and not job.speculative:
        outcome = DecisionOutcome.NOT_ANALYSED
        said = (message or "").removeprefix("NotAnalysed: ")
        answer = Decision(job.study_instance_uid, job.route or "", job.model or "", outcome, code, said, now)
        record_for_model(connection, answer)


def _has_lost_worker(job: Job, now: datetime, is_dead: Callable[[str], bool]) -> bool:
    expired = job.lease_expires_at is not None and job.lease_expires_at < now
    return expired or (job.worker is not None and is_dead(job.worker))


def _rescue(connection: Connection, job: Job, now: datetime, with_its_node: bool) -> Job:
    message = f"the worker {job.worker} died or did not report in time"
    changes: dict[str, Any] = {"last_error": message, "run_after": now}
    if job.cancel_requested:
        event = JobEvent.CANCEL
    elif with_its_node and _times_node_died(connection, job) < job.maximum_attempts:
        event, message = JobEvent.NODE_DIED, f"the node of worker {job.worker} died or was cut off"
        changes = {"run_after": now, "attempt": job.attempt - 1}
    elif job.attempt < job.maximum_attempts:
        event = JobEvent.RESCUE
    else:
        event = JobEvent.EXHAUST
    rescued = change_job(connection, job, event, now, message, **_NO_LEASE, **changes)
    _record_not_analysed(connection, rescued, "worker-died", message, now)
    return rescued


def _times_node_died(connection: Connection, job: Job) -> int:
    """How often a node died over this job since it was made or an operator wanted it again."""
    mine = event_table.c.job_id == job.job_id
    requeued = select(func.max(event_table.c.id)).where(mine, event_table.c.event == JobEvent.REQUEUE)
    since = event_table.c.id > func.coalesce(requeued.scalar_subquery(), 0)
    died = select(func.count()).where(mine, event_table.c.event == JobEvent.NODE_DIED, since)
    return connection.execute(died).scalar_one()
