"""The edge around selection: weigh the evidence about studies, and when one is whole decide and enqueue (T2).

Studies are read, weighed and decided on outside the write lock; the transaction that settles checks that nothing has
come meanwhile.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Engine

from node import evidence
from node.archive import AskCounts, ask_counts
from node.counting import Counting, is_reached
from node.evidence import Settlement, StudyMark
from node.infer.manifest import Manifest
from node.jobs.job import Job
from node.jobs.queue import find_infer
from node.jobs.speculation import begin_early, enqueue_settled, withdraw_early
from node.jobs.wake import Topic, Wake, WakeListener
from node.logs import describe_error, get_logger
from node.orders import decisions_of, only_from, orders_of, refuse_all
from node.priors import priors_if_wanted, reopen_comparisons
from node.private_attributes import with_private
from node.select.candidates import Priors
from node.select.completeness import Patience, StudyEvidence, Verdict, assess, may_begin_early
from node.select.decide import StudyTrace, decide
from node.settings import Settings
from node.statements import are_wanted, order_statement, refusals_to_state
from node.store import catalogue
from node.store.catalogue import StoredSeries
from node.store.database import read_transaction, write_transaction
from node.store.decisions import forget_decisions, not_analysed_of_study, record_decisions
from node.store.expiry import Expired, expired_of_study
from node.store.lanes import raised_lane
from node.store.tables import JobState, SeriesState

_SAME_DEADLINE = timedelta(milliseconds=5)
_STATED_AGAIN = timedelta(minutes=10)
"""Refusals of so long ago are looked at again: another process may have taken so long to commit."""
_STATED_LATE = timedelta(days=1)
"""Refusals so old are stated when the node starts."""
_PUT_OFF = timedelta(seconds=10)
"""When a study with which settling failed is tried again."""


@dataclass(frozen=True)
class Weighed:
    """A study as it was read: its series, when it is whole, and the mark that tells whether it changed since."""

    series: tuple[StoredSeries, ...]
    mark: StudyMark
    settle_at: datetime
    evidence: StudyEvidence
    verdict: Verdict
    calling_ae_title: str

    @property
    def study_instance_uid(self) -> str:
        return self.series[0].study_instance_uid


def weigh_study(connection: Connection, study_instance_uid: str, settings: Settings) -> Weighed | None:
    """Read a study and assess the evidence; None when none of its series is RECEIVING."""
    mark = evidence.study_mark(connection, study_instance_uid)
    if not mark.receiving:
        return None
    series = with_private(
        catalogue.study_series(connection, study_instance_uid), settings.routes, settings.node.data_dir
    )
    senders = {each.calling_ae_title for each in series}
    archive = next(
        (one for one in settings.settle.archives if not one.calling_ae_titles or senders & set(one.calling_ae_titles)),
        None,
    )
    count = None
    if archive is not None:
        count = evidence.count_of_study(connection, study_instance_uid, archive.whole_studies)
    settle = settings.settle
    found = evidence.evidence_of(connection, series, count, settle.limit_seconds)
    patience = Patience(settle.quiet_seconds, settle.released_quiet_seconds, settle.limit_seconds)
    receiving = [each for each in series if each.state is SeriesState.RECEIVING]
    return Weighed(
        series=tuple(series),
        mark=mark,
        settle_at=max(each.settle_at for each in receiving),
        evidence=found,
        verdict=assess(found, patience),
        calling_ae_title=receiving[0].calling_ae_title,
    )


def settle_weighed(
    connection: Connection,
    weighed: Weighed,
    trace: StudyTrace,
    settings: Settings,
    manifests: Mapping[str, Manifest],
    now: datetime,
) -> list[Job] | None:
    """T2 for one study: settle its series, keep why, enqueue. None, and no change, when anything came meanwhile.

    Work that was begun early is confirmed where the whole study asks for it, and withdrawn where it does not.

    Returns
    -------
    list of Job
        The job of each model that was chosen; one that exists already for the same input set is not made again.
    """
    study_instance_uid = weighed.study_instance_uid
    catalogue.hold_study(connection, study_instance_uid)
    if evidence.study_mark(connection, study_instance_uid) != weighed.mark:
        return None
    before = evidence.settlement_of_study(connection, study_instance_uid)
    if before is None or before.settled_at < weighed.evidence.last_received_at:
        reopen_comparisons(connection, study_instance_uid, settings.routes, manifests, now)
    settlement = Settlement(now, weighed.verdict.settled_by, weighed.calling_ae_title, weighed.evidence.resumed_seconds)
    evidence.mark_settled(connection, study_instance_uid, settlement)
    expired = expired_of_study(connection, study_instance_uid)
    if expired.instances:
        trace = refuse_all(trace, "images-deleted", _deleted(weighed, expired))
    failed = not_analysed_of_study(connection, study_instance_uid)
    forget_decisions(connection, study_instance_uid)
    record_decisions(connection, decisions_of(study_instance_uid, trace, now))
    attempts, raised_to = settings.work.maximum_attempts, raised_lane(connection, study_instance_uid)
    jobs = [
        enqueue_settled(connection, order, settings.deliver.maximum_attempts, now)
        for order in orders_of(trace, manifests, attempts, raised_to).values()
    ]
    wanted = {job.job_id for job in jobs}
    withdraw_early(connection, study_instance_uid, wanted, now, "the whole study asks for something else")
    unchanged = {(job.route, job.model) for job in jobs if job.state is JobState.FAILED}
    record_decisions(connection, [each for each in failed if (each.route, each.model) in unchanged])
    return jobs


def begin_weighed(
    connection: Connection,
    weighed: Weighed,
    trace: StudyTrace,
    settings: Settings,
    manifests: Mapping[str, Manifest],
    now: datetime,
) -> list[Job]:
    """Begin what a study that has not settled asks for already, and give up what it does not ask for any more.

    Nothing happens when anything came meanwhile.
    """
    study_instance_uid = weighed.study_instance_uid
    catalogue.hold_study(connection, study_instance_uid)
    if evidence.study_mark(connection, study_instance_uid) != weighed.mark:
        return []
    if expired_of_study(connection, study_instance_uid).instances:
        return []
    attempts, raised_to = settings.work.maximum_attempts, raised_lane(connection, study_instance_uid)
    settled = {each.series_instance_uid for each in weighed.series if each.state is SeriesState.SETTLED}
    worth = only_from(trace, may_begin_early(weighed.evidence) | settled)
    begun = [
        begin_early(connection, order, now)
        for order in orders_of(worth, manifests, attempts, raised_to, speculative=True).values()
    ]
    known = (find_infer(connection, order) for order in orders_of(trace, manifests, attempts).values())
    wanted = {job.job_id for job in (*begun, *known) if job is not None}
    withdraw_early(connection, study_instance_uid, wanted, now, "images came that change what is analysed")
    return [job for job in begun if job is not None]


def _deleted(weighed: Weighed, expired: Expired) -> str:
    here = sum(len(each.instances) for each in weighed.series)
    return (
        f"{here} images are here, and {expired.instances} of the same study were deleted after their time "
        f"({expired.last_at:%Y-%m-%d %H:%M} UTC): send the whole study again to have it analysed"
    )


class Settler:
    """Settles studies when they are whole, in a thread of the worker process.

    It wakes on a notice (an image came, an association was released, an archive answered), at the next deadline, and
    every `settings.work.poll_seconds` as a safety net. Several may run at once: T2 is one transaction.

    Parameters
    ----------
    wake_folder : Path
        Where the node's processes wake each other.
    manifests : callable
        The models that can be used now, by identifier.
    clock : callable
        The present moment, aware UTC.
    ask : callable
        How an archive is asked for its counts.
    executor : Executor, optional
        Where archives are asked; without it two threads of the settler's own.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        manifests: Callable[[], Mapping[str, Manifest]],
        wake_folder: Path,
        clock: Callable[[], datetime],
        ask: AskCounts = ask_counts,
        executor: Executor | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._manifests = manifests
        self._wake = Wake(wake_folder)
        self._listener = WakeListener(wake_folder, Topic.SETTLE)
        self._clock = clock
        self._executor = executor or ThreadPoolExecutor(max_workers=2, thread_name_prefix="count")
        self._counting = Counting(engine, settings, ask, self._executor, clock, lambda: self._wake.notify(Topic.SETTLE))
        self._ask_again_at: datetime | None = None
        self._looked_at: dict[str, StudyMark] = {}
        self._begun_at: dict[str, Hashable] = {}
        self._stated_since = clock() - _STATED_LATE
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
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._listener.close()

    def settle_due(self) -> int:
        """Ask archives where that helps, and weigh every study that is due or counted; the number of jobs made."""
        self._ask_archives()
        now = self._clock()
        with read_transaction(self._engine) as connection:
            looked_for = catalogue.due_studies(connection, now)
            if self._counting.is_used:
                looked_for += [uid for uid in self._counted(connection) if uid not in looked_for]
        made = [job for study_instance_uid in looked_for for job in self._settle_alone(study_instance_uid)]
        begun = self._begin_early()
        if self._state_refusals() or made or begun:
            self._wake.notify(Topic.INFER)
        if any(job.state is JobState.SUCCEEDED for job in made):
            self._wake.notify(Topic.DELIVER)
        return len(made)

    def seconds_to_deadline(self) -> float:
        """How long nothing is to be done, unless somebody wakes the settler."""
        with read_transaction(self._engine) as connection:
            deadline = catalogue.next_settle_at(connection)
        poll = self._settings.work.poll_seconds
        if deadline is None:
            return poll
        if self._ask_again_at is not None:
            deadline = min(deadline, self._ask_again_at)
        return min(poll, max(0.01, (deadline - self._clock()).total_seconds()))

    def _ask_archives(self) -> None:
        if self._counting.is_used:
            with read_transaction(self._engine) as connection:
                receiving = evidence.receiving_studies(connection)
            self._ask_again_at = self._counting.ask_where_useful(receiving, self._clock())

    def _counted(self, connection: Connection) -> list[str]:
        """Studies of which the archive's last answer says that all is here, each once as it stands: it may have been
        counted before it was released."""
        found = []
        receiving = evidence.receiving_studies(connection)
        for each in receiving:
            archive = self._counting.archive_of(each.calling_ae_titles)
            if archive is None or each.count is None or each.count.asked_at < each.last_received_at:
                continue
            if not is_reached(each, archive.whole_studies):
                continue
            mark = evidence.study_mark(connection, each.study_instance_uid)
            if self._looked_at.get(each.study_instance_uid) != mark:
                self._looked_at[each.study_instance_uid] = mark
                found.append(each.study_instance_uid)
        open_uids = {each.study_instance_uid for each in receiving}
        self._looked_at = {uid: at for uid, at in self._looked_at.items() if uid in open_uids}
        return found

    def _settle_alone(self, study_instance_uid: str) -> list[Job]:
        """`_settle`; a study with which that fails is put off, and keeps no other waiting."""
        try:
            return self._settle(study_instance_uid)
        except Exception as error:  # whatever is wrong with this study
            until = self._clock() + _PUT_OFF
            with write_transaction(self._engine) as connection:  # raises where the database is what fails
                evidence.postpone(connection, study_instance_uid, until)
            self._log.error("settling_failed", study_instance_uid=study_instance_uid, error=describe_error(error))
            return []

    def _settle(self, study_instance_uid: str) -> list[Job]:
        """Weigh one study: settle it, or give it the deadline that the evidence asks for. The jobs made."""
        with read_transaction(self._engine) as connection:
            weighed = weigh_study(connection, study_instance_uid, self._settings)
        if weighed is None:
            return []
        if weighed.verdict.settle_at > self._clock():
            self._postpone(study_instance_uid, weighed)
            return []
        manifests = self._manifests()
        trace = decide(weighed.series, self._settings.routes, manifests, self._priors(study_instance_uid, manifests))
        with write_transaction(self._engine) as connection:
            jobs = settle_weighed(connection, weighed, trace, self._settings, manifests, self._clock())
        if jobs is None:
            return []
        self._log.info(
            "study_settled",
            study_instance_uid=study_instance_uid,
            settled_by=weighed.verdict.settled_by,
            jobs=[job.job_id for job in jobs],
            saved_seconds=max((job.saved_seconds or 0.0 for job in jobs), default=0.0),
        )
        return jobs

    def _begin_early(self) -> int:
        """Begin work on studies that have not settled, or give it up; each state of a study is looked at once."""
        if not self._settings.settle.begin_early or not self._settings.routes:
            return 0
        with read_transaction(self._engine) as connection:
            marks = evidence.early_studies(connection)
        changed = [uid for uid, mark in marks.items() if self._begun_at.get(uid) != mark]
        self._begun_at = marks
        return sum(self._begin_alone(study_instance_uid) for study_instance_uid in changed)

    def _begin_alone(self, study_instance_uid: str) -> int:
        """`_begin`; nothing depends on it, so that where it fails the study is left until it settles."""
        try:
            return self._begin(study_instance_uid)
        except Exception as error:  # whatever is wrong with this study
            self._log.error("beginning_failed", study_instance_uid=study_instance_uid, error=describe_error(error))
            return 0

    def _begin(self, study_instance_uid: str) -> int:
        with read_transaction(self._engine) as connection:
            weighed = weigh_study(connection, study_instance_uid, self._settings)
        if weighed is None:
            return 0
        manifests = self._manifests()
        trace = decide(weighed.series, self._settings.routes, manifests, self._priors(study_instance_uid, manifests))
        with write_transaction(self._engine) as connection:
            jobs = begin_weighed(connection, weighed, trace, self._settings, manifests, self._clock())
        if jobs:
            self._log.info("work_begun_early", study_instance_uid=study_instance_uid, jobs=[job.job_id for job in jobs])
        return len(jobs)

    def _state_refusals(self) -> int:
        """Make the statements that destinations want about studies that could not be analysed."""
        if not are_wanted(self._settings):
            return 0
        now, manifests = self._clock(), self._manifests()
        with read_transaction(self._engine) as connection:
            refusals = refusals_to_state(connection, self._settings, manifests, self._stated_since)
        self._stated_since = max(self._stated_since, now - _STATED_AGAIN)
        jobs = []
        for refusal in refusals:
            with write_transaction(self._engine) as connection:
                jobs.append(order_statement(connection, refusal, self._settings, manifests, now))
        return sum(job is not None for job in jobs)

    def _priors(self, study_instance_uid: str, manifests: Mapping[str, Manifest]) -> Priors:
        with read_transaction(self._engine) as connection:
            return priors_if_wanted(connection, study_instance_uid, self._settings.routes, manifests)

    def _postpone(self, study_instance_uid: str, weighed: Weighed) -> None:
        if abs(weighed.verdict.settle_at - weighed.settle_at) < _SAME_DEADLINE:
            return
        with write_transaction(self._engine) as connection:
            catalogue.hold_study(connection, study_instance_uid)
            if evidence.study_mark(connection, study_instance_uid) == weighed.mark:
                evidence.postpone(connection, study_instance_uid, weighed.verdict.settle_at)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.settle_due()
                wait = self.seconds_to_deadline()
            except Exception as error:  # the loop outlives a database that is locked or away
                self._log.error("settling_failed", error=describe_error(error))
                wait = self._settings.work.poll_seconds
            self._listener.wait(wait)
