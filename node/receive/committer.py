"""Group commit: what waits together becomes durable together, and only then is it answered.

Each thread gives its file the final name. One thread at a time leads: it takes everything that waits and commits the
rows in one transaction. Where files and database lie on one file system, the commit is not synced by itself: one sync
of the file system then makes files, names and rows durable (`node.store.file_system`), while the rows of the next group
are written. What a power cut may leave of a group that was not answered yet is for `node.store.sync_point`. Elsewhere,
and with another durability than "group", files are synced first and a commit is durable by itself; the rows of one
group are then committed while the files of the next are synced.

A thread that arrives when nobody leads does all this itself, so a lone association pays no hand-over.
"""

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from node.errors import Refused
from node.logs import describe_error, get_logger
from node.receive.admission import OTHER_CONTENT_KNOWN, OUT_OF_RESOURCES
from node.receive.copies import Copies
from node.receive.groups import Expected, Groups, Waiting
from node.receive.watermark import Watermark
from node.store import tables
from node.store.catalogue import (
    Quarantined,
    ReceivedInstance,
    StoreOutcome,
    record_quarantine,
    release_series,
    store_instances,
)
from node.store.database import empty_log, read_transaction, write_transaction
from node.store.files import FileStore
from node.store.prepared import DatabaseFailed, Overtaken, PreparedConnection
from node.store.sync_point import SyncPoint, forget_instances

_NOTIFY_SECONDS = 0.2
_TICK = timedelta(microseconds=1)  # of the moments that rows carry


class Committer:
    """Makes received objects durable.

    Parameters
    ----------
    engine, files
        Database and file store.
    notify : callable
        Wakes whoever settles studies.
    durability : {"group", "object", "none"}
        One sync for the group; each object on its own; or no sync of files at all.
    quiet_seconds : float
        A series settles this long after its last object.
    """

    def __init__(
        self,
        engine: Engine,
        files: FileStore,
        notify: Callable[[], object],
        *,
        durability: Literal["group", "object", "none"],
        quiet_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._files = files
        self._one_sync = durability == "group" and _share_a_file_system(engine, files)
        self._rows = PreparedConnection(engine, syncs_commits=not self._one_sync)
        self._wake_others = notify
        self._durability = durability
        self._quiet = timedelta(seconds=quiet_seconds)
        self._now = now
        self._groups = Groups()
        self._writing_rows = threading.Lock()
        self._notified_at = 0.0
        self._stamp = now()
        self._log_whole_at = files.file_system.failed_syncs  # nothing of the log was lost before that many failures
        sync_point = SyncPoint(files.data_dir)
        self._copies = Copies(engine, files, now, sync_point)
        self._watermark = Watermark(sync_point, self._copies, now)
        self._log = get_logger("receive")

    def expect(self) -> Expected:
        """Of an object all has come: a context to use until it is committed."""
        return Expected(self._groups)

    @property
    def is_idle(self) -> bool:
        """Nobody else has an object to commit just now: while one waits for the disk, nobody computes."""
        return self._groups.is_alone

    def commit(
        self,
        instance: ReceivedInstance,
        temporary: str,
        failed_before: int | None = None,
        expected: Expected | None = None,
    ) -> StoreOutcome:
        """Store one object; returns when file and row are durable.

        `temporary` is used up, also on failure. The path in `instance` and the time of its arrival are set here.
        `failed_before` is `failed_syncs` of the file system as it was before the first byte was written: when a sync
        has failed since, nobody knows what became of the bytes.

        Raises
        ------
        Refused
            0xA700 when the disk or the database fails, 0xC001 when other content is known under its UID.
        """
        if failed_before is None:
            failed_before = self._files.file_system.failed_syncs
        item = Waiting(instance, self._place(instance, temporary), failed_before)
        if self._groups.join(item, expected):
            self._lead()
        if item.refusal is not None:
            raise item.refusal
        if item.outcome is None:
            raise RuntimeError("a group was committed without an answer for each member")
        return item.outcome

    def close(self) -> None:
        """Give the database connection back, once no association is open any more."""
        self._rows.close()
        self._watermark.close()

    def release(self, series_instance_uids: Sequence[str], released_quiet_seconds: float) -> None:
        """The association that sent these series was released: they may settle sooner. Failing to say so is
        no harm."""
        try:
            released_at = self._now()
            settle_at = released_at + timedelta(seconds=released_quiet_seconds)
            with write_transaction(self._engine) as connection:
                release_series(connection, series_instance_uids, settle_at, released_at)
        except SQLAlchemyError as error:
            self._log.warning("release_not_recorded", reason=describe_error(error))
        self._notify(always=True)

    def set_aside(self, path: Path | str, item: Quarantined, name: str) -> None:
        """Keep a refused file in quarantine with a row that says why; a failure is logged, the refusal
        stands."""
        try:
            item = replace(item, path=self._files.set_aside(path, name))
        except OSError as error:
            self._log.error("quarantine_failed", reason=describe_error(error), code=item.code)
            Path(path).unlink(missing_ok=True)
        try:
            with write_transaction(self._engine) as connection:
                record_quarantine(connection, item)
        except SQLAlchemyError as error:
            self._log.error("quarantine_failed", reason=describe_error(error), code=item.code)

    def _lead(self) -> None:
        """Take everything that waits through all steps."""
        group = self._groups.take()
        try:
            (self._carry_with_one_sync if self._one_sync else self._carry)(group)
        finally:
            self._answer_all(group)
        self._notify()

    def _answer_all(self, group: Sequence[Waiting]) -> None:
        """Whatever happened, nobody waits for ever, and no file is left lying about that no row names."""
        try:
            if left := [item for item in group if not item.is_answered]:
                self._take_back(left, "the object could not be stored")
        finally:
            for item in group:
                if not item.is_answered:
                    item.refusal = _no_room("the object could not be stored")
                item.gate.release()

    def _carry_with_one_sync(self, group: Sequence[Waiting]) -> None:
        """Rows first, and one sync for them and the files, while the rows of the next group are written."""
        try:
            if not self._log_is_whole():
                return
            self._commit(group)
            commit = self._watermark.begin(self._stamp)
        finally:
            self._groups.hand_on()
        is_on_disk = False
        try:
            committed = [item for item in group if item.outcome is not None]
            is_on_disk = bool(committed) and self._sync_committed(committed)
        finally:
            self._watermark.end(commit, is_on_disk=is_on_disk)

    def _sync_committed(self, committed: Sequence[Waiting]) -> bool:
        """Whether all of them are on disk; those that may not be are withdrawn."""
        try:
            self._files.file_system.sync()
        except OSError as error:
            self._withdraw(committed, error)
            return False
        if doubtful := self._doubtful(committed):
            self._withdraw(doubtful, OSError(errno.EIO, os.strerror(errno.EIO)))
        return not doubtful

    def _doubtful(self, synced: Sequence[Waiting]) -> list[Waiting]:
        """Those of which bytes may be lost although this sync succeeded: another one has failed since they began."""
        failed = self._files.file_system.failed_syncs
        return [item for item in synced if item.failed_before != failed]

    def _log_is_whole(self) -> bool:
        """Whether what is committed now is found after a power cut. When a sync has failed, whoever asked for it, what
        could not be written may have been of the log of SQLite, and nothing behind such a gap is found: all rows are
        brought from the log into the database then, and the log is begun anew."""
        failed = self._files.file_system.failed_syncs
        if failed == self._log_whole_at:
            return True
        try:
            is_empty = empty_log(self._engine)
        except (SQLAlchemyError, sqlite3.Error) as error:
            self._log.error("log_not_emptied", reason=describe_error(error))
            return False
        if is_empty:
            self._log_whole_at = failed
        return is_empty

    def _carry(self, group: Sequence[Waiting]) -> None:
        """Files synced first, then their rows. The files of the next group are synced while these rows are written."""
        try:
            durable = self._make_durable(group)
        finally:
            self._groups.hand_on()
        for placed in durable:
            with self._writing_rows:
                self._commit(placed)

    def _make_durable(self, group: Sequence[Waiting]) -> list[list[Waiting]]:
        """Sync files; what may be written into rows, by transaction."""
        if self._durability == "object":
            return [[item] for item in group if self._sync([item])]
        if not self._sync(group):
            return []
        if self._durability == "group" and (doubtful := self._doubtful(group)):
            self._give_up(doubtful, OSError(errno.EIO, os.strerror(errno.EIO)))
        return [[item for item in group if not item.is_answered]]

    def _sync(self, placed: Sequence[Waiting]) -> bool:
        if self._durability == "none":
            return True
        try:
            self._files.sync([item.placed for item in placed], each=self._durability == "object")
        except OSError as error:
            self._give_up(placed, error)
            return False
        return True

    def _commit(self, placed: Sequence[Waiting]) -> None:
        try:
            self._commit_rows(placed)
        except (OSError, SQLAlchemyError, DatabaseFailed) as error:
            self._give_up(placed, error)

    def _give_up(self, placed: Sequence[Waiting], error: Exception) -> None:
        self._log.error("group_not_stored", reason=describe_error(error), objects=len(placed))
        left = [item for item in placed if not item.is_answered]
        self._take_back(left, "disk or database failed: " + describe_error(error))

    def _withdraw(self, committed: Sequence[Waiting], error: OSError) -> None:
        """The sync failed: the rows of what was new go again. Where they cannot, the object stays, and is refused."""
        self._log.error("group_not_stored", reason=describe_error(error), objects=len(committed))
        fresh = [item for item in committed if item.outcome == "stored"]
        for item in committed:
            item.refusal = _no_room("the disk failed: " + describe_error(error))
        try:
            with write_transaction(self._engine) as connection:
                forget_instances(connection, {item.instance.sop_instance_uid: item.placed for item in fresh})
        except SQLAlchemyError as failure:
            self._log.error("group_not_withdrawn", reason=describe_error(failure), objects=len(fresh))
            self._copies.distrusted.update(item.placed for item in fresh)
            return
        for item in fresh:
            self._remove(item.placed)

    def _place(self, instance: ReceivedInstance, temporary: str) -> str:
        """Give a file its final name; where it is. Raises `Refused`. Whatever happens, the temporary file is gone."""
        try:
            self._watermark.open(syncs_once=self._one_sync)
            return self._files.place(
                temporary, instance.series_instance_uid, instance.sop_instance_uid, instance.digest
            )
        except BaseException as error:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _no_room(f"the file could not be put in place ({error.strerror})") from None
            raise

    def _commit_rows(self, placed: Sequence[Waiting]) -> None:
        try:
            outcomes = self._write_rows(placed)
        except Overtaken:  # another listener was given one of them at the same moment: by now it is known
            outcomes = self._write_rows(placed)
        own = {item.placed for item in placed}
        vanished = []
        for item, outcome in zip(placed, outcomes, strict=True):
            if outcome == "stored":
                item.outcome = outcome
                continue
            copy = item.instance.placed(item.placed, item.instance.received_at)
            if outcome == "conflict" and not self._copies.renew(copy):
                item.refusal = Refused(
                    OTHER_CONTENT_KNOWN,
                    "other-content-known",
                    "other content is known under this SOP Instance UID",
                )
                self._set_conflict_aside(item)
            elif self._copies.settle(copy, own):
                item.outcome = "duplicate"
            else:
                vanished.append(item)
        if vanished:  # known a moment ago, and expired or taken back by another process since: they are new now
            self._commit_rows(vanished)

    def _write_rows(self, placed: Sequence[Waiting]) -> list[StoreOutcome]:
        with self._rows.write_transaction() as connection:
            # Taken while nobody else writes: what is committed before this moment is what the database holds by then.
            now = self._now()
            if self._one_sync and now < self._stamp:
                self._watermark.set_back(now - _TICK)  # what gets the stamp `now` is not on disk yet
            self._stamp = now
            received = [item.instance.placed(item.placed, now) for item in placed]
            return store_instances(connection, received, now + self._quiet)

    def _set_conflict_aside(self, item: Waiting) -> None:
        one = item.instance
        self.set_aside(
            self._files.absolute(item.placed),
            Quarantined(
                at=self._now(),
                code="other-content-known",
                message="other content is known under this SOP Instance UID, or its series in another study",
                sop_instance_uid=one.sop_instance_uid,
                calling_ae_title=one.calling_ae_title,
            ),
            one.sop_instance_uid,
        )

    def _take_back(self, items: Sequence[Waiting], reason: str) -> None:
        """Refuse what was placed but not committed; its files go, unless its rows may be there after all: then no sync
        of their own was for them, and they are not relied on."""
        known: set[str] | None
        try:
            with read_transaction(self._engine) as connection:
                paths = [item.placed for item in items]
                known = set(connection.scalars(select(tables.instance.c.path).where(tables.instance.c.path.in_(paths))))
        except SQLAlchemyError:
            known = None
        for item in items:
            item.refusal = _no_room(reason)
            if known is not None and item.placed not in known:
                self._remove(item.placed)
            elif self._one_sync:
                self._copies.distrusted.add(item.placed)

    def _remove(self, placed: str) -> None:
        with suppress(OSError):  # a disk that failed once
            self._files.remove(placed)

    def _notify(self, always: bool = False) -> None:
        """Wake those who settle, not more often than they need: the deadlines lie seconds ahead."""
        now = time.monotonic()
        if always or now - self._notified_at >= _NOTIFY_SECONDS:
            self._notified_at = now
            self._wake_others()


def _share_a_file_system(engine: Engine, files: FileStore) -> bool:
    """Whether one sync is for the files and for the log of the database."""
    database = engine.url.database
    if engine.dialect.name != "sqlite" or not database or not files.file_system.can_commit:
        return False
    return files.file_system.holds(Path(database).resolve().parent)


def _no_room(message: str) -> Refused:
    return Refused(OUT_OF_RESOURCES, "storage-failed", message)
