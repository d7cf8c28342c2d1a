"""The lease of a running job, kept alive by a thread beside the handler that does the work."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from node.errors import OverreadError
from node.jobs import lease
from node.jobs.job import HeartbeatReply, Job
from node.logs import get_logger
from node.store.database import write_transaction

_TICK_SECONDS = 0.2


class StopReason(Enum):
    """Why a running job is to stop."""

    STOPPING = "the worker stops"
    CANCELLED = "cancelled while it ran"
    LOST = "the lease is lost"


class Overdue(Enum):
    """Why a handler that does not return is not waited for any longer."""

    DEADLINE = "deadline"
    GRACE = "grace"


class Interrupted(OverreadError):
    """The handler is to stop now; what it has done so far is dropped."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Heartbeat:
    """What a handler sees of its lease: call `check` between steps, at least every few seconds."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.interrupted = False

    def check(self) -> None:
        """Raise `Interrupted` when the job is to stop."""
        if self.reason is not None:
            self.interrupted = True
            raise Interrupted(self.reason)


@dataclass(frozen=True)
class WatchLimits:
    """Seconds: how long a lease lasts, how long a job may run (None: no limit), how long a stop may take."""

    lease_seconds: float
    deadline_seconds: float | None
    grace_seconds: float


class Watch:
    """Keeps the lease of `job` while the body of the context runs, and watches deadline and shutdown.

    Exactly one side ends the attempt. The body does, when `take_end` says so; otherwise `overdue` has been
    called by the watching thread, which is to record the attempt and end the process.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        limits: WatchLimits,
        *,
        now: Callable[[], datetime],
        stopping: Callable[[], bool],
        overdue: Callable[[Job, Overdue], None],
    ) -> None:
        self.heartbeat = Heartbeat()
        self._engine = engine
        self._job = job
        self._limits = limits
        self._now = now
        self._stopping = stopping
        self._overdue = overdue
        self._end = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{job.job_id}", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def take_end(self) -> bool:
        """Whether the caller is the one to end the attempt; True once."""
        return self._end.acquire(blocking=False)

    def _run(self) -> None:
        started = last_beat = time.monotonic()
        stop_seen: float | None = None
        limits = self._limits
        tick = min(_TICK_SECONDS, limits.lease_seconds / 6)
        while not self._done.wait(tick):
            now = time.monotonic()
            if stop_seen is None and self._stopping():
                stop_seen = now
                self.heartbeat.reason = self.heartbeat.reason or StopReason.STOPPING
            if stop_seen is not None and now - stop_seen > limits.grace_seconds:
                return self._give_up(Overdue.GRACE)
            if limits.deadline_seconds is not None and now - started > limits.deadline_seconds:
                return self._give_up(Overdue.DEADLINE)
            if now - last_beat > limits.lease_seconds / 3:
                last_beat = now
                self._beat()

    def _give_up(self, why: Overdue) -> None:
        if self.take_end():
            self._overdue(self._job, why)

    def _beat(self) -> None:
        try:
            with write_transaction(self._engine) as connection:
                reply = lease.heartbeat(connection, self._job, self._limits.lease_seconds, self._now())
        except SQLAlchemyError as error:  # the lease has two more beats to go
            get_logger("jobs").warning("heartbeat_failed", job=self._job.job_id, error=type(error).__name__)
            return
        if reply is HeartbeatReply.LOST and not self._done.is_set():
            self.heartbeat.reason = StopReason.LOST
        elif reply is HeartbeatReply.CANCEL:
            self.heartbeat.reason = self.heartbeat.reason or StopReason.CANCELLED
