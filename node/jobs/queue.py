"""Making jobs, claiming them, and what an operator does with them; `node.jobs.lease` says what their worker does.

Each transition writes its line of history in the same transaction.

Functions take a connection of `write_transaction`; times are arguments.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, exists, func, not_, or_, select, true, update

from node.errors import Permanent
from node.jobs.job import (
    EVERY_DESTINATION,
    InferOrder,
    Job,
    JobNotFound,
    Lane,
    to_job,
)
from node.jobs.state import JobEvent, next_state
from node.jobs.transition import AGEING_PER_LANE, change_job, claim_order_at, insert_job, record_event
from node.store.tables import JobKind, JobState, Priority, ResultState, result
from node.store.tables import job as job_table

_OPEN = (JobState.QUEUED, JobState.RUNNING)
_MOST_SKEW = timedelta(minutes=10)
"""So far apart the clocks of several machines may be."""


def enqueue_infer(connection: Connection, order: InferOrder, now: datetime) -> Job:
    """T2: the job for this study, model and input set, made if it is not there.

    A new input set of the same study and model is the next revision, and cancels the unfinished jobs of
    earlier ones. An unfinished job that is there already learns further destinations, and a higher lane
    while it waits.
    """
    known = find_infer(connection, order)
    if known is not None:
        return _merge(connection, known, order)
    mine = and_(job_table.c.study_instance_uid == order.study_instance_uid, job_table.c.model == order.model)
    last = connection.scalar(select(func.max(job_table.c.revision)).where(mine)) or 0
    job = insert_job(
        connection,
        now,
        kind=JobKind.INFER,
        priority=order.priority,
        maximum_attempts=order.maximum_attempts,
        study_instance_uid=order.study_instance_uid,
        route=order.route,
        model=order.model,
        model_digest=order.model_digest,
        input_digest=order.input_digest,
        inputs={name: list(uids) for name, uids in order.inputs.items()},
        destinations=list(order.destinations),
        revision=last + 1,
        speculative=order.speculative,
        refusal_code=order.refusal[0] if order.refusal else None,
        refusal_text=order.refusal[1] if order.refusal else None,
    )
    if not order.speculative:
        cancel_earlier(connection, job, now)
    return job


def cancel_earlier(connection: Connection, job: Job, now: datetime) -> list[Job]:
    """Cancel the unfinished jobs of the same study and model that are of earlier revisions."""
    mine = and_(
        job_table.c.study_instance_uid == job.study_instance_uid,
        job_table.c.model == job.model,
        job_table.c.revision < job.revision,
    )
    return _cancel_all(connection, mine, now, f"revision {job.revision} replaces it")


def enqueue_delivery(
    connection: Connection,
    result_id: int,
    destination: str,
    priority: Priority,
    maximum_attempts: int,
    now: datetime,
    *,
    critical: bool = False,
) -> Job:
    """T4: the job that brings this result to this destination, made if it is not there.

    A critical one is claimed before all others, and waits for no other of its study that is not.
    """
    known = connection.execute(
        select(job_table).where(job_table.c.result_id == result_id, job_table.c.destination == destination)
    ).one_or_none()
    if known is not None:
        return to_job(known)
    return insert_job(
        connection,
        now,
        kind=JobKind.DELIVER,
        priority=Priority.STAT if critical else priority,
        critical=critical,
        maximum_attempts=maximum_attempts,
        study_instance_uid=connection.execute(
            select(result.c.study_instance_uid).where(result.c.id == result_id)
        ).scalar_one(),
        result_id=result_id,
        destination=destination,
    )


def claim(
    connection: Connection,
    kind: JobKind,
    worker: str,
    lease_seconds: float,
    now: datetime,
    lane: Lane = EVERY_DESTINATION,
) -> Job | None:
    """T3: take the next job that may run, or None. `worker` is a name that no other worker ever has."""
    candidate = (
        select(job_table.c.id)
        .where(job_table.c.kind == kind, job_table.c.state == JobState.QUEUED, job_table.c.run_after <= now)
        .where(not_(job_table.c.held), _first_of_its_study_and_destination(), _in_lane(lane))
        .order_by(job_table.c.critical.desc(), job_table.c.claim_order_at, job_table.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = connection.execute(
        update(job_table)
        .where(job_table.c.id == candidate, job_table.c.state == JobState.QUEUED)
        .values(
            state=next_state(JobState.QUEUED, JobEvent.CLAIM),
            worker=worker,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            attempt=job_table.c.attempt + 1,
            updated_at=now,
        )
        .returning(job_table)
    ).one_or_none()
    if row is None:
        return None
    job = to_job(row)
    record_event(connection, job, JobEvent.CLAIM, JobState.QUEUED, now)
    return job


def next_run_at(connection: Connection, kind: JobKind, lane: Lane = EVERY_DESTINATION) -> datetime | None:
    """When the next queued job of this kind may run; None when nothing waits for a time."""
    return connection.scalar(
        select(func.min(job_table.c.run_after)).where(
            job_table.c.kind == kind,
            job_table.c.state == JobState.QUEUED,
            not_(job_table.c.held),
            _first_of_its_study_and_destination(),
            _in_lane(lane),
        )
    )


def heed_clock_set_back(connection: Connection, kind: JobKind, longest_seconds: float, now: datetime) -> int:
    """Let jobs run now that wait longer than anything makes them wait: when they were queued, the clock was ahead of
    what it says now. How many there were."""
    ahead = and_(
        job_table.c.kind == kind,
        job_table.c.state == JobState.QUEUED,
        job_table.c.run_after > now + timedelta(seconds=longest_seconds) + _MOST_SKEW,
    )
    return connection.execute(update(job_table).where(ahead).values(run_after=now)).rowcount


def hold_job(connection: Connection, job_id: int, held: bool) -> Job:
    """Keep a job from being claimed, or let it go again; the one that runs is finished first."""
    get_job(connection, job_id)
    row = connection.execute(
        update(job_table).where(job_table.c.id == job_id).values(held=held).returning(job_table)
    ).one()
    return to_job(row)


def cancel(connection: Connection, job_id: int, now: datetime, reason: str | None = None) -> Job:
    """Cancel a queued job at once; ask the worker of a running one to stop.

    Raises
    ------
    JobNotFound, IllegalTransition
        If there is no such job, or it is finished.
    """
    return _cancel(connection, get_job(connection, job_id), now, reason)


def cancel_deliveries(connection: Connection, result_ids: Sequence[int], now: datetime, reason: str) -> list[Job]:
    """Cancel what is still to be delivered of these results."""
    return _cancel_all(connection, job_table.c.result_id.in_(result_ids), now, reason)


def requeue(connection: Connection, job_id: int, now: datetime, run_after: datetime | None = None) -> Job:
    """Run a finished job again, with all its attempts, now or not before `run_after`.

    Raises
    ------
    JobNotFound, IllegalTransition
        If there is no such job, or it is not finished.
    Permanent
        If its result is there already, or a later one replaced it.
    """
    job = get_job(connection, job_id)
    next_state(job.state, JobEvent.REQUEUE)
    _refuse_outdated(connection, job)
    changes = {"attempt": 0, "run_after": run_after or now, "claim_order_at": claim_order_at(job.priority, now)}
    return change_job(connection, job, JobEvent.REQUEUE, now, None, **changes)


def get_job(connection: Connection, job_id: int) -> Job:
    """The job with this number, or `JobNotFound`."""
    row = connection.execute(select(job_table).where(job_table.c.id == job_id)).one_or_none()
    if row is None:
        raise JobNotFound(f"there is no job {job_id}")
    return to_job(row)


def another_of_its_study(connection: Connection, job: Job) -> bool:
    """Whether another inference job of the same study waits or runs: it may want the same images."""
    others = select(job_table.c.id).where(
        job_table.c.study_instance_uid == job.study_instance_uid,
        job_table.c.kind == JobKind.INFER,
        job_table.c.state.in_(_OPEN),
        job_table.c.id != job.job_id,
    )
    return connection.execute(others.limit(1)).one_or_none() is not None


def _in_lane(lane: Lane) -> ColumnElement[bool]:
    wanted = [job_table.c.critical] if lane.only_critical else []
    if lane.only is not None:
        return and_(job_table.c.destination == lane.only, *wanted)
    return and_(job_table.c.destination.not_in(lane.without) if lane.without else true(), *wanted)


def _first_of_its_study_and_destination() -> ColumnElement[bool]:
    """Deliveries of one study arrive in the order in which they were made, the critical ones before the others.

    Holds for every inference job.
    """
    older = job_table.alias("older")
    return or_(
        job_table.c.kind != JobKind.DELIVER,
        not_(
            exists().where(
                older.c.study_instance_uid == job_table.c.study_instance_uid,
                older.c.destination == job_table.c.destination,
                older.c.kind == JobKind.DELIVER,
                older.c.state.in_(_OPEN),
                older.c.id < job_table.c.id,
                or_(older.c.critical, not_(job_table.c.critical)),
            )
        ),
    )


def find_infer(connection: Connection, order: InferOrder) -> Job | None:
    """The job of this study, model and input set, if it was ever made."""
    row = connection.execute(
        select(job_table).where(
            job_table.c.study_instance_uid == order.study_instance_uid,
            job_table.c.model == order.model,
            job_table.c.model_digest == order.model_digest,
            job_table.c.input_digest == order.input_digest,
        )
    ).one_or_none()
    return to_job(row) if row else None


def _merge(connection: Connection, known: Job, order: InferOrder) -> Job:
    """Two routes may want the same inference for different destinations."""
    if known.state not in _OPEN:
        return known
    destinations = list(dict.fromkeys([*(known.destinations or ()), *order.destinations]))
    priority = min(known.priority, order.priority)
    if destinations == known.destinations and priority == known.priority:
        return known
    row = connection.execute(
        update(job_table)
        .where(job_table.c.id == known.job_id)
        .values(
            destinations=destinations,
            priority=priority,
            claim_order_at=known.claim_order_at - (known.priority - priority) * AGEING_PER_LANE,
        )
        .returning(job_table)
    ).one()
    return to_job(row)


def _cancel(connection: Connection, job: Job, now: datetime, reason: str | None) -> Job:
    if job.state is JobState.RUNNING:
        return change_job(connection, job, JobEvent.REQUEST_CANCEL, now, reason, cancel_requested=True)
    return change_job(connection, job, JobEvent.CANCEL, now, reason, last_error=reason)


def _cancel_all(connection: Connection, which: ColumnElement[bool], now: datetime, reason: str) -> list[Job]:
    rows = connection.execute(
        select(job_table).where(which, job_table.c.state.in_(_OPEN)).order_by(job_table.c.id).with_for_update()
    ).all()
    return [_cancel(connection, to_job(row), now, reason) for row in rows]


def _refuse_outdated(connection: Connection, job: Job) -> None:
    if job.kind is JobKind.DELIVER:
        state = connection.scalar(select(result.c.state).where(result.c.id == job.result_id))
        if state != ResultState.CURRENT:
            raise Permanent(f"job {job.job_id} would deliver a result that a later one replaced")
        return
    if job.state is JobState.SUCCEEDED:
        raise Permanent(f"job {job.job_id} has its result already: send it again with `overread deliveries retry`")
    later = connection.scalar(
        select(func.max(job_table.c.revision)).where(
            job_table.c.study_instance_uid == job.study_instance_uid,
            job_table.c.model == job.model,
            job_table.c.refusal_code.is_(None),  # what only says that it was not done replaces nothing
        )
    )
    if later and job.revision and later > job.revision:
        raise Permanent(f"job {job.job_id} is revision {job.revision}, and revision {later} replaced it")
