"""The outbox: brings results to destinations, each in lanes of its own, until they have arrived.

A lane is a `JobLoop` that claims only deliveries to its destination, so that one that is down or slow
delays no other; a `Gate` keeps it from claiming while the destination is held, closed or down. One more for each
destination takes critical results only, outside office hours too, so that these never wait for what is being sent.
Beside them a `Confirmer` asks whether what was accepted is kept. A last lane takes deliveries to destinations that
are no longer configured, and says so.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine

from node.audit.trail import AnyTrail, NoTrail
from node.deliver.audit import DeliveryWitness
from node.deliver.lanes import Route, routes_of
from node.deliver.retraction import with_rejection_note
from node.deliver.transport import NeverTaken, NotTaken, Parcel, Receipt, Unreachable
from node.destination_settings import ObjectDestination
from node.errors import Permanent
from node.jobs.heartbeat import Heartbeat, Interrupted, StopReason
from node.jobs.job import Job, Lane
from node.jobs.retry import RetryPolicy
from node.jobs.wake import Topic, WakeListener
from node.jobs.worker import Completion, Handler, JobLoop, LoopSettings
from node.logs import describe_error, get_logger
from node.settings import Settings
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import record_delivered
from node.store.results import StoredResult, get_result, record_delivery_status
from node.store.tables import JobKind, ResultState


class Runner(Protocol):
    """What a thread of the outbox runs."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def delivery_handler(
    engine: Engine, settings: Settings, routes: Mapping[str, Route] | None = None, trail: AnyTrail | None = None
) -> Handler:
    """What a lane does with a job: send its result, and keep every status (T5).

    The handler raises `Transient` or `Permanent`. Statuses that came before a failure are kept too. Each
    attempt writes one log line; the audit trail has the beginning of the first and what came of it.
    """
    known = routes_of(engine, settings) if routes is None else routes
    witness = DeliveryWitness(trail or NoTrail(), settings.node.ae_title)

    def deliver(job: Job, heartbeat: Heartbeat) -> Completion:
        route = _route_of(job, known)
        with read_transaction(engine) as connection:
            result = get_result(connection, job.result_id or 0)
        if result.state is not ResultState.CURRENT:
            raise Interrupted(StopReason.CANCELLED)
        if result.expired_at is not None:
            raise Permanent(
                f"the files of result {result.result_id} were deleted on {result.expired_at:%Y-%m-%d} "
                "(retention.results_hours): it can be sent again only once the study is analysed again"
            )
        started = time.monotonic()
        if job.attempt == 1:
            witness.begins(route.destination, result)
        receipt = Receipt(())
        error: Exception | None = None
        try:
            parcel = Parcel(job, result, settings.node.data_dir)
            if isinstance(route.destination, ObjectDestination) and route.destination.retract:
                parcel = with_rejection_note(engine, parcel)
            receipt = route.transport.send(parcel, heartbeat.check)
        except (NotTaken, NeverTaken) as failure:
            receipt, error = Receipt((), failure.statuses), failure
            with write_transaction(engine) as connection:
                record_delivery_status(connection, job.job_id, failure.statuses, datetime.now(UTC))
            raise
        except Exception as failure:
            error = failure
            if isinstance(failure, Unreachable):
                route.gate.unreached(failure)
            raise
        finally:
            _log_delivery(job, result, receipt, time.monotonic() - started, error)
            if error is None or isinstance(error, Permanent):
                witness.ended(route.destination, result, error)
        route.gate.reached()
        return _completion(route, receipt)

    return deliver


class Outbox:
    """All lanes of one delivery process; `run` works until `stop`. `further` runs and ends with them."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        wake_folder: Path,
        *,
        on_finished: Callable[[Job], None] = lambda job: None,
        trail: AnyTrail | None = None,
        further: Sequence[Runner] = (),
    ) -> None:
        routes = routes_of(engine, settings)
        handler = delivery_handler(engine, settings, routes, trail)
        lanes: list[tuple[Lane, Callable[[], float]]] = [(Lane(without=frozenset(routes)), lambda: 0.0)]
        for name, route in routes.items():
            lanes.extend([(Lane(only=name), route.gate)] * route.destination.connections)
            lanes.append((Lane(only=name, only_critical=True), route.gate.for_critical))
        self._listeners = [WakeListener(wake_folder, Topic.DELIVER) for _ in lanes]
        loops: list[Runner] = [
            JobLoop(engine, _loop_settings(settings, lane), handler, listener, on_finished=on_finished, gate=gate)
            for (lane, gate), listener in zip(lanes, self._listeners, strict=True)
        ]
        confirmers = [route.confirmer for route in routes.values() if route.confirmer is not None]
        self._runners: list[Runner] = [*loops, *confirmers, *further]

    def run(self) -> None:
        """Work until `stop`, or until a lane breaks: then all end, and the supervisor starts them again."""
        threads = [threading.Thread(target=self._run_lane, args=(runner,)) for runner in self._runners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    def stop(self) -> None:
        """Send nothing new and give up what is being sent. Safe in a signal handler and from any thread."""
        for runner in self._runners:
            with contextlib.suppress(OSError):  # `run` has ended, and closed what the loop waited on
                runner.stop()

    def _run_lane(self, runner: Runner) -> None:
        try:
            runner.run()
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


def _route_of(job: Job, routes: Mapping[str, Route]) -> Route:
    route = routes.get(job.destination or "")
    if route is None:
        known = ", ".join(sorted(routes)) or "none"
        raise Permanent(
            f"destination {job.destination!r} is not in the configuration (known: {known}): "
            f"add it, restart and retry job {job.job_id}"
        )
    return route


def _completion(route: Route, receipt: Receipt) -> Completion:
    """What is committed with SUCCEED: the statuses, and that the objects wait for confirmation, if they do."""

    def complete(connection: Connection, job: Job) -> str | None:
        now = datetime.now(UTC)
        record_delivery_status(connection, job.job_id, receipt.statuses, now)
        wait = route.confirm_after_seconds if receipt.objects else None
        check_after = None if wait is None else now + timedelta(seconds=wait)
        record_delivered(connection, job.job_id, route.destination.name, receipt.objects, now, check_after)
        return receipt.reservation

    return complete


def _log_delivery(job: Job, result: StoredResult, receipt: Receipt, seconds: float, error: Exception | None) -> None:
    """One line for each attempt: what went where, and what was answered."""
    log = get_logger("deliver")
    write = log.info if error is None else log.warning
    write(
        "delivered" if error is None else "not_delivered",
        job=job.job_id,
        attempt=job.attempt,
        study=result.study_instance_uid,
        result=result.result_id,
        destination=job.destination,
        objects=len(result.objects),
        accepted=len(receipt.objects),
        warnings=dict(receipt.warnings),
        seconds=round(seconds, 3),
        error=describe_error(error) if error else None,
    )
