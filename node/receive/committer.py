"""Group commit: what waits together becomes durable together, and only then is it answered.

One thread at a time leads: it takes everything that waits, gives the files their final names and syncs them once. Then
it hands the lead on, commits the rows of its group in one transaction and wakes the others, while the next group, which
formed meanwhile, syncs its files. A thread that arrives when nobody leads does all this itself, so a lone association
pays no hand-over.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from node.errors import Refused
from node.logs import describe_error, get_logger
from node.receive.admission import OTHER_CONTENT_KNOWN, OUT_OF_RESOURCES
from node.store import tables
from node.store.catalogue import (
    Quarantined,
    ReceivedInstance,
    StoreOutcome,
    record_quarantine,
    release_series,
    store_instances,
)
from node.store.database import read_transaction, write_transaction
from node.store.files import FileStore
from node.store.prepared import DatabaseFailed, Overtaken, PreparedConnection

_NOTIFY_SECONDS = 0.2


@dataclass(eq=False)
class _Waiting:
    """One received object on its way: a whole temporary file, and what became of it."""

    instance: ReceivedInstance
    temporary: Path
    woken: threading.Event = field(default_factory=threading.Event)
    placed: str = ""
    outcome: StoreOutcome | None = None
    refusal: Refused | None = None

    @property
    def is_answered(self) -> bool:
        return self.outcome is not None or self.refusal is not None


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
        self._rows = PreparedConnection(engine)
        self._files = files
        self._wake_others = notify
        self._durability = durability
        self._quiet = timedelta(seconds=quiet_seconds)
        self._now = now
        self._lock = threading.Lock()
        self._writing_rows = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._has_leader = False
        self._notified_at = 0.0
        self._log = get_logger("receive")

    def commit(self, instance: ReceivedInstance, temporary: Path) -> StoreOutcome:
        """Store one object; returns when file and row are durable.

        `temporary` is used up, also on failure. The path in `instance` is set here.

        Raises
        ------
        Refused
            0xA700 when the disk or the database fails, 0xC001 when other content is known under its UID.
        """
        item = _Waiting(instance, temporary)
        with self._lock:
            self._waiting.append(item)
            leads = not self._has_leader
            self._has_leader = True
        if not leads:
            item.woken.wait()
            if not item.is_answered:  # woken to lead the next group, which holds this item
                leads = True
        if leads:
            self._lead()
        if item.refusal is not None:
            raise item.refusal
        if item.outcome is None:
            raise RuntimeError("a group was committed without an answer for each member")
        return item.outcome

    def close(self) -> None:
        """Give the database connection back, once no association is open any more."""
        self._rows.close()

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

    def set_aside(self, path: Path, item: Quarantined, name: str) -> None:
        """Keep a refused file in quarantine with a row that says why; a failure is logged, the refusal
        stands."""
        try:
            item = replace(item, path=self._files.set_aside(path, name))
        except OSError as error:
            self._log.error("quarantine_failed", reason=describe_error(error), code=item.code)
            path.unlink(missing_ok=True)
        try:
            with write_transaction(self._engine) as connection:
                record_quarantine(connection, item)
        except SQLAlchemyError as error:
            self._log.error("quarantine_failed", reason=describe_error(error), code=item.code)

    def _lead(self) -> None:
        """Take everything that waits through both steps. The files of the next group are synced while the rows of this
        one are written."""
        with self._lock:
            group = self._waiting
            self._waiting = []
        try:
            try:
                durable = self._make_durable(group)
            finally:
                self._hand_on()
            for placed in durable:
                with self._writing_rows:
                    self._commit(placed)
        finally:
            for item in group:
                if not item.is_answered:  # whatever happened, nobody waits for ever
                    item.refusal = _no_room("the object could not be stored")
                item.woken.set()
        self._notify()

    def _hand_on(self) -> None:
        """Let the first that waits lead the next group."""
        with self._lock:
            self._has_leader = bool(self._waiting)
            following = self._waiting[0] if self._waiting else None
        if following is not None:
            following.woken.set()

    def _make_durable(self, group: Sequence[_Waiting]) -> list[list[_Waiting]]:
        """Place and sync files; what may be written into rows, by transaction."""
        placed = self._place(group)
        if self._durability == "object":
            return [[item] for item in placed if self._sync([item])]
        return [placed] if placed and self._sync(placed) else []

    def _sync(self, placed: list[_Waiting]) -> bool:
        if self._durability == "none":
            return True
        try:
            self._files.sync([item.placed for item in placed], each=self._durability == "object")
        except OSError as error:
            self._give_up(placed, error)
            return False
        return True

    def _commit(self, placed: Sequence[_Waiting]) -> None:
        try:
            self._commit_rows(placed)
        except (OSError, SQLAlchemyError, DatabaseFailed) as error:
            self._give_up(placed, error)

    def _give_up(self, placed: Sequence[_Waiting], error: Exception) -> None:
        self._log.error("group_not_stored", reason=describe_error(error), objects=len(placed))
        self._take_back([item for item in placed if not item.is_answered], error)

    def _place(self, group: Sequence[_Waiting]) -> list[_Waiting]:
        placed = []
        for item in group:
            one = item.instance
            try:
                item.placed = self._files.place(
                    item.temporary, one.series_instance_uid, one.sop_instance_uid, one.sha256
                )
                item.instance = replace(one, path=item.placed)
                placed.append(item)
            except OSError as error:
                item.refusal = _no_room(f"the file could not be put in place ({error.strerror})")
                item.temporary.unlink(missing_ok=True)
        return placed

    def _commit_rows(self, placed: Sequence[_Waiting]) -> None:
        try:
            outcomes = self._write_rows(placed)
        except Overtaken:  # another listener was given one of them at the same moment: by now it is known
            outcomes = self._write_rows(placed)
        for item, outcome in zip(placed, outcomes, strict=True):
            if outcome == "conflict":
                item.refusal = Refused(
                    OTHER_CONTENT_KNOWN,
                    "other-content-known",
                    "other content is known under this SOP Instance UID",
                )
                self._set_conflict_aside(item)
            else:
                if outcome == "duplicate":
                    self._drop_copy(item)
                item.outcome = outcome

    def _write_rows(self, placed: Sequence[_Waiting]) -> list[StoreOutcome]:
        with self._rows.write_transaction() as connection:
            return store_instances(connection, [item.instance for item in placed], self._now() + self._quiet)

    def _set_conflict_aside(self, item: _Waiting) -> None:
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

    def _drop_copy(self, item: _Waiting) -> None:
        """Remove the second copy of known content, unless it stands where the row says: then the first was
        lost."""
        with read_transaction(self._engine) as connection:
            known = connection.scalar(
                select(tables.instance.c.path).where(
                    tables.instance.c.sop_instance_uid == item.instance.sop_instance_uid
                )
            )
        if known is None or known == item.placed:
            return
        if self._files.absolute(known).exists():
            self._files.remove(item.placed)
        else:
            self._files.absolute(item.placed).rename(self._files.absolute(known))
            self._files.sync([known], each=True)

    def _take_back(self, items: Sequence[_Waiting], error: Exception) -> None:
        """Refuse what was placed but not committed; its files go, unless its rows may be there after all."""
        known: set[str] | None
        try:
            with read_transaction(self._engine) as connection:
                paths = [item.placed for item in items]
                known = set(connection.scalars(select(tables.instance.c.path).where(tables.instance.c.path.in_(paths))))
        except SQLAlchemyError:
            known = None
        for item in items:
            item.refusal = _no_room("disk or database failed: " + describe_error(error))
            if known is not None and item.placed not in known:
                self._files.remove(item.placed)

    def _notify(self, always: bool = False) -> None:
        """Wake those who settle, not more often than they need: the deadlines lie seconds ahead."""
        now = time.monotonic()
        if always or now - self._notified_at >= _NOTIFY_SECONDS:
            self._notified_at = now
            self._wake_others()


def _no_room(message: str) -> Refused:
    return Refused(OUT_OF_RESOURCES, "storage-failed", message)
