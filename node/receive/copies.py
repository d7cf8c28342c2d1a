"""An object that is known and came again: which of its two files the row keeps.

The first, unless it cannot be relied on: it is damaged or gone, or nobody knows whether the disk has it. Then the
second takes its place, and is on disk before a row names it.
"""

from collections.abc import Callable, Container
from datetime import datetime

from sqlalchemy import Engine, select, update

from node.logs import get_logger
from node.store import tables
from node.store.catalogue import ReceivedInstance
from node.store.database import read_transaction, write_transaction
from node.store.digests import is_old, matches
from node.store.files import FileStore
from node.store.sync_point import SyncPoint


class Copies:
    """Decides between the two files of one object.

    `durable_until` is up to when rows are known to be on disk with their files; None where no row is seen before that
    is so. `distrusted` are files of rows that could not be taken back after a failed sync.

    Parameters
    ----------
    engine, files
        Database and file store.
    now : callable
        The clock.
    sync_point : SyncPoint
        Up to when all processes together know that.
    """

    def __init__(self, engine: Engine, files: FileStore, now: Callable[[], datetime], sync_point: SyncPoint) -> None:
        self._engine = engine
        self._files = files
        self._now = now
        self._sync_point = sync_point
        self.durable_until: datetime | None = None
        self.distrusted: set[str] = set()

    def settle(self, copy: ReceivedInstance, own: Container[str]) -> bool:
        """Keep one file of an object whose row was seen; False where that row is not there any more. Raises `OSError`,
        `SQLAlchemyError`.

        `own` are files of the same group, which one sync makes durable together."""
        mine = tables.instance.c.sop_instance_uid == copy.sop_instance_uid
        with read_transaction(self._engine) as connection:
            row = connection.execute(select(tables.instance.c.path, tables.instance.c.received_at).where(mine)).first()
        if row is None:
            return False
        if row.path == copy.path:
            return True
        is_durable = row.path in own or self._is_durable(row.received_at)
        if is_durable and row.path not in self.distrusted and self._is_whole(row.path, copy.digest):
            self._files.remove(copy.path)
            return True
        self._files.sync([copy.path], each=True)  # the first may be what was acknowledged
        if not self._replace(row.path, copy):
            return self.settle(copy, own)
        self._files.remove(row.path)
        if is_durable:
            get_logger("receive").warning("stored_object_healed", sop_instance_uid=copy.sop_instance_uid)
        return True

    def renew(self, copy: ReceivedInstance) -> bool:
        """Whether only the kinds of digest differ: the row has one of an earlier version, of the content of this copy.
        It gets the new one. Raises `OSError`, `SQLAlchemyError`."""
        mine = tables.instance.c.sop_instance_uid == copy.sop_instance_uid
        with read_transaction(self._engine) as connection:
            old = connection.scalar(select(tables.instance.c.digest).where(mine))
        if old is None or not is_old(old) or not matches(self._files.absolute(copy.path), old):
            return False
        with write_transaction(self._engine) as connection:
            mine &= tables.instance.c.digest == old
            connection.execute(update(tables.instance).where(mine).values(digest=copy.digest))
        return True

    def _is_durable(self, received_at: datetime) -> bool:
        """False for what another process has just committed. It may take that back when its sync fails, and the bytes
        may have been lost in a failure that we were told of before they were ours to judge."""
        if self.durable_until is None or received_at <= self.durable_until:
            return True
        point = self._sync_point.read()
        return point is not None and received_at <= point

    def _is_whole(self, path: str, digest: str) -> bool:
        try:
            return matches(self._files.absolute(path), digest)
        except (OSError, ValueError):
            return False

    def _replace(self, path: str, copy: ReceivedInstance) -> bool:
        """Let the row name the second file; False where it names another than the first by now."""
        mine = (tables.instance.c.sop_instance_uid == copy.sop_instance_uid, tables.instance.c.path == path)
        with write_transaction(self._engine) as connection:
            changed = connection.execute(
                update(tables.instance)
                .where(*mine)
                .values(
                    path=copy.path,
                    size_bytes=copy.size_bytes,
                    pixel_offset=copy.pixel_offset,
                    pixel_length=copy.pixel_length,
                    received_at=self._now(),
                )
            )
        return changed.rowcount == 1
