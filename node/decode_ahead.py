"""Compressed images decoded while their series still arrives, so that the job that follows finds them decoded.

A thread of the worker process sees what arrived (on the notice that wakes the settler too) and hands each file to the
decoding processes, a few at a time; what they decode is kept in a `FrameCache`. Nothing depends on it: what is missing
is decoded by the job. Of several worker processes one does this, whichever holds the lock.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from sqlalchemy import Engine, select

from node.jobs.wake import Topic, WakeListener
from node.logs import describe_error, get_logger
from node.store.database import read_transaction
from node.store.tables import SeriesState, instance, series
from node.volume import Decoders, FrameCache
from node.volume.decoders import SLOW
from node.volume.load import MODALITIES

IN_HAND = 2
"""Files that each process may have waiting: more would only delay a job that needs the processes."""

WAIT_SECONDS = 0.5
"""It sees as often whether it has to end."""

TRIM_SECONDS = 1.0
"""While much is decoded the cache is brought within its bounds as often."""

WORTH_IT = frozenset(str(uid) for uid in SLOW), frozenset(str(uid) for uid in MODALITIES)
"""Transfer syntaxes and SOP Classes."""


class AheadDecoder:
    """Decodes what arrives, in a thread of its own.

    Parameters
    ----------
    engine : Engine
    data_dir : Path
        Paths of instances are relative to it.
    decoders : Decoders
        With a cache; shared with the jobs of this process.
    cache : FrameCache
        The same.
    wake_folder : Path
        Where the node's processes wake each other.
    poll_seconds : float
        It looks as often without a notice.
    now : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        data_dir: Path,
        decoders: Decoders,
        cache: FrameCache,
        wake_folder: Path,
        poll_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._engine, self._data_dir = engine, data_dir
        self._decoders, self._cache = decoders, cache
        self._poll_seconds, self._now = poll_seconds, now
        self._seen: set[str] = set()
        self._pending: set[Future[int]] = set()
        self._trimmed_at, self._kept = 0.0, 0
        self._is_interrupted = False
        self._stopping = threading.Event()
        self._listener = WakeListener(wake_folder, Topic.SETTLE)
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._log = get_logger("volume")

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the files in hand; those are left to the decoders."""
        self._stopping.set()
        self._listener.interrupt()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._listener.close()

    def look(self) -> None:
        """`step`, if this process is the one that does it; whatever stops it, jobs decode for themselves."""
        self._is_interrupted = False
        try:
            self._cache.begin(self._now())
            with self._cache.lock() as is_ours:
                if is_ours:
                    self.step()
        except BrokenProcessPool:  # one of the files in hand may be the reason, so none of them is tried again
            self._pending.clear()
            self._decoders.close()
            self._log.warning("decoding_process_ended")
        except Exception as error:  # the database is away, the disk is full
            self._pending.clear()
            self._log.error("decode_ahead_failed", error=describe_error(error))

    def step(self) -> int:
        """Hand over every file that arrived since, a few at a time; the number of frames decoded.

        What is left when a job begins to load is given at the next step, if its series still arrives by then.
        """
        arrived = self._arrived()
        decoded, handed = 0, 0
        for path in arrived.values():
            decoded += self._wait_for_room()
            if self._stopping.is_set() or not self._decoders.wait_for_jobs(0):
                break
            self._trim()
            self._pending.add(self._decoders.submit_file(self._data_dir / path))
            handed += 1
        self._is_interrupted = handed < len(arrived)
        self._seen.difference_update(list(arrived)[handed:])
        while self._pending and not self._stopping.is_set():
            decoded += self._take(wait(self._pending, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED).done)
        kept = self._trim(always=True)
        if handed:
            self._log.info("decoded_ahead", files=handed, frames=decoded, kept_mb=round(kept / 1e6))
        return decoded

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._decoders.wait_for_jobs(WAIT_SECONDS):
                self.look()
                if not self._is_interrupted:
                    self._listener.wait(self._poll_seconds)

    def _arrived(self) -> dict[str, str]:
        """Files of series that still arrive by SOP Instance UID, in the order of arrival; each is given once."""
        syntaxes, classes = WORTH_IT
        wanted = (
            select(instance.c.sop_instance_uid, instance.c.path)
            .join(series, series.c.series_instance_uid == instance.c.series_instance_uid)
            .where(
                series.c.state == SeriesState.RECEIVING,
                instance.c.transfer_syntax_uid.in_(syntaxes),
                instance.c.sop_class_uid.in_(classes),
            )
            .order_by(instance.c.received_at)
        )
        with read_transaction(self._engine) as connection:
            rows = connection.execute(wanted).all()
        fresh = {row.sop_instance_uid: row.path for row in rows if row.sop_instance_uid not in self._seen}
        self._seen = {row.sop_instance_uid for row in rows}
        return fresh

    def _trim(self, always: bool = False) -> int:
        """Keep the cache within its bounds, also while very much is decoded; the bytes that stay."""
        now = self._now()
        if always or now - self._trimmed_at >= TRIM_SECONDS:
            self._trimmed_at, self._kept = now, self._cache.trim(now)
        return self._kept

    def _wait_for_room(self) -> int:
        decoded = 0
        while len(self._pending) >= IN_HAND * self._decoders.processes and not self._stopping.is_set():
            decoded += self._take(wait(self._pending, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED).done)
        return decoded

    def _take(self, done: set[Future[int]]) -> int:
        self._pending -= done
        return sum(future.result() for future in done)
