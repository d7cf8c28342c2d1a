"""The lane that asks a destination whether it keeps what it took."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine

from node.deliver.commitment import record_report, request_commitment, transaction_uid
from node.deliver.confirmation import Verdict, judge_find, unknown
from node.deliver.find_scu import find_objects
from node.deliver.verdict import apply_verdict
from node.errors import Permanent, Transient
from node.jobs.heartbeat import Interrupted, StopReason
from node.logs import describe_error, get_logger
from node.rounds import Rounds, seconds_until
from node.settings import DeliverSettings, Destination, Settings
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import Delivery, begin_transaction_uid, claim_checks, next_check_at

_AT_ONCE = 4


class Asker(Protocol):
    """Asks about one delivery and records the answer."""

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> None: ...


class Confirmer:
    """Asks about the deliveries to one destination when they are due; `run` works until `stop`.

    Parameters
    ----------
    gate : callable
        Seconds for which the destination is to be left alone.
    now : callable
        The present moment, aware UTC.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        settings: DeliverSettings,
        ask: Asker,
        *,
        gate: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._name = name
        self._settings = settings
        self._ask = ask
        self._gate = gate
        self._now = now
        self._rounds = Rounds(self.step, self._failed, settings.poll_seconds)

    def run(self) -> None:
        """Work until `stop`."""
        self._rounds.run()

    def stop(self) -> None:
        """Ask no more. Safe from any thread."""
        self._rounds.stop()

    def step(self) -> float:
        """Ask about what is due; seconds until there may be more."""
        if closed := self._gate():
            return min(closed, self._settings.poll_seconds)
        now = self._now()
        until = now + timedelta(seconds=self._settings.lease_seconds)  # asking twice would do no harm
        with write_transaction(self._engine) as connection:
            due = claim_checks(connection, self._name, now, until, _AT_ONCE)
        for delivery in due:
            self._ask_about(delivery)
        with read_transaction(self._engine) as connection:
            following = next_check_at(connection, self._name)
        return seconds_until(following, self._now(), self._settings.poll_seconds)

    def _failed(self, error: Exception) -> None:
        get_logger("deliver").error("confirmation_failed", destination=self._name, error=describe_error(error))

    def _ask_about(self, delivery: Delivery) -> None:
        """What nobody foresaw counts as a question without an answer: it keeps no other delivery from being asked
        about."""
        try:
            self._ask(delivery, self._check)
        except Interrupted:
            raise
        except Exception as error:
            said = describe_error(error)
            get_logger("deliver").error("confirmation_failed", destination=self._name, job=delivery.job_id, error=said)
            verdict = unknown(delivery, f"the question failed ({said})", self._settings.first_retry_seconds)
            with write_transaction(self._engine) as connection:
                apply_verdict(connection, self._settings, delivery, verdict, self._now())

    def _check(self) -> None:
        if self._rounds.is_stopping:
            raise Interrupted(StopReason.STOPPING)


class DimseAsker:
    """Asks a DICOM archive by storage commitment or C-FIND, as its `confirm` says."""

    def __init__(
        self, engine: Engine, settings: Settings, destination: Destination, now: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._destination = destination
        self._now = now

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> None:
        try:
            if self._destination.confirm == "find":
                self._record(delivery, self._find(delivery, check))
            else:
                self._request(delivery, check)
        except (Transient, Permanent) as error:
            self._record(delivery, unknown(delivery, str(error), self._destination.confirm_after_seconds))

    def _find(self, delivery: Delivery, check: Callable[[], None]) -> Verdict:
        found = find_objects(
            self._destination,
            self._settings.node.ae_title,
            delivery.study_instance_uid,
            delivery.objects,
            self._settings.deliver.timeout_seconds,
            check,
        )
        return judge_find(delivery, found, self._destination.confirm_after_seconds)

    def _request(self, delivery: Delivery, check: Callable[[], None]) -> None:
        """A report that comes later, to our listener, is recorded there; until then this one is asked again."""
        uid = transaction_uid(delivery, delivery.checks)
        with write_transaction(self._engine) as connection:
            begin_transaction_uid(connection, delivery.job_id, uid)
        report = request_commitment(
            self._destination,
            self._settings.node.ae_title,
            uid,
            delivery.objects,
            self._settings.deliver.timeout_seconds,
            check,
        )
        if report is not None:
            record_report(self._engine, self._settings, report, self._now())
            return
        message = f"storage commitment was requested (transaction {uid}), and no report has come yet"
        self._record(delivery, unknown(delivery, message, self._destination.confirm_after_seconds))

    def _record(self, delivery: Delivery, verdict: Verdict) -> None:
        with write_transaction(self._engine) as connection:
            apply_verdict(connection, self._settings.deliver, delivery, verdict, self._now())


class QueryAsker:
    """Asks a DICOMweb server by QIDO-RS.

    Parameters
    ----------
    has : callable
        The SOP Instance UIDs of a delivery that the server finds.
    first_wait : float
        Seconds, `confirm_after_seconds` of the destination.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        has: Callable[[Delivery, Callable[[], None]], set[str]],
        first_wait: float,
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._has = has
        self._first_wait = first_wait
        self._now = now

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> None:
        verdict: Verdict
        try:
            verdict = judge_find(delivery, self._has(delivery, check), self._first_wait)
        except (Transient, Permanent) as error:
            verdict = unknown(delivery, str(error), self._first_wait)
        with write_transaction(self._engine) as connection:
            apply_verdict(connection, self._settings.deliver, delivery, verdict, self._now())
