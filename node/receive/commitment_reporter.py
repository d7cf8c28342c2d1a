"""Hands over the reports of storage commitment that are owed: each on a new association, again and again until the
requester takes it or the time for it is over."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import Engine

from node.commitment_settings import CommitmentSettings
from node.errors import OverreadError
from node.logs import describe_error, get_logger
from node.receive.commitment import CommitmentScp, Report
from node.rounds import Rounds, seconds_until
from node.store.commitments import CommitmentRequest, claim_requests, keep_claim, mark_unreported, next_report_at
from node.store.database import read_transaction, write_transaction

_LEASE_SECONDS = 120.0
_RENEW_SECONDS = 30.0
_POLL_SECONDS = 10.0
_AT_ONCE = 1  # the lease is for the one in hand: what waits behind it would lose its own


class ReportSender(Protocol):
    """Brings a report to a requester over a new association."""

    def __call__(self, ae_title: str, report: Report, check: Callable[[], None]) -> None:
        """Raises `OverreadError` when it was not taken; `check` raises to give up."""
        ...


class ReporterStopped(OverreadError):
    """The node stops; the report stays owed."""


class CommitmentReporter:
    """A thread of the listener; `start` and `stop`. Several processes may each have one.

    Parameters
    ----------
    scp
        Makes the reports.
    send : callable
        Hands one over.
    """

    def __init__(
        self,
        engine: Engine,
        settings: CommitmentSettings,
        scp: CommitmentScp,
        send: ReportSender,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._scp = scp
        self._send = send
        self._now = now
        self._clock = clock
        self._rounds = Rounds(self.step, self._failed, _POLL_SECONDS)
        self._thread = threading.Thread(target=self._rounds.run, name="commitment-reports", daemon=True)
        self._log = get_logger("commitment")

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def wake(self) -> None:
        """A report may be due."""
        self._rounds.wake()

    def stop(self) -> None:
        """Give up what is being handed over: it stays owed."""
        self._rounds.stop()
        self._thread.join(timeout=5)

    def step(self) -> float:
        """Hand over what is due; seconds until there may be more."""
        now = self._now()
        with write_transaction(self._engine) as connection:
            due = claim_requests(connection, now, now + timedelta(seconds=_LEASE_SECONDS), _AT_ONCE)
        for request in due:
            self._hand_over(request)
        with read_transaction(self._engine) as connection:
            following = next_report_at(connection)
        return seconds_until(following, self._now(), _POLL_SECONDS)

    def _failed(self, error: Exception) -> None:
        self._log.error("commitment_reports_failed", reason=describe_error(error))

    def _hand_over(self, request: CommitmentRequest) -> None:
        try:
            report = self._scp.make_report(request, self._holder(request))
            self._send(request.calling_ae_title, report, self._check)
        except ReporterStopped:
            self._put_off(request, self._now(), "the node stopped while the report was handed over")
        except OverreadError as error:
            self._try_later(request, str(error))
        else:
            self._scp.reported(request, report, "new-association")

    def _holder(self, request: CommitmentRequest) -> Callable[[], None]:
        """Called while the report is made: keeps the claim, so that no other process makes it too."""
        renewed_at = self._clock()

        def hold() -> None:
            nonlocal renewed_at
            self._check()
            if self._clock() - renewed_at < _RENEW_SECONDS:
                return
            renewed_at = self._clock()
            with write_transaction(self._engine) as connection:
                keep_claim(connection, request.request_id, self._now() + timedelta(seconds=_LEASE_SECONDS))

        return hold

    def _try_later(self, request: CommitmentRequest, error: str) -> None:
        now = self._now()
        given_up = now - request.requested_at > timedelta(hours=self._settings.give_up_hours)
        wait = min(
            self._settings.first_retry_seconds * 2 ** min(request.attempts, 30), self._settings.longest_retry_seconds
        )
        self._put_off(request, None if given_up else now + timedelta(seconds=wait), error)
        (self._log.error if given_up else self._log.warning)(
            "commitment_not_reported",
            calling_ae_title=request.calling_ae_title,
            transaction=request.transaction_uid,
            attempt=request.attempts + 1,
            given_up=given_up,
            retry_in_seconds=None if given_up else wait,
            reason=error,
        )

    def _put_off(self, request: CommitmentRequest, until: datetime | None, error: str) -> None:
        with write_transaction(self._engine) as connection:
            mark_unreported(connection, request.request_id, until, error)

    def _check(self) -> None:
        if self._rounds.is_stopping:
            raise ReporterStopped("the node stops")
