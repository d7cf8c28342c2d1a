"""The life of a job, as one table. What is not in the table is an error.

ENQUEUE         somebody made the job
CLAIM           a worker took it: a lease, and one attempt more
SUCCEED         the worker finished and its completion is committed with this event
RETRY           the attempt failed and another may help: queued again, not before `run_after`
FAIL            the attempt failed and it was the last, or another cannot help: dead letter
RELEASE         the worker stops before the job is done: queued again, the attempt is given back
RESCUE          the lease ran out: queued again, the attempt counts
EXHAUST         the lease ran out in the last attempt: dead letter
NODE_DIED       not the worker alone but its whole node is gone (power, `kill -9`): queued again, the attempt is given
                back; as often as the job has attempts, since it may be what takes the node down
REQUEST_CANCEL  somebody cancelled a job that runs: the worker learns it with its next heartbeat
CANCEL          cancelled: at once if queued, by the worker (or the rescuer) if it ran
REQUEUE         an operator wants it again: attempts start from nothing
"""

from enum import StrEnum

from node.errors import Permanent
from node.store.tables import JobState


class JobEvent(StrEnum):
    """What can happen to a job; see the head of this file."""

    ENQUEUE = "ENQUEUE"
    CLAIM = "CLAIM"
    SUCCEED = "SUCCEED"
    RETRY = "RETRY"
    FAIL = "FAIL"
    RELEASE = "RELEASE"
    RESCUE = "RESCUE"
    EXHAUST = "EXHAUST"
    NODE_DIED = "NODE_DIED"
    REQUEST_CANCEL = "REQUEST_CANCEL"
    CANCEL = "CANCEL"
    REQUEUE = "REQUEUE"


TRANSITIONS: dict[tuple[JobState | None, JobEvent], JobState] = {
    (None, JobEvent.ENQUEUE): JobState.QUEUED,
    (JobState.QUEUED, JobEvent.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobEvent.RETRY): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.RELEASE): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.RESCUE): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.EXHAUST): JobState.FAILED,
    (JobState.RUNNING, JobEvent.NODE_DIED): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.REQUEST_CANCEL): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.SUCCEEDED, JobEvent.REQUEUE): JobState.QUEUED,
    (JobState.FAILED, JobEvent.REQUEUE): JobState.QUEUED,
    (JobState.CANCELLED, JobEvent.REQUEUE): JobState.QUEUED,
}
"""From (state, event) to the next state; None is a job that does not exist yet."""


class IllegalTransition(Permanent):
    """This event cannot happen to a job in this state; nothing was changed."""

    def __init__(self, state: JobState | None, event: JobEvent) -> None:
        super().__init__(f"{event} is not possible for a job that is {state or 'not there yet'}")
        self.state = state
        self.event = event


def next_state(state: JobState | None, event: JobEvent) -> JobState:
    """Where `event` leads from `state`, or `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None
