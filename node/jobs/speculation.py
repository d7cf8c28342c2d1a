"""Work begun before a study is whole: decided again when it is, and only then delivered.

A speculative job is an inference job like any other, behind all lanes, whose result is HELD. When the study settles
with the same input set the job is confirmed: a result that is there takes effect at once, one that is being made does
so when it is done. What the whole study does not ask for is withdrawn. All of it is rows, so that a restart at any
moment changes nothing.

Functions take a connection of `write_transaction`; times are arguments.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from sqlalchemy import Connection, func, select, update

from node.jobs import queue
from node.jobs.completion import publish
from node.jobs.job import InferOrder, Job, to_job
from node.jobs.state import JobEvent
from node.jobs.transition import claim_order_at
from node.store.results import StoredResult, promote_result, result_of_job, withdraw_results
from node.store.tables import JobState, ResultState, job_event, result
from node.store.tables import job as job_table

_OPEN = (JobState.QUEUED, JobState.RUNNING)


def begin_early(connection: Connection, order: InferOrder, now: datetime) -> Job | None:
    """The speculative job for this input set, made if there is none.

    None while a job of the same study and model is unfinished that is not speculative: its report could not be named
    as the predecessor of this one's.
    """
    known = queue.find_infer(connection, order)
    if known is not None:
        if known.speculative and known.state is JobState.CANCELLED:
            return _again(connection, known, now)
        return known
    unfinished = connection.scalar(
        select(func.count())
        .select_from(job_table)
        .where(
            job_table.c.study_instance_uid == order.study_instance_uid,
            job_table.c.model == order.model,
            job_table.c.state.in_(_OPEN),
            job_table.c.speculative.is_(False),
        )
    )
    return None if unfinished else queue.enqueue_infer(connection, order, now)


def enqueue_settled(connection: Connection, order: InferOrder, delivery_attempts: int, now: datetime) -> Job:
    """T2: the job for this input set of a whole study: confirmed where it was begun early, or made."""
    known = queue.find_infer(connection, order)
    if known is None or not known.speculative:
        return queue.enqueue_infer(connection, order, now)
    saved = _saved_seconds(connection, known, now)
    confirmed = to_job(
        connection.execute(
            update(job_table)
            .where(job_table.c.id == known.job_id)
            .values(
                speculative=False,
                saved_seconds=saved,
                route=order.route,
                destinations=list(order.destinations),
                priority=order.priority,
                claim_order_at=claim_order_at(order.priority, known.created_at),
                cancel_requested=False,
                updated_at=now,
            )
            .returning(job_table)
        ).one()
    )
    queue.cancel_earlier(connection, confirmed, now)
    if confirmed.state in (JobState.FAILED, JobState.CANCELLED):
        return _again(connection, confirmed, now)
    held = result_of_job(connection, confirmed.job_id)
    if held is not None:
        _release(connection, confirmed, held, delivery_attempts, now)
    return confirmed


def withdraw_early(
    connection: Connection, study_instance_uid: str, wanted: Container[int], now: datetime, reason: str
) -> list[Job]:
    """Give up the speculative jobs of a study that are not among `wanted`; those that were not given up before."""
    rows = connection.execute(
        select(job_table)
        .outerjoin(result, result.c.job_id == job_table.c.id)
        .where(
            job_table.c.study_instance_uid == study_instance_uid,
            job_table.c.speculative,
            job_table.c.state.in_(_OPEN) | (result.c.state == ResultState.HELD),
        )
    ).all()
    unwanted = [job for job in map(to_job, rows) if job.job_id not in wanted and not job.cancel_requested]
    for job in unwanted:
        if job.state in _OPEN:
            queue.cancel(connection, job.job_id, now, reason)
    withdraw_results(connection, [job.job_id for job in unwanted])
    return unwanted


@dataclass(frozen=True)
class EarlyWork:
    """What early beginning has brought: jobs under way or held, confirmed with the seconds saved, and given up."""

    waiting: int
    confirmed: int
    withdrawn: int
    median_saved_seconds: float | None
    saved_seconds: float


def early_work(connection: Connection) -> EarlyWork:
    """Counts and sums over all jobs that are known."""
    saved = list(connection.scalars(select(job_table.c.saved_seconds).where(job_table.c.saved_seconds.is_not(None))))
    waiting = select(func.count()).select_from(job_table.outerjoin(result, result.c.job_id == job_table.c.id))
    alive = job_table.c.state.in_(_OPEN) | (result.c.state == ResultState.HELD)
    early = select(func.count()).select_from(job_table).where(job_table.c.speculative)
    number = connection.scalar(waiting.where(job_table.c.speculative, alive)) or 0
    return EarlyWork(
        waiting=number,
        confirmed=len(saved),
        withdrawn=(connection.scalar(early) or 0) - number,
        median_saved_seconds=median(saved) if saved else None,
        saved_seconds=sum(saved),
    )


def _saved_seconds(connection: Connection, job: Job, now: datetime) -> float:
    """How much earlier its result can be delivered than if it were only begun now."""
    begun_at = connection.scalar(
        select(func.max(job_event.c.at)).where(job_event.c.job_id == job.job_id, job_event.c.event == JobEvent.CLAIM)
    )
    if begun_at is None or job.state not in (JobState.RUNNING, JobState.SUCCEEDED) or job.cancel_requested:
        return 0.0
    done_at = job.updated_at if job.state is JobState.SUCCEEDED else now
    return max(0.0, (min(done_at, now) - begun_at).total_seconds())


def _release(connection: Connection, job: Job, held: StoredResult, delivery_attempts: int, now: datetime) -> None:
    recorded = promote_result(connection, held.result_id, held)
    critical: Sequence[str] = [each["finding"] for each in held.summary if each.get("critical")]
    publish(connection, job, held, recorded, delivery_attempts, now, critical)


def _again(connection: Connection, job: Job, now: datetime) -> Job:
    """Run a speculative job again that was given up or failed, as the newest revision."""
    mine = (job_table.c.study_instance_uid == job.study_instance_uid, job_table.c.model == job.model)
    newest = connection.scalar(select(func.max(job_table.c.revision)).where(*mine)) or 0
    if job.revision != newest:
        connection.execute(update(job_table).where(job_table.c.id == job.job_id).values(revision=newest + 1))
    return queue.requeue(connection, job.job_id, now)
