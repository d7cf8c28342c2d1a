"""The outbox: brings results to destinations, each in a lane of its own, until they have arrived.

A lane is a `JobLoop` that claims only deliveries to its destination, so that one that is down or slow
delays no other. One more lane takes deliveries to destinations that are no longer configured, and says so.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from node.deliver.dimse import StoreOutcome, describe_status
from node.deliver.part10 import NotPart10
from node.deliver.storage_scu import SendInterrupted, SendRefused, StoreAnswer, send
from node.errors import Permanent, Transient
from node.jobs.heartbeat import Heartbeat, Interrupted, StopReason
from node.jobs.job import Job, Lane
from node.jobs.retry import RetryPolicy
from node.jobs.wake import Topic, WakeListener
from node.jobs.worker import Completion, Handler, JobLoop, LoopSettings
from node.logs import describe_error, get_logger
from node.settings import Destination, Settings
from node.store.database import read_transaction, write_transaction
from node.store.results import ResultObject, StoredResult, get_result, record_delivery_status
from node.store.tables import JobKind, ResultState


def delivery_handler(engine: Engine, settings: Settings) -> Handler:
    """What a lane does with a job: send the objects of its result in order, and keep every status (T5).

    The handler raises `Transient` or `Permanent` as `storage_scu.send` does. Statuses that came before a
    failure are kept too. Each attempt writes one log line.
    """
    destinations = {destination.name: destination for destination in settings.destinations}

    def deliver(job: Job, heartbeat: Heartbeat) -> Completion:
        destination = _destination_of(job, destinations)
        with read_transaction(engine) as connection:
            result = get_result(connection, job.result_id or 0)
        if result.state is not ResultState.CURRENT:
            raise Interrupted(StopReason.CANCELLED)
        started = time.monotonic()
        answers: Sequence[StoreAnswer] = ()
        error: Exception | None = None
        try:
            answers = _send_result(result, destination, settings, heartbeat)
        except (SendInterrupted, SendRefused) as failure:
            answers, error = failure.answers, failure
            with write_transaction(engine) as connection:
                record_delivery_status(connection, job.job_id, _statuses(answers), datetime.now(UTC))
            raise
        except Exception as failure:
            error = failure
            raise
        finally:
            _log_delivery(job, destination, result, answers, time.monotonic() - started, error)
        return _completion(answers)

    return deliver


class Outbox:
    """All lanes of one delivery process; `run` works until `stop`."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        wake_folder: Path,
        *,
        on_finished: Callable[[Job], None] = lambda job: None,
    ) -> None:
        names = [destination.name for destination in settings.destinations]
        lanes = [*(Lane(only=name) for name in names), Lane(without=frozenset(names))]
        handler = delivery_handler(engine, settings)
        self._listeners = [WakeListener(wake_folder, Topic.DELIVER) for _ in lanes]
        self._loops = [
            JobLoop(engine, _loop_settings(settings, lane), handler, listener, on_finished=on_finished)
            for lane, listener in zip(lanes, self._listeners, strict=True)
        ]

    def run(self) -> None:
        """Work until `stop`, or until a lane breaks: then all end, and the supervisor starts them again."""
        threads = [threading.Thread(target=self._run_lane, args=(loop,)) for loop in self._loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    def stop(self) -> None:
        """Send nothing new and give up what is being sent. Safe in a signal handler and from any thread."""
        for loop in self._loops:
            with contextlib.suppress(OSError):  # `run` has ended, and closed what the loop waited on
                loop.stop()

    def _run_lane(self, loop: JobLoop) -> None:
        try:
            loop.run()
        finally:
            self.stop()


def _loop_settings(settings: Settings, lane: Lane) -> LoopSettings:
    deliver = settings.deliver
    return LoopSettings(
        kind=JobKind.DELIVER,
        lease_seconds=deliver.lease_seconds,
        poll_seconds=deliver.poll_seconds,
        retry=RetryPolicy(deliver.first_retry_seconds, deliver.longest_retry_seconds),
        lane=lane,
    )


def _destination_of(job: Job, destinations: dict[str, Destination]) -> Destination:
    destination = destinations.get(job.destination or "")
    if destination is None:
        known = ", ".join(sorted(destinations)) or "none"
        raise Permanent(
            f"destination {job.destination!r} is not in the configuration (known: {known}): "
            f"add it, restart and retry job {job.job_id}"
        )
    return destination


def _send_result(
    result: StoredResult, destination: Destination, settings: Settings, heartbeat: Heartbeat
) -> list[StoreAnswer]:
    """Send all objects of a result in the order of delivery."""
    paths = [settings.node.data_dir / one.path for one in result.objects]
    try:
        return send(
            destination,
            settings.node.ae_title,
            paths,
            settings.deliver.timeout_seconds,
            check=heartbeat.check,
        )
    except FileNotFoundError:
        lost = _first_missing(result.objects, paths)
        raise Permanent(
            f"object {lost} of result {result.result_id} is not on disk: restore data_dir, then retry the job"
        ) from None
    except NotPart10 as error:
        raise Permanent(
            f"an object of result {result.result_id} {error}: restore data_dir, then retry the job"
        ) from None
    except OSError as error:
        raise Transient(f"result {result.result_id} cannot be read ({error.strerror})") from None


def _first_missing(objects: Sequence[ResultObject], paths: Sequence[Path]) -> str:
    missing = [one.sop_instance_uid for one, path in zip(objects, paths, strict=True) if not path.exists()]
    return missing[0] if missing else "(unknown)"


def _completion(answers: Sequence[StoreAnswer]) -> Completion:
    statuses = _statuses(answers)

    def complete(connection: Connection, job: Job) -> None:
        record_delivery_status(connection, job.job_id, statuses, datetime.now(UTC))

    return complete


def _statuses(answers: Sequence[StoreAnswer]) -> dict[str, int]:
    return {answer.sop_instance_uid: answer.status for answer in answers}


def _log_delivery(
    job: Job,
    destination: Destination,
    result: StoredResult,
    answers: Sequence[StoreAnswer],
    seconds: float,
    error: Exception | None,
) -> None:
    """One line for each attempt: what went where, and what was answered."""
    log = get_logger("deliver")
    write = log.info if error is None else log.warning
    write(
        "delivered" if error is None else "not_delivered",
        job=job.job_id,
        attempt=job.attempt,
        study=result.study_instance_uid,
        result=result.result_id,
        destination=destination.name,
        called_ae_title=destination.ae_title,
        objects=len(result.objects),
        accepted=sum(answer.is_delivered for answer in answers),
        warnings={
            answer.sop_instance_uid: describe_status(answer.status)
            for answer in answers
            if answer.outcome is StoreOutcome.DELIVERED_WITH_WARNING
        },
        seconds=round(seconds, 3),
        error=describe_error(error) if error else None,
    )
