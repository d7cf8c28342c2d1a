"""The loop around a handler: claim, run, end the attempt, wait for more.

A handler gets a `Job` and a `Heartbeat` and returns a `Completion`, which is run in the transaction that
ends the job, so that what it records is committed with SUCCEED or not at all. The handler itself holds no
transaction.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import Connection, Engine

from node.errors import Transient
from node.jobs import lease, queue
from node.jobs.heartbeat import Heartbeat, Interrupted, Overdue, StopReason, Watch, WatchLimits
from node.jobs.job import EVERY_DESTINATION, Job, Lane, LeaseLost
from node.jobs.process import is_dead, is_dead_with_its_node, worker_name
from node.jobs.retry import GiveUp, RetryPolicy, decide
from node.jobs.state import JobEvent
from node.logs import describe_error, get_logger
from node.store.database import read_transaction, write_transaction
from node.store.tables import JobKind

Completion = Callable[[Connection, Job], str | None]
"""Writes what a job made. Gets the job as it is in this transaction; raising undoes everything and fails
the attempt. What it returns is kept in the history: a reservation about a job that succeeded all the same."""

Handler = Callable[[Job, Heartbeat], Completion]
"""Does a job. Raises `Transient`, `Permanent`, or lets `Interrupted` of `Heartbeat.check` pass."""


class Waiter(Protocol):
    """What `JobLoop` needs of a `WakeListener`."""

    def wait(self, timeout: float) -> bool:
        """Wait for a notice, at most `timeout` seconds."""

    def interrupt(self) -> None:
        """End a `wait`; safe in a signal handler."""


class DeadlineExceeded(Transient):
    """The handler ran longer than its deadline, and its process was ended."""


@dataclass(frozen=True)
class LoopSettings:
    """How a loop works; times in seconds.

    `deadline_seconds` ends an attempt (and the process) that runs longer; `grace_seconds` is how long a
    running handler may go on after `stop` before its job is released and the process ended; `poll_seconds`
    is the safety net of waiting; `lane` says which deliveries are claimed.
    """

    kind: JobKind
    lease_seconds: float
    poll_seconds: float
    retry: RetryPolicy
    deadline_seconds: float | None = None
    grace_seconds: float = 8.0
    lane: Lane = EVERY_DESTINATION


def utc_now() -> datetime:
    """The clock of workers."""
    return datetime.now(UTC)


class JobLoop:
    """One worker. Not shared between threads, apart from `stop`.

    Parameters
    ----------
    on_finished : callable, optional
        Called with the job after an attempt ended and was committed: the place to wake who takes over.
    gate : callable, optional
        Seconds for which nothing is to be claimed; 0 when the next job may be taken.
    now, end_process : callable
        Clock and `os._exit`, given by tests. `end_process` ends all loops of the process.
    """

    def __init__(
        self,
        engine: Engine,
        settings: LoopSettings,
        handler: Handler,
        waiter: Waiter,
        *,
        on_finished: Callable[[Job], None] = lambda job: None,
        gate: Callable[[], float] = lambda: 0.0,
        now: Callable[[], datetime] = utc_now,
        end_process: Callable[[int], None] = os._exit,
    ) -> None:
        self.worker = worker_name()
        self._engine = engine
        self._settings = settings
        self._handler = handler
        self._waiter = waiter
        self._on_finished = on_finished
        self._gate = gate
        self._closed_seconds = 0.0
        self._now = now
        self._end_process = end_process
        self._stopping = False
        self._next_rescue = 0.0
        self._log = get_logger("jobs").bind(worker=self.worker, kind=str(settings.kind))

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            try:
                idle_seconds = 0.0 if self.step() else self._idle_seconds()
            except Exception as error:  # the database is away: the loop outlives it
                self._log.error("worker_cannot_reach_queue", error=describe_error(error))
                idle_seconds = self._settings.poll_seconds
            if idle_seconds and not self._stopping:
                self._waiter.wait(idle_seconds)

    def stop(self) -> None:
        """Claim no more; ask the running handler to stop. Safe in a signal handler and from any thread."""
        self._stopping = True
        self._waiter.interrupt()

    def step(self) -> bool:
        """Rescue if it is time, and do the next job; whether there was one."""
        self._rescue_if_due()
        self._closed_seconds = self._gate()
        if self._closed_seconds > 0:
            return False
        with write_transaction(self._engine) as connection:
            job = queue.claim(
                connection,
                self._settings.kind,
                self.worker,
                self._settings.lease_seconds,
                self._now(),
                self._settings.lane,
            )
        if job is None:
            return False
        self._work(job)
        return True

    def _idle_seconds(self) -> float:
        """Until the next job may run, a lease may have run out, or it is time to look anyway."""
        if self._closed_seconds > 0:
            return min(self._settings.poll_seconds, self._closed_seconds)
        with read_transaction(self._engine) as connection:
            next_run_at = queue.next_run_at(connection, self._settings.kind, self._settings.lane)
        seconds = min(self._settings.poll_seconds, max(self._next_rescue - time.monotonic(), 0.01))
        if next_run_at is not None:
            seconds = min(seconds, max((next_run_at - self._now()).total_seconds(), 0.01))
        return seconds

    def _rescue_if_due(self) -> None:
        if time.monotonic() < self._next_rescue:
            return
        self._next_rescue = time.monotonic() + self._settings.lease_seconds
        kind, longest = self._settings.kind, self._settings.retry.longest_seconds
        with write_transaction(self._engine) as connection:
            rescued = lease.rescue(connection, self._now(), is_dead, is_dead_with_its_node)
            ahead = queue.heed_clock_set_back(connection, kind, longest, self._now())
        if ahead:
            self._log.warning("clock_was_set_back", jobs=ahead)
        for job in rescued:
            self._log.warning("job_rescued", job=job.job_id, attempt=job.attempt, state=str(job.state))

    def _work(self, job: Job) -> None:
        settings = self._settings
        started = time.monotonic()
        limits = WatchLimits(settings.lease_seconds, settings.deadline_seconds, settings.grace_seconds)
        with Watch(
            self._engine,
            job,
            limits,
            now=self._now,
            stopping=lambda: self._stopping,
            overdue=self._end_overdue,
        ) as watch:
            outcome = self._outcome(job, watch.heartbeat)
            if not watch.take_end():
                return
            finished = self._record(job, outcome)
        if finished is not None:
            self._summarise(job, finished, time.monotonic() - started)
            self._on_finished(finished)

    def _outcome(self, job: Job, heartbeat: Heartbeat) -> Completion | Exception:
        try:
            return self._handler(job, heartbeat)
        except Exception as error:
            if heartbeat.interrupted and heartbeat.reason is not None:  # however it was wrapped on its way
                return Interrupted(heartbeat.reason)
            return error

    def _record(self, job: Job, outcome: Completion | Exception) -> Job | None:
        """End the attempt; None when that was impossible, and the lease decides."""
        try:
            if not isinstance(outcome, Exception):
                try:
                    return self._succeed(job, outcome)
                except LeaseLost:
                    raise
                except Exception as error:
                    outcome = error
            return self._end(job, outcome)
        except LeaseLost:
            self._log.warning("job_lease_lost", job=job.job_id, attempt=job.attempt)
        except Exception as error:
            self._log.error("job_end_not_recorded", job=job.job_id, attempt=job.attempt, error=describe_error(error))
        return None

    def _succeed(self, job: Job, complete: Completion) -> Job:
        with write_transaction(self._engine) as connection:
            current = lease.held(connection, job)
            if current.cancel_requested and current.kind is JobKind.INFER:  # a delivery has happened all the same
                message = StopReason.CANCELLED.value
                return lease.finish(connection, job, JobEvent.CANCEL, self._now(), message)
            reservation = complete(connection, current)
            return lease.finish(connection, job, JobEvent.SUCCEED, self._now(), reservation)

    def _end(self, job: Job, error: Exception) -> Job:
        if isinstance(error, Interrupted):
            if error.reason is StopReason.LOST:
                raise LeaseLost(f"job {job.job_id} attempt {job.attempt} was taken while it ran")
            event = JobEvent.CANCEL if error.reason is StopReason.CANCELLED else JobEvent.RELEASE
            with write_transaction(self._engine) as connection:
                return lease.finish(connection, job, event, self._now(), error.reason.value)
        verdict = decide(error, job.attempt, job.maximum_attempts, self._settings.retry, random.random())
        with write_transaction(self._engine) as connection:
            now = self._now()
            if isinstance(verdict, GiveUp):
                return lease.finish(connection, job, JobEvent.FAIL, now, verdict.message, code=verdict.code)
            run_after = now + timedelta(seconds=verdict.wait_seconds)
            return lease.finish(connection, job, JobEvent.RETRY, now, verdict.message, run_after)

    def _end_overdue(self, job: Job, why: Overdue) -> None:
        """The handler does not return: record the attempt for it, and end the process with whatever hangs
        in it."""
        self._stopping = True
        if why is Overdue.GRACE:
            finished = self._record(job, Interrupted(StopReason.STOPPING))
        else:
            seconds = self._settings.deadline_seconds
            finished = self._record(job, DeadlineExceeded(f"ran longer than {seconds:g} s and was ended"))
        if finished is not None:
            self._on_finished(finished)
        self._log.warning("worker_ends_process", job=job.job_id, reason=why.value)
        self._end_process(0 if why is Overdue.GRACE else 1)

    def _summarise(self, job: Job, finished: Job, seconds: float) -> None:
        self._log.info(
            "job_ended",
            job=job.job_id,
            study=job.study_instance_uid,
            model=job.model,
            destination=job.destination,
            attempt=job.attempt,
            state=str(finished.state),
            error=finished.last_error,
            seconds=round(seconds, 3),
        )
