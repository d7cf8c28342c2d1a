"""The edge around selection: when a study's deadline has come, decide and enqueue, in one transaction (T2)."""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from node.infer.manifest import Manifest
from node.jobs.job import InferOrder, Job
from node.jobs.queue import enqueue_infer
from node.jobs.wake import Topic, Wake, WakeListener
from node.logs import describe_error, get_logger
from node.select.decide import ModelTrace, RouteTrace, StudyTrace, decide, wanted_digest
from node.settings import Settings
from node.store import catalogue
from node.store.database import read_transaction, write_transaction
from node.store.tables import DecisionOutcome, Priority


def settle_study(
    connection: Connection,
    study_instance_uid: str,
    settings: Settings,
    manifests: Mapping[str, Manifest],
    now: datetime,
) -> list[Job]:
    """T2 for one study: settle its series, decide, keep why, enqueue. Nothing happens when it is not due (any more).

    Returns
    -------
    list of Job
        The job of each model that was chosen; one that exists already for the same input set is not made again.
    """
    if study_instance_uid not in catalogue.due_studies(connection, now):
        return []
    catalogue.settle_study(connection, study_instance_uid, now)
    trace = decide(catalogue.study_series(connection, study_instance_uid), settings.routes, manifests)
    catalogue.forget_decisions(connection, study_instance_uid)
    catalogue.record_decisions(connection, decisions_of(study_instance_uid, trace, now))
    jobs = []
    for route in trace.routes:
        for model in route.models:
            if model.wanted_and_possible:
                order = _order(study_instance_uid, route, model, settings, manifests[model.model])
                jobs.append(enqueue_infer(connection, order, now))
    return jobs


def decisions_of(study_instance_uid: str, trace: StudyTrace, now: datetime) -> list[catalogue.Decision]:
    """What is kept of a trace: one answer per route and model; the rest can be computed again."""
    answers = []
    for route in trace.routes:
        if not route.wants:
            message = f"none of {len(route.verdicts)} series meets the conditions of the route"
            answers.append((route.route.name, "", DecisionOutcome.NOT_WANTED, "no-series-matches", message))
        for model in route.models:
            outcome = DecisionOutcome.QUEUED if model.wanted_and_possible else DecisionOutcome.NOT_ANALYSED
            answers.append((route.route.name, model.model, outcome, model.code, model.message))
    if not trace.routes:
        answers.append(("", "", DecisionOutcome.NOT_WANTED, "no-route", "the configuration has no routes"))
    return [
        catalogue.Decision(study_instance_uid, route, model, outcome, code, message, now)
        for route, model, outcome, code, message in answers
    ]


def _order(
    study_instance_uid: str, route: RouteTrace, model: ModelTrace, settings: Settings, manifest: Manifest
) -> InferOrder:
    inputs = {
        choice.input_name: [each.sop_instance_uid for each in choice.chosen.instances]
        for choice in model.choices
        if choice.chosen
    }
    return InferOrder(
        study_instance_uid=study_instance_uid,
        route=route.route.name,
        model=model.model,
        model_digest=manifest.digest,
        input_digest=wanted_digest(model),
        inputs=inputs,
        destinations=route.route.destinations,
        priority=Priority[route.route.priority.upper()],
        maximum_attempts=settings.work.maximum_attempts,
    )


class Settler:
    """Settles studies when they are due, in a thread of the worker process.

    It wakes on a notice (an image came, an association was released), at the next deadline, and every
    `settings.work.poll_seconds` as a safety net. Several may run at once: T2 is one transaction.

    Parameters
    ----------
    wake_folder : Path
        Where the node's processes wake each other.
    manifests : callable
        The models that can be used now, by identifier.
    clock : callable
        The present moment, aware UTC.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        manifests: Callable[[], Mapping[str, Manifest]],
        wake_folder: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._manifests = manifests
        self._wake = Wake(wake_folder)
        self._listener = WakeListener(wake_folder, Topic.SETTLE)
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)
        self._log = get_logger("select")

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the transaction that is open."""
        self._stopping.set()
        self._listener.interrupt()
        self._thread.join(timeout)
        self._listener.close()

    def settle_due(self) -> int:
        """Settle every study that is due; the number of jobs made."""
        with read_transaction(self._engine) as connection:
            due = catalogue.due_studies(connection, self._clock())
        made = 0
        for study_instance_uid in due:
            with write_transaction(self._engine) as connection:
                jobs = settle_study(connection, study_instance_uid, self._settings, self._manifests(), self._clock())
            self._log.info("study_settled", study_instance_uid=study_instance_uid, jobs=[job.job_id for job in jobs])
            made += len(jobs)
        if made:
            self._wake.notify(Topic.INFER)
        return made

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.settle_due()
                wait = self._seconds_to_deadline()
            except Exception as error:  # the loop outlives a database that is locked or away
                self._log.error("settling_failed", error=describe_error(error))
                wait = self._settings.work.poll_seconds
            self._listener.wait(wait)

    def _seconds_to_deadline(self) -> float:
        with read_transaction(self._engine) as connection:
            deadline = catalogue.next_settle_at(connection)
        poll = self._settings.work.poll_seconds
        if deadline is None:
            return poll
        return min(poll, max(0.01, (deadline - self._clock()).total_seconds()))
