"""Two hours of outage on a clock of our own: what it costs, and how soon everything flows again."""

from datetime import UTC, datetime, timedelta

from node.deliver.gate import Gate
from node.deliver.transport import Check, Parcel, Receipt, Unreachable
from node.destination_settings import FolderDestination
from node.jobs.lease import finish
from node.jobs.queue import claim, get_job
from node.jobs.retry import Retry, RetryPolicy, decide
from node.jobs.state import JobEvent
from node.settings import DeliverSettings
from node.store.database import write_transaction
from node.store.tables import JobKind, JobState
from tests.node.deliver.conftest import Node

OUTAGE = timedelta(hours=2)


class Archive:
    """Away until `back_at`, by the clock of the test."""

    def __init__(self, start: datetime) -> None:
        self.now = start
        self.back_at = start + OUTAGE
        self.probes = 0
        self.attempts = 0

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        self.attempts += 1
        self._answer()
        return Receipt(())

    def probe(self) -> None:
        self.probes += 1
        self._answer()

    def _answer(self) -> None:
        if self.now < self.back_at:
            raise Unreachable("away")


def test_outage_of_two_hours_costs_three_attempts_and_ends_within_a_probe(node: Node):
    """The lane's loop with the defaults of `[deliver]`, step by step."""
    settings = DeliverSettings()
    jobs = [node.add_result("pacs")[0] for _ in range(20)]
    archive = Archive(datetime.now(UTC) + timedelta(seconds=1))
    destination = FolderDestination(name="pacs", folder=node.folder)
    gate = Gate(node.engine, destination, settings, archive, lambda: archive.now)
    policy = RetryPolicy(settings.first_retry_seconds, settings.longest_retry_seconds)
    started, steps = archive.now, 0
    while any(node.job(job).state is not JobState.SUCCEEDED for job in jobs):
        steps += 1
        assert steps < 2000
        wait = gate()
        if wait:
            archive.now += timedelta(seconds=wait)
            continue
        with write_transaction(node.engine) as connection:
            job = claim(connection, JobKind.DELIVER, "w", 60, archive.now)
        if job is None:
            archive.now += timedelta(seconds=1)
            continue
        try:
            archive.send(None, lambda: None)  # type: ignore[arg-type]
        except Unreachable as error:
            gate.unreached(error)
            verdict = decide(error, job.attempt, settings.maximum_attempts, policy, 0.0)
            assert isinstance(verdict, Retry)
            with write_transaction(node.engine) as connection:
                after = archive.now + timedelta(seconds=verdict.wait_seconds)
                finish(connection, job, JobEvent.RETRY, archive.now, verdict.message, after)
        else:
            gate.reached()
            with write_transaction(node.engine) as connection:
                finish(connection, job, JobEvent.SUCCEED, archive.now)
    assert archive.attempts == settings.breaker_failures + len(jobs)
    assert 230 <= archive.probes <= 242  # one each half minute
    assert archive.now - started < OUTAGE + timedelta(seconds=settings.probe_seconds + 1)
    with write_transaction(node.engine) as connection:
        assert sum(get_job(connection, job.job_id).attempt for job in jobs) == archive.attempts
