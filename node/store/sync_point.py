"""Rows that a power cut may have left without their file, and how they are found.

With one sync for files and rows (`node.receive.committer`) a row is in the database a moment before its file is on
disk. When the machine stops in that moment, the row may be there afterwards and its file missing, short or torn. Nobody
was told that such an object is stored, and its sender sends it again.

`data_dir/synced` says up to when all rows are known to be on disk with their files. It is written over in place and is
itself brought to disk by the next sync: what a power cut leaves of it is never later than the truth, only earlier. Rows
after it are compared with their files at every start, before anybody works on them.
"""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, and_, delete, exists, select

from node.logs import describe_error, get_logger
from node.store.catalogue import Quarantined, record_quarantine
from node.store.database import read_transaction, write_transaction
from node.store.digests import matches
from node.store.files import FileStore
from node.store.tables import SeriesState, expired_instance, instance, series, series_release, study

_FILE = "synced"
_RECORD_SECONDS = 1.0
_MARGIN = timedelta(seconds=5)  # by which a clock may be set back while objects arrive


class _Row(NamedTuple):
    """What a row says of its file."""

    sop_instance_uid: str
    path: str
    size_bytes: int
    digest: str


class SyncPoint:
    """Up to when everything is known to be durable, kept beside the files.

    Parameters
    ----------
    data_dir : Path
        Where the file lies.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE
        self._descriptor = -1
        self._recorded: datetime | None = None

    def open(self, now: datetime) -> None:
        """Make sure that a power cut from now on leaves a point to begin from, and none that lies ahead of the clock.
        Raises `OSError`."""
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self.lower(now)

    def lower(self, now: datetime) -> None:
        """The clock was set back: before a row is committed now, nothing on disk says that it needs no look. Raises
        `OSError`."""
        point = self.read()
        if point is None or point > now:
            self._write(now)
            os.fsync(self._descriptor)
            _sync_folder(self._path.parent)

    def record(self, point: datetime) -> None:
        """Every row that was committed at `point` or before is on disk with its file: kept about once a second.
        Raises `OSError`."""
        last = self._recorded
        if self._descriptor < 0 or (last is not None and abs((point - last).total_seconds()) < _RECORD_SECONDS):
            return
        if os.fstat(self._descriptor).st_nlink == 0:  # a process of other settings did `forget`
            self.close()
            self.open(point)
        self._write(point)

    def read(self) -> datetime | None:
        """The point; None where there is none, or none that can be read."""
        try:
            return datetime.fromisoformat(self._path.read_text(encoding="ascii").strip())
        except (FileNotFoundError, ValueError):
            return None

    def forget(self) -> None:
        """Nothing needs to be looked at after a power cut: files are on disk before their rows, or need not be."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, point: datetime) -> None:
        os.pwrite(self._descriptor, f"{point.isoformat(timespec='microseconds')}\n".encode("ascii"), 0)
        self._recorded = point


def drop_lost_objects(engine: Engine, files: FileStore, now: Callable[[], datetime]) -> int:
    """Forget the rows after the sync point whose files are not what was received; how many. What is there of a file
    goes to quarantine. Only in SQLite can a row be on disk before its file.

    May run while others receive: what they have in hand is whole, as far as any process can see. Raises `OSError`,
    `SQLAlchemyError`.
    """
    point = SyncPoint(files.data_dir)
    since = point.read() if engine.dialect.name == "sqlite" else None
    if since is None:
        return 0
    with write_transaction(engine):  # nobody is in the middle of a transaction that began before
        looked_at = now()
    lost = [one for one in _newest(engine, since - _MARGIN) if not _is_whole(files, one)]
    dropped = sum(_drop(engine, files, one, looked_at) for one in lost)
    if files.file_system.can_sync:
        files.file_system.sync()
    point.open(looked_at)
    point.record(looked_at)
    point.close()
    if dropped:
        get_logger("store").warning("objects_not_on_disk_dropped", objects=dropped)
    return dropped


def forget_instances(connection: Connection, paths: Mapping[str, str]) -> None:
    """Take rows back that were never acknowledged, and their series where nothing else is of it.

    `paths` has the file of each SOP Instance UID: a row that names another by now stays, since another process
    received the object, too, and may have acknowledged it."""
    mine = and_(instance.c.sop_instance_uid.in_(paths), instance.c.path.in_(paths.values()))
    touched = set(connection.scalars(select(instance.c.series_instance_uid).where(mine)))
    connection.execute(delete(instance).where(mine))
    uid = series.c.series_instance_uid
    others = (
        exists().where(table.c.series_instance_uid == uid) for table in (instance, expired_instance, series_release)
    )
    receiving = series.c.state == SeriesState.RECEIVING
    connection.execute(delete(series).where(uid.in_(touched), receiving, *(~each for each in others)))


def _newest(engine: Engine, since: datetime) -> list[_Row]:
    """What was stored since then."""
    columns = (instance.c.sop_instance_uid, instance.c.path, instance.c.size_bytes, instance.c.digest)
    with read_transaction(engine) as connection:
        rows = connection.execute(
            select(*columns)
            .select_from(study.join(series).join(instance))
            .where(study.c.last_received_at >= since, instance.c.received_at >= since)
        )
        return [_Row(*row) for row in rows]


def _is_whole(files: FileStore, row: _Row) -> bool:
    """Whether nothing speaks against the file. One that cannot be read is left to its sender, who may send it again:
    not to be able to read it now (rights, too many open files) says nothing of what it holds."""
    file = files.absolute(row.path)
    try:
        return file.stat().st_size == row.size_bytes and matches(file, row.digest)
    except (FileNotFoundError, ValueError):
        return False
    except OSError as error:
        get_logger("store").error(
            "object_not_compared", sop_instance_uid=row.sop_instance_uid, reason=describe_error(error)
        )
        return True


def _drop(engine: Engine, files: FileStore, row: _Row, now: datetime) -> bool:
    """False where the row was taken back or changed by others meanwhile."""
    mine = (instance.c.sop_instance_uid == row.sop_instance_uid, instance.c.path == row.path)
    with write_transaction(engine) as connection:
        is_there = files.absolute(row.path).exists()
        if connection.scalar(select(instance.c.path).where(*mine)) is None or _is_whole(files, row):
            return False
        forget_instances(connection, {row.sop_instance_uid: row.path})
        if is_there:  # a name that was free may have been given to the same object, which came again
            torn = Quarantined(
                now,
                "torn",
                "after an unclean end its file was not what was received; nobody was told that it is stored",
                _set_aside(files, row),
                row.sop_instance_uid,
            )
            record_quarantine(connection, torn)
    return True


def _set_aside(files: FileStore, row: _Row) -> str | None:
    """Where the file is now; None where the disk refused, and it stays without a row, which nobody reads."""
    try:
        return files.set_aside(files.absolute(row.path), row.sop_instance_uid)
    except OSError as error:
        get_logger("store").error("quarantine_failed", reason=describe_error(error), code="torn")
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
