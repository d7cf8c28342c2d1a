"""T4: what is committed together when an inference ends."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from node.jobs import queue
from node.jobs.queue import Job
from node.store.notices import follow_result
from node.store.results import NewResult, RecordedResult, record_result


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
    delivered ahead of everything, and a notice is raised.
    """
    recorded = record_result(connection, new)
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
    return recorded
