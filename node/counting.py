"""Keeps the archives' counts fresh, in threads of its own: neither receiving nor settling waits for an archive."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta

from sqlalchemy import Engine

from node import evidence
from node.archive import AskCounts
from node.errors import Transient
from node.logs import describe_error, get_logger
from node.select.completeness import ArchiveCount, trust_of
from node.settings import CountingArchive, Settings
from node.store.database import write_transaction

AGAIN_SECONDS = 0.5
"""Between two questions about a study of which all counted images are here, but came after the last answer."""
AGAIN_WAITING_SECONDS = 30.0
"""Between two questions about a study of which images are missing: the count may be corrected."""
AFTER_FAILURE_SECONDS = 5.0


class Counting:
    """Asks the archives about studies that have not settled.

    Parameters
    ----------
    ask : callable
        How an archive is asked.
    executor : Executor
        Where it is asked.
    on_answer : callable
        Called after an answer was recorded.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ask: AskCounts,
        executor: Executor,
        clock: Callable[[], datetime],
        on_answer: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._archives = settings.settle.archives
        self._ae_title = settings.node.ae_title
        self._ask = ask
        self._executor = executor
        self._clock = clock
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._in_flight: set[str] = set()
        self._failed_at: dict[str, datetime] = {}
        self._log = get_logger("select")

    @property
    def is_used(self) -> bool:
        """Whether any archive is configured."""
        return bool(self._archives)

    def archive_of(self, calling_ae_titles: Sequence[str]) -> CountingArchive | None:
        """The first archive that holds studies of one of these senders."""
        for archive in self._archives:
            if not archive.calling_ae_titles or set(archive.calling_ae_titles) & set(calling_ae_titles):
                return archive
        return None

    def ask_where_useful(self, studies: Sequence[evidence.Receiving], now: datetime) -> datetime | None:
        """Ask about each study where an answer may change what is known; when the next question will be useful."""
        later: list[datetime] = []
        for each in studies:
            archive = self.archive_of(each.calling_ae_titles)
            if archive is None:
                continue
            useful_at = self._useful_at(each, archive, now)
            if useful_at is None:
                continue
            if useful_at > now:
                later.append(useful_at)
            elif self._begin(each.study_instance_uid):
                self._executor.submit(self._record, archive, each.study_instance_uid)
        return min(later, default=None)

    def _useful_at(self, one: evidence.Receiving, archive: CountingArchive, now: datetime) -> datetime | None:
        with self._lock:
            failed_at = self._failed_at.get(one.study_instance_uid)
        useful_at = useful_from(one, archive.whole_studies, now)
        if failed_at is None or useful_at is None:
            return useful_at
        return max(useful_at, failed_at + timedelta(seconds=AFTER_FAILURE_SECONDS))

    def _begin(self, study_instance_uid: str) -> bool:
        with self._lock:
            if study_instance_uid in self._in_flight:
                return False
            self._in_flight.add(study_instance_uid)
            return True

    def _record(self, archive: CountingArchive, study_instance_uid: str) -> None:
        asked_at = self._clock()
        try:
            answer = self._ask(archive, self._ae_title, study_instance_uid)
            with write_transaction(self._engine) as connection:
                ours = evidence.own_series(connection, list(answer))
                counts = {uid: number for uid, number in answer.items() if uid not in ours}
                previous = evidence.count_of_study(connection, study_instance_uid)
                trust = trust_of(previous, counts, evidence.received_counts(connection, study_instance_uid))
                evidence.record_count(connection, study_instance_uid, ArchiveCount(asked_at, counts, trust))
            self._log.info(
                "study_counted",
                study_instance_uid=study_instance_uid,
                archive=archive.name,
                images=sum(counts.values()),
            )
            failed = False
        except Transient as error:
            failed = True
            self._log.warning("count_failed", study_instance_uid=study_instance_uid, error=str(error))
        except Exception as error:  # an edge: whatever an archive answers, settling goes on by other evidence
            failed = True
            self._log.error("count_failed", study_instance_uid=study_instance_uid, error=describe_error(error))
        with self._lock:
            self._in_flight.discard(study_instance_uid)
            self._failed_at.pop(study_instance_uid, None)
            if failed:
                self._failed_at[study_instance_uid] = asked_at
        if not failed:
            self._on_answer()


def is_reached(one: evidence.Receiving, whole_studies: bool) -> bool:
    """Whether everything that the archive counted is here."""
    if one.count is None:
        return False
    counted = one.count.counts if whole_studies else [uid for uid in one.count.counts if uid in one.received]
    return all(one.received.get(uid, 0) >= one.count.counts[uid] for uid in counted)


def useful_from(one: evidence.Receiving, whole_studies: bool, now: datetime) -> datetime | None:
    """From when another answer could change what is known about the study; None while none can."""
    if one.count is None:
        return now
    asked_at, reached = one.count.asked_at, is_reached(one, whole_studies)
    unknown = any(uid not in one.count.counts for uid in one.received)
    if asked_at < one.last_received_at and (reached or unknown):
        return asked_at + timedelta(seconds=AGAIN_SECONDS)
    return None if reached else asked_at + timedelta(seconds=AGAIN_WAITING_SECONDS)
