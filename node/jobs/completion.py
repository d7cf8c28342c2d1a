"""T4: what is committed together when an inference ends."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from node.jobs import queue
from node.jobs.queue import Job
from node.jobs.transition import AGEING_PER_LANE
from node.store.lanes import raise_lane
from node.store.notices import follow_result
from node.store.results import NewResult, RecordedResult, hold_result, record_result, withdraw_results
from node.store.tables import Priority


def complete_inference(
    connection: Connection,
    job: Job,
    new: NewResult,
    delivery_attempts: int,
    now: datetime,
    critical_findings: Sequence[str] = (),
) -> RecordedResult:
    """Record the result, withdraw what it replaces, and make one delivery for each destination of `job`.

    `job` is the job as it is in this transaction (destinations may have been added while it ran). A result
    that comes after a later revision is kept and delivered nowhere. With `critical_findings` (their names) it is
    delivered ahead of everything, a notice is raised, and all other work of the study is STAT from now on. That of a
    speculative job is held, and does nothing else yet; it is withdrawn where the job was given up meanwhile.
    """
    if critical_findings:
        raise_lane(connection, job.study_instance_uid, Priority.STAT, AGEING_PER_LANE)
    if job.speculative:
        result_id = hold_result(connection, new)
        if job.cancel_requested:  # too late to stop it
            withdraw_results(connection, [job.job_id])
        return RecordedResult(result_id, is_current=False, superseded=())
    recorded = record_result(connection, new)
    publish(connection, job, new, recorded, delivery_attempts, now, critical_findings)
    return recorded


def publish(
    connection: Connection,
    job: Job,
    new: NewResult,
    recorded: RecordedResult,
    delivery_attempts: int,
    now: datetime,
    critical_findings: Sequence[str],
) -> None:
    """What follows from a result that takes effect: withdrawals, notices and deliveries."""
    if recorded.superseded:
        reason = f"revision {new.revision} replaces this result"
        queue.cancel_deliveries(connection, recorded.superseded, now, reason)
    if recorded.is_current:
        follow_result(connection, recorded.result_id, new, critical_findings, now)
        for destination in job.destinations or ():
            queue.enqueue_delivery(
                connection,
                recorded.result_id,
                destination,
                job.priority,
                delivery_attempts,
                now,
                critical=bool(critical_findings),
            )
